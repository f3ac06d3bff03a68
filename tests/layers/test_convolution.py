"""Adjoints of convolutions: `<A, conv(x)> = <adjoint(A), x>`, to the exact size."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from robust_tf import layers
from robust_tf.bounds import IntervalBound
from robust_tf.layers import convolution
from tests import golden_cases


def random_tensor(seed, *shape):
    return tf.constant(np.random.default_rng(seed).normal(size=shape))


def check_adjoint(layer, shape):
    """Compares both sides with Keras's own convolution, in float64."""
    layer.build((None, *shape))
    layer.set_weights([random_tensor(0, *w.shape).numpy() for w in layer.weights])
    points = random_tensor(1, 2, *shape)
    outputs = layer(points)
    rows = random_tensor(2, 2, 3, *outputs.shape[1:])
    box = IntervalBound(points, points)
    (pulled,), constant = layer.propagate_linear_backward(rows, box)
    assert pulled.shape == (2, 3, *shape)
    axes = list(range(2, rows.shape.rank))
    left = tf.reduce_sum(rows * outputs[:, None], axes)
    right = tf.reduce_sum(pulled * points[:, None], axes) + constant
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-11)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
class TestAdjoint:
    """Sizes cover every remainder of the stride."""

    def test_conv2d(self, kernel, stride, padding):
        for size in range(5, 5 + stride):
            layer = layers.Conv2D(2, (kernel, 3), (stride, 2), padding, dtype="float64")
            check_adjoint(layer, (size, 6, 2))

    def test_depthwise(self, kernel, stride, padding):
        for size in range(5, 5 + stride):
            layer = layers.DepthwiseConv2D(
                (kernel, 2), stride, padding, depth_multiplier=2, dtype="float64"
            )
            check_adjoint(layer, (size, size + 1, 2))

    def test_conv1d(self, kernel, stride, padding):
        for size in range(5, 5 + stride):
            for chosen in {padding, "causal"}:
                layer = layers.Conv1D(3, kernel, stride, chosen, dtype="float64")
                check_adjoint(layer, (size, 2))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("dilation", "stride"), [(1, 2), (2, 1), (3, 1)])
def test_groups_and_dilation(groups, dilation, stride):
    for size, padding in itertools.product((7, 8), ("valid", "same")):
        layer = layers.Conv2D(
            4,
            3,
            stride,
            padding,
            dilation_rate=dilation,
            groups=groups,
            dtype="float64",
        )
        check_adjoint(layer, (size, 7, 2))


@pytest.mark.parametrize("size", range(1, 9))
def test_padding_is_that_of_tensorflow(size):
    """One tap of 1 at each place of the kernel finds where its first tap lies."""
    for extent, stride in itertools.product(range(1, 6), range(1, 4)):
        image = tf.reshape(1.0 + tf.range(size, dtype=tf.float32), [1, 1, size, 1])
        taps = tf.reshape(tf.one_hot(0, extent), [1, extent, 1, 1])
        seen = tf.nn.conv2d(image, taps, (1, stride), "SAME")[0, 0, :, 0].numpy()
        before = convolution.pad_before(size, extent, stride, "same")
        places = np.arange(-(-size // stride)) * stride - before
        wanted = np.where((places >= 0) & (places < size), places + 1, 0)
        np.testing.assert_array_equal(seen, wanted)


def test_spread_kernel():
    kernel = tf.reshape(tf.range(1.0, 7.0), [2, 3, 1, 1])
    wanted = [[1, 0, 2, 0, 3], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [4, 0, 5, 0, 6]]
    np.testing.assert_array_equal(convolution.spread(kernel, (3, 2))[..., 0, 0], wanted)


def golden_layer(case, **options):
    kernel = golden_cases.array(case["kernel_HWIO"])
    layer = layers.Conv2D(
        kernel.shape[-1], kernel.shape[:2], case["strides"], dtype="float64", **options
    )
    layer.build((None, 8, 8, kernel.shape[2]))
    layer.set_weights([kernel, golden_cases.array(case["bias"])])
    return layer


def test_golden_adjoint():
    case = golden_cases.cases()["N_conv_adjoint"]
    rows = tf.constant(golden_cases.array(case["A_out_SHWC"]))[None]
    padding = layers.ZeroPadding2D(case["padding"], dtype="float64")
    image = tf.zeros([1, *case["in_shape_HWC"]], tf.float64)
    padded = IntervalBound(padding(image), padding(image))
    (pulled,), constant = golden_layer(case).propagate_linear_backward(rows, padded)
    box = IntervalBound(image, image)
    (pulled,), nothing = padding.propagate_linear_backward(pulled, box)
    np.testing.assert_allclose(pulled[0], case["A_in_SHWC"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(constant[0], case["bias_term"], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(nothing, [[0.0, 0.0]])


def test_golden_padding():
    """`same` pads 0 before and 1 after where PyTorch's padding of 1 pads both."""
    case = golden_cases.cases()["O_same_vs_explicit_padding"]
    image = tf.constant(golden_cases.array(case["x"]))[None]
    box = IntervalBound(image, image)
    padding = layers.ZeroPadding2D(1, dtype="float64")
    explicit = golden_layer(case).propagate_interval(padding.propagate_interval(box))
    same = golden_layer(case, padding="same").propagate_interval(box)
    for bound, key in ((explicit, "explicit_pad_1_1"), (same, "tf_same_pad_0_1")):
        np.testing.assert_allclose(bound.lower[0], case[key], rtol=0, atol=1e-12)
        np.testing.assert_allclose(bound.upper[0], case[key], rtol=0, atol=1e-12)
