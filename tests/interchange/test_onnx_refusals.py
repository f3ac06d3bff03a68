"""Networks that are refused, and what the errors say."""

import builtins

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import robust_tf as rt
from robust_tf.interchange.onnx_reader import read_onnx
from tests.interchange.graphs import node
from tests.interchange.graphs import refused
from tests.interchange.graphs import weights
from tests.interchange.graphs import write


def test_all_unsupported_operators_at_once(tmp_path):
    nodes = [
        node("Sin", "x", "s", name="wave"),
        node("Relu", "s", "r"),
        node("Erf", "r", "y", name="error_function"),
    ]
    message = refused(tmp_path, nodes)
    assert "2 operation(s)" in message
    assert "Sin 'wave'" in message
    assert "Erf 'error_function'" in message
    assert "Relu 'r'" not in message


@pytest.mark.parametrize(
    ("nodes", "constants", "shape", "part"),
    [
        ([node("Mul", "x x", "y")], {}, (1, 3), "two computed"),
        (
            [node("Relu", "x", "r"), node("MatMul", "x r", "y")],
            {},
            (3, 3),
            "two computed",
        ),
        ([node("Div", "c x", "y")], {"c": np.ones(3)}, (1, 3), "operand|constant"),
        ([node("Div", "x c", "y")], {"c": np.zeros(3)}, (1, 3), "by 0"),
        ([node("LeakyRelu", "x", "y", alpha=2.0)], {}, (1, 3), "alpha=2"),
        ([node("Elu", "x", "y", alpha=-1.0)], {}, (1, 3), "alpha=-1"),
        ([node("Cast", "x", "y", to=7)], {}, (1, 3), "type 7"),
        ([node("Add", "x c", "y")], {"c": np.ones([4, 1])}, (1, 3), "enlarges"),
        (
            [node("GlobalAveragePool", "x", "g"), node("Add", "x g", "y")],
            {},
            (1, 2, 3, 3),
            "broadcasts",
        ),
        (
            [node("Clip", "x h l", "y")],
            {"l": np.float64(0.0), "h": np.float64(1.0)},
            (1, 3),
            "lower one first",
        ),
        (
            [node("Pad", "x p", "y", mode="reflect")],
            {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
            (1, 1, 3, 3),
            "reflect",
        ),
        (
            [node("Pad", "x p v", "y")],
            {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "v": np.float64(1.0)},
            (1, 1, 3, 3),
            "zeros",
        ),
        (
            [node("Pad", "x p", "y")],
            {"p": np.array([0, 1, 0, 0, 0, 0, 0, 0])},
            (1, 1, 3, 3),
            "height and width",
        ),
        (
            [node("Conv", "x w", "y", strides=[2, 2], dilations=[2, 2])],
            {"w": weights(1, 1, 2, 2)},
            (1, 1, 5, 5),
            "above 1",
        ),
        (
            [node("Conv", "x w", "y")],
            {"w": weights(1, 1, 2, 2)},
            (2, 1, 5, 5),
            "one image",
        ),
        (
            [node("Concat", "x c", "y", axis=1)],
            {"c": np.ones([1, 2])},
            (1, 3),
            "joins a constant",
        ),
        ([node("MaxPool", "x", "y a", kernel_shape=[2, 2], dilations=[2, 2])], {},
         (1, 1, 5, 5), "dilations"),
        (
            [node("Reshape", "x s", "y")],
            {"s": np.array([7, -1])},
            (1, 3),
            "cannot become",
        ),
        (
            [node("Dropout", "x", "d m"), node("Identity", "m", "y")],
            {},
            (1, 3),
            "reads 'm'",
        ),
        ([node("Identity", "c", "y")], {"c": np.ones([1, 3])}, (1, 3), "depend"),
    ],
)  # fmt: skip
def test_settings(tmp_path, nodes, constants, shape, part):
    message = refused(tmp_path, nodes, constants, shape)
    assert any(one in message for one in part.split("|")), message


def test_free_axes_other_than_the_batch(tmp_path):
    nodes = [node("Relu", "x", "y")]
    assert "must be fixed" in refused(tmp_path, nodes, shape=(1, "width"))


def test_integer_inputs(tmp_path):
    nodes = [node("Relu", "x", "y")]
    message = refused(tmp_path, nodes, shape=(1, 3), kind=TensorProto.INT32)
    assert "INT32" in message


def test_several_inputs(tmp_path):
    path = write(tmp_path / "net.onnx", [node("Add", "x z", "y")], shape=(1, 3))
    model = onnx.load(path)
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, 3))
    )
    onnx.save(model, path)
    with pytest.raises(rt.InputError, match=r"one input.*\['x', 'z'\]"):
        read_onnx(path)


@pytest.mark.parametrize("content", [b"", b"no protobuf", b"\x08\x07"])
def test_damaged_files(tmp_path, content):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(rt.InputError, match=r"bad\.onnx"):
        read_onnx(path)
    (tmp_path / "bad.onnx.gz").write_bytes(content)
    with pytest.raises(rt.InputError, match=r"bad\.onnx\.gz"):
        read_onnx(tmp_path / "bad.onnx.gz")


def test_cut_off_file(image_net):
    content = image_net.read_bytes()
    image_net.write_bytes(content[: len(content) // 2])
    with pytest.raises(rt.InputError, match=r"image\.onnx"):
        read_onnx(image_net)


def test_missing_file(tmp_path):
    with pytest.raises(rt.InputError, match="no network file"):
        read_onnx(tmp_path / "none.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_missing_packages(image_net, monkeypatch, package):
    def without(name):
        if name == package:
            raise ImportError(f"No module named '{name}'")
        return builtins.__import__(name)

    monkeypatch.setattr("importlib.import_module", without)
    with pytest.raises(rt.InputError, match=r"`\w+`.*robust_tf\[onnx\]"):
        read_onnx(image_net)
