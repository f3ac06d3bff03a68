"""What must not occur at the outputs, and the linear functions that prove it."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.regions import as_tensor
from robust_tf.regions import is_eager


def margin_specification(labels, num_classes: int, dtype=tf.float32) -> tf.Tensor:
    """Returns the rows `e_label - e_j` for all other classes j, ascending.

    Args:
        labels: integer class indices, `[batch]`.
        num_classes: number of classes K, at least 2.
        dtype: type of the rows.

    Returns:
        `[batch, K - 1, K]`; an example is robust where every row is positive.

    Raises:
        InputError: for labels of wrong rank or type, or (eagerly) out of range.
    """
    labels = checked_labels(labels, num_classes)
    slots = tf.range(num_classes - 1, dtype=labels.dtype)
    # Slot j stands for class j below the label, and for class j + 1 from it on.
    others = slots + tf.cast(slots >= labels[:, None], labels.dtype)
    own = tf.one_hot(labels, num_classes, dtype=dtype)
    return own[:, None] - tf.one_hot(others, num_classes, dtype=dtype)


def checked_labels(labels, num_classes: int) -> tf.Tensor:
    """Returns labels as an integer tensor `[batch]`, or says what is wrong."""
    if num_classes < 2:
        raise InputError(f"There must be at least 2 classes. Received: {num_classes}")
    labels = as_tensor(labels, "labels")
    if not labels.dtype.is_integer or labels.shape.rank != 1:
        raise InputError(
            "Labels must be integer class indices of shape [batch]. Received: "
            f"{labels.dtype.name} of shape {labels.shape}. Take the argmax of one-hot "
            "labels."
        )
    if is_eager(labels) and labels.shape[0]:
        values = labels.numpy()
        if values.min() < 0 or values.max() >= num_classes:
            wrong = values[(values < 0) | (values >= num_classes)][0]
            raise InputError(
                f"Labels must lie in 0..{num_classes - 1} for {num_classes} classes. "
                f"Received: {wrong}"
            )
    return tf.cast(labels, tf.int32)


@dataclasses.dataclass(frozen=True)
class UnsafeSet:
    """Outputs `y` that must not occur: a union of clauses, each of half-spaces.

    A clause holds where `<row, y> <= threshold` for all of its rows; a tie is unsafe.
    It is excluded as soon as one of its rows is proved above its threshold everywhere;
    the set is, once every clause is.

    Attributes:
        rows: over the outputs, `[batch or 1, rows, outputs]`.
        thresholds: `[batch or 1, rows]`.
        clauses: the clause of each row, `rows` integers that count up from 0.

    Raises:
        InputError: for shapes or types that do not fit together, numbers that are not
            finite, or a clause without rows.
    """

    rows: tf.Tensor
    thresholds: tf.Tensor
    clauses: tuple[int, ...]

    def __post_init__(self):
        for name in ("rows", "thresholds"):
            self._set(name, as_tensor(getattr(self, name), name))
        self._set("clauses", tuple(int(clause) for clause in self.clauses))
        self._check_shapes()
        for name in ("rows", "thresholds"):
            values = getattr(self, name)
            if is_eager(values) and not np.isfinite(values.numpy()).all():
                raise InputError(
                    f"The `{name}` of an unsafe set must be finite. Received: NaN or "
                    "infinity"
                )

    def _set(self, name, value):
        object.__setattr__(self, name, value)

    def _check_shapes(self):
        rows, thresholds = self.rows.shape, self.thresholds.shape
        numbers = sorted(set(self.clauses))
        is_valid = (
            rows.rank == 3
            and thresholds.rank == 2
            and rows[1] == thresholds[1] == len(self.clauses) > 0
            and numbers == list(range(len(numbers)))
            and len({rows[0], thresholds[0]} - {1, None}) <= 1
            and self.rows.dtype == self.thresholds.dtype
            and self.rows.dtype.is_floating
        )
        if not is_valid:
            raise InputError(
                "An unsafe set has rows [batch, rows, outputs], thresholds [batch, "
                "rows] of one floating type, and the clause of each row, numbered from "
                f"0. Received: rows {rows} in {self.rows.dtype.name}, thresholds "
                f"{thresholds} in {self.thresholds.dtype.name}, clauses {self.clauses}"
            )

    @classmethod
    def misclassified(cls, labels, num_classes: int, dtype=tf.float32) -> "UnsafeSet":
        """Returns the outputs at which some other logit reaches the label's.

        Args:
            labels: integer class indices, `[batch]`.
            num_classes: number of classes K; there are K - 1 clauses of one row.
            dtype: type of the rows.

        Raises:
            InputError: as `margin_specification`.
        """
        rows = margin_specification(labels, num_classes, dtype)
        thresholds = tf.zeros(tf.shape(rows)[:2], dtype)
        thresholds = tf.ensure_shape(thresholds, rows.shape[:2])
        return cls(rows, thresholds, tuple(range(num_classes - 1)))

    @classmethod
    def from_clauses(cls, clauses: Sequence, dtype=tf.float64) -> "UnsafeSet":
        """Returns the set of one example from pairs (rows, thresholds), by clause.

        Args:
            clauses: of `[rows, outputs]` and `[rows]`, numbers.
            dtype: type of the rows.

        Raises:
            InputError: for a clause without rows, which every output would meet, and
                for shapes that do not fit together.
        """
        parts = [
            (np.asarray(rows, "float64"), np.asarray(ends, "float64"))
            for rows, ends in clauses
        ]
        widths = {rows.shape[1:] for rows, _ in parts}
        is_valid = len(widths) == 1 and all(
            rows.ndim == 2 and len(rows) and ends.shape == rows.shape[:1]
            for rows, ends in parts
        )
        if not is_valid:
            raise InputError(
                "Each clause has rows [rows, outputs], at least one, and a threshold "
                f"for each. Received: {[(r.shape, e.shape) for r, e in parts]}"
            )
        numbers = [i for i, (rows, _) in enumerate(parts) for _ in rows]
        rows, ends = (
            np.concatenate(arrays)[None] for arrays in zip(*parts, strict=True)
        )
        return cls(tf.constant(rows, dtype), tf.constant(ends, dtype), (*numbers,))

    @property
    def num_clauses(self) -> int:
        """How many clauses there are."""
        return max(self.clauses) + 1

    def cast(self, dtype) -> "UnsafeSet":
        """Returns the set in another floating type."""
        return dataclasses.replace(
            self,
            rows=tf.cast(self.rows, dtype),
            thresholds=tf.cast(self.thresholds, dtype),
        )

    def gather(self, indices) -> "UnsafeSet":
        """Returns the sets of some examples; what is shared stays shared."""
        rows, thresholds = (
            tensor if tensor.shape[0] == 1 else tf.gather(tensor, indices)
            for tensor in (self.rows, self.thresholds)
        )
        return dataclasses.replace(self, rows=rows, thresholds=thresholds)

    def row_margins(self, outputs: tf.Tensor) -> tf.Tensor:
        """Returns `<row, y> - threshold` at outputs, `[batch, rows]`."""
        return tf.linalg.matvec(self.rows, outputs) - self.thresholds

    def clause_margins(self, row_margins: tf.Tensor) -> tf.Tensor:
        """Returns the greatest margin in each clause, `[batch, clauses]`.

        Of lower bounds of the rows' margins these are lower bounds too, and a clause is
        excluded where its own is above 0.
        """
        member = np.asarray(self.clauses) == np.arange(self.num_clauses)[:, None]
        lowest = tf.constant(-np.inf, row_margins.dtype)
        return tf.reduce_max(tf.where(member, row_margins[:, None], lowest), -1)

    def margin(self, outputs: tf.Tensor) -> tf.Tensor:
        """Returns the least margin of a clause, `[batch]`: unsafe unless above 0."""
        return tf.reduce_min(self.clause_margins(self.row_margins(outputs)), -1)

    def __tf_flatten__(self):  # Lets tf.function and loops carry it.
        return (self.clauses,), (self.rows, self.thresholds)

    @classmethod
    def __tf_unflatten__(cls, metadata, components):
        unsafe = cls.__new__(cls)
        for name, value in zip(
            ("clauses", "rows", "thresholds"), (*metadata, *components), strict=True
        ):
            object.__setattr__(unsafe, name, value)
        return unsafe
