"""Dense layers: both rules are exact."""

import keras
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.layers.base import BoundLayer
from robust_tf.layers.base import bias_constant
from robust_tf.layers.base import no_constant
from robust_tf.layers.base import weight


@keras.saving.register_keras_serializable(package="robust_tf")
class Dense(BoundLayer, keras.layers.Dense):
    """`z W + b` over the last axis, `[batch, ..., features]` to `[batch, ..., units]`.

    Interval: centre `c W + b`, radius `r |W|` (arXiv:1810.12715).
    Backward: the transpose, plus the constant `<coefficients, b>`. Both exact.
    """

    is_affine = True

    def propagate_interval(self, inputs: IntervalBound) -> IntervalBound:
        kernel = weight(self.kernel, inputs.dtype)
        center = tf.tensordot(inputs.center, kernel, 1)
        if self.use_bias:
            center += weight(self.bias, inputs.dtype)
        radius = tf.tensordot(inputs.radius, tf.abs(kernel), 1)
        return IntervalBound.from_center(center, radius)

    def propagate_linear_backward(self, coefficients, inputs):
        del inputs  # An affine map needs no relaxation.
        kernel = weight(self.kernel, coefficients.dtype)
        pulled = tf.tensordot(coefficients, kernel, [[-1], [1]])
        if not self.use_bias:
            return (pulled,), no_constant(coefficients)
        return (pulled,), bias_constant(coefficients, self.bias)
