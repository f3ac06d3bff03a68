"""Dense layers: both rules are exact."""

import keras
import tensorflow as tf

from robust_tf.layers.base import KernelLayer
from robust_tf.layers.base import weight


@keras.saving.register_keras_serializable(package="robust_tf")
class Dense(KernelLayer, keras.layers.Dense):
    """`z W + b` over the last axis, `[batch, ..., features]` to `[batch, ..., units]`.

    Backward: the transpose, plus the constant `<coefficients, b>`. Both rules exact.
    """

    def propagate_linear_backward(self, coefficients, inputs):
        del inputs  # An affine map needs no relaxation.
        kernel = weight(self.kernel, coefficients.dtype)
        pulled = tf.tensordot(coefficients, kernel, [[-1], [1]])
        return (pulled,), self._constant(coefficients)

    def _apply(self, inputs, kernel):
        return tf.tensordot(inputs, kernel, 1)
