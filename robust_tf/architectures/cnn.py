"""The convolutional families of arXiv:1906.06316, section 4 and appendix.

All end in logits, with a ReLU after every other layer, and begin with the data set's
normalisation where one is given, so that radii stay in pixel units.
"""

import keras

from robust_tf.architectures import blocks
from robust_tf.errors import InputError


def cnn_2layer(
    input_shape, num_classes, *, width=2, linear_size=256, normalization=None
) -> keras.Model:
    """Conv 4w 4x4/2, Conv 8w 4x4/2, Dense, Dense: `[batch, *input_shape]` to logits.

    Args:
        input_shape: (height, width, channels), sides divisible by 4.
        num_classes: number of logits.
        width: w; the first convolution has 4w filters.
        linear_size: units of the hidden dense layer.
        normalization: (mean, standard deviation) of each channel, or None.
    """
    _check_sides(input_shape, 4)
    inputs, tensor = blocks.normalized_input(input_shape, normalization)
    for filters in (4 * width, 8 * width):
        tensor = _conv(tensor, filters, 4, 2, padding=1)
    return blocks.classifier(inputs, tensor, (linear_size,), num_classes)


def cnn_4layer(
    input_shape, num_classes, *, width=1, linear_size=256, normalization=None
) -> keras.Model:
    """Conv 4w 3x3, 4w 4x4/2, 8w 3x3, 8w 4x4/2, then three dense layers."""
    _check_sides(input_shape, 4)
    inputs, tensor = blocks.normalized_input(input_shape, normalization)
    for filters in (4 * width, 8 * width):
        tensor = _conv(tensor, filters, 3, 1, padding=1)
        tensor = _conv(tensor, filters, 4, 2, padding=1)
    return blocks.classifier(inputs, tensor, (linear_size, linear_size), num_classes)


def cnn_3layer_fixed(
    input_shape,
    num_classes,
    *,
    width=1,
    kernel_size=3,
    linear_size=None,
    normalization=None,
) -> keras.Model:
    """Conv 4w k x k, 8w k x k (both padded by 1), 8w 4x4/4 unpadded, Dense, Dense.

    Args:
        input_shape: (height, width, channels).
        num_classes: number of logits.
        width: w.
        kernel_size: k, 3 or 5.
        linear_size: units of the hidden dense layer; 64w by default.
        normalization: (mean, standard deviation) of each channel, or None.
    """
    if kernel_size not in (3, 5):
        raise InputError(f"`kernel_size` must be 3 or 5. Received: {kernel_size}")
    inputs, tensor = blocks.normalized_input(input_shape, normalization)
    for filters in (4 * width, 8 * width):
        tensor = _conv(tensor, filters, kernel_size, 1, padding=1)
    tensor = _conv(tensor, 8 * width, 4, 4, padding=0)
    return blocks.classifier(inputs, tensor, (linear_size or 64 * width,), num_classes)


def mlp(input_shape, num_classes, *, hidden=(100,), normalization=None) -> keras.Model:
    """Dense layers of the given sizes."""
    inputs, tensor = blocks.normalized_input(input_shape, normalization)
    return blocks.classifier(inputs, tensor, hidden, num_classes)


def _conv(tensor, filters, kernel_size, stride, padding):
    return blocks.rectified(
        blocks.convolution(tensor, filters, kernel_size, stride, padding)
    )


def _check_sides(shape, divisor):
    if any(side % divisor for side in shape[:2]):
        raise InputError(
            f"Height and width must be divisible by {divisor}. Received: "
            f"input shape {tuple(shape)}"
        )
