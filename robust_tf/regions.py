"""Input sets over which bounds hold: Lp balls and boxes."""

import abc
import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.bounds import LinearForm
from robust_tf.bounds import contract
from robust_tf.bounds import flatten_from
from robust_tf.errors import InputError


class Region(abc.ABC):
    """A set of inputs for each example of a batch, `[batch, *shape]`."""

    @property
    @abc.abstractmethod
    def box(self) -> IntervalBound:
        """The smallest box known to hold the set, `[batch, *shape]`."""

    @property
    @abc.abstractmethod
    def is_box(self) -> bool:
        """Whether the set is `box` itself."""

    @abc.abstractmethod
    def minimum(self, form: LinearForm) -> tf.Tensor:
        """Returns a lower bound of each row's minimum over the set, `[batch, rows]`.

        Exact for boxes and for balls that no valid range cuts.
        """

    @abc.abstractmethod
    def map(self, function: Callable) -> "Region":
        """Returns the region whose entries `function` gathered or moved."""

    @property
    def shape(self) -> tf.TensorShape:
        """Static shape, `[batch, *shape]`."""
        return self.box.shape

    @property
    def dtype(self) -> tf.DType:
        """The type in which bounds over this region are computed."""
        return self.box.dtype


class Box(Region):
    """`{z : lower <= z <= upper}`, elementwise; zero width is allowed.

    Args:
        lower: `[batch, *shape]`, floating point, in the unit of the model's input.
        upper: the same shape and type.

    Raises:
        InputError: for shapes or types that differ, integers, NaN or infinity, or
            `lower > upper` anywhere (values are checked in eager mode only).
    """

    def __init__(self, lower, upper):
        lower = as_batch(lower, "lower")
        upper = as_batch(upper, "upper", dtype=lower.dtype)
        if not lower.shape.is_compatible_with(upper.shape):
            raise InputError(
                "The ends of a `Box` must have one shape. Received: "
                f"lower {lower.shape}, upper {upper.shape}"
            )
        if is_eager(lower, upper):
            widths = upper.numpy() - lower.numpy()
            if (widths < 0).any():
                place = tuple(
                    int(i) for i in np.unravel_index(widths.argmin(), widths.shape)
                )
                raise InputError(
                    "A `Box` needs `lower <= upper` everywhere. Received: lower "
                    f"{lower.numpy()[place]}, upper {upper.numpy()[place]} at index "
                    f"{place}. Were the two exchanged?"
                )
        self._box = IntervalBound(lower, upper)

    @classmethod
    def from_interval(cls, interval: IntervalBound) -> "Box":
        """Returns the box that `interval` describes, unchecked."""
        region = cls.__new__(cls)
        region._box = interval
        return region

    @property
    def box(self) -> IntervalBound:
        return self._box

    @property
    def is_box(self) -> bool:
        return True

    def minimum(self, form: LinearForm) -> tf.Tensor:
        return form.offset + box_minimum(form.coefficients, self._box)

    def map(self, function: Callable) -> "Box":
        return Box.from_interval(self._box.map(function))

    def __tf_flatten__(self):
        return (), (self._box,)

    @classmethod
    def __tf_unflatten__(cls, metadata, components):
        return cls.from_interval(*components)


