"""Where no unsafe point of a box can lie, by affine forms that are at most 0 there.

Such a form, `<coefficients, x> + constant`, is a linear lower bound of a row's margin,
or of what the split of a neuron demands. Each sum of forms with weights of at least 0
is at most 0 at an unsafe point too. So a box holds none where the least value of one
such sum over it is above 0, although each form by itself may be negative somewhere.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.bounds import contract
from robust_tf.rounding import largest_magnitude
from robust_tf.verification.interior_point import weights_of_greatest

# More than sums of weights err by.
_SLACK = 1e-11
# Least sum of the weights of rows; cuts have the rest.
_LEAST_SHARE = 1e-6


@dataclasses.dataclass(frozen=True)
class Forms:
    """Affine forms over the inputs.

    Attributes:
        coefficients: `[batch, forms, inputs]`.
        constants: `[batch, forms]`.
    """

    coefficients: tf.Tensor
    constants: tf.Tensor

    def joined(self, other: "Forms") -> "Forms":
        """Returns the forms of both."""
        return Forms(
            tf.concat([self.coefficients, other.coefficients], 1),
            tf.concat([self.constants, other.constants], 1),
        )

    def map(self, function) -> "Forms":
        """Applies what moves whole forms."""
        return Forms(function(self.coefficients), function(self.constants))

    def where(self, mask: tf.Tensor) -> "Forms":
        """Returns the marked ones of `[batch, forms]`; others are -1 everywhere."""
        return Forms(
            tf.where(mask[..., None], self.coefficients, 0.0),
            tf.where(mask, self.constants, -1.0),
        )

    def weighted(self, weights: tf.Tensor) -> tf.Tensor:
        """Returns the coefficients of the weighted sum, `[batch, inputs]`."""
        return tf.linalg.matvec(self.coefficients, weights, transpose_a=True)

    def least_of_sum(self, weights: tf.Tensor, box: IntervalBound) -> tf.Tensor:
        """Returns the least value of the weighted sum over a box, rounded down.

        Args:
            weights: at least 0, `[batch, forms]`.
            box: `[batch, inputs]`.
        """
        form = self.weighted(weights)
        value = tf.reduce_sum(form * box.center - tf.abs(form) * box.radius, -1)
        value += tf.reduce_sum(weights * self.constants, 1)
        errors = self._errors(box, tf.shape(weights)[1])
        return value - tf.reduce_sum(weights * errors, 1)

    def least(self, box: IntervalBound) -> tf.Tensor:
        """Returns the least value of each form over a box, rounded down."""
        value = contract(self.coefficients, box.center) + self.constants
        value -= contract(tf.abs(self.coefficients), box.radius)
        return value - self._errors(box, 1)

    def clipped(self, box: IntervalBound, margin: float) -> IntervalBound:
        """Returns a smaller box with all points at which no form is above `margin`.

        Each form alone bounds each input, where the others are at their best ends. A
        box of which nothing is left stays whole: it is halved, and its halves are
        excluded.
        """
        low, high = box.lower[:, None], box.upper[:, None]
        rising, falling = self.coefficients > 0.0, self.coefficients < 0.0
        least = self.coefficients * tf.where(rising, low, high)
        others = tf.reduce_sum(least, -1, keepdims=True) - least
        room = margin - self.constants + self._errors(box, 1)
        divisor = tf.where(rising | falling, self.coefficients, 1.0)
        limit = (room[..., None] - others) / divisor
        slack = 4.0 * _unit(limit) * tf.abs(limit)
        # NaN clips nothing.
        upper = tf.where(rising & (limit + slack < high), limit + slack, high)
        lower = tf.where(falling & (limit - slack > low), limit - slack, low)
        lower, upper = tf.reduce_max(lower, 1), tf.reduce_min(upper, 1)
        is_left = tf.reduce_all(lower <= upper, -1, keepdims=True)
        return IntervalBound(
            tf.where(is_left, lower, box.lower), tf.where(is_left, upper, box.upper)
        )

    def _errors(self, box, count):
        """More than rounding adds to each form's value over a box, in such a sum."""
        size = contract(tf.abs(self.coefficients), largest_magnitude(box))
        size += tf.abs(self.constants)
        terms = self.coefficients.shape[2] + 2 * count + 16
        return 2.0 * _unit(size) * tf.cast(terms, size.dtype) * size


def _unit(tensor) -> float:
    return float(np.finfo(tensor.dtype.as_numpy_dtype).eps)


