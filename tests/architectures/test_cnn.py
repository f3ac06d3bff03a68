"""Sizes of the published families (arXiv:1906.06316), and initial weights."""

import keras
import numpy as np
import pytest

import robust_tf as rt
from robust_tf import layers
from robust_tf.architectures import cnn
from robust_tf.architectures.initializers import fan_in_uniform

MNIST, CIFAR = (28, 28, 1), (32, 32, 3)
TWO, FOUR, THREE = cnn.cnn_2layer, cnn.cnn_4layer, cnn.cnn_3layer_fixed


def _neurons(model):
    """How many ReLUs there are."""
    relus = (layer for layer in model.layers if isinstance(layer, layers.ReLU))
    return sum(int(np.prod(layer.output.shape[1:])) for layer in relus)


# family, shape, width, kernel size, linear size, parameters, ReLU neurons
@pytest.mark.parametrize(
    ("family", "shape", "width", "kernel_size", "linear_size", "parameters", "neurons"),
    [
        (TWO, MNIST, 1, None, 128, 52_182, 1_304),
        (TWO, MNIST, 2, None, 256, 205_730, 2_608),
        (FOUR, MNIST, 1, None, 256, 170_598, 6_392),
        (FOUR, MNIST, 2, None, 256, 275_714, 12_272),
        (FOUR, MNIST, 1, None, 512, 470_630, 6_904),
        (FOUR, MNIST, 2, None, 512, 676_098, 12_784),
        (THREE, MNIST, 1, 3, None, 27_170, 9_864),
        (THREE, MNIST, 2, 3, None, 107_130, 19_728),
        (THREE, MNIST, 1, 5, None, 21_090, 7_664),
        (THREE, MNIST, 2, 5, None, 82_682, 15_328),
        (FOUR, MNIST, 4, None, 512, 1_096_442, 24_544),
        (FOUR, MNIST, 8, None, 512, 1_974_762, 48_064),
        (FOUR, MNIST, 16, None, 512, 3_881_930, 95_104),
        (THREE, MNIST, 16, 5, 512, 2_833_802, 122_112),
        (THREE, MNIST, 8, 5, 512, 1_302_986, 61_312),
        (THREE, MNIST, 4, 5, 512, 625_130, 30_912),
        (THREE, MNIST, 8, 3, 512, 1_695_690, 78_912),
        (TWO, CIFAR, 2, None, 256, 267_426, 3_328),
        (FOUR, CIFAR, 1, None, 256, 201_390, 8_192),
        (FOUR, CIFAR, 2, None, 256, 337_298, 15_872),
        (FOUR, CIFAR, 1, None, 512, 532_142, 8_704),
        (FOUR, CIFAR, 2, None, 512, 799_122, 16_384),
        (THREE, CIFAR, 8, 3, 512, 2_187_786, 102_912),
        (THREE, CIFAR, 2, 3, None, 137_994, 25_728),
        (THREE, CIFAR, 1, 5, None, 27_946, 10_328),
        (THREE, CIFAR, 2, 5, None, 109_706, 20_656),
        (TWO, CIFAR, 8, None, 128, 560_106, 12_416),
        (TWO, CIFAR, 16, None, 256, 2_234_314, 24_832),
        (FOUR, CIFAR, 8, None, 256, 1_218_602, 61_952),
        (FOUR, CIFAR, 16, None, 256, 2_569_290, 123_392),
        (FOUR, CIFAR, 8, None, 512, 2_466_858, 62_464),
        (FOUR, CIFAR, 16, None, 512, 4_866_122, 123_904),
        (THREE, CIFAR, 8, 3, 256, 1_136_394, 102_656),
        (THREE, CIFAR, 16, 3, 512, 4_537_866, 205_312),
    ],
)
def test_sizes(family, shape, width, kernel_size, linear_size, parameters, neurons):
    given = {"kernel_size": kernel_size, "linear_size": linear_size}
    given = {key: value for key, value in given.items() if value is not None}
    model = family(shape, 10, width=width, **given)
    assert model.count_params() == parameters
    assert _neurons(model) == neurons
    assert model.output_shape == (None, 10)


def test_mlp():
    model = cnn.mlp((8, 8, 1), 10, hidden=(20, 30))
    assert model.count_params() == 65 * 20 + 21 * 30 + 31 * 10
    assert _neurons(model) == 50


@pytest.mark.parametrize("family", [TWO, FOUR])
@pytest.mark.parametrize("shape", [(27, 28, 1), (28, 30, 1), (7, 7, 3)])
def test_sides_that_the_padding_does_not_fit(family, shape):
    with pytest.raises(rt.InputError, match=r"divisible by 4.*Received: input shape"):
        family(shape, 10)


def test_kernel_sizes():
    with pytest.raises(
        rt.InputError, match="`kernel_size` must be 3 or 5. Received: 4"
    ):
        cnn.cnn_3layer_fixed(MNIST, 10, kernel_size=4)


@pytest.mark.parametrize("family", [TWO, FOUR, THREE, cnn.mlp])
def test_normalization_comes_first(family):
    """Radii stay in pixels: normalised by hand, the plain model says the same."""
    mean, deviation = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    normalized = family((8, 8, 3), 4, normalization=(mean, deviation))
    plain = family((8, 8, 3), 4)
    plain.set_weights(normalized.get_weights())
    images = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype("float32")
    by_hand = (images - np.float32(mean)) / np.float32(deviation)
    np.testing.assert_allclose(normalized(images), plain(by_hand), atol=1e-5)


def test_initial_weights_are_uniform_in_the_fan_in():
    keras.utils.set_random_seed(0)
    model = cnn.cnn_2layer(CIFAR, 10, width=16)
    fans = [16 * 3, 16 * 64, 128 * 64, 256]
    kernels = [layer for layer in model.layers if layer.weights]
    for layer, fan_in in zip(kernels, fans, strict=True):
        limit = 1.0 / np.sqrt(fan_in)
        for values in map(np.asarray, layer.weights):
            assert np.abs(values).max() <= limit
            assert np.abs(values).max() > 0.8 * limit
        kernel = np.asarray(layer.kernel)
        assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.05)


def test_a_seed_repeats_initial_weights():
    first, second = (fan_in_uniform(9, seed=1)((4, 4)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
