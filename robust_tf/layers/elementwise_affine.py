"""Constants of an example's whole shape, multiplied and added: both rules exact."""

import keras
import tensorflow as tf

from robust_tf.layers.base import weight
from robust_tf.layers.normalization import _ScaleAndShift


@keras.saving.register_keras_serializable(package="robust_tf")
class ElementwiseAffine(_ScaleAndShift, keras.layers.Layer):
    """`scale * z + shift`, with a number of each for every entry of an example.

    Both are weights, `[*input_shape]`, which training leaves alone; 1 and 0 at first.
    """

    def build(self, input_shape):
        shape = tuple(input_shape[1:])
        self.scale = self.add_weight(
            shape=shape, initializer="ones", trainable=False, name="scale"
        )
        self.shift = self.add_weight(
            shape=shape, initializer="zeros", trainable=False, name="shift"
        )

    def call(self, inputs):
        scale, shift = self.scale_and_shift(inputs.dtype)
        return inputs * scale + shift

    def compute_output_shape(self, input_shape):
        return input_shape

    def scale_and_shift(self, dtype) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what the layer multiplies by and adds, `[*input_shape]` each."""
        return weight(self.scale, dtype), weight(self.shift, dtype)
