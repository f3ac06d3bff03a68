"""Activations and their linear relaxations."""

import keras
import numpy as np
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.errors import InputError
from robust_tf.layers.base import ElementwiseLayer
from robust_tf.layers.base import Relaxation
from robust_tf.layers.base import split_signs

# Lower slopes of the unstable neurons of piecewise linear activations.
RELAXATIONS = ("adaptive", "same-slope", "zero-lb", "one-lb")
# Which neurons take the lower slope 1, by the share of the interval above 0.
_TAKES_ONE = {
    "adaptive": lambda share: share > 0.5,
    "zero-lb": lambda share: share >= 1.0,
    "one-lb": lambda share: share > 0.0,
}
_GUARD = 1e-8
# More than exponentials, logarithms and their kin err by, of inputs and values.
_FUNCTION_ERROR = {tf.float32: 2.0**-18, tf.float64: 2.0**-40}
_BISECTIONS = 12


class _TwoPieces(ElementwiseLayer):
    """`z` for `z >= 0` and `leak * z` below, `0 <= leak <= 1`.

    Where `l < 0 < u` the chord bounds it from above, and `a z` from below with any
    `a` in `[leak, 1]`: the nearest such number to `lower_slope`, if that is given
    (alpha-CROWN, arXiv:2011.13824), else by `relaxation`: "adaptive" (1 where
    `u > -l`, else `leak`; arXiv:1811.00866), "same-slope" (the chord's;
    arXiv:1804.09699), "zero-lb" (`leak`), "one-lb" (1). Gradients flow through the
    chord.
    """

    has_lower_slope = True

    @property
    def least_slope(self) -> float:
        """The least lower slope that is valid everywhere."""
        return self._leak

    def propagate_interval(
        self, inputs: IntervalBound, unstable_share: float = 1.0
    ) -> IntervalBound:
        """Bounds the output.

        Args:
            inputs: bounds on the input, `[batch, *shape]`.
            unstable_share: what the upper bounds of unstable neurons are multiplied by.
                Below 1 the result is no bound: a device of training
                (`objectives.shrinking`).
        """
        upper = inputs.upper
        if unstable_share != 1.0:
            is_unstable = (inputs.lower < 0.0) & (upper > 0.0)
            upper = tf.where(is_unstable, unstable_share * upper, upper)
        return IntervalBound(self._activate(inputs.lower), self._activate(upper))

    def relax(self, inputs, relaxation="adaptive", lower_slope=None):
        leak = self._leak
        low = tf.minimum(inputs.lower, 0.0)
        # The guard gives slope 1 at l = u = 0, and is void elsewhere.
        high = tf.maximum(tf.maximum(inputs.upper, 0.0), low + _GUARD)
        share = high / (high - low)  # Exactly 1 where active, 0 where inactive.
        chord = (high - leak * low) / (high - low) if leak else share
        intercept = (leak - chord) * low
        if lower_slope is not None:
            lower = self._given(inputs, chord, lower_slope)
        elif relaxation == "same-slope":
            lower = chord
        elif relaxation in _TAKES_ONE:
            takes_one = _TAKES_ONE[relaxation](share)
            lower = tf.where(takes_one, tf.ones_like(chord), leak)
        else:
            raise InputError(
                f"`relaxation` must be one of {RELAXATIONS}. Received: {relaxation!r}"
            )
        return Relaxation(lower, None, chord, intercept)

    def terms(self, input_shapes):
        del input_shapes
        return 1 if self._leak else 0

    def _given(self, inputs, chord, lower_slope):
        """The given slopes of unstable neurons, those of the function elsewhere."""
        is_unstable = (inputs.lower < 0.0) & (inputs.upper > 0.0)
        if lower_slope.shape.rank > chord.shape.rank:  # One slope for each row.
            is_unstable, chord = is_unstable[:, None], chord[:, None]
        # Others would be no lower line.
        valid = tf.clip_by_value(lower_slope, self._leak, 1.0)
        return tf.where(is_unstable, valid, chord)


@keras.saving.register_keras_serializable(package="robust_tf")
class ReLU(_TwoPieces, keras.layers.ReLU):
    """`max(z, 0)`, or `negative_slope * z` below 0; `max_value` is not supported."""

    def __init__(self, max_value=None, negative_slope=0.0, threshold=0.0, **kwargs):
        super().__init__(max_value, negative_slope, threshold, **kwargs)
        if max_value is not None or threshold:
            raise InputError(
                f"Layer '{self.name}' (ReLU) has bound rules without `max_value` and "
                f"`threshold` only. Received: max_value={max_value}, "
                f"threshold={threshold}. Use a plain ReLU."
            )
        _check_leak(self, negative_slope)

    @property
    def _leak(self):
        return float(np.float32(self.negative_slope))  # TensorFlow's type for it.

    def _activate(self, values):
        if self._leak == 0.0:
            return tf.nn.relu(values)
        return tf.nn.leaky_relu(values, self._leak)


