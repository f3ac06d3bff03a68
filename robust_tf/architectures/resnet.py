"""The residual classifiers of randomized smoothing (arXiv:1902.02918).

Those of arXiv:1512.03385, with a BatchNormalization after every convolution and none of
these with a bias. Kernels begin at `N(0, 2 / fan_out)`, fan_out being filters times the
kernel's area; the dense layer as in all families.
"""

import keras

from robust_tf import layers
from robust_tf.architectures import blocks
from robust_tf.architectures.initializers import fan_out_normal
from robust_tf.errors import InputError


def cifar_resnet(
    input_shape,
    num_classes,
    *,
    depth=110,
    channels=(16, 32, 64),
    normalization=None,
) -> keras.Model:
    """Three stages of basic blocks for small images, `[batch, *input_shape]` to logits.

    ResNet-110 has 1,730,714 parameters for ten classes, ResNet-20 has 272,474.

    Args:
        input_shape: (height, width, channels).
        num_classes: number of logits.
        depth: convolutions and dense layers on the longest path, `6 n + 2`: 20, 56,
            110.
        channels: filters of each stage; the second and the third halve the sides.
        normalization: (mean, standard deviation) of each channel, or None.

    Raises:
        InputError: for a shape that is no image's, a depth of another form, and counts
            below 1.
    """
    blocks.check_image_shape(input_shape)
    if not blocks.is_count(depth, 8) or depth % 6 != 2:
        raise InputError(
            "`depth` must be 6 n + 2 with n from 1, such as 20, 56 or 110. Received: "
            f"{depth!r}"
        )
    stages = dict(zip(("first", "second", "third"), channels, strict=True))
    blocks.check_counts(num_classes=num_classes, **stages)
    inputs, tensor = blocks.normalized_input(input_shape, normalization)
    tensor = layers.ReLU()(_convolution(tensor, channels[0], 3))
    for stage, filters in enumerate(channels):
        for block in range((depth - 2) // 6):
            stride = 2 if stage > 0 and block == 0 else 1
            branch = layers.ReLU()(_convolution(tensor, filters, 3, stride))
            branch = _convolution(branch, filters, 3)
            tensor = _joined(tensor, branch, stride)
    return _pooled_classifier(inputs, tensor, num_classes)


def resnet_50(
    input_shape,
    num_classes,
    *,
    stem=64,
    blocks_per_stage=(3, 4, 6, 3),
    normalization=None,
) -> keras.Model:
    """Four stages of bottleneck blocks, `[batch, *input_shape]` to logits.

    Conv 7x7/2 and MaxPooling 3x3/2 come first. A block is Conv 1x1, Conv 3x3 (with the
    stride, where there is one) and Conv 1x1 to four times the filters. 25,557,032
    parameters for 1,000 classes.

    Args:
        input_shape: (height, width, channels), published: (224, 224, 3).
        num_classes: number of logits.
        stem: filters of the first convolution and of the first stage's inner ones; each
            stage has twice those of the one before.
        blocks_per_stage: how many; the first block of each stage but the first halves
            the sides.
        normalization: (mean, standard deviation) of each channel, or None.

    Raises:
        InputError: for a shape that is no image's, and for counts below 1.
    """
    blocks.check_image_shape(input_shape)
    counts = {f"stage {i}": count for i, count in enumerate(blocks_per_stage, 1)}
    blocks.check_counts(num_classes=num_classes, stem=stem, **counts)
    inputs, tensor = blocks.normalized_input(input_shape, normalization)
    tensor = layers.ReLU()(_convolution(tensor, stem, 7, 2))
    tensor = layers.PaddedMaxPooling2D(3, 2, ((1, 1), (1, 1)))(tensor)
    for stage, count in enumerate(blocks_per_stage):
        filters = stem * 2**stage
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            branch = layers.ReLU()(_convolution(tensor, filters, 1))
            branch = layers.ReLU()(_convolution(branch, filters, 3, stride))
            branch = _convolution(branch, 4 * filters, 1)
            tensor = _joined(tensor, branch, stride)
    return _pooled_classifier(inputs, tensor, num_classes)


def _joined(tensor, branch, stride):
    """A block's sum, rectified."""
    filters = branch.shape[-1]
    if stride != 1 or tensor.shape[-1] != filters:
        tensor = _convolution(tensor, filters, 1, stride)
    return layers.ReLU()(layers.Add()([branch, tensor]))


def _convolution(tensor, filters, kernel_size, stride=1):
    """A convolution without bias, and its BatchNormalization."""
    tensor = blocks.convolution(
        tensor,
        filters,
        kernel_size,
        stride,
        padding=kernel_size // 2,
        kernel_initializer=fan_out_normal(filters * kernel_size**2),
        use_bias=False,
    )
    return blocks.normalized(tensor)


def _pooled_classifier(inputs, tensor, num_classes):
    tensor = layers.GlobalAveragePooling2D()(tensor)
    return blocks.classifier(inputs, tensor, (), num_classes)
