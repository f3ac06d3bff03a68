"""The convolutional classifiers of fast certified training (arXiv:2103.17268).

Those of expressive losses (arXiv:2305.13991) are among them. Convolutions are 3x3,
padded by 1 on every side at every stride, so images of any size will do. Every layer
has a bias, also before a BatchNormalization, which stands before the ReLU.
"""

import keras

from robust_tf.architectures import blocks
from robust_tf.errors import InputError


def cnn7(
    input_shape,
    num_classes,
    *,
    width=64,
    linear_size=512,
    batch_normalization="all",
    last_stride=1,
    normalization=None,
) -> keras.Model:
    """Conv w, w, 2w/2, 2w, 2w, then Dense, Dense: `[batch, *input_shape]` to logits.

    Args:
        input_shape: (height, width, channels).
        num_classes: number of logits.
        width: w, filters of the first two convolutions.
        linear_size: units of the hidden dense layer.
        batch_normalization: how many of the six hidden layers, counted from the input,
            are batch normalised, or "all". With 5 the dense layer is not, with 4
            neither is the last convolution, with 0 none is.
        last_stride: stride of the last convolution; 2 for images of 64x64.
        normalization: (mean, standard deviation) of each channel, or None.

    Raises:
        InputError: for a shape that is no image's, and for counts out of range.
    """
    blocks.check_counts(width=width, last_stride=last_stride)
    convolutions = (
        (width, 1),
        (width, 1),
        (2 * width, 2),
        (2 * width, 1),
        (2 * width, last_stride),
    )
    return _feedforward(
        input_shape,
        num_classes,
        convolutions,
        linear_size,
        batch_normalization,
        normalization,
    )


def cnn6(
    input_shape,
    num_classes,
    *,
    width=32,
    linear_size=256,
    batch_normalization="all",
    normalization=None,
) -> keras.Model:
    """Conv w, w, 2w/2, 2w, then Dense, Dense: `[batch, *input_shape]` to logits.

    Args:
        input_shape: (height, width, channels).
        num_classes: number of logits.
        width: w, filters of the first two convolutions.
        linear_size: units of the hidden dense layer.
        batch_normalization: how many of the five hidden layers, counted from the
            input, are batch normalised, or "all".
        normalization: (mean, standard deviation) of each channel, or None.

    Raises:
        InputError: for a shape that is no image's, and for counts out of range.
    """
    blocks.check_counts(width=width)
    convolutions = ((width, 1), (width, 1), (2 * width, 2), (2 * width, 1))
    return _feedforward(
        input_shape,
        num_classes,
        convolutions,
        linear_size,
        batch_normalization,
        normalization,
    )


def _feedforward(
    input_shape,
    num_classes,
    convolutions,
    linear_size,
    batch_normalization,
    normalization,
):
    """Convolutions, as (filters, stride), and a hidden dense layer."""
    blocks.check_image_shape(input_shape)
    blocks.check_counts(num_classes=num_classes, linear_size=linear_size)
    hidden = len(convolutions) + 1
    normalized = _normalized_layers(batch_normalization, hidden)
    inputs, tensor = blocks.normalized_input(input_shape, normalization)
    for index, (filters, stride) in enumerate(convolutions):
        tensor = blocks.convolution(tensor, filters, 3, stride, padding=1)
        tensor = blocks.rectified(tensor, index < normalized)
    return blocks.classifier(
        inputs, tensor, (linear_size,), num_classes, normalized == hidden
    )


def _normalized_layers(batch_normalization, hidden) -> int:
    """How many hidden layers, counted from the input, are batch normalised."""
    if batch_normalization == "all":
        return hidden
    is_count = blocks.is_count(batch_normalization, least=0)
    if not is_count or batch_normalization > hidden:
        raise InputError(
            f"`batch_normalization` must be 'all', or a number of hidden layers from 0 "
            f"to {hidden}, counted from the input. Received: {batch_normalization!r}"
        )
    return batch_normalization
