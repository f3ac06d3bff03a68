"""The convolutional networks of arXiv:2103.17268, layer by layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf.architectures import blocks
from robust_tf.architectures.cnn7 import cnn6
from robust_tf.architectures.cnn7 import cnn7
from tests.propagation import networks

SHAPE = (8, 8, 3)
SMALL = {"width": 2, "linear_size": 5}


def structure(model):
    """One word for each layer, the weightless rearrangements left out."""
    words = {
        layers.Conv2D: "conv",
        layers.Dense: "dense",
        layers.BatchNormalization: "norm",
        layers.ReLU: "relu",
    }
    kinds = [words.get(type(layer)) for layer in model.layers]
    return " ".join(kind for kind in kinds if kind)


def convolutions(model):
    return [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]


@pytest.mark.parametrize(
    ("family", "hidden"), [(cnn7, 6), (cnn6, 5)], ids=["cnn7", "cnn6"]
)
def test_order_of_layers(family, hidden):
    """With n, the first n hidden layers are normalised, before their ReLUs."""
    for count in (*range(hidden + 1), "all"):
        normalized = hidden if count == "all" else count
        kernels = ["conv"] * (hidden - 1) + ["dense"]
        wanted = [
            f"{kernel} norm relu" if index < normalized else f"{kernel} relu"
            for index, kernel in enumerate(kernels)
        ]
        model = family(SHAPE, 4, batch_normalization=count, **SMALL)
        assert structure(model) == " ".join([*wanted, "dense"])
        assert model.output_shape == (None, 4)


@pytest.mark.parametrize(("last_stride", "side"), [(1, 4), (2, 2)])
def test_filters_strides_and_biases(last_stride, side):
    model = cnn7(SHAPE, 4, last_stride=last_stride, **SMALL)
    found = [(c.filters, c.strides[0], c.kernel_size) for c in convolutions(model)]
    wanted = [(2, 1), (2, 1), (4, 2), (4, 1), (4, last_stride)]
    assert found == [(*pair, (3, 3)) for pair in wanted]
    assert convolutions(model)[-1].output.shape == (None, side, side, 4)
    kernels = [layer for layer in model.layers if hasattr(layer, "kernel")]
    assert all(layer.use_bias for layer in kernels)
    assert [layer.units for layer in kernels[-2:]] == [5, 4]


def test_batch_normalization_as_published():
    model = cnn7(SHAPE, 4, **SMALL)
    norms = [x for x in model.layers if isinstance(x, layers.BatchNormalization)]
    assert [(norm.momentum, norm.epsilon) for norm in norms] == [(0.9, 1e-5)] * 6


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(3, 1, 1), (3, 2, 1), (4, 2, 1), (1, 2, 0), (5, 1, 1), (4, 4, 0)],
)
def test_padding_is_the_same_on_all_sides(side, kernel, stride, padding):
    inputs = keras.Input((side, side, 2))
    model = keras.Model(inputs, blocks.convolution(inputs, 3, kernel, stride, padding))
    layer = convolutions(model)[0]
    images = tf.random.stateless_normal((2, side, side, 2), (0, 1))
    edges = [[0, 0], [padding, padding], [padding, padding], [0, 0]]
    by_hand = tf.nn.conv2d(tf.pad(images, edges), layer.kernel, stride, "VALID")
    np.testing.assert_allclose(model(images), by_hand + layer.bias, atol=1e-5)
    if (kernel, stride) == (3, 1):  # No layer more than is needed.
        assert len(model.layers) == 2


def test_initial_weights_are_uniform_in_the_fan_in():
    keras.utils.set_random_seed(0)
    model = cnn7(SHAPE, 4, width=16, linear_size=128, batch_normalization=0)
    fans = [9 * 3, 9 * 16, 9 * 16, 9 * 32, 9 * 32, 4 * 4 * 32, 128]
    kernels = [layer for layer in model.layers if layer.weights]
    for layer, fan_in in zip(kernels, fans, strict=True):
        limit = 1.0 / np.sqrt(fan_in)
        for values in map(np.asarray, layer.weights):
            assert np.abs(values).max() <= limit
            assert np.abs(values).max() > 0.7 * limit


def test_radii_are_in_pixels():
    """Normalised by hand, the plain model says the same."""
    mean, deviation = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    normalized = cnn7(SHAPE, 4, normalization=(mean, deviation), **SMALL)
    plain = cnn7(SHAPE, 4, **SMALL)
    plain.set_weights(normalized.get_weights())
    images = np.random.default_rng(0).uniform(size=(3, *SHAPE)).astype("float32")
    by_hand = (images - np.float32(mean)) / np.float32(deviation)
    np.testing.assert_allclose(normalized(images), plain(by_hand), atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 6, 1), (7, 5, 1)], ids=["even", "odd"])
def test_nothing_escapes(shape):
    model = cnn7(shape, 3, last_stride=2, normalization=((0.5,), (0.3,)), **SMALL)
    networks.randomize(model, seed=1)
    region = rt.LpBall(networks.centers(model), (0.01, 0.05, 0.2))
    rows = tf.random.stateless_normal((3, 4, 3), (0, 2))
    attacked = networks.attack(model, region, rows, steps=5)
    points = np.concatenate([networks.points_in(region, 400), attacked])
    outputs = model(points.reshape(-1, *shape).astype("float32")).numpy()
    values = np.einsum("brc,nbc->nbr", rows, outputs.reshape(-1, 3, 3))
    rounding = 2e-5 * (1.0 + abs(values).max())
    for method in ("ibp", "crown-ibp", "crown"):
        bound = rt.compute_bounds(model, region, method, rows)
        assert (values >= bound.lower.numpy() - rounding).all(), method
        assert (values <= bound.upper.numpy() + rounding).all(), method


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_normalization": 7}, r"'all', or .* from 0 to 6.*Received: 7"),
        ({"batch_normalization": -1}, "Received: -1"),
        ({"batch_normalization": True}, "Received: True"),
        ({"batch_normalization": "none"}, "Received: 'none'"),
        ({"last_stride": 0}, "`last_stride` must be an integer from 1. Received: 0"),
        ({"width": 1.5}, "`width` must be an integer from 1. Received: 1.5"),
        ({"linear_size": 0}, "`linear_size` must be"),
        ({"num_classes": 0}, "`num_classes` must be"),
        ({"input_shape": (28, 28)}, r"`input_shape` must be .*Received: \(28, 28\)"),
        ({"input_shape": (None, 8, 3)}, r"Received: \(None, 8, 3\)"),
    ],
)
def test_refusals(given, message):
    with pytest.raises(rt.InputError, match=message):
        cnn7(**{"input_shape": SHAPE, "num_classes": 4, **given})


def test_refusals_count_the_layers_of_the_network():
    with pytest.raises(rt.InputError, match="from 0 to 5.*Received: 6"):
        cnn6(SHAPE, 4, batch_normalization=6)
