"""The convolutional classifiers of interval bound propagation (arXiv:1810.12715).

With the names under which arXiv:1906.06316 compares itself with them, after DeepMind's
published system. Kernels begin orthogonal, biases at 0; a ReLU follows every layer but
the last. Convolutions are not padded, but for those of `dm_large`, which are padded as
TensorFlow's "same": at stride 2 and on even sides, one zero after, none before. (The
`dm-large` of arXiv:1906.06316 pads by 1 on every side: `cnn7.cnn7` without
BatchNormalization.)
"""

import functools

import keras

from robust_tf.architectures import blocks


def dm_tiny(
    input_shape, num_classes, *, linear_size=100, normalization=None
) -> keras.Model:
    """One hidden dense layer: `[batch, *input_shape]` to logits.

    Args:
        input_shape: (height, width, channels).
        num_classes: number of logits.
        linear_size: units of the hidden layer.
        normalization: (mean, standard deviation) of each channel, or None.

    Raises:
        InputError: for a shape that is no image's, and for counts below 1.
    """
    blocks.check_counts(linear_size=linear_size)
    return _feedforward(
        input_shape, num_classes, (), (linear_size,), normalization=normalization
    )


def dm_small(
    input_shape,
    num_classes,
    *,
    filters=(16, 32),
    linear_size=100,
    normalization=None,
) -> keras.Model:
    """Conv 4x4/2, 4x4, then Dense, Dense: `[batch, *input_shape]` to logits.

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
    convolutions = ((first, 4, 2), (second, 4, 1))
    return _feedforward(
        input_shape,
        num_classes,
        convolutions,
        (linear_size,),
        normalization=normalization,
    )


def dm_medium(
    input_shape,
    num_classes,
    *,
    filters=(32, 64),
    linear_size=512,
    normalization=None,
) -> keras.Model:
    """Conv 3x3, 4x4/2 of each number of filters, then three dense layers.

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
    convolutions = ((first, 3, 1), (first, 4, 2), (second, 3, 1), (second, 4, 2))
    return _feedforward(
        input_shape,
        num_classes,
        convolutions,
        (linear_size, linear_size),
        normalization=normalization,
    )


def dm_large(
    input_shape,
    num_classes,
    *,
    width=64,
    linear_size=512,
    normalization=None,
) -> keras.Model:
    """Conv w, w, 2w/2, 2w, 2w, all 3x3, then Dense, Dense: to logits.

    Args:
        input_shape: (height, width, channels).
        num_classes: number of logits.
        width: w, filters of the first two convolutions.
        linear_size: units of the hidden dense layer; 200 in the published `large_200`.
        normalization: (mean, standard deviation) of each channel, or None.

    Raises:
        InputError: for a shape that is no image's, and for counts below 1.
    """
    blocks.check_counts(width=width, linear_size=linear_size)
    convolutions = (
        (width, 3, 1),
        (width, 3, 1),
        (2 * width, 3, 2),
        (2 * width, 3, 1),
        (2 * width, 3, 1),
    )
    return _feedforward(
        input_shape,
        num_classes,
        convolutions,
        (linear_size,),
        padding="same",
        normalization=normalization,
    )


def _feedforward(
    input_shape, num_classes, convolutions, hidden, *, padding=0, normalization
):
    """Convolutions of (filters, kernel's side, stride), then dense layers."""
    return blocks.feedforward(
        input_shape,
        num_classes,
        [(*shape, padding) for shape in convolutions],
        hidden,
        normalization,
        convolve=functools.partial(_with_start, blocks.convolution),
        connect=functools.partial(_with_start, blocks.dense),
    )


def _with_start(layer, *arguments):
    """A layer of `blocks` that begins with an orthogonal kernel and no bias."""
    return layer(
        *arguments,
        kernel_initializer=keras.initializers.Orthogonal(),
        bias_initializer="zeros",
    )
