"""Networks of one operator or a few, each in many configurations."""

import numpy as np
import pytest

from tests.interchange.graphs import node
from tests.interchange.graphs import weights

IMAGE = (1, 2, 5, 6)


def case(name, nodes, constants=None, shape=IMAGE, **options):
    return pytest.param(nodes, constants or {}, shape, options, id=name)


def conv(name, out=3, kernel=(3, 3), groups=1, bias=True, shape=IMAGE, **attributes):
    constants = {"w": weights(out, shape[1] // groups, *kernel)}
    if bias:
        constants["b"] = weights(out)
    reads = "x w b" if bias else "x w"
    nodes = [node("Conv", reads, "y", group=groups, **attributes)]
    return case(name, nodes, constants, shape)


def after_conv(name, *nodes, constants=None, **options):
    """A convolution with ReLU, then the nodes, which read `h`."""
    constants = {"w": weights(4, 2, 3, 3), "b": weights(4), **(constants or {})}
    first = [node("Conv", "x w b", "c", pads=[1, 0, 1, 1]), node("Relu", "c", "h")]
    return case(name, [*first, *nodes], constants, **options)


def pool(name, op="MaxPool", **attributes):
    return case(name, [node(op, "x", "y", **attributes)])


def single(name, op, constants=None, reads="x", shape=IMAGE, opset=13, **attributes):
    nodes = [node(op, reads, "y", **attributes)]
    return case(name, nodes, constants, shape, opset=opset)


CASES = [
    # Products.
    single("gemm", "Gemm", {"w": weights(4, 3)}, "x w", (1, 4)),
    single(
        "gemm_full",
        "Gemm",
        {"w": weights(3, 4), "b": weights(3)},
        "x w b",
        (1, 4),
        alpha=0.5,
        beta=-2.0,
        transB=1,
    ),
    single(
        "gemm_bias_of_rank_2",
        "Gemm",
        {"w": weights(4, 3), "b": weights(1, 3)},
        "x w b",
        (1, 4),
    ),
    single(
        "gemm_transposed_input",
        "Gemm",
        {"w": weights(4, 3)},
        "x w",
        (4, 1),
        transA=1,
    ),
    single(
        "gemm_constant_first",
        "Gemm",
        {"w": weights(4, 3), "b": weights(3, 1)},
        "w x b",
        (1, 4),
        transA=1,
        transB=1,
        alpha=0.7,
    ),
    case(
        "gemm_of_computed_bias",
        [node("Relu", "x", "r"), node("Gemm", "r w x", "y", beta=0.5)],
        {"w": weights(4, 4)},
        (1, 4),
    ),
    single("matmul", "MatMul", {"w": weights(4, 3)}, "x w", (1, 4)),
    single("matmul_of_rows", "MatMul", {"w": weights(4, 3)}, "x w", (1, 5, 4)),
    single("matmul_of_rank_1", "MatMul", {"w": weights(4, 3)}, "x w", (4,)),
    single("matmul_constant_first", "MatMul", {"w": weights(3, 4)}, "w x", (4,)),
    single(
        "matmul_constant_first_rows", "MatMul", {"w": weights(3, 4)}, "w x", (1, 4, 5)
    ),
    single("matmul_by_vector", "MatMul", {"w": weights(4)}, "x w", (1, 4)),
    single("matmul_vector_first", "MatMul", {"w": weights(4)}, "w x", (1, 4, 3)),
    # Convolutions.
    conv("conv"),
    conv("conv_without_bias", bias=False),
    conv("conv_pads_differ", pads=[1, 0, 2, 1]),
    conv("conv_stride_2_pads_1", strides=[2, 2], pads=[1, 1, 1, 1]),
    conv("conv_stride_2_unused_rows", strides=[2, 3], kernel=(2, 2)),
    conv("conv_pads_1_1_2_2", strides=[2, 2], pads=[1, 1, 2, 2], kernel=(4, 3)),
    conv("conv_same_upper", auto_pad="SAME_UPPER", strides=[2, 2]),
    conv("conv_same_lower", auto_pad="SAME_LOWER", strides=[2, 2]),
    conv("conv_valid", auto_pad="VALID"),
    conv("conv_even_kernel", kernel=(2, 4), pads=[0, 1, 1, 2]),
    conv("conv_dilated", kernel=(2, 3), dilations=[2, 2], pads=[1, 2, 1, 2]),
    conv("conv_groups", out=6, groups=2, shape=(1, 4, 5, 6), pads=[1, 1, 1, 1]),
    conv("conv_depthwise", out=3, groups=3, shape=(1, 3, 5, 6), strides=[2, 2]),
    conv("conv_depthwise_times_2", out=6, groups=3, shape=(1, 3, 5, 6)),
    conv(
        "conv_depthwise_strides_differ",
        out=6,
        groups=3,
        shape=(1, 3, 5, 6),
        strides=[2, 1],
    ),
    conv("conv_of_rows", kernel=(3,), shape=(1, 2, 7), pads=[2, 1], strides=[2]),
    # Constants on either side.
    single("add", "Add", {"c": weights(2, 1, 1)}, "x c"),
    single("add_first", "Add", {"c": weights(1)}, "c x"),
    single("add_whole_shape", "Add", {"c": weights(1, 2, 5, 6)}, "x c"),
    single("add_rows", "Add", {"c": weights(6)}, "x c"),
    single("sub", "Sub", {"c": weights(1, 2, 1, 1)}, "x c"),
    single("sub_first", "Sub", {"c": weights(2, 5, 1)}, "c x"),
    single("mul", "Mul", {"c": weights(2, 1, 1)}, "x c"),
    single("mul_first", "Mul", {"c": weights(5, 6)}, "c x"),
    single("div", "Div", {"c": 1.0 + abs(weights(1, 2, 1, 1))}, "x c"),
    single("div_scalar", "Div", {"c": np.float64(0.3)}, "x c"),
    single("add_with_more_axes", "Add", {"c": weights(1, 1, 4)}, "x c", (1, 4)),
    case(
        "normalisation_then_conv",
        [
            node("Sub", "x m", "a"),
            node("Div", "a s", "d"),
            node("Conv", "d w", "y", pads=[1, 1, 1, 1]),
        ],
        {
            "m": weights(1, 2, 1, 1),
            "s": 0.2 + abs(weights(1, 2, 1, 1)),
            "w": weights(3, 2, 3, 3),
        },
    ),
    case(  # The sum must not reach the other reader of the product.
        "bias_of_one_of_two_readers",
        [
            node("MatMul", "x w", "m"),
            node("Add", "m b", "a"),
            node("Relu", "a", "r"),
            node("Add", "r m", "y"),
        ],
        {"w": weights(4, 3), "b": weights(3)},
        (1, 4),
    ),
    case(
        "bias_of_a_view_with_two_readers",
        [
            node("MatMul", "x w", "m"),
            node("Reshape", "m s", "v"),
            node("Add", "v b", "a"),
            node("Relu", "a", "r"),
            node("Add", "r m", "y"),
        ],
        {"w": weights(4, 3), "b": weights(3), "s": np.array([1, 3])},
        (1, 4),
    ),
    case(
        "bias_twice",
        [
            node("MatMul", "x w", "m"),
            node("Add", "m b", "a"),
            node("Add", "a b", "y"),
        ],
        {"w": weights(4, 3), "b": weights(3)},
        (1, 4),
    ),
    after_conv(
        "bias_over_height", node("Add", "h b2", "y"), constants={"b2": weights(5, 1)}
    ),
    # Activations.
    single("relu", "Relu"),
    single("leaky_relu", "LeakyRelu"),
    single("leaky_relu_alpha", "LeakyRelu", alpha=0.3),
    single("elu", "Elu", alpha=0.7),
    single("sigmoid", "Sigmoid"),
    single("tanh", "Tanh"),
    single("softplus", "Softplus"),
    single("clip_as_relu", "Clip", {"l": np.float64(0.0)}, "x l"),
    single("clip_6", "Clip", {"l": np.float64(0.0), "h": np.float64(0.6)}, "x l h"),
    single("clip_both", "Clip", {"l": np.float64(-0.3), "h": np.float64(0.4)}, "x l h"),
    single("clip_above", "Clip", {"h": np.float64(0.4)}, "x - h"),
    single("clip_below", "Clip", {"l": np.float64(-0.4)}, "x l"),
    single("clip_open", "Clip"),
    single("clip_attributes", "Clip", min=-0.2, max=0.5, opset=9),
    single("clip_attributes_relu", "Clip", min=0.0, max=3.4028234663852886e38, opset=9),
    # Normalisation.
    after_conv(
        "batch_normalization",
        node("BatchNormalization", "h g o m v", "y", epsilon=1e-3),
        constants={
            "g": weights(4),
            "o": weights(4),
            "m": weights(4),
            "v": 0.1 + abs(weights(4)),
        },
    ),
    case(
        "batch_normalization_of_features",
        [
            node("Flatten", "x", "f"),
            node("BatchNormalization", "f g o m v", "y"),
        ],
        {
            "g": weights(60),
            "o": weights(60, seed=1),
            "m": weights(60, seed=2),
            "v": 0.1 + abs(weights(60)),
        },
    ),
    case(
        "batch_normalization_then_padded_conv",
        [
            node("BatchNormalization", "x g o m v", "n"),
            node("Conv", "n w", "y", pads=[1, 1, 1, 1]),
        ],
        {
            "g": weights(2),
            "o": weights(2, seed=1),
            "m": weights(2, seed=2),
            "v": 0.1 + abs(weights(2)),
            "w": weights(3, 2, 3, 3),
        },
    ),
    # Pooling.
    pool("max_pool", kernel_shape=[2, 2], strides=[2, 2]),
    pool("max_pool_oblong", kernel_shape=[1, 3], strides=[2, 1]),
    pool("max_pool_default_strides", kernel_shape=[2, 3]),
    pool("max_pool_pads", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    pool("max_pool_one_sided", kernel_shape=[2, 3], pads=[0, 2, 1, 0]),
    pool("max_pool_same", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    pool("max_pool_ceil", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    pool(
        "max_pool_ceil_pads",
        kernel_shape=[3, 3],
        strides=[3, 3],
        pads=[1, 1, 1, 1],
        ceil_mode=1,
    ),
    pool("average_pool", "AveragePool", kernel_shape=[2, 2], strides=[2, 2]),
    pool(
        "average_pool_pads",
        "AveragePool",
        kernel_shape=[3, 2],
        strides=[2, 2],
        pads=[1, 0, 2, 1],
    ),
    pool(
        "average_pool_pads_count",
        "AveragePool",
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        count_include_pad=1,
    ),
    pool(
        "average_pool_same_pads_count",
        "AveragePool",
        kernel_shape=[3, 3],
        pads=[1, 1, 1, 1],
        count_include_pad=1,
    ),
    pool(
        "average_pool_same_pads", "AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]
    ),
    pool(
        "average_pool_ceil",
        "AveragePool",
        kernel_shape=[2, 2],
        strides=[2, 4],
        ceil_mode=1,
    ),
    pool("global_average_pool", "GlobalAveragePool"),
    pool("global_max_pool", "GlobalMaxPool"),
    single(
        "max_pool_of_rows", "MaxPool", shape=(1, 2, 7), kernel_shape=[2], strides=[2]
    ),
]
