"""LeNet and the ResNets of randomized smoothing: sizes, layers, a copy by hand."""

import json
import math
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf.architectures import blocks
from robust_tf.architectures import resnet
from robust_tf.architectures.lenet import lenet
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph

COUNTS = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden/golden_smoothing.json").read_text()
)["parameter_counts"]
CIFAR, MNIST = (32, 32, 3), (28, 28, 1)


@pytest.fixture
def draw_nothing(monkeypatch):
    """Weights of 0, which take no time."""
    monkeypatch.setattr(blocks, "fan_in_uniform", lambda _: "zeros")
    monkeypatch.setattr(resnet, "fan_out_normal", lambda _: "zeros")


def parameters(model):
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def kinds(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def multiply_accumulates(model):
    """Of convolutions and dense layers, for one image."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            places = math.prod(layer.output.shape[1:-1])
            total += places * math.prod(layer.kernel.shape)
    return total


@pytest.mark.parametrize(
    ("build", "wanted"),
    [
        (lambda: lenet(MNIST, 10), COUNTS["lenet_mnist"]),
        (
            lambda: resnet.cifar_resnet(CIFAR, 10, depth=20),
            COUNTS["resnet20_cifar10"],
        ),
        (lambda: resnet.cifar_resnet(CIFAR, 10), COUNTS["resnet110_cifar10"]),
        # That of the common weights for 1,000 classes.
        (lambda: resnet.resnet_50((224, 224, 3), 1000), 25_557_032),
    ],
    ids=("lenet", "resnet_20", "resnet_110", "resnet_50"),
)
def test_sizes(draw_nothing, build, wanted):
    assert parameters(build()) == wanted


def test_work_of_resnet_110(draw_nothing):
    model = resnet.cifar_resnet(CIFAR, 10)
    wanted = COUNTS["resnet110_multiply_accumulates_per_32x32x3_image"]
    assert multiply_accumulates(model) == wanted
    assert len(kinds(model, layers.Conv2D)) == 109 + 2  # With those of shortcuts.
    assert len(kinds(model, layers.Add)) == 54


def test_resnet_50_has_its_stages(draw_nothing):
    model = resnet.resnet_50((64, 64, 3), 10)
    shapes = [layer.output.shape[1:] for layer in kinds(model, layers.Add)]
    wanted = ((16, 256, 3), (8, 512, 4), (4, 1024, 6), (2, 2048, 3))
    assert shapes == [(s, s, c) for s, c, count in wanted for _ in range(count)]
    # The stride is in the convolution of 3x3, but for shortcuts and the first one.
    strided = [one for one in kinds(model, layers.Conv2D) if one.strides[0] == 2]
    sides = sorted(one.kernel_size[0] for one in strided)
    assert sides == [1, 1, 1, 3, 3, 3, 7]


def test_normalisation_is_that_of_the_published_systems(draw_nothing):
    for model in (
        resnet.cifar_resnet(CIFAR, 10, depth=8),
        resnet.resnet_50((64, 64, 3), 10, blocks_per_stage=(1,)),
    ):
        found = kinds(model, layers.BatchNormalization)
        assert len(found) == len(kinds(model, layers.Conv2D))
        assert {(one.momentum, one.epsilon) for one in found} == {(0.9, 1e-5)}
        assert not any(one.use_bias for one in kinds(model, layers.Conv2D))


def test_kernels_begin_at_the_spread_of_their_outputs():
    keras.utils.set_random_seed(0)
    model = resnet.cifar_resnet(CIFAR, 10, depth=20)
    for layer in kinds(model, layers.Conv2D):
        side, _, _, filters = layer.kernel.shape
        deviation = math.sqrt(2.0 / (side * side * filters))
        assert np.std(layer.kernel) == pytest.approx(deviation, rel=0.15)
    keras.utils.set_random_seed(0)
    for layer in kinds(lenet(MNIST, 10), keras.layers.Dense):
        bound = 1.0 / math.sqrt(layer.kernel.shape[0])
        assert 0.9 * bound < np.abs(layer.kernel).max() <= bound
        assert np.abs(layer.bias).max() <= bound


def test_lenet_is_the_published_one():
    """The published order has the ReLU before the pooling."""
    keras.utils.set_random_seed(1)
    model = lenet(MNIST, 10)
    images = np.random.default_rng(0).uniform(size=(3, *MNIST)).astype("float32")
    weights = [tf.convert_to_tensor(one) for one in model.trainable_variables]
    tensor = tf.constant(images)
    for kernel, bias in (weights[:2], weights[2:4]):
        tensor = tf.nn.relu(tf.nn.conv2d(tensor, kernel, 1, "VALID") + bias)
        tensor = tf.nn.max_pool2d(tensor, 2, 2, "VALID")
    assert tensor.shape == (3, 4, 4, 50)
    tensor = tf.nn.relu(tf.reshape(tensor, [3, 800]) @ weights[4] + weights[5])
    wanted = tensor @ weights[6] + weights[7]
    np.testing.assert_allclose(model(images), wanted, rtol=1e-5, atol=1e-5)


def block(tensor, weights, stride):
    """A basic block with the statistics that a new network has: 0 and 1."""
    scale = 1.0 / math.sqrt(1.0 + 1e-5)

    def convolution(values, stride, pad):
        kernel = weights.pop(0)
        padded = tf.pad(values, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        return scale * tf.nn.conv2d(padded, kernel, stride, "VALID")

    branch = convolution(tf.nn.relu(convolution(tensor, stride, 1)), 1, 1)
    shortcut = convolution(tensor, stride, 0) if stride > 1 else tensor
    return tf.nn.relu(branch + shortcut)


def test_a_small_resnet_by_hand():
    """Stride 2 pads by one on both sides, which "same" does not."""
    keras.utils.set_random_seed(2)
    normalization = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    model = resnet.cifar_resnet(
        (8, 8, 3), 5, depth=8, channels=(3, 4, 6), normalization=normalization
    )
    images = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype("float32")
    weights = [
        tf.convert_to_tensor(layer.kernel) for layer in kinds(model, layers.Conv2D)
    ]
    mean, deviation = map(np.float32, normalization)
    tensor = (images - mean) / deviation
    scale = 1.0 / math.sqrt(1.0 + 1e-5)
    tensor = tf.nn.relu(scale * tf.nn.conv2d(tensor, weights.pop(0), 1, "SAME"))
    for stride in (1, 2, 2):
        tensor = block(tensor, weights, stride)
    assert not weights and tensor.shape == (2, 2, 2, 6)
    (dense,) = kinds(model, keras.layers.Dense)
    wanted = tf.reduce_mean(tensor, (1, 2)) @ dense.kernel + dense.bias
    np.testing.assert_allclose(model(images), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "build",
    [
        lambda: lenet((16, 16, 1), 4, filters=(2, 3), linear_size=5),
        lambda: resnet.cifar_resnet((8, 8, 2), 4, depth=8, channels=(2, 3, 4)),
        lambda: resnet.resnet_50((32, 32, 2), 4, stem=2, blocks_per_stage=(1, 1)),
    ],
    ids=("lenet", "cifar_resnet", "resnet_50"),
)
def test_bounds_hold(build):
    keras.utils.set_random_seed(0)
    model = build()
    shape = BoundGraph.from_model(model).shapes[0]
    images = np.random.default_rng(1).uniform(size=(2, *shape)).astype("float32")
    bounds = rt.compute_bounds(model, rt.LpBall(images, 0.01), "ibp")
    for sign in (-1.0, 0.0, 1.0):
        logits = model(np.clip(images + 0.01 * sign, 0.0, 1.0)).numpy()
        assert (bounds.lower.numpy() <= logits + 1e-5).all()
        assert (bounds.upper.numpy() >= logits - 1e-5).all()
    assert (bounds.lower.numpy() < bounds.upper.numpy()).all()


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: lenet((28, 28), 10), "`input_shape`"),
        (lambda: lenet(MNIST, 10, filters=(0, 50)), "`first`"),
        (lambda: resnet.cifar_resnet(CIFAR, 10, depth=21), "6 n [+] 2.*21"),
        (lambda: resnet.cifar_resnet(CIFAR, 10, depth=2), "6 n [+] 2.*2"),
        (lambda: resnet.cifar_resnet(CIFAR, 0), "`num_classes`"),
        (lambda: resnet.resnet_50(CIFAR, 10, blocks_per_stage=(1, 0)), "`stage 2`"),
    ],
)
def test_bad_shapes_and_counts_are_refused(build, text):
    with pytest.raises(InputError, match=text):
        build()