class ClauseForms:
    """What forms of rows, and cuts, exclude of each clause.

    All rows of a clause are at most 0 at an unsafe point, and so are all cuts.

    Args:
        rows: of all clauses; linear lower bounds of their margins.
        cuts: of splits; -1 everywhere where there is none.
        box: `[batch, inputs]`.
        clauses: the clause of each row.

    Attributes:
        margins: of the clauses, proved for the box where cuts hold, `[batch, clauses]`.
    """

    def __init__(self, rows: Forms, cuts: Forms, box: IntervalBound, clauses):
        clauses = np.asarray(clauses)
        self._count, self._num_rows = clauses.max() + 1, len(clauses)
        members = [np.flatnonzero(clauses == c) for c in range(self._count)]
        self._width = max(map(len, members))
        # Clauses of fewer rows get one that is -1 everywhere.
        self._members = np.full([self._count, self._width], self._num_rows)
        for clause, member in enumerate(members):
            self._members[clause, : len(member)] = member
        self._is_row = self._members < self._num_rows
        padding = rows.map(lambda part: tf.zeros_like(part[:, :1]))
        padding = padding.where(tf.zeros_like(padding.constants, tf.bool))
        gather = functools.partial(tf.gather, indices=self._members, axis=1)
        own = rows.joined(padding).map(gather).map(_merged)
        self._box = box.map(self._for_clauses)
        self._forms = own.joined(cuts.map(self._for_clauses))
        alone, one = self._alone()
        together, several = self._together()
        is_better = together > alone
        self._weights = tf.where(is_better[:, None], several, one)
        self.margins = self._by_clause(tf.where(is_better, together, alone))

    def least_points(self, clause: tf.Tensor) -> tf.Tensor:
        """Returns where the sum of forms of one clause is least, `[batch, inputs]`."""
        form = self._by_clause(self._forms.weighted(self._weights))
        points = self._by_clause(self._box.center)
        points -= tf.sign(form) * self._by_clause(self._box.radius)
        return tf.gather(points, clause, batch_dims=1)

    def weights_of_rows(self, clause: tf.Tensor) -> tf.Tensor:
        """Returns what rows count in the sum of one clause each, `[batch, rows]`."""
        weights = self._by_clause(self._weights[:, : self._width])
        weights = tf.gather(weights, clause, batch_dims=1)
        places = tf.gather(self._members, clause)
        rows = tf.one_hot(places, self._num_rows, dtype=weights.dtype)
        return tf.linalg.matvec(rows, weights, transpose_a=True)

    def clipped(self, margins: tf.Tensor, margin: float) -> IntervalBound:
        """Returns smaller boxes, `[batch, inputs]`, that hold all unsafe points.

        What they lose has margins above `margin` of those clauses that are open.

        Args:
            margins: of the clauses, `[batch, clauses]`; open where not above 0.
            margin: at least 0.
        """
        box = self._forms.clipped(self._forms.clipped(self._box, margin), margin)
        is_open = ~(margins > 0.0)[..., None]
        whole = self._box.map(self._by_clause).map(lambda end: end[:, 0])
        box = box.map(self._by_clause)
        lower = tf.reduce_min(tf.where(is_open, box.lower, whole.upper[:, None]), 1)
        upper = tf.reduce_max(tf.where(is_open, box.upper, whole.lower[:, None]), 1)
        is_any = tf.reduce_any(is_open, 1)
        return IntervalBound(
            tf.where(is_any, lower, whole.lower), tf.where(is_any, upper, whole.upper)
        )

    def _alone(self):
        """The best row by itself: its margin, and weights."""
        least = self._forms.least(self._box)
        least = tf.where(self._are_rows(least), least, -np.inf)
        best = tf.one_hot(tf.argmax(least, -1), tf.shape(least)[1], dtype=least.dtype)
        return tf.reduce_max(least, -1), best

    def _together(self):
        """The best sum of forms, in which rows have the weight 1: margin, weights."""
        center, radius = self._box.center, self._box.radius
        heights = self._forms.constants + contract(self._forms.coefficients, center)
        slopes = self._forms.coefficients * radius[:, None]
        weights = weights_of_greatest(slopes, heights)
        share = tf.where(self._are_rows(weights), weights, 0.0)
        share = tf.reduce_sum(share, 1)
        weights /= tf.maximum(share, _LEAST_SHARE)[:, None]
        least = self._forms.least_of_sum(weights, self._box)
        # With less weight on the rows, the sum says nothing unless it is above 0.
        is_margin = (share >= _LEAST_SHARE) | (least > 0.0)
        return tf.where(is_margin, least - _SLACK * tf.abs(least), -np.inf), weights

    def _are_rows(self, values):
        """Which forms are rows, `[batch * clauses, forms]`."""
        batch, forms = tf.unstack(tf.shape(values))
        are_rows = tf.pad(self._is_row, [[0, 0], [0, forms - self._width]])
        return tf.tile(are_rows, [batch // self._count, 1])

    def _for_clauses(self, tensor):
        return tf.repeat(tensor, self._count, 0)

    def _by_clause(self, tensor):
        """`[batch * clauses, ...]` to `[batch, clauses, ...]`."""
        return tf.reshape(tensor, [-1, self._count, *tf.unstack(tf.shape(tensor))[1:]])


def _merged(tensor):
    """`[batch, clauses, ...]` to `[batch * clauses, ...]`."""
    return tf.reshape(tensor, [-1, *tensor.shape[2:]])
