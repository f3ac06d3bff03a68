"""Networks that move, join and compute shapes, each in many configurations."""

import numpy as np

from tests.interchange.graphs import node
from tests.interchange.graphs import weights
from tests.interchange.operator_cases import after_conv
from tests.interchange.operator_cases import case
from tests.interchange.operator_cases import single

CASES = [
    # Shapes.
    after_conv(
        "flatten_gemm",
        node("Flatten", "h", "f"),
        node("Gemm", "f k", "y"),
        constants={"k": weights(100, 3)},
    ),
    after_conv(
        "reshape_gemm",
        node("Reshape", "h s", "f"),
        node("Gemm", "f k", "y", transB=1),
        constants={"k": weights(3, 100), "s": np.array([1, -1])},
    ),
    after_conv(
        "reshape_by_zero",
        node("Reshape", "h s", "f"),
        node("Relu", "f", "y"),
        constants={"s": np.array([0, 2, -1])},
    ),
    after_conv(
        "flatten_relu_then_merge",
        node("Flatten", "h", "f"),
        node("Gemm", "f k", "g"),
        node("Relu", "g", "r"),
        node("Add", "r f", "y"),
        constants={"k": weights(100, 100, scale=0.1)},
    ),
    after_conv(
        "flatten_constant",
        node("Flatten", "h", "f"),
        node("Mul", "f k", "y"),
        constants={"k": weights(100)},
    ),
    after_conv(
        "transpose_flatten",
        node("Transpose", "h", "t", perm=[0, 2, 3, 1]),
        node("Reshape", "t s", "f"),
        node("MatMul", "f k", "y"),
        constants={"k": weights(100, 3), "s": np.array([-1, 100])},
    ),
    after_conv(
        "reshape_to_other_image",
        node("Reshape", "h s", "r"),
        node("Conv", "r v", "y"),
        constants={"s": np.array([1, 2, 10, 5]), "v": weights(3, 2, 2, 3)},
    ),
    after_conv(
        "transposes_that_no_single_one_replaces",
        node("Reshape", "h s1", "a"),
        node("Transpose", "a", "a2", perm=[0, 2, 1]),
        node("Reshape", "a2 s2", "c2"),
        node("Transpose", "c2", "d", perm=[0, 2, 1]),
        node("Relu", "d", "e"),
        node("Reshape", "e s3", "z"),
        node("Conv", "z v", "y"),
        constants={
            "s1": np.array([1, 4, 25]),
            "s2": np.array([1, 20, 5]),
            "s3": np.array([1, 4, 5, 5]),
            "v": weights(2, 4, 2, 2),
        },
    ),
    case(
        "channels_last_input",
        [
            node("Sub", "x m", "n"),
            node("Transpose", "n", "t", perm=[0, 3, 1, 2]),
            node("Conv", "t w", "c"),
            node("Transpose", "c", "u", perm=[0, 2, 3, 1]),
            node("Flatten", "u", "y"),
        ],
        {"m": weights(2), "w": weights(3, 2, 3, 3)},
        (1, 5, 6, 2),
        channels_last_input=True,
    ),
    single("transpose", "Transpose", shape=(1, 3, 4), perm=[0, 2, 1]),
    single("flatten_axis_2", "Flatten", axis=2),
    single("flatten_axis_negative", "Flatten", axis=-1),
    single("squeeze", "Squeeze", {"a": np.array([1])}, "x a", (1, 1, 4)),
    single("squeeze_attribute", "Squeeze", shape=(1, 1, 4), axes=[1], opset=11),
    single("squeeze_all", "Squeeze", shape=(1, 1, 4)),
    single("unsqueeze", "Unsqueeze", {"a": np.array([0, 3])}, "x a", (1, 4)),
    single("unsqueeze_attribute", "Unsqueeze", shape=(1, 4), axes=[1], opset=11),
    single("pad", "Pad", {"p": np.array([0, 0, 1, 2, 0, 0, 0, 1])}, "x p"),
    single("pad_attribute", "Pad", pads=[0, 0, 1, 2, 0, 0, 0, 1], opset=9),
    single("pad_nothing", "Pad", {"p": np.zeros(4, np.int64)}, "x p", (1, 4)),
    single("pad_rows", "Pad", {"p": np.array([0, 0, 2, 0, 0, 1])}, "x p", (1, 2, 4)),
    single(
        "pad_axes",
        "Pad",
        {"p": np.array([2, 1]), "a": np.array([-1])},
        "x p - a",
        opset=18,
    ),
    case(
        "concat_channels",
        [
            node("Conv", "x w", "a", pads=[1, 1, 1, 1]),
            node("Relu", "a", "r"),
            node("Concat", "x r", "y", axis=1),
        ],
        {"w": weights(3, 2, 3, 3)},
    ),
    case(
        "concat_width",
        [node("Relu", "x", "r"), node("Concat", "r x", "y", axis=-1)],
    ),
    case(
        "concat_flat",
        [
            node("Relu", "x", "r"),
            node("Flatten", "r", "f"),
            node("Flatten", "x", "g"),
            node("Concat", "f g", "y", axis=1),
        ],
    ),
    case(
        "concat_batch",
        [node("Relu", "x", "r"), node("Concat", "r x", "y", axis=0)],
        shape=(1, 4),
    ),
    # Two tensors.
    case("add_tensors", [node("Relu", "x", "r"), node("Add", "x r", "y")]),
    case("sub_tensors", [node("Relu", "x", "r"), node("Sub", "r x", "y")]),
    case(
        "add_of_other_arrangement",
        [
            node("Relu", "x", "r"),
            node("Conv", "x w", "c"),
            node("Transpose", "r", "t", perm=[0, 1, 3, 2]),
            node("Transpose", "c", "d", perm=[0, 1, 3, 2]),
            node("Sub", "t d", "y"),
        ],
        {"w": weights(2, 2, 1, 1)},
    ),
    # What does nothing, and what is constant.
    single("identity_relu", "Identity"),
    case("dropout", [node("Dropout", "x", "d"), node("Relu", "d", "y")]),
    case("cast", [node("Cast", "x", "d", to=1), node("Relu", "d", "y")]),
    case(
        "constant_nodes",
        [
            node("Constant", "", "a", value_floats=[0.5, -0.25]),
            node("Constant", "", "s", value_ints=[1, 2, 1, 1]),
            node("Reshape", "a s", "c"),
            node("Mul", "x c", "y"),
        ],
    ),
    case(
        "shape_computed",
        [
            node("Relu", "x", "r"),
            node("Shape", "r", "s"),
            node("Gather", "s zero", "n"),
            node("Unsqueeze", "n axes", "u"),
            node("Concat", "u rest", "t", axis=0),
            node("Reshape", "r t", "f"),
            node("Gemm", "f w", "y"),
        ],
        {
            "zero": np.array(0),
            "axes": np.array([0]),
            "rest": np.array([-1]),
            "w": weights(60, 3),
        },
    ),
    case(
        "constants_listed_as_inputs",
        [node("Add", "x c", "y")],
        {"c": weights(2, 1, 1)},
        lists_constants=True,
    ),
    case(
        "softmax_last",
        [node("Gemm", "x w", "l"), node("Softmax", "l", "y", axis=1)],
        {"w": weights(4, 3)},
        (1, 4),
    ),
    case(
        "relu_on_logits",
        [node("Gemm", "x w", "l"), node("Relu", "l", "y")],
        {"w": weights(4, 3)},
        (1, 4),
    ),
]
