"""Sizes of the networks of arXiv:1711.00851 and 1805.12514, and initial weights."""

import keras
import numpy as np
import pytest

import robust_tf as rt
from robust_tf import layers
from robust_tf.architectures import wong_kolter
from tests.propagation import networks

MNIST, CIFAR = (28, 28, 1), (32, 32, 3)
SMALL, LARGE = wong_kolter.wong_kolter_small, wong_kolter.wong_kolter_large
WIDE, DEEP = wong_kolter.wong_kolter_wide, wong_kolter.wong_kolter_deep
RESIDUAL = wong_kolter.wong_kolter_residual
TINY = {
    SMALL: {"filters": (2, 3), "linear_size": 5},
    LARGE: {"filters": (2, 3), "linear_size": 5},
    WIDE: {"factor": 1},
    DEEP: {"filters": (2, 3), "linear_size": 5, "factor": 2},
    RESIDUAL: {"stem": 2, "linear_size": 5},
}
each_family = pytest.mark.parametrize("family", TINY, ids=lambda f: f.__name__)


def conv(side, before, filters):
    return side**2 * before * filters + filters


def dense(before, units):
    return (before + 1) * units


def block(before, filters, first, beside):
    convolutions = ((first, before), (3, filters), (beside, before))
    return sum(conv(side, source, filters) for side, source in convolutions)


# family, given, shape, parameters
@pytest.mark.parametrize(
    ("family", "given", "shape", "parameters"),
    [
        (SMALL, {}, MNIST, 166_406),
        (SMALL, {}, CIFAR, 214_918),
        (LARGE, {}, MNIST, 1_974_762),
        (LARGE, {}, CIFAR, 2_466_858),
        (WIDE, {"factor": 1}, MNIST, 52_182),
        (WIDE, {"factor": 2}, MNIST, 205_730),
        (
            DEEP,
            {"factor": 1},
            MNIST,
            conv(4, 1, 8) + conv(4, 8, 16) + dense(784, 100) + dense(100, 10),
        ),
        (
            DEEP,
            {"factor": 3},
            CIFAR,
            conv(3, 3, 8) + conv(3, 8, 8) + conv(4, 8, 8)
            + conv(3, 8, 16) + conv(3, 16, 16) + conv(4, 16, 16)
            + dense(1024, 100) + dense(100, 10),
        ),
        (RESIDUAL, {}, CIFAR, 4_214_850),
        (
            RESIDUAL,
            {"blocks_per_stage": 2, "factor": 2, "linear_size": 10},
            CIFAR,
            conv(3, 3, 16)
            + block(16, 32, 3, 1) + 2 * block(32, 32, 3, 1)
            + block(32, 64, 4, 2) + block(64, 64, 3, 1)
            + block(64, 128, 4, 2) + block(128, 128, 3, 1)
            + dense(8192, 10) + dense(10, 10),
        ),
    ],
)  # fmt: skip
def test_sizes(family, given, shape, parameters):
    model = family(shape, 10, **given)
    assert model.count_params() == parameters
    assert model.output_shape == (None, 10)


@pytest.mark.parametrize(
    ("family", "given", "limit"),
    [
        (SMALL, {"initialization": "fan_out"}, None),
        (SMALL, {}, 1),
        (RESIDUAL, {}, None),
    ],
)
def test_initial_weights(family, given, limit):
    """`N(0, 2 / fan_out)` and biases of 0, or uniform in the fan-in."""
    keras.utils.set_random_seed(0)
    model = family(CIFAR, 10, **given)
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            kernel, bias = map(np.asarray, layer.get_weights())
            rows, columns, before, filters = kernel.shape
            fan_in, fan_out = rows * columns * before, rows * columns * filters
            if limit is None:
                assert not bias.any()
                wanted = np.sqrt(2.0 / fan_out)
            else:
                assert bias.any()
                wanted = np.sqrt(1.0 / fan_in / 3.0)
            assert kernel.std() == pytest.approx(wanted, rel=0.15)
        elif isinstance(layer, layers.Dense):
            kernel, bias = map(np.asarray, layer.get_weights())
            wanted = 1.0 / np.sqrt(3 * kernel.shape[0])
            assert kernel.std() == pytest.approx(wanted, rel=0.1)
            assert bias.any()


def test_blocks_add_what_stands_beside_them():
    """With the branches' last kernels at 0 only what stands beside them is left."""
    model = RESIDUAL((8, 8, 1), 3, **TINY[RESIDUAL])
    sums = [layer for layer in model.layers if isinstance(layer, layers.Add)]
    shapes = [tuple(layer.output.shape[1:]) for layer in sums]
    assert shapes == [(8, 8, 2), (8, 8, 2), (4, 4, 4), (2, 2, 8)]
    kernels = [
        layer.kernel.shape[0]
        for layer in model.layers
        if isinstance(layer, layers.Conv2D)
    ]
    assert sorted(kernels) == [1, 1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 4, 4]


@each_family
def test_bounds_hold(family):
    model = networks.randomize(family((8, 8, 3), 3, **TINY[family]), seed=0)
    images = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype("float32")
    for method in ("ibp", "convex-adversarial"):
        bounds = rt.compute_bounds(model, rt.LpBall(images, 0.01), method)
        logits = model(images).numpy()
        assert (bounds.lower.numpy() <= logits + 1e-5).all()
        assert (bounds.upper.numpy() >= logits - 1e-5).all()


@each_family
def test_bad_input(family):
    with pytest.raises(rt.InputError, match=r"divisible by 4.*Received: input shape"):
        family((9, 8, 1), 10)
    with pytest.raises(rt.InputError, match="`initialization` must be.*'orthogonal'"):
        family((8, 8, 1), 10, initialization="orthogonal")
    with pytest.raises(rt.InputError, match="`num_classes` must be an integer"):
        family((8, 8, 1), 0)


def test_counts():
    with pytest.raises(rt.InputError, match="`factor` must be an integer from 1"):
        DEEP(MNIST, 10, factor=0)
    with pytest.raises(rt.InputError, match="`second` must be an integer from 1"):
        SMALL(MNIST, 10, filters=(2, 0))
