"""Sizes of DeepMind's networks (arXiv:1810.12715), padding, and initial weights."""

import functools

import keras
import numpy as np
import pytest

import robust_tf as rt
from robust_tf import layers
from robust_tf.architectures import gowal
from tests.propagation import networks

MNIST, CIFAR = (28, 28, 1), (32, 32, 3)
LARGE_200 = functools.partial(gowal.dm_large, linear_size=200)
TINY = {
    gowal.dm_tiny: {"linear_size": 5},
    gowal.dm_small: {"filters": (2, 3), "linear_size": 5},
    gowal.dm_medium: {"filters": (2, 3), "linear_size": 5},
    gowal.dm_large: {"width": 2, "linear_size": 5},
}
each_family = pytest.mark.parametrize("family", TINY, ids=lambda f: f.__name__)


@pytest.mark.parametrize(
    ("family", "on_mnist", "on_cifar10"),
    [
        (gowal.dm_tiny, 79_510, 308_310),
        (gowal.dm_small, 329_606, 470_918),
        (gowal.dm_medium, 893_418, 1_188_906),
        (gowal.dm_large, 13_257_290, 17_190_602),
        (LARGE_200, 5_426_402, 6_963_554),
    ],
)
def test_sizes(family, on_mnist, on_cifar10, monkeypatch):
    monkeypatch.setattr(gowal.keras.initializers, "Orthogonal", lambda: "zeros")
    assert family(MNIST, 10).count_params() == on_mnist
    assert family(CIFAR, 10).count_params() == on_cifar10


@each_family
def test_kernels_are_orthogonal_and_biases_zero(family):
    keras.utils.set_random_seed(0)
    model = family((16, 16, 1), 3, **TINY[family])
    for layer in (one for one in model.layers if one.weights):
        kernel, bias = map(np.asarray, layer.get_weights())
        assert not bias.any()
        matrix = kernel.reshape(-1, kernel.shape[-1])
        matrix = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
        unit = np.eye(matrix.shape[1])
        np.testing.assert_allclose(matrix.T @ matrix, unit, atol=1e-5)


def test_zeros_stand_after_the_image_at_stride_2():
    """As in TensorFlow's "same"; the `dm-large` of arXiv:1906.06316 pads before too."""
    model = gowal.dm_large((6, 6, 1), 3, width=1, linear_size=2)
    strided = [
        layer
        for layer in model.layers
        if isinstance(layer, layers.Conv2D) and layer.strides[0] == 2
    ]
    (layer,) = strided
    image = np.zeros((1, 6, 6, 1), np.float32)
    image[0, 0, 0] = 1.0
    corner = np.zeros((3, 3, 1, 2), np.float32)
    corner[0, 0] = 1.0
    layer.set_weights([corner, np.zeros(2, np.float32)])
    assert layer(image).numpy()[0, 0, 0].tolist() == [1.0, 1.0]


@each_family
def test_bounds_hold(family):
    model = networks.randomize(family((16, 16, 3), 3, **TINY[family]), seed=0)
    images = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype("float32")
    bounds = rt.compute_bounds(model, rt.LpBall(images, 0.01), "crown-ibp")
    logits = model(images).numpy()
    assert (bounds.lower.numpy() <= logits + 1e-5).all()
    assert (bounds.upper.numpy() >= logits - 1e-5).all()


@each_family
def test_bad_input(family):
    with pytest.raises(rt.InputError, match="`input_shape` must be"):
        family((28, 28), 10)
    with pytest.raises(rt.InputError, match="`linear_size` must be an integer"):
        family(MNIST, 10, linear_size=0)
