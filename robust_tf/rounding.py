"""What rounding can cost a bound: the standard model of floating-point arithmetic.

Computed in any order, a sum of n products differs from the exact one by at most
`gamma_n` times the sum of their magnitudes, `gamma_n = n u / (1 - n u)` with the unit
roundoff u. Each value that a pass computes is taken as exact, and its rounding error
is charged to the range of what it multiplies.
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
# Results below the normal numbers count as 0. No network brings so many of them, times
# so large weights, together that they would matter beside this.
_UNDERFLOW = {tf.float32: 1e-30, tf.float64: 1e-250}


class Rounding:
    """The ledger of one pass: what a unit of coefficient on an edge may have cost.

    A charge of an edge multiplies the magnitude of each coefficient there, and is the
    half-width by which the edge's own interval is widened.

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
        self.charges[0] = _relative(count, magnitude.dtype) * magnitude

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
        magnitude = layer.magnitude(*reach)
        count = sum(bound.shape[1:].num_elements() for bound in inputs)
        count += interval.shape[1:].num_elements()
        share = _relative(count, interval.dtype) + layer.function_error(interval.dtype)
        if self._executed:
            terms = layer.terms([bound.shape[1:] for bound in inputs])
            if terms:
                share += _gamma(terms + 8, tf.float32)
                share += layer.function_error(tf.float32)
        charge = share * magnitude + _UNDERFLOW[interval.dtype]
        self.charges[edge] = charge
        return IntervalBound(interval.lower - charge, interval.upper + charge)

    def cost(self, edge: int, coefficients: tf.Tensor, gather: Callable = tf.identity):
        """Returns the charge for coefficients on an edge, `[batch, rows]`.

        Args:
            edge: its number.
            coefficients: `[batch or 1, rows, *shape]`.
            gather: brings what lies on the edge into the form of the coefficients.
        """
        return contract(tf.abs(coefficients), gather(self.charges[edge]))


def largest_magnitude(bound: IntervalBound) -> tf.Tensor:
    """Returns the greater magnitude of both ends, `[batch, *shape]`."""
    return tf.maximum(tf.abs(bound.lower), tf.abs(bound.upper))


def difference_below(lower: tf.Tensor, thresholds: tf.Tensor) -> tf.Tensor:
    """Returns `lower - thresholds`, rounded down for certain; of one shape."""
    unit = 4.0 * _UNIT[lower.dtype]
    difference = lower - thresholds
    return difference - unit * (tf.abs(lower) + tf.abs(thresholds) + tf.abs(difference))


def _gamma(count: int, dtype) -> float:
    product = count * _UNIT[dtype]
    return product / (1.0 - product) if product < 0.5 else np.inf


def _relative(count: int, dtype) -> float:
    """The share that covers sums of `count` terms; twice, for its own rounding."""
    return 2.0 * _gamma(count + _OPERATIONS, dtype)
