"""Bounds of dense ReLU networks, and values of layers, in exact arithmetic."""

import decimal
from fractions import Fraction

import numpy as np
import tensorflow as tf

from robust_tf import layers
from robust_tf.layers.base import KernelLayer

decimal.getcontext().prec = 60
_ZERO, _ONE = Fraction(0), Fraction(1)


def rational(array) -> np.ndarray:
    """The same numbers as fractions, exactly; an array of objects."""
    array = np.asarray(array, "float64")
    found = np.empty(array.shape, object)
    for place, value in np.ndenumerate(array):
        found[place] = Fraction(float(value))
    return found


class ExactNetwork:
    """`W z + b` and ReLUs in turn, over one box.

    Args:
        model: Dense layers and ReLUs alone.
        lower: ends of the box, `[inputs]`.
        upper: the same.
    """

    def __init__(self, model, lower, upper):
        dense = [layer for layer in model.layers if layer.weights]
        weights = [layer.get_weights() for layer in dense]
        self.weights = [(rational(kernel), rational(bias)) for kernel, bias in weights]
        self.box = rational(lower), rational(upper)

    def value(self, point):
        values = rational(point)
        for place, (kernel, bias) in enumerate(self.weights):
            values = (np.maximum(values, _ZERO) if place else values) @ kernel + bias
        return values

    def intervals(self, slopes=None):
        """Bounds of all pre-activations: by IBP, and by passes if slopes are given.

        Args:
            slopes: lower slopes of unstable neurons, by layer.
        """
        found, (low, high) = [], self.box
        for place, (kernel, bias) in enumerate(self.weights):
            if place:
                low, high = np.maximum(low, _ZERO), np.maximum(high, _ZERO)
            positive, negative = np.maximum(kernel, _ZERO), np.minimum(kernel, _ZERO)
            low, high = (
                low @ positive + high @ negative + bias,
                high @ positive + low @ negative + bias,
            )
            if slopes is not None and place:
                unit = np.where(np.eye(len(bias)) > 0, _ONE, _ZERO)
                lower = self.margins(unit, found, slopes)
                upper = -self.margins(-unit, found, slopes)
                low, high = np.maximum(low, lower), np.minimum(high, upper)
            found.append((low, high))
        return found

    def margins(self, rows, intervals, slopes):
        """Lower bounds of rows over layer `len(intervals)`, by one backward pass."""
        constant = np.full(len(rows), _ZERO)
        for place in range(len(intervals), -1, -1):
            kernel, bias = self.weights[place]
            constant = constant + rows @ bias
            rows = rows @ kernel.T
            if place:
                lower, upper, intercept = _lines(
                    *intervals[place - 1], slopes[place - 1]
                )
                negative = np.minimum(rows, _ZERO)
                constant = constant + negative @ intercept
                rows = np.maximum(rows, _ZERO) * lower + negative * upper
        low, high = self.box
        return constant + np.maximum(rows, _ZERO) @ low + np.minimum(rows, _ZERO) @ high


def _lines(low, high, slopes):
    """Lower slopes, upper slopes and upper intercepts."""
    found = []
    for l, u, slope in zip(low, high, slopes, strict=True):  # noqa: E741
        if l >= 0:
            found.append((_ONE, _ONE, _ZERO))
        elif u <= 0:
            found.append((_ZERO, _ZERO, _ZERO))
        else:
            share = u / (u - l)
            found.append((slope, share, -share * l))
    return (np.array(column, object) for column in zip(*found, strict=True))


