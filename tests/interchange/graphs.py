"""Small ONNX networks, built by hand, and what ONNX Runtime makes of them."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from onnx import helper
from onnx import numpy_helper

import robust_tf as rt
from robust_tf.interchange.onnx_reader import read_onnx


def write(path, nodes, constants=None, shape=(1, 2, 5, 6), opset=13, **options):
    """Writes a network from `x` to the last node's output, and returns its path."""
    constants = constants or {}
    kind = options.get("kind", TensorProto.FLOAT)
    given = [helper.make_tensor_value_info("x", kind, shape)]
    if options.get("lists_constants"):  # As files of old versions do.
        given += [
            helper.make_tensor_value_info(name, kind, np.shape(value))
            for name, value in constants.items()
        ]
    graph = helper.make_graph(
        nodes,
        "network",
        given,
        [helper.make_tensor_value_info(nodes[-1].output[0], kind, None)],
        [tensor(name, value) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7
    )
    onnx.save(model, str(path))
    return path


def tensor(name, value):
    value = np.asarray(value)
    if value.dtype == np.float64 and not name.startswith("double"):
        value = value.astype("float32")
    return numpy_helper.from_array(value, name)


def node(op, reads, writes, **attributes):
    reads, writes = reads.split(), writes.split()
    reads = ["" if name == "-" else name for name in reads]
    return helper.make_node(op, reads, writes, **attributes)


def weights(*shape, seed=0, scale=0.5):
    return scale * np.random.default_rng((seed, *shape)).normal(size=shape)


def asymmetric(shape, count=3):
    """Points with no symmetry: no two entries agree, and signs differ."""
    size = int(np.prod(shape))
    random = np.random.default_rng(3)
    slope = np.linspace(-1.0, 1.3, size)
    points = slope + 0.4 * random.normal(size=(count, size))
    return points.reshape(count, *shape[1:]).astype("float32")


def run(path, points, shape=None):
    """Outputs of ONNX Runtime at points without batch axis, `[points, outputs]`."""
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    found = []
    for point in points:
        fed = point.reshape(shape) if shape else point[None]
        found.append(session.run(None, {name: fed})[0].reshape(-1))
    return np.stack(found)


def channels_last(points):
    return np.moveaxis(points, 1, -1) if points.ndim == 4 else points


def refused(tmp_path, nodes, constants=None, shape=(1, 2, 5, 6), **options):
    """The message with which a network is refused."""
    path = write(tmp_path / "bad.onnx", nodes, constants, shape, **options)
    with pytest.raises(rt.InputError) as caught:
        read_onnx(path)
    assert "bad.onnx" in str(caught.value)
    return str(caught.value)
