"""The classifiers of maximum margin regularization (arXiv:1810.07481, 1905.11213).

With the names of the published systems. Kernels begin at `N(0, 2 / fan_in)`, cut at two
deviations (`initializers.fan_in_truncated_normal`), and biases at 0. Convolutions are
padded as TensorFlow's "same", but for those of `cnn_lenet_large`. A ReLU follows every
layer but the last; inputs are pixels in [0, 1] without normalisation, as published.
"""

import functools

import keras

from robust_tf.architectures import blocks
from robust_tf.architectures.initializers import fan_in_truncated_normal


def fc1(input_shape, num_classes, *, units=1024, normalization=None) -> keras.Model:
    """One hidden dense layer: `[batch, *input_shape]` to logits.

    Args:
        input_shape: (height, width, channels).
        num_classes: number of logits.
        units: of the hidden layer.
        normalization: (mean, standard deviation) of each channel, or None.

    Raises:
        InputError: for a shape that is no image's, and for counts below 1.
    """
    blocks.check_counts(units=units)
    return _feedforward(input_shape, num_classes, (), (units,), normalization)


def fc10(
    input_shape,
    num_classes,
    *,
    hidden=(124, *7 * (104,), 86, 86),
    normalization=None,
) -> keras.Model:
    """Ten hidden dense layers: `[batch, *input_shape]` to logits.

    Args:
        input_shape: (height, width, channels).
        num_classes: number of logits.
        hidden: units of each hidden layer.
        normalization: (mean, standard deviation) of each channel, or None.

    Raises:
        InputError: for a shape that is no image's, and for counts below 1.
    """
    _check_hidden(hidden)
    return _feedforward(input_shape, num_classes, (), hidden, normalization)


def cnn_lenet_small(
    input_shape,
    num_classes,
    *,
    filters=(16, 32),
    linear_size=100,
    normalization=None,
) -> keras.Model:
    """Two Conv 4x4/2, then Dense, Dense: `[batch, *input_shape]` to logits.

    On sides divisible by 4 both convolutions are padded by 1 on every side.

    Args:
        input_shape: (height, width, channels).
        num_classes: number of logits.
        filters: of each convolution.
        linear_size: units of the hidden dense layer.
        normalization: (mean, standard deviation) of each channel, or None.

    Raises:
        InputError: for a shape that is no image's, and for counts below 1.
    """
    first, second = filters
    blocks.check_counts(first=first, second=second, linear_size=linear_size)
    convolutions = ((first, 4, 2, "same"), (second, 4, 2, "same"))
    return _feedforward(
        input_shape, num_classes, convolutions, (linear_size,), normalization
    )


def cnn_lenet_large(
    input_shape,
    num_classes,
    *,
    filters=(32, 64),
    linear_size=512,
    normalization=None,
) -> keras.Model:
    """Conv 4x4/2, 3x3 of each number of filters, then three dense layers.

    A network of convex adversarial polytopes (arXiv:1711.00851, 1805.12514) which the
    published code of maximum margin regularization knows, without a published result.
    Convolutions are padded by 1 on every side.

    Args:
        input_shape: (height, width, channels).
        num_classes: number of logits.
        filters: of the first two convolutions, and of the last two.
        linear_size: units of both hidden dense layers.
        normalization: (mean, standard deviation) of each channel, or None.

    Raises:
        InputError: for a shape that is no image's, and for counts below 1.
    """
    first, second = filters
    blocks.check_counts(first=first, second=second, linear_size=linear_size)
    convolutions = [
        (count, size, stride, 1)
        for count in filters
        for size, stride in ((4, 2), (3, 1))
    ]
    return _feedforward(
        input_shape, num_classes, convolutions, 2 * (linear_size,), normalization
    )


def lenet_3conv(
    input_shape,
    num_classes,
    *,
    filters=(8, 16, 32),
    linear_size=100,
    normalization=None,
) -> keras.Model:
    """Conv 4x4, 4x4/2, 4x4/2, then Dense, Dense: `[batch, *input_shape]` to logits.

    Stands unnamed in the published code of arXiv:1905.11213. At stride 1, "same" puts
    one zero before and two after.

    Args:
        input_shape: (height, width, channels).
        num_classes: number of logits.
        filters: of each convolution.
        linear_size: units of the hidden dense layer.
        normalization: (mean, standard deviation) of each channel, or None.

    Raises:
        InputError: for a shape that is no image's, and for counts below 1.
    """
    first, second, third = filters
    blocks.check_counts(
        first=first, second=second, third=third, linear_size=linear_size
    )
    convolutions = (
        (first, 4, 1, "same"),
        (second, 4, 2, "same"),
        (third, 4, 2, "same"),
    )
    return _feedforward(
        input_shape, num_classes, convolutions, (linear_size,), normalization
    )


def _convolution(tensor, filters, size, stride, padding):
    return blocks.convolution(
        tensor,
        filters,
        size,
        stride,
        padding,
        kernel_initializer=fan_in_truncated_normal(size**2 * tensor.shape[-1]),
        bias_initializer="zeros",
    )


def _dense(tensor, units):
    return blocks.dense(
        tensor,
        units,
        kernel_initializer=fan_in_truncated_normal(tensor.shape[-1]),
        bias_initializer="zeros",
    )


_feedforward = functools.partial(
    blocks.feedforward, convolve=_convolution, connect=_dense
)


def _check_hidden(hidden):
    blocks.check_counts(
        **{f"hidden[{place}]": units for place, units in enumerate(hidden)}
    )
