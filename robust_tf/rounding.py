"""What rounding can cost a bound: the standard model of floating-point arithmetic.

Computed in any order, a sum of n products differs from the exact one by at most
`gamma_n` times the sum of their magnitudes, `gamma_n = n u / (1 - n u)` with the unit
roundoff u. Each value that a pass computes is taken as exact, and its rounding error
is charged to the range of what it multiplies. Numbers below the normal ones may count
as 0, wherever they are read or written; where numbers are so great that this could
matter, or overflow, nothing is claimed.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.bounds import contract

_UNIT = {tf.float32: 2.0**-24, tf.float64: 2.0**-53}
# Operations on one value besides the terms of sums: slopes, multipliers, folding.
_OPERATIONS = 32
# A constant, or coefficients where branches fork, is one of so many terms for each edge
# that is still to come: constant and charge of each edge, and parts of each reader.
_TERMS_FOR_EDGES = 3
# The least normal number of float32, which weights and inputs are in.
_LEAST_NORMAL = 2.0**-126
# Nothing is claimed of edges whose magnitude may pass this.
_LARGEST = {tf.float32: 1e15, tf.float64: 1e150}
_LARGEST_EXECUTED = 1e30
# More than all coefficients of a pass that fall below the normal numbers can bring,
# together with values that are no larger than these.
_LOST = {tf.float32: 1e-10, tf.float64: 1e-100}


class Rounding:
    """The ledger of one pass: what a unit of coefficient on an edge may have cost.

    A charge of an edge multiplies the magnitude of each coefficient there, and is the
    half-width by which the edge's own interval is widened. It is infinite where nothing
    can be claimed; then so it is on all later edges.

    Args:
        charges: by edge, `[batch or 1, *shape]`, for backward passes over bounds that
            another pass took.
        executed: charge the rounding of a float32 execution of the network too, so
            that bounds hold for its results, and not for real arithmetic alone.
            Transforms such as Winograd's are outside of the model.
    """

    def __init__(
        self, charges: Mapping[int, tf.Tensor] | None = None, executed: bool = False
    ):
        self.charges = dict(charges or {})
        self._executed = executed

    def open_input(self, magnitude: tf.Tensor) -> None:
        """Enters the charge of edge 0.

        Args:
            magnitude: least upper bound of the inputs' magnitudes, `[batch, *shape]`.
        """
        count = magnitude.shape[1:].num_elements()
        charge = _relative(count, magnitude.dtype) * magnitude + 2.0 * _LEAST_NORMAL
        self.charges[0] = self._limited(charge, magnitude)

    def widen(
        self, layer, edge: int, inputs: Sequence[IntervalBound], interval: IntervalBound
    ) -> IntervalBound:
        """Returns what a layer's interval rule gave, widened; enters its charge.

        Args:
            layer: a `BoundLayer`.
            edge: that it writes.
            inputs: bounds on what it reads.
            interval: by its rule.
        """
        reach = [largest_magnitude(bound) for bound in inputs]
        reach = [tf.where(part < np.inf, part, np.inf) for part in reach]  # No NaN.
        magnitude = layer.magnitude(*reach)
        terms = layer.terms([bound.shape[1:] for bound in inputs])
        count = sum(bound.shape[1:].num_elements() for bound in inputs)
        count += interval.shape[1:].num_elements() + _TERMS_FOR_EDGES * edge
        share = _relative(count, interval.dtype) + layer.function_error(interval.dtype)
        if self._executed and terms:
            share += _gamma(terms + 8, tf.float32) + layer.function_error(tf.float32)
        # Of each product, a factor may count as 0; or, in float32, the product.
        lost = _largest_factor(layer, reach)
        if self._executed or interval.dtype == tf.float32:
            lost += 1.0
        lost = tf.reshape(lost, [-1] + [1] * (magnitude.shape.rank - 1))
        charge = share * magnitude + 4.0 * (terms + 8) * _LEAST_NORMAL * lost
        charge = self._limited(charge, magnitude)
        self.charges[edge] = charge
        # An overflow may have left NaN, which later rules could lose.
        is_finite = charge < np.inf
        return IntervalBound(
            tf.where(is_finite, interval.lower - charge, -np.inf),
            tf.where(is_finite, interval.upper + charge, np.inf),
        )

    def cost(self, edge: int, coefficients: tf.Tensor, gather: Callable = tf.identity):
        """Returns the charge for coefficients on an edge, `[batch, rows]`.

        Args:
            edge: its number.
            coefficients: `[batch or 1, rows, *shape]`.
            gather: brings what lies on the edge into the form of the coefficients.
        """
        charged = contract(tf.abs(coefficients), gather(self.charges[edge]))
        return charged + _LOST[charged.dtype]

    def _limited(self, charge, magnitude):
        """Infinity where magnitudes are too great, or no number."""
        largest = _LARGEST[magnitude.dtype]
        if self._executed:
            largest = min(largest, _LARGEST_EXECUTED)
        return tf.where(magnitude < largest, charge, np.inf)


def largest_magnitude(bound: IntervalBound) -> tf.Tensor:
    """Returns the greater magnitude of both ends, `[batch, *shape]`."""
    return tf.maximum(tf.abs(bound.lower), tf.abs(bound.upper))


def difference_below(lower: tf.Tensor, thresholds: tf.Tensor) -> tf.Tensor:
    """Returns `lower - thresholds`, rounded down for certain; of one shape."""
    unit = 4.0 * _UNIT[lower.dtype]
    difference = lower - thresholds
    return difference - unit * (tf.abs(lower) + tf.abs(thresholds) + tf.abs(difference))


def _largest_factor(layer, reach: Sequence[tf.Tensor]) -> tf.Tensor:
    """Bounds what may be multiplied by a weight too small to count, `[batch]`."""
    largest = 0.0
    for part in reach:
        largest += tf.reduce_max(part, list(range(1, part.shape.rank)))
    if layer.has_moments:  # It multiplies weights by weights.
        for variable in layer.weights:
            values = tf.cast(tf.convert_to_tensor(variable), largest.dtype)
            largest += tf.reduce_max(tf.abs(values))
    return largest


def _gamma(count: int, dtype) -> float:
    product = count * _UNIT[dtype]
    return product / (1.0 - product) if product < 0.1 else np.inf


def _relative(count: int, dtype) -> float:
    """The share that covers sums of `count` terms; twice, for its own rounding."""
    return 2.0 * _gamma(count + _OPERATIONS, dtype)
