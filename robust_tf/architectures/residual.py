"""The residual classifiers of fast certified training (arXiv:2103.17268).

A block adds to its input what its convolutions make of it, and a ReLU follows the sum.
Where the shape changes, the input passes a 1x1 convolution first. 3x3 convolutions are
padded by 1 on every side at every stride, so images of any size will do. There is no
pooling: the last map is flattened. Every layer has a bias, also before a
BatchNormalization, which stands before the ReLU or the sum.
"""

import functools

import keras

from robust_tf import layers
from robust_tf.architectures import blocks
from robust_tf.architectures.initializers import fan_out_normal
from robust_tf.errors import InputError


def wide_resnet(
    input_shape,
    num_classes,
    *,
    channels=(128, 256, 512),
    blocks_per_stage=1,
    stem=16,
    linear_size=512,
    batch_normalization=True,
    normalization=None,
) -> keras.Model:
    """Stages of basic blocks (Conv 3x3, Conv 3x3), `[batch, *input_shape]` to logits.

    Kernels of convolutions begin at `N(0, 2 / fan_out)`, fan_out being filters times
    the kernel's area; their biases and the dense layers as in all families.

    Args:
        input_shape: (height, width, channels).
        num_classes: number of logits.
        channels: filters of each stage; each but the first halves the sides.
        blocks_per_stage: how many.
        stem: filters of the convolution before the stages.
        linear_size: units of the hidden dense layer.
        batch_normalization: whether all layers but the last are batch normalised.
        normalization: (mean, standard deviation) of each channel, or None.

    Raises:
        InputError: for a shape that is no image's, and for counts below 1.
    """
    blocks.check_image_shape(input_shape)
    blocks.check_switch(batch_normalization=batch_normalization)
    blocks.check_counts(
        num_classes=num_classes,
        blocks_per_stage=blocks_per_stage,
        stem=stem,
        linear_size=linear_size,
    )
    _check_channels(channels)
    convolve = functools.partial(_convolution, batch_normalization, fan_out_normal)
    inputs, tensor = blocks.normalized_input(input_shape, normalization)
    tensor = layers.ReLU()(convolve(tensor, stem, 3))
    for filters, stride in _plan(channels, blocks_per_stage):
        branch = layers.ReLU()(convolve(tensor, filters, 3, stride))
        branch = convolve(branch, filters, 3)
        tensor = _joined(convolve, tensor, branch, stride)
    return blocks.classifier(
        inputs, tensor, (linear_size,), num_classes, batch_normalization
    )


def resnext(
    input_shape,
    num_classes,
    *,
    cardinality=2,
    base_width=32,
    blocks_per_stage=1,
    stem=64,
    linear_size=512,
    batch_normalization=True,
    normalization=None,
) -> keras.Model:
    """Three stages of blocks with grouped convolutions, to logits.

    A block is Conv 1x1 to g channels, Conv 3x3 in groups, Conv 1x1 to 2g, where g is
    `cardinality * base_width` in the first stage and doubles with each stage.

    Args:
        input_shape: (height, width, channels).
        num_classes: number of logits.
        cardinality: groups of the 3x3 convolutions.
        base_width: filters of each group in the first stage.
        blocks_per_stage: how many; the first block of the second and of the third
            stage halves the sides.
        stem: filters of the convolution before the stages.
        linear_size: units of the hidden dense layer.
        batch_normalization: whether all layers but the last are batch normalised.
        normalization: (mean, standard deviation) of each channel, or None.

    Raises:
        InputError: for a shape that is no image's, and for counts below 1.
    """
    blocks.check_image_shape(input_shape)
    blocks.check_switch(batch_normalization=batch_normalization)
    blocks.check_counts(
        num_classes=num_classes,
        blocks_per_stage=blocks_per_stage,
        stem=stem,
        linear_size=linear_size,
        cardinality=cardinality,
        base_width=base_width,
    )
    convolve = functools.partial(_convolution, batch_normalization, None)
    inputs, tensor = blocks.normalized_input(input_shape, normalization)
    tensor = layers.ReLU()(convolve(tensor, stem, 3))
    widths = [cardinality * base_width * scale for scale in (1, 2, 4)]
    for width, stride in _plan(widths, blocks_per_stage):
        branch = layers.ReLU()(convolve(tensor, width, 1))
        branch = convolve(branch, width, 3, stride, groups=cardinality)
        branch = convolve(layers.ReLU()(branch), 2 * width, 1)
        tensor = _joined(convolve, tensor, branch, stride)
    return blocks.classifier(
        inputs, tensor, (linear_size,), num_classes, batch_normalization
    )


def _plan(channels, blocks_per_stage):
    """The blocks, as (filters, stride)."""
    for stage, filters in enumerate(channels):
        for block in range(blocks_per_stage):
            yield filters, 2 if stage > 0 and block == 0 else 1


def _joined(convolve, tensor, branch, stride):
    """A block's sum, rectified."""
    filters = branch.shape[-1]
    if stride != 1 or tensor.shape[-1] != filters:
        tensor = convolve(tensor, filters, 1, stride)
    return layers.ReLU()(layers.Add()([branch, tensor]))


def _convolution(
    batch_normalization, initializer, tensor, filters, kernel_size, stride=1, groups=1
):
    """A convolution, and a BatchNormalization where one is asked for.

    `initializer` takes the fan-out; None stands for the default.
    """
    tensor = blocks.convolution(
        tensor,
        filters,
        kernel_size,
        stride,
        padding=kernel_size // 2,
        groups=groups,
        kernel_initializer=initializer and initializer(filters * kernel_size**2),
    )
    return blocks.normalized(tensor, batch_normalization)


def _check_channels(channels):
    if not isinstance(channels, (tuple, list)) or not channels:
        raise InputError(
            "`channels` must hold the filters of each stage, such as (128, 256, 512). "
            f"Received: {channels!r}"
        )
    for stage, filters in enumerate(channels, start=1):
        blocks.check_counts(**{f"channels of stage {stage}": filters})