def value_of(layer, points) -> np.ndarray:
    """The layer's output in exact arithmetic, or to 50 digits where it is no fraction.

    Args:
        layer: with weights in any type.
        points: one array for each input, without a batch axis.
    """
    exact = [rational(point) for point in points]
    if isinstance(layer, tuple(_FUNCTIONS)):
        function = _FUNCTIONS[type(layer)]
        return np.vectorize(lambda z: function(layer, z), otypes=[object])(exact[0])
    if isinstance(layer, tuple(_SCALES)):
        return _SCALES[type(layer)](layer, exact[0])
    if isinstance(layer, tuple(_MAXIMA)):  # They move numbers, and round nothing.
        exact = type(layer).from_config({**layer.get_config(), "dtype": "float64"})
        return rational(exact(tf.constant(points[0][None], tf.float64))[0])
    return _linear(layer, points, exact)


def _linear(layer, points, exact):
    """From the responses to unit inputs."""
    total, numbers = None, 2 * 3 * 5 * 7
    for place, values in enumerate(exact):
        units = np.eye(values.size).reshape(-1, *values.shape)
        inputs = [np.zeros((values.size, *point.shape)) for point in points]
        inputs[place] = units
        inputs = [tf.constant(one) for one in inputs]
        if isinstance(layer, KernelLayer):
            kernel = tf.cast(layer.kernel.value, tf.float64)
            response = rational(layer.apply_with(inputs[0], kernel, None).numpy())
        else:
            response = layer(inputs if len(inputs) > 1 else inputs[0]).numpy()
            # Shares of means: of up to nine entries.
            nearest = np.vectorize(lambda x: Fraction(x).limit_denominator(numbers))
            response = nearest(response.astype("float64"))
        part = np.tensordot(values.reshape(-1), response, 1)
        total = part if total is None else total + part
    if isinstance(layer, KernelLayer) and layer.use_bias:
        total = total + rational(layer.bias.numpy())
    return total


def _exactly(number: Fraction) -> decimal.Decimal:
    return decimal.Decimal(number.numerator) / decimal.Decimal(number.denominator)


def root(number: Fraction) -> Fraction:
    """The square root, to 50 digits."""
    return Fraction(_exactly(number).sqrt())


def _sigmoid(_, z):
    return Fraction(1 / (1 + (-_exactly(z)).exp()))


def _tanh(_, z):
    return 2 * _sigmoid(None, 2 * z) - 1


def _softplus(_, z):
    return Fraction((1 + _exactly(z).exp()).ln())


def _elu(layer, z):
    if z >= 0:
        return z
    return Fraction(float(np.float32(layer.alpha))) * Fraction(_exactly(z).exp() - 1)


def _relu(layer, z):
    return z if z >= 0 else Fraction(float(np.float32(layer.negative_slope))) * z


def _batch_normalization(layer, values):
    channels = values.shape[-1]
    gamma = layer.gamma.numpy() if layer.scale else np.ones(channels)
    beta = layer.beta.numpy() if layer.center else np.zeros(channels)
    variance = rational(layer.moving_variance.numpy()) + Fraction(layer.epsilon)
    deviation = np.array([root(one) for one in variance], object)
    centered = values - rational(layer.moving_mean.numpy())
    return centered / deviation * rational(gamma) + rational(beta)


def _normalization(layer, values):
    variance = np.vectorize(root)(rational(layer.variance))
    mean = rational(layer.mean)
    variance, mean = (one[0] if one.ndim > 1 else one for one in (variance, mean))
    return values * variance + mean if layer.invert else (values - mean) / variance


def _affine(layer, values):
    scale, shift = layer.scale_and_shift(tf.float64)  # Casts alone.
    return values * rational(scale) + rational(shift)


_FUNCTIONS = {
    layers.Sigmoid: _sigmoid,
    layers.Tanh: _tanh,
    layers.Softplus: _softplus,
    layers.ELU: _elu,
    layers.ReLU: _relu,
    layers.LeakyReLU: _relu,
}
_SCALES = {
    layers.BatchNormalization: _batch_normalization,
    layers.Normalization: _normalization,
    layers.Rescaling: _affine,
    layers.ElementwiseAffine: _affine,
}
_MAXIMA = (layers.MaxPooling2D, layers.GlobalMaxPooling2D)