@keras.saving.register_keras_serializable(package="robust_tf")
class LeakyReLU(_TwoPieces, keras.layers.LeakyReLU):
    """`z` for `z >= 0` and `negative_slope * z` below."""

    def __init__(self, negative_slope=0.3, **kwargs):
        super().__init__(negative_slope, **kwargs)
        _check_leak(self, negative_slope)

    @property
    def _leak(self):
        return float(np.float32(self.negative_slope))  # TensorFlow's type for it.

    def _activate(self, values):
        return tf.nn.leaky_relu(values, self._leak)


class Smooth(ElementwiseLayer):
    """An increasing function between two lines of chosen slopes.

    Any slope serves: the intercepts are the exact minimum and maximum of
    `f(z) - slope * z` over `[l, u]`, taken over the ends and all points where its
    derivative can vanish. So the lines hold, whatever the slopes; those only decide
    how tight they are. A subclass states the function, its derivative, the points
    and the slopes; a search may give others, as `shares`: where the slopes of the
    lower and of the upper line lie between the least slope of the curve over `[l, u]`,
    0, and the greatest, 1. A bound is a concave function of the slopes of the last
    such layer, which it is not of points where lines touch.
    """

    def propagate_interval(self, inputs: IntervalBound) -> IntervalBound:
        return IntervalBound(self._value(inputs.lower), self._value(inputs.upper))

    def function_error(self, dtype):
        return _FUNCTION_ERROR[dtype]

    def relax(self, inputs, shares=None):
        low, high = inputs.lower, inputs.upper
        if shares is None:
            slopes = self._slopes(low, high)
        else:
            least, most = self._range(low, high)
            if shares[0].shape.rank > low.shape.rank:  # Lines of their own by row.
                low, high, least, most = (
                    tf.expand_dims(part, 1) for part in (low, high, least, most)
                )
            slopes = (
                least + tf.clip_by_value(share, 0.0, 1.0) * (most - least)
                for share in shares
            )
        lower_slope, upper_slope = slopes
        return Relaxation(
            lower_slope,
            self._extreme(lower_slope, low, high, tf.minimum),
            upper_slope,
            self._extreme(upper_slope, low, high, tf.maximum),
        )

    def propagate_linear_backward(self, coefficients, inputs, shares=None):
        lines = self.relax(inputs, shares)
        if lines.lower_slope.shape.rank < coefficients.shape.rank:
            pulled, constant = lines.pull_back(coefficients)
            return (pulled,), constant
        positive, negative = split_signs(coefficients)
        pulled = positive * lines.lower_slope + negative * lines.upper_slope
        constant = positive * lines.lower_intercept + negative * lines.upper_intercept
        return (pulled,), tf.reduce_sum(constant, list(range(2, constant.shape.rank)))

    def shares(self, inputs: IntervalBound) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the shares that give the layer's own lines, `[batch, *shape]` each.

        Args:
            inputs: bounds on the input, `[batch, *shape]`.
        """
        least, most = self._range(inputs.lower, inputs.upper)
        width = most - least
        width = tf.where(width > 0.0, width, 1.0)
        lower, upper = (
            tf.clip_by_value((slope - least) / width, 0.0, 1.0)
            for slope in self._slopes(inputs.lower, inputs.upper)
        )
        return lower, upper

    def _range(self, low, high):
        """The least and the greatest slope, for curves steepest at an end or at 0."""
        ends = self._derivative(low), self._derivative(high)
        nearest = self._derivative(tf.maximum(low, tf.minimum(high, 0.0)))
        return tf.minimum(*ends), tf.maximum(nearest, tf.maximum(*ends))

    def _extreme(self, slope, low, high, choose):
        extreme = choose(
            self._value(low) - slope * low, self._value(high) - slope * high
        )
        for point in self._stationary(tf.stop_gradient(slope)):
            point = tf.clip_by_value(tf.stop_gradient(point), low, high)
            extreme = choose(extreme, self._value(point) - slope * point)
        return extreme

    def _chord(self, low, high):
        """Slope of the line through both ends; the derivative where they meet."""
        width = high - low
        is_wide = width > 1e-6
        rise = self._value(high) - self._value(low)
        safe = rise / tf.where(is_wide, width, 1.0)
        return tf.where(is_wide, safe, self._derivative((low + high) / 2))


class _Convex(Smooth):
    """Convex: the tangent in the middle below, the chord above."""

    def _slopes(self, low, high):
        return self._derivative((low + high) / 2), self._chord(low, high)


class _Sigmoidal(Smooth):
    """Convex below 0, concave above, symmetric about its value at 0.

    Chord and tangent as in arXiv:1811.00866, section 3.3: where the interval holds
    0, the line runs through one end and touches the curve on the other side.
    """

    def _slopes(self, low, high):
        chord, middle = self._chord(low, high), self._derivative((low + high) / 2)
        # The function is odd up to a constant: the lower line is the upper one of
        # the interval turned about 0.
        upper = self._upper_slope(low, high, chord, middle)
        lower = self._upper_slope(-high, -low, chord, middle)
        return lower, upper

    def _upper_slope(self, low, high, chord, middle):
        crosses = (low < 0.0) & (high > 0.0)
        is_chord = (high <= 0.0) | (crosses & (self._derivative(high) >= chord))
        tangent = self._derivative(self._touching_point(low, high))
        return tf.where(is_chord, chord, tf.where(low >= 0.0, middle, tangent))

    def _touching_point(self, low, high):
        """Where a line through the lower end touches the concave side, `[0, high]`."""
        low, high = tf.stop_gradient(low), tf.stop_gradient(high)
        left, right = tf.zeros_like(high), tf.maximum(high, 0.0)
        start = self._value(low)
        for _ in range(_BISECTIONS):
            middle = (left + right) / 2
            is_steep = self._derivative(middle) * (middle - low) > (
                self._value(middle) - start
            )
            left = tf.where(is_steep, middle, left)
            right = tf.where(is_steep, right, middle)
        return right


@keras.saving.register_keras_serializable(package="robust_tf")
class Sigmoid(_Sigmoidal, keras.layers.Layer):
    """`1 / (1 + exp(-z))`."""

    def call(self, inputs):
        return tf.sigmoid(inputs)

    def _value(self, values):
        return tf.sigmoid(values)

    def _derivative(self, values):
        return tf.sigmoid(values) * tf.sigmoid(-values)

    def _stationary(self, slope):
        # From `(1 + root) (1 - root) = 4 slope`: `1 - root` itself would cancel.
        root = tf.sqrt(tf.maximum(1.0 - 4.0 * slope, 0.0))
        scaled = _positive(4.0 * slope)
        point = 2.0 * tf.math.log1p(root) - tf.math.log(scaled)
        return point, -point


@keras.saving.register_keras_serializable(package="robust_tf")
class Tanh(_Sigmoidal, keras.layers.Layer):
    """The hyperbolic tangent."""

    def call(self, inputs):
        return tf.tanh(inputs)

    def _value(self, values):
        return tf.tanh(values)

    def _derivative(self, values):
        return 1.0 - tf.square(tf.tanh(values))

    def _stationary(self, slope):
        # From `(1 + root) (1 - root) = slope`, as for the sigmoid.
        root = tf.sqrt(tf.clip_by_value(1.0 - slope, 0.0, 1.0))
        point = tf.math.log1p(root) - tf.math.log(_positive(slope)) / 2.0
        return point, -point


@keras.saving.register_keras_serializable(package="robust_tf")
class Softplus(_Convex, keras.layers.Layer):
    """`log(1 + exp(z))`."""

    def call(self, inputs):
        return tf.math.softplus(inputs)

    def _value(self, values):
        return tf.math.softplus(values)

    def _derivative(self, values):
        return tf.sigmoid(values)

    def _stationary(self, slope):
        rest = _positive(1.0 - slope)
        return (tf.math.log(_positive(slope)) - tf.math.log(rest),)


@keras.saving.register_keras_serializable(package="robust_tf")
class ELU(_Convex, keras.layers.ELU):
    """`z` for `z >= 0` and `alpha (exp(z) - 1)` below; convex for `alpha <= 1`."""

    def __init__(self, alpha=1.0, **kwargs):
        super().__init__(alpha, **kwargs)
        if not alpha >= 0.0:
            raise InputError(
                f"Layer '{self.name}' (ELU) has bound rules for alpha >= 0 only. "
                f"Received: alpha={alpha}"
            )

    def magnitude(self, *inputs):
        # Slopes reach from 0 to the greater of 1 and alpha.
        return super().magnitude(*inputs) + self._alpha * sum(inputs)

    @property
    def _alpha(self):
        return float(np.asarray(self.alpha, self.compute_dtype))

    def _value(self, values):
        below = self._alpha * tf.math.expm1(tf.minimum(values, 0.0))
        return tf.where(values >= 0.0, values, below)

    def _derivative(self, values):
        below = self._alpha * tf.exp(tf.minimum(values, 0.0))
        return tf.where(values >= 0.0, tf.ones_like(values), below)

    def _range(self, low, high):
        least, most = super()._range(low, high)
        # Just below 0 the slope is alpha.
        has_kink = (low < 0.0) & (high >= 0.0)
        return least, tf.where(has_kink, tf.maximum(most, self._alpha), most)

    def _stationary(self, slope):
        kink = tf.zeros_like(slope)
        if self._alpha == 0.0:
            return (kink,)
        return kink, tf.math.log(_positive(slope / self._alpha))


def _positive(values):
    """Values, raised to the least normal number of their type."""
    return tf.maximum(values, np.finfo(values.dtype.as_numpy_dtype).tiny)


def _check_leak(layer, leak):
    if not 0.0 <= float(np.asarray(leak)) <= 1.0:
        raise InputError(
            f"Layer '{layer.name}' ({type(layer).__name__}) has bound rules for a "
            f"`negative_slope` from 0 to 1. Received: {leak}"
        )
