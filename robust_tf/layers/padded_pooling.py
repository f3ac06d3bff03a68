"""Maxima of windows that reach beyond the image by stated widths."""

import keras
import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.layers.pooling import MaxPooling2D
from robust_tf.layers.pooling import _pair
from robust_tf.layers.windows import Window
from robust_tf.layers.windows import WindowView


@keras.saving.register_keras_serializable(package="robust_tf")
class PaddedMaxPooling2D(MaxPooling2D):
    """Maxima of windows over an image with a border that never wins.

    What other frameworks pad explicitly, where `padding="same"` would put the border
    elsewhere. Zeros (`ZeroPadding2D`) would win over negative entries.

    Args:
        pool_size: height and width of the windows.
        strides: steps between them; None for `pool_size`.
        pads: ((top, bottom), (left, right)), each from 0 to below the pool size.
        **options: of all Keras layers.

    Raises:
        InputError: for pads that a window could lie in as a whole.
    """

    def __init__(
        self, pool_size=(2, 2), strides=None, pads=((0, 0), (0, 0)), **options
    ):
        super().__init__(pool_size, strides, padding="valid", **options)
        self.pads = tuple(tuple(int(width) for width in pair) for pair in pads)
        for size, pair in zip(self._pool, self.pads, strict=True):
            if not all(0 <= width < size for width in pair):
                raise InputError(
                    f"Pads of layer '{self.name}' must be at least 0 and less than the "
                    f"pool size {self._pool}. Received: {self.pads}"
                )

    def call(self, inputs):
        return self._pool_by(tf.nn.max_pool2d, inputs)

    def compute_output_shape(self, input_shape):
        batch, *image, channels = input_shape
        strides = _pair(self.strides)
        positions = (
            (image[i] + sum(self.pads[i]) - self._pool[i]) // strides[i] + 1
            for i in range(2)
        )
        return (batch, *positions, channels)

    def compute_output_spec(self, inputs):
        shape = self.compute_output_shape(inputs.shape)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        config = super().get_config()
        for name in ("padding", "data_format"):
            config.pop(name, None)
        return {**config, "pads": self.pads}

    def _view(self, input_shape, positions) -> WindowView:
        starts = tuple(-before for before, _ in self.pads)
        window = Window(self._pool, _pair(self.strides), starts)
        return WindowView(window, tuple(positions), tuple(input_shape[:2]), 1)

    def _pool_by(self, operation, values):
        lowest = tf.constant(values.dtype.min, values.dtype)
        values = tf.pad(values, [[0, 0], *self.pads, [0, 0]], constant_values=lowest)
        return operation(values, self._pool, _pair(self.strides), "VALID")
