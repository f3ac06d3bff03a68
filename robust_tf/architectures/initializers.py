"""Initial weights: of single variables, and of all kernels of a classifier at once.

The functions that take a model replace its kernels in place. They find the layers by
the model's graph, whatever they are called, and leave biases and BatchNormalization as
they are.
"""

import math

import keras

from robust_tf.errors import InputError
from robust_tf.layers.base import BoundLayer
from robust_tf.layers.base import ElementwiseLayer
from robust_tf.layers.base import KernelLayer
from robust_tf.layers.structural import Add
from robust_tf.layers.structural import ZeroPadding2D


def fan_in_uniform(
    fan_in: int, seed: int | None = None
) -> keras.initializers.Initializer:
    """Returns `U(-1 / sqrt(fan_in), 1 / sqrt(fan_in))`, for a kernel or its bias.

    Args:
        fan_in: inputs of one neuron: channels times the kernel's area.
        seed: of the draw; None for the global one.
    """
    limit = 1.0 / math.sqrt(fan_in)
    return keras.initializers.RandomUniform(-limit, limit, seed)


def fan_in_truncated_normal(
    fan_in: int, seed: int | None = None
) -> keras.initializers.Initializer:
    """Returns `N(0, 2 / fan_in)`, drawn anew beyond two deviations, for a kernel.

    What is drawn deviates by 0.8796 times `sqrt(2 / fan_in)`, which Keras's `HeNormal`
    makes up for and this one, as published with arXiv:1810.07481, does not.

    Args:
        fan_in: inputs of one neuron: channels times the kernel's area.
        seed: of the draw; None for the global one.
    """
    return keras.initializers.TruncatedNormal(0.0, math.sqrt(2.0 / fan_in), seed)


def fan_out_normal(
    fan_out: int, seed: int | None = None
) -> keras.initializers.Initializer:
    """Returns `N(0, 2 / fan_out)`, for a kernel.

    Args:
        fan_out: filters times the kernel's area.
        seed: of the draw; None for the global one.
    """
    return keras.initializers.RandomNormal(0.0, math.sqrt(2.0 / fan_out), seed)


def ibp_deviation(fan_in: int) -> float:
    """Returns `sqrt(2 pi) / fan_in`: normal weights `w` have `E|w| = 2 / fan_in`.

    Then a layer doubles the radii of interval bounds on average, and the ReLU after
    it halves them (arXiv:2103.17268, section 4).

    Args:
        fan_in: inputs of one neuron: channels times the kernel's area.
    """
    return math.sqrt(2.0 * math.pi) / fan_in


def ibp_initialization(model: keras.Model, seed: int | None = None) -> None:
    """Draws kernels that keep the radii of interval bounds (arXiv:2103.17268).

    All kernels but the last layer's come from `N(0, 2 pi / fan_in^2)`
    (`ibp_deviation`). A sum of two branches doubles radii once more: layers that read
    the activation of a sum get half of what was drawn.

    Args:
        model: of `robust_tf.layers`, or from `robust_tf.convert`; changed in place.
        seed: of the draws; None for the global one (`keras.utils.set_random_seed`).

    Raises:
        InputError: for models without bound rules, or without kernels.
    """
    graph = _Graph(model)
    generator = keras.random.SeedGenerator(seed)
    for layer in graph.kernel_layers[:-1]:
        deviation = ibp_deviation(_fan_in(layer))
        if graph.reads_activated_sum(layer):
            deviation /= 2.0
        _draw_normal(layer, deviation, generator)


def kaiming_initialization(model: keras.Model, seed: int | None = None) -> None:
    """Draws all kernels, the last layer's too, from `N(0, 2 / fan_in)`.

    Then the variance of activations is kept (arXiv:1502.01852); radii of interval
    bounds grow by about `sqrt(fan_in / pi)` with each layer.

    Args:
        model: of `robust_tf.layers`, or from `robust_tf.convert`; changed in place.
        seed: of the draws; None for the global one (`keras.utils.set_random_seed`).

    Raises:
        InputError: for models without bound rules, or without kernels.
    """
    generator = keras.random.SeedGenerator(seed)
    for layer in _Graph(model).kernel_layers:
        _draw_normal(layer, math.sqrt(2.0 / _fan_in(layer)), generator)


def orthogonal_initialization(model: keras.Model, seed: int | None = None) -> None:
    """Makes all kernels but the last layer's orthogonal (arXiv:1312.6120).

    Of the matrix of a kernel, inputs of a neuron by neurons, the rows or the columns,
    whichever are fewer, are orthonormal.

    Args:
        model: of `robust_tf.layers`, or from `robust_tf.convert`; changed in place.
        seed: of the draws; None for the global one (`keras.utils.set_random_seed`).

    Raises:
        InputError: for models without bound rules, or without kernels.
    """
    draw = keras.initializers.Orthogonal(seed=keras.random.SeedGenerator(seed))
    for layer in _Graph(model).kernel_layers[:-1]:
        kernel = layer.kernel
        size, fan_in = math.prod(kernel.shape), _fan_in(layer)
        matrix = draw((fan_in, size // fan_in), kernel.dtype)
        kernel.assign(keras.ops.reshape(matrix, kernel.shape))


class _Graph:
    """Which layers of a model hold kernels, and what they read.

    Attributes:
        kernel_layers: in topological order, the classification layer last.
    """

    def __init__(self, model):
        operations = _operations(model)
        self.kernel_layers = [o for o in operations if isinstance(o, KernelLayer)]
        if not self.kernel_layers:
            raise InputError(
                "There are no kernels to draw. Received: model "
                f"'{model.name}', without convolutions and dense layers"
            )
        self._producers = {id(o.output): o for o in operations}

    def reads_activated_sum(self, layer) -> bool:
        """Whether the layer's input is the activation of an elementwise sum."""
        source = self._before(layer)
        while isinstance(source, ZeroPadding2D):  # A part of the convolution after it.
            source = self._before(source)
        if not isinstance(source, ElementwiseLayer) or source.is_affine:
            return False
        return isinstance(self._before(source), Add)

    def _before(self, layer):
        """The layer that wrote the only input of `layer`; None for the model's."""
        return self._producers.get(id(layer.input))


def _operations(model) -> list[BoundLayer]:
    """The layers of a model in topological order, without its input."""
    if not isinstance(model, keras.Model):
        raise InputError(
            f"Kernels are drawn for a Keras model. Received: {type(model).__name__}"
        )
    if not hasattr(model, "operations"):  # Opens a Sequential.
        model = keras.Model(model.inputs, model.outputs)
    found = []
    for layer in model.operations:
        if isinstance(layer, BoundLayer):
            found.append(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            raise InputError(
                f"Layer '{layer.name}' ({type(layer).__name__}) has no bound rules. "
                "Convert the model: `robust_tf.convert(model)`."
            )
    return found


def _fan_in(layer) -> int:
    """Inputs of one neuron: channels of its group times the kernel's area."""
    return math.prod(layer.kernel.shape) // layer.output.shape[-1]


def _draw_normal(layer, deviation, generator):
    kernel = layer.kernel
    drawn = keras.random.normal(kernel.shape, 0.0, deviation, kernel.dtype, generator)
    kernel.assign(drawn)
