"""The classifiers of the convex adversarial polytope (arXiv:1711.00851, 1805.12514).

With the names of the published system. A ReLU follows every layer but the last.
Weights begin at `U(-1 / sqrt(fan_in), 1 / sqrt(fan_in))`. On CIFAR-10, the published
kernels of the convolutions of the small and of the residual network come from
`N(0, 2 / fan_out)` instead, and their biases are 0: `initialization = "fan_out"`.
"""

import keras

from robust_tf import layers
from robust_tf.architectures import blocks
from robust_tf.architectures.initializers import fan_out_normal
from robust_tf.errors import InputError

_FAN_IN, _FAN_OUT = "fan_in", "fan_out"


def wong_kolter_small(
    input_shape,
    num_classes,
    *,
    filters=(16, 32),
    linear_size=100,
    initialization=_FAN_IN,
    normalization=None,
) -> keras.Model:
    """Two Conv 4x4/2, then Dense, Dense: `[batch, *input_shape]` to logits.

    Args:
        input_shape: (height, width, channels), sides divisible by 4.
        num_classes: number of logits.
        filters: of each convolution.
        linear_size: units of the hidden dense layer.
        initialization: "fan_in", or "fan_out" as published for CIFAR-10.
        normalization: (mean, standard deviation) of each channel, or None.

    Raises:
        InputError: for sides that the padding does not fit, counts below 1, and
            unknown initialisations.
    """
    first, second = filters
    blocks.check_counts(first=first, second=second, linear_size=linear_size)
    return _feedforward(
        input_shape,
        num_classes,
        ((first, 4, 2), (second, 4, 2)),
        (linear_size,),
        initialization,
        normalization,
    )


def wong_kolter_large(
    input_shape,
    num_classes,
    *,
    filters=(32, 64),
    linear_size=512,
    initialization=_FAN_IN,
    normalization=None,
) -> keras.Model:
    """Conv 3x3, 4x4/2 of each number of filters, then three dense layers.

    Args:
        input_shape: (height, width, channels), sides divisible by 4.
        num_classes: number of logits.
        filters: of the first two convolutions, and of the last two.
        linear_size: units of both hidden dense layers.
        initialization: "fan_in" as published, or "fan_out".
        normalization: (mean, standard deviation) of each channel, or None.

    Raises:
        InputError: as `wong_kolter_small` does.
    """
    first, second = filters
    blocks.check_counts(first=first, second=second, linear_size=linear_size)
    return _feedforward(
        input_shape,
        num_classes,
        ((first, 3, 1), (first, 4, 2), (second, 3, 1), (second, 4, 2)),
        (linear_size, linear_size),
        initialization,
        normalization,
    )


def wong_kolter_wide(
    input_shape,
    num_classes,
    *,
    factor=8,
    initialization=_FAN_IN,
    normalization=None,
) -> keras.Model:
    """Conv 4k 4x4/2, 8k 4x4/2, then Dense 128k, Dense: to logits.

    Args:
        input_shape: (height, width, channels), sides divisible by 4.
        num_classes: number of logits.
        factor: k.
        initialization: "fan_in" as published, or "fan_out".
        normalization: (mean, standard deviation) of each channel, or None.

    Raises:
        InputError: as `wong_kolter_small` does.
    """
    blocks.check_counts(factor=factor)
    return _feedforward(
        input_shape,
        num_classes,
        ((4 * factor, 4, 2), (8 * factor, 4, 2)),
        (128 * factor,),
        initialization,
        normalization,
    )


def wong_kolter_deep(
    input_shape,
    num_classes,
    *,
    factor=8,
    filters=(8, 16),
    linear_size=100,
    initialization=_FAN_IN,
    normalization=None,
) -> keras.Model:
    """Two groups of k convolutions, then Dense, Dense: to logits.

    The last convolution of a group is 4x4 with stride 2, those before are 3x3.

    Args:
        input_shape: (height, width, channels), sides divisible by 4.
        num_classes: number of logits.
        factor: k.
        filters: of the convolutions of each group.
        linear_size: units of the hidden dense layer.
        initialization: "fan_in" as published, or "fan_out".
        normalization: (mean, standard deviation) of each channel, or None.

    Raises:
        InputError: as `wong_kolter_small` does.
    """
    first, second = filters
    blocks.check_counts(
        factor=factor, first=first, second=second, linear_size=linear_size
    )
    convolutions = [
        (count, *shape)
        for count in filters
        for shape in (*(factor - 1) * ((3, 1),), (4, 2))
    ]
    return _feedforward(
        input_shape,
        num_classes,
        convolutions,
        (linear_size,),
        initialization,
        normalization,
    )


