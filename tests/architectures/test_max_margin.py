"""The classifiers of maximum margin regularization: sizes, padding, first weights."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from robust_tf import layers
from robust_tf.architectures import initializers
from robust_tf.architectures import max_margin
from robust_tf.errors import InputError
from robust_tf.layers.base import KernelLayer

MNIST, CIFAR = (28, 28, 1), (32, 32, 3)
FAMILIES = (
    max_margin.fc1,
    max_margin.fc10,
    max_margin.cnn_lenet_small,
    max_margin.cnn_lenet_large,
    max_margin.lenet_3conv,
)
each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)


def kernel_layers(model):
    return [layer for layer in model.layers if isinstance(layer, KernelLayer)]


def hidden_units(model):
    """Outputs of all ReLUs, for one image."""
    found = [layer for layer in model.layers if isinstance(layer, layers.ReLU)]
    return sum(math.prod(layer.output.shape[1:]) for layer in found)


@pytest.mark.parametrize(
    ("shape", "classes", "wanted"),
    [(MNIST, 10, 166_406), (CIFAR, 10, 214_918), (CIFAR, 43, 218_251)],
    ids=("mnist", "cifar10", "gts"),
)
def test_published_sizes_of_cnn_lenet_small(shape, classes, wanted):
    assert max_margin.cnn_lenet_small(shape, classes).count_params() == wanted


@pytest.mark.parametrize(
    ("shape", "classes"), [(MNIST, 10), (CIFAR, 43)], ids=("mnist", "gts")
)
def test_size_of_fc1(shape, classes):
    inputs = math.prod(shape)
    wanted = (inputs + 1) * 1024 + 1025 * classes
    assert max_margin.fc1(shape, classes).count_params() == wanted


def test_widths_of_fc10():
    found = kernel_layers(max_margin.fc10(MNIST, 10))
    widths = [784, 124, 104, 104, 104, 104, 104, 104, 104, 86, 86, 10]
    shapes = list(zip(widths[:-1], widths[1:], strict=True))
    assert [tuple(layer.kernel.shape) for layer in found] == shapes


# N of the published formulas, all convolutional units counted at each place.
@pytest.mark.parametrize(
    ("family", "shape", "wanted"),
    [
        (max_margin.fc1, MNIST, 1024),
        (max_margin.cnn_lenet_small, MNIST, 4804),
        (max_margin.cnn_lenet_small, CIFAR, 6244),
        (max_margin.lenet_3conv, MNIST, 11076),
    ],
)
def test_hidden_units(family, shape, wanted):
    assert hidden_units(family(shape, 10)) == wanted


def test_layers_of_cnn_lenet_large():
    found = kernel_layers(max_margin.cnn_lenet_large(CIFAR, 10))
    shapes = [tuple(layer.kernel.shape) for layer in found]
    convolutions = [(4, 4, 3, 32), (3, 3, 32, 32), (4, 4, 32, 64), (3, 3, 64, 64)]
    assert shapes == [*convolutions, (8 * 8 * 64, 512), (512, 512), (512, 10)]
    assert [layer.strides[0] for layer in found[:4]] == [2, 1, 2, 1]


def padded_forward(model, images, pads):
    """Logits, each convolution after so many zeros (before, after) on both axes."""
    weights = [tf.convert_to_tensor(weight) for weight in model.get_weights()]
    strides = [one.strides[0] for one in kernel_layers(model) if hasattr(one, "groups")]
    tensor = tf.constant(images)
    for pad, stride in zip(pads, strides, strict=True):
        kernel, bias = weights.pop(0), weights.pop(0)
        padded = tf.pad(tensor, [[0, 0], pad, pad, [0, 0]])
        tensor = tf.nn.relu(tf.nn.conv2d(padded, kernel, stride, "VALID") + bias)
    tensor = tf.reshape(tensor, [len(images), -1])
    while len(weights) > 2:
        tensor = tf.nn.relu(tensor @ weights.pop(0) + weights.pop(0))
    return tensor @ weights[0] + weights[1]


# Published convolutions are TensorFlow's "same" but for `cnn_lenet_large`.
@pytest.mark.parametrize(
    ("family", "side", "pads"),
    [
        (max_margin.cnn_lenet_small, 28, 2 * [(1, 1)]),
        (max_margin.cnn_lenet_small, 30, [(1, 1), (1, 2)]),
        (max_margin.cnn_lenet_large, 28, 4 * [(1, 1)]),
        (max_margin.cnn_lenet_large, 30, 4 * [(1, 1)]),
        (max_margin.lenet_3conv, 28, [(1, 2), (1, 1), (1, 1)]),
    ],
)
def test_padding(family, side, pads):
    keras.utils.set_random_seed(3)
    model = family((side, side, 3), 5)
    for layer in kernel_layers(model):
        layer.bias.assign(np.linspace(-0.5, 0.5, layer.bias.shape[0]))
    images = np.random.default_rng(0).uniform(size=(3, side, side, 3)).astype("float32")
    wanted = padded_forward(model, images, pads)
    np.testing.assert_allclose(model(images), wanted, rtol=1e-4, atol=1e-5)


def test_normalisation_is_a_layer_of_the_model():
    keras.utils.set_random_seed(4)
    plain = max_margin.cnn_lenet_small((8, 8, 3), 5)
    means, deviations = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    model = max_margin.cnn_lenet_small((8, 8, 3), 5, normalization=(means, deviations))
    pairs = zip(model.trainable_variables, plain.get_weights(), strict=True)
    for variable, value in pairs:
        variable.assign(value)
    images = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype("float32")
    normalised = (images - np.float32(means)) / np.float32(deviations)
    np.testing.assert_allclose(model(images), plain(normalised), rtol=1e-4, atol=1e-5)


@each_family
def test_first_weights(family):
    """Cut at two deviations of `sqrt(2 / fan_in)`; `HeNormal` would reach further."""
    keras.utils.set_random_seed(5)
    for layer in kernel_layers(family(MNIST, 10)):
        kernel = layer.kernel.numpy()
        deviation = math.sqrt(2.0 / math.prod(kernel.shape[:-1]))
        assert np.abs(kernel).max() <= 2.0 * deviation
        assert not layer.bias.numpy().any()
        if kernel.size > 10_000:  # Then the deviation is off by less than 1 %.
            assert kernel.std() / deviation == pytest.approx(0.8796, rel=0.03)
            assert np.abs(kernel).max() > 1.95 * deviation


def test_the_deviation_of_many_draws():
    """Of a normal cut at two deviations: 0.87963 times its own."""
    draws = initializers.fan_in_truncated_normal(50, seed=1)((1000, 1000)).numpy()
    assert draws.std() / 0.2 == pytest.approx(0.87963, rel=0.002)
    assert 1.9999 < np.abs(draws).max() / 0.2 <= 2.0
    he_normal = keras.initializers.HeNormal(seed=1)((50, 20_000)).numpy()
    assert he_normal.std() / 0.2 == pytest.approx(1.0, rel=0.002)


@each_family
@pytest.mark.parametrize("shape", [(784,), (28, 28), (28, 0, 1), (28.0, 28, 1)])
def test_what_is_no_image_is_refused(family, shape):
    with pytest.raises(InputError, match="`input_shape` must be"):
        family(shape, 10)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: max_margin.fc1(MNIST, 0), "num_classes"),
        (lambda: max_margin.fc1(MNIST, 10, units=0), "units"),
        (lambda: max_margin.fc10(MNIST, 10, hidden=(8, -1)), r"hidden\[1\]"),
        (lambda: max_margin.cnn_lenet_small(MNIST, 10, filters=(0, 3)), "first"),
        (lambda: max_margin.cnn_lenet_large(MNIST, 10, linear_size=1.5), "linear_size"),
        (lambda: max_margin.lenet_3conv(MNIST, 10, filters=(2, 3, 0)), "third"),
    ],
)
def test_counts_below_one_are_refused(build, name):
    with pytest.raises(InputError, match=f"`{name}` must be an integer from 1"):
        build()
