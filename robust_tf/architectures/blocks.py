"""What the model families are put together from.

Kernels and biases begin at `U(-1 / sqrt(fan_in), 1 / sqrt(fan_in))` where no other
initializer is given, and every convolution and dense layer has a bias unless told
otherwise.
"""

import keras

from robust_tf import layers
from robust_tf.architectures.initializers import fan_in_uniform
from robust_tf.errors import InputError
from robust_tf.layers.convolution import pad_total

# Of BatchNormalization in the published systems; Keras's own are 0.99 and 1e-3.
_MOMENTUM, _EPSILON = 0.9, 1e-5


def normalized_input(shape, normalization):
    """Returns the model's input, and that input normalised where values are given.

    Args:
        shape: of one example, without the batch axis.
        normalization: (mean, standard deviation) of each channel, or None.
    """
    inputs = tensor = keras.Input(tuple(shape))
    if normalization is not None:
        mean, deviation = normalization
        variance = [value**2 for value in deviation]
        tensor = layers.Normalization(mean=list(mean), variance=variance)(inputs)
    return inputs, tensor


def convolution(
    tensor,
    filters,
    kernel_size,
    stride=1,
    padding=0,
    *,
    groups=1,
    kernel_initializer=None,
    bias_initializer=None,
    use_bias=True,
):
    """A convolution after `padding` zeros on every side of the image.

    TensorFlow's "same" can put one zero more at the end than at the beginning; for a
    number it is used only where it pads by as many on both sides. `padding="same"` asks
    for it wherever the zeros come to stand.
    """
    image = tensor.shape[1:3]
    totals = {pad_total(side, kernel_size, stride, "same") for side in image}
    is_same = padding == "same" or (padding and totals == {2 * padding})
    mode = "same" if is_same else "valid"
    if padding and mode == "valid":
        tensor = layers.ZeroPadding2D(padding)(tensor)
    fan_in = kernel_size**2 * tensor.shape[-1] // groups
    return layers.Conv2D(
        filters,
        kernel_size,
        stride,
        mode,
        groups=groups,
        use_bias=use_bias,
        kernel_initializer=kernel_initializer or fan_in_uniform(fan_in),
        bias_initializer=bias_initializer or fan_in_uniform(fan_in),
    )(tensor)


def dense(tensor, units, *, kernel_initializer=None, bias_initializer=None):
    """A dense layer over the last axis."""
    fan_in = tensor.shape[-1]
    return layers.Dense(
        units,
        kernel_initializer=kernel_initializer or fan_in_uniform(fan_in),
        bias_initializer=bias_initializer or fan_in_uniform(fan_in),
    )(tensor)


def normalized(tensor, batch_normalization=True):
    """A BatchNormalization (momentum 0.9, epsilon 1e-5), or nothing."""
    if not batch_normalization:
        return tensor
    return layers.BatchNormalization(momentum=_MOMENTUM, epsilon=_EPSILON)(tensor)


def rectified(tensor, batch_normalization=False):
    """A ReLU, after a BatchNormalization where one is asked for."""
    return layers.ReLU()(normalized(tensor, batch_normalization))


def classifier(
    inputs, tensor, hidden, num_classes, batch_normalization=False, *, connect=dense
):
    """Returns the model that ends in dense layers of `hidden` units, then logits.

    `connect` makes a dense layer of a tensor and a number of units.
    """
    if len(tensor.shape) > 2:
        tensor = layers.Flatten()(tensor)
    for units in hidden:
        tensor = rectified(connect(tensor, units), batch_normalization)
    return keras.Model(inputs, connect(tensor, num_classes))


def feedforward(
    input_shape,
    num_classes,
    convolutions,
    hidden,
    normalization=None,
    *,
    convolve=convolution,
    connect=dense,
):
    """Returns convolutions, each with a ReLU, and dense layers behind them, as a model.

    Args:
        input_shape: (height, width, channels).
        num_classes: number of logits.
        convolutions: (filters, kernel's side, stride, padding) of each.
        hidden: units of the hidden dense layers.
        normalization: (mean, standard deviation) of each channel, or None.
        convolve: as `convolution`, of a tensor and those four.
        connect: as `dense`, of a tensor and a number of units.

    Raises:
        InputError: for a shape that is no image's, or less than one class.
    """
    check_image_shape(input_shape)
    check_counts(num_classes=num_classes)
    inputs, tensor = normalized_input(input_shape, normalization)
    for shape in convolutions:
        tensor = rectified(convolve(tensor, *shape))
    return classifier(inputs, tensor, hidden, num_classes, connect=connect)


def check_image_shape(shape):
    """Refuses all but (height, width, channels), counts from 1.

    Raises:
        InputError: otherwise.
    """
    sizes = tuple(shape)
    if len(sizes) != 3 or not all(map(is_count, sizes)):
        raise InputError(
            "`input_shape` must be (height, width, channels), without the batch axis. "
            f"Received: {sizes}"
        )


def check_counts(**counts):
    """Refuses numbers of filters, units or layers that are not integers from 1.

    Raises:
        InputError: naming the first that is not.
    """
    for name, value in counts.items():
        if not is_count(value):
            raise InputError(f"`{name}` must be an integer from 1. Received: {value!r}")


def check_switch(**switches):
    """Refuses all but True and False.

    Raises:
        InputError: naming the first that is neither.
    """
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise InputError(f"`{name}` must be True or False. Received: {value!r}")


def is_count(value, least=1) -> bool:
    """Whether a value is an integer from `least`; NumPy's are none to Keras."""
    return type(value) is int and value >= least
