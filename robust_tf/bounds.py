"""Value types that propagation passes carry."""

import dataclasses

import tensorflow as tf


class IntervalBound:
    """`lower <= z <= upper`, elementwise; both `[batch, *shape]`, in the unit of z.

    Kept either by its ends or by centre and radius, whichever it was made from, and
    converted when asked: affine rules work on the second form, monotone activations
    on the first, and no half-sum is computed for a form that nobody reads.
    """

    __slots__ = ("_first", "_second", "_is_centered")

    def __init__(self, lower: tf.Tensor, upper: tf.Tensor):
        self._first, self._second, self._is_centered = lower, upper, False

    @classmethod
    def from_center(cls, center: tf.Tensor, radius: tf.Tensor) -> "IntervalBound":
        """Returns `[center - radius, center + radius]`; `radius` is not negative."""
        bound = cls(center, radius)
        bound._is_centered = True
        return bound

    @property
    def lower(self) -> tf.Tensor:
        """Lower end, `[batch, *shape]`."""
        return self._first - self._second if self._is_centered else self._first

    @property
    def upper(self) -> tf.Tensor:
        """Upper end, `[batch, *shape]`."""
        return self._first + self._second if self._is_centered else self._second

    @property
    def center(self) -> tf.Tensor:
        """Midpoint, `[batch, *shape]`."""
        return self._first if self._is_centered else (self._first + self._second) / 2

    @property
    def radius(self) -> tf.Tensor:
        """Half width, `[batch, *shape]`."""
        return self._second if self._is_centered else (self._second - self._first) / 2

    @property
    def shape(self) -> tf.TensorShape:
        """Static shape, `[batch, *shape]`."""
        return self._first.shape

    @property
    def dtype(self) -> tf.DType:
        """Type of both ends."""
        return self._first.dtype

    def map(self, function) -> "IntervalBound":
        """Applies a map that only moves entries (reshape, gather, pad with zeros)."""
        bound = IntervalBound(function(self._first), function(self._second))
        bound._is_centered = self._is_centered
        return bound

    def intersect(self, other: "IntervalBound") -> "IntervalBound":
        """Returns the entries' intersections; both bounds must be valid."""
        return IntervalBound(
            tf.maximum(self.lower, other.lower), tf.minimum(self.upper, other.upper)
        )

    def __repr__(self):
        return f"IntervalBound(shape={self.shape}, dtype={self.dtype.name})"

    def __tf_flatten__(self):  # Lets tf.function, loops and nest carry it.
        return (self._is_centered,), (self._first, self._second)

    @classmethod
    def __tf_unflatten__(cls, metadata, components):
        bound = cls(*components)
        (bound._is_centered,) = metadata
        return bound


@dataclasses.dataclass(frozen=True)
class LinearForm:
    """The functions `z -> <coefficients, z> + offset`, one per row.

    Attributes:
        coefficients: `[batch or 1, rows, *shape]`; 1 where all examples share them.
        offset: `[batch or 1, rows]`.
    """

    coefficients: tf.Tensor
    offset: tf.Tensor


def contract(coefficients: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Returns `sum(coefficients * values)` over all but batch and rows.

    Args:
        coefficients: `[batch or 1, rows, *shape]`.
        values: `[batch or 1, *shape]`.

    Returns:
        `[batch, rows]`, or `[1, rows]` where both have a leading 1.
    """
    rows = flatten_from(coefficients, 2)
    points = flatten_from(values, 1)
    if rows.shape[0] == 1:
        return tf.linalg.matmul(points, rows[0], transpose_b=True)
    if points.shape[0] == 1:
        flat = tf.reshape(rows, [-1, points.shape[-1]])
        return tf.reshape(tf.linalg.matvec(flat, points[0]), tf.shape(rows)[:2])
    return tf.linalg.matvec(rows, points)


def flatten_from(tensor: tf.Tensor, axis: int) -> tf.Tensor:
    """Flattens all axes from `axis` on into one; they must be known statically."""
    size = tensor.shape[axis:].num_elements()
    return tf.reshape(tensor, [*leading_sizes(tensor, axis), size])


def leading_sizes(tensor: tf.Tensor, count: int) -> list:
    """Returns the sizes of the first axes, as integers where they are known."""
    return [
        tf.shape(tensor)[i] if size is None else size
        for i, size in enumerate(tensor.shape[:count])
    ]