class LpBall(Region):
    """`{z : ||z - x||_p <= radius}`, cut to `valid_range` where one is given.

    Where a range cuts the ball, each bound is the better of two valid ones: over the
    whole ball, and over the box that holds the cut ball.

    Args:
        x: centres, `[batch, *shape]`, floating point.
        radius: a scalar, or one for each example, `[batch]`; in the unit of `x`,
            that is, of pixels in [0, 1].
        norm: p of the norm: "inf", or a number of at least 1.
        valid_range: lowest and highest value that an input can take, or None.

    Raises:
        InputError: for NaN or infinity, a negative radius, an Linf radius above the
            width of the range (8 where 8/255 was meant), centres outside the valid
            range, or a norm below 1 (values are checked in eager mode only).
    """

    def __init__(self, x, radius, norm="inf", valid_range=(0.0, 1.0)):
        x = as_batch(x, "x")
        radius = _as_radius(radius, x)
        self.norm = parse_norm(norm)
        self.valid_range = _checked_range(valid_range)
        if is_eager(x, radius):
            self._check_values(x.numpy(), radius.numpy())
        self.x, self.radius = x, radius

    @property
    def box(self) -> IntervalBound:
        radius = self._aligned(self.x.shape.rank)
        if self.valid_range is None:
            return IntervalBound(self.x - radius, self.x + radius)
        low, high = (tf.constant(end, self.x.dtype) for end in self.valid_range)
        return IntervalBound(
            tf.maximum(self.x - radius, low), tf.minimum(self.x + radius, high)
        )

    @property
    def is_box(self) -> bool:
        return np.isinf(self.norm)

    def minimum(self, form: LinearForm) -> tf.Tensor:
        if self.is_box:
            return form.offset + box_minimum(form.coefficients, self.box)
        lengths = dual_norm(flatten_from(form.coefficients, 2), self.norm)
        bound = contract(form.coefficients, self.x) - self._aligned(2) * lengths
        if self.valid_range is not None:
            bound = tf.maximum(bound, box_minimum(form.coefficients, self.box))
        return form.offset + bound

    def map(self, function: Callable) -> Region:
        if self.is_box:
            return Box.from_interval(self.box.map(function))
        region = _MappedBall.__new__(_MappedBall)
        region.norm, region.valid_range = self.norm, self.valid_range
        region.x, region.radius = function(self.x), self.radius
        region._box = self.box.map(function)
        if self.radius.shape.rank == 1:
            batch = tf.shape(self.x)[0]
            radii = tf.broadcast_to(self.radius, [batch])  # One may serve them all.
            region.radius = tf.repeat(radii, tf.shape(region.x)[0] // batch)
        return region

    def _aligned(self, rank: int) -> tf.Tensor:
        """The radius, ready to multiply tensors of that rank."""
        if self.radius.shape.rank == 0:
            return self.radius
        return tf.reshape(self.radius, [-1] + [1] * (rank - 1))

    def _check_values(self, x, radius):
        if not np.isfinite(radius).all() or (radius < 0).any():
            raise InputError(
                "`radius` must be finite and at least 0. Received: "
                f"{radius.min() if np.isfinite(radius).all() else radius}"
            )
        low, high = self.valid_range or (0.0, 1.0)
        widest = max(1.0, high - low)
        if self.is_box and (radius > widest).any():
            raise InputError(
                f"An Linf radius above {widest:g} exceeds the whole range of a pixel. "
                f"Received: {radius.max():g}. Radii are in the unit of the input, "
                f"pixels in [0, 1]: write {radius.max():g}/255 if that was meant, and "
                "`Box` for inputs of another scale."
            )
        if self.valid_range and x.size and (x.min() < low or x.max() > high):
            raise InputError(
                f"Inputs must lie in the valid range [{low:g}, {high:g}]. Received: "
                f"values from {x.min():g} to {x.max():g}. Scale the inputs (pixels "
                "from 0 to 255 are divided by 255; normalisation is a layer of the "
                "model), or give another `valid_range`, or None for no clipping."
            )

    def __tf_flatten__(self):
        return (self.norm, self.valid_range), (self.x, self.radius)

    @classmethod
    def __tf_unflatten__(cls, metadata, components):
        region = cls.__new__(cls)
        region.norm, region.valid_range = metadata
        region.x, region.radius = components
        return region


@dataclasses.dataclass(frozen=True)
class Threat:
    """What a classifier is trained and measured against.

    Attributes:
        epsilon: the target radius, in pixels in [0, 1].
        norm: "inf", or the p of an Lp norm.
        valid_range: lowest and highest value of a pixel, or None for no clipping.
    """

    epsilon: float
    norm: str | float = "inf"
    valid_range: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self):
        LpBall(tf.zeros([1, 1]), self.epsilon, self.norm, None)  # Checks both.

    def region(self, images: tf.Tensor, ramp=1.0) -> LpBall:
        """The ball of a share `ramp` of the target radius around each image."""
        radius = tf.cast(ramp * self.epsilon, images.dtype)
        return LpBall(images, radius, self.norm, self.valid_range)


class _MappedBall(LpBall):
    """A ball whose entries were gathered: its box is kept, as padding may differ."""

    @property
    def box(self) -> IntervalBound:
        return self._box


def box_minimum(coefficients: tf.Tensor, box: IntervalBound) -> tf.Tensor:
    """Returns the exact minimum of each row over `box`, `[batch, rows]`."""
    reach = contract(tf.abs(coefficients), box.radius)
    return contract(coefficients, box.center) - reach