def wong_kolter_residual(
    input_shape,
    num_classes,
    *,
    blocks_per_stage=1,
    factor=1,
    stem=16,
    linear_size=1000,
    initialization=_FAN_OUT,
    normalization=None,
) -> keras.Model:
    """Conv 3x3, three stages of residual blocks, then Dense, Dense: to logits.

    A block is Conv 3x3, Conv 3x3, and a Conv 1x1 of its input beside them; the first
    block of the second and of the third stage has Conv 4x4/2, Conv 3x3, and Conv 2x2/2
    beside them. The stages have `stem * factor` filters, twice and four times as many.

    Args:
        input_shape: (height, width, channels), sides divisible by 4.
        num_classes: number of logits.
        blocks_per_stage: N; the first stage has one block more.
        factor: of the filters in the stages.
        stem: filters of the first convolution.
        linear_size: units of the hidden dense layer.
        initialization: "fan_out" as published for CIFAR-10, or "fan_in".
        normalization: (mean, standard deviation) of each channel, or None.

    Raises:
        InputError: as `wong_kolter_small` does.
    """
    blocks.check_counts(
        num_classes=num_classes,
        blocks_per_stage=blocks_per_stage,
        factor=factor,
        stem=stem,
        linear_size=linear_size,
    )
    _check_sides(input_shape)
    convolve = _convolution(initialization)
    inputs, tensor = blocks.normalized_input(input_shape, normalization)
    tensor = blocks.rectified(convolve(tensor, stem, 3, 1, 1))
    for stage in range(3):
        filters = stem * factor * 2**stage
        for block in range(blocks_per_stage + (stage == 0)):
            tensor = _block(convolve, tensor, filters, stage > 0 and block == 0)
    return blocks.classifier(inputs, tensor, (linear_size,), num_classes)


def _block(convolve, tensor, filters, halves_sides):
    """A block's sum, rectified."""
    first, beside, stride = (4, 2, 2) if halves_sides else (3, 1, 1)
    branch = blocks.rectified(convolve(tensor, filters, first, stride, 1))
    branch = convolve(branch, filters, 3, 1, 1)
    tensor = convolve(tensor, filters, beside, stride, 0)
    return layers.ReLU()(layers.Add()([tensor, branch]))


def _feedforward(
    input_shape, num_classes, convolutions, hidden, initialization, normalization
):
    """Convolutions of (filters, kernel's side, stride), padded by 1; dense layers."""
    _check_sides(input_shape)
    return blocks.feedforward(
        input_shape,
        num_classes,
        [(*shape, 1) for shape in convolutions],
        hidden,
        normalization,
        convolve=_convolution(initialization),
    )


def _convolution(initialization):
    """A function of (tensor, filters, kernel's side, stride, padding)."""
    if initialization == _FAN_IN:
        return blocks.convolution
    if initialization == _FAN_OUT:
        return _fan_out_convolution
    raise InputError(
        f"`initialization` must be '{_FAN_IN}' or '{_FAN_OUT}'. Received: "
        f"{initialization!r}"
    )


def _fan_out_convolution(tensor, filters, kernel_size, stride, padding):
    return blocks.convolution(
        tensor,
        filters,
        kernel_size,
        stride,
        padding,
        kernel_initializer=fan_out_normal(filters * kernel_size**2),
        bias_initializer="zeros",
    )


def _check_sides(shape):
    """Two convolutions halve the sides."""
    blocks.check_image_shape(shape)
    if any(side % 4 for side in shape[:2]):
        raise InputError(
            "Height and width must be divisible by 4. Received: input shape "
            f"{tuple(shape)}"
        )
