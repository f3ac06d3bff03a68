"""The LeNet of randomized smoothing on MNIST (arXiv:2001.02378)."""

import keras

from robust_tf import layers
from robust_tf.architectures import blocks


def lenet(
    input_shape,
    num_classes,
    *,
    filters=(20, 50),
    linear_size=500,
    normalization=None,
) -> keras.Model:
    """Two unpadded Conv 5x5, each with MaxPooling 2x2 and a ReLU, then two Dense.

    The published order, ReLU before the pooling, is the same function: both grow with
    their inputs. After it, a ReLU has a quarter of the entries to work on.

    Args:
        input_shape: (height, width, channels), sides from 16.
        num_classes: number of logits.
        filters: of both convolutions.
        linear_size: units of the hidden dense layer.
        normalization: (mean, standard deviation) of each channel, or None, as
            published.

    Raises:
        InputError: for a shape that is no image's, and for counts below 1.
    """
    blocks.check_image_shape(input_shape)
    first, second = filters
    blocks.check_counts(
        num_classes=num_classes, linear_size=linear_size, first=first, second=second
    )
    inputs, tensor = blocks.normalized_input(input_shape, normalization)
    for count in (first, second):
        tensor = blocks.convolution(tensor, count, 5)
        tensor = blocks.rectified(layers.MaxPooling2D()(tensor))
    return blocks.classifier(inputs, tensor, (linear_size,), num_classes)