def dual_norm(rows: tf.Tensor, norm: float) -> tf.Tensor:
    """Returns `||row||_q` with `1/p + 1/q = 1`, gradient 0 at zero rows.

    Args:
        rows: `[..., size]`.
        norm: p, at least 1.

    Returns:
        `[...]`.
    """
    magnitudes = tf.abs(rows)
    if norm == 1.0:
        return tf.reduce_max(magnitudes, -1)
    if np.isinf(norm):
        return tf.reduce_sum(magnitudes, -1)
    power = 1.0 / (1.0 - 1.0 / norm)
    if power == 2.0:
        total = tf.reduce_sum(tf.square(rows), -1)
        is_positive = total > 0.0
        return tf.where(is_positive, tf.sqrt(tf.where(is_positive, total, 1.0)), 0.0)
    # Powers of small entries would underflow, and the norm come out too small, so
    # they are taken of entries over the greatest. A norm's gradient ignores the unit.
    power = tf.constant(power, rows.dtype)
    unit = tf.stop_gradient(tf.reduce_max(magnitudes, -1, keepdims=True))
    is_positive = unit > 0.0
    relative = tf.where(is_positive, magnitudes / tf.where(is_positive, unit, 1.0), 1.0)
    lengths = unit * tf.reduce_sum(relative**power, -1, keepdims=True) ** (1.0 / power)
    return lengths[..., 0]


def parse_norm(norm) -> float:
    """Returns p as a float from "inf", "2", 2, ...

    Raises:
        InputError: where p is no number of at least 1.
    """
    try:
        value = float(norm)
    except (TypeError, ValueError):
        value = float("nan")
    if not value >= 1.0:
        raise InputError(
            "`norm` must be 'inf' or a number of at least 1, the p of an Lp norm. "
            f"Received: {norm!r}"
        )
    return value


def as_batch(values, name: str, dtype=None) -> tf.Tensor:
    """Returns `values` as a floating-point tensor with a batch axis.

    Raises:
        InputError: for integers, a missing batch axis, or (eagerly) NaN or infinity.
    """
    tensor = as_tensor(values, name)
    if tensor.dtype not in (tf.float32, tf.float64):
        raise InputError(
            f"`{name}` must be floating point, float32 or float64. Received: "
            f"{tensor.dtype.name}. Divide pixels from 0 to 255 by 255, in one of those."
        )
    if dtype is not None and tensor.dtype != dtype:
        raise InputError(
            f"`{name}` must have the type of the other end, {dtype.name}. Received: "
            f"{tensor.dtype.name}"
        )
    if tensor.shape.rank is None or tensor.shape.rank < 2:
        raise InputError(
            f"`{name}` needs a batch axis and at least one more: [batch, *shape]. "
            f"Received: shape {tensor.shape}. Add an axis: `{name}[None]`."
        )
    if is_eager(tensor) and not np.isfinite(tensor.numpy()).all():
        count = int((~np.isfinite(tensor.numpy())).sum())
        raise InputError(
            f"`{name}` must be finite. Received: {count} entries that are NaN or "
            "infinite. Remove or repair those examples."
        )
    return tensor


def as_tensor(values, name: str, dtype_hint=None) -> tf.Tensor:
    """Returns `values` as a tensor.

    Raises:
        InputError: where they are no array of one shape.
    """
    try:
        return tf.convert_to_tensor(values, dtype_hint=dtype_hint)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"`{name}` must be a tensor, an array or nested lists of one shape. "
            f"Received: {type(values).__name__} ({error})"
        ) from error


def is_eager(*tensors) -> bool:
    """Whether all values are at hand, so that they can be checked."""
    return all(isinstance(t, tf.Tensor) and hasattr(t, "numpy") for t in tensors) and (
        tf.executing_eagerly()
    )


def _as_radius(radius, x):
    """The radius in the type of `x`, a scalar or `[batch or 1]`."""
    radius = as_tensor(radius, "radius", dtype_hint=x.dtype)
    if not (radius.dtype.is_floating or radius.dtype.is_integer):
        raise InputError(f"`radius` must be a number. Received: {radius.dtype.name}")
    if radius.shape.rank not in (0, 1):
        raise InputError(
            "`radius` must be a scalar or one number for each example. "
            f"Received: shape {radius.shape}"
        )
    examples, count = x.shape[0], radius.shape[0] if radius.shape.rank else 1
    if None not in (examples, count) and count not in (1, examples):
        raise InputError(
            f"`radius` must hold one number for each of the {examples} examples. "
            f"Received: {count}"
        )
    return tf.cast(radius, x.dtype)


def _checked_range(valid_range):
    if valid_range is None:
        return None
    try:
        low, high = (float(end) for end in valid_range)
    except (TypeError, ValueError):
        low, high = float("nan"), float("nan")
    if not low < high:
        raise InputError(
            "`valid_range` must be two numbers, the lower first, or None for no "
            f"clipping. Received: {valid_range!r}"
        )
    return low, high
