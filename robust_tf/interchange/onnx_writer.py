"""Keras models as ONNX files, checked against ONNX Runtime."""

import os

import numpy as np

from robust_tf.errors import InputError
from robust_tf.files import write_atomically
from robust_tf.graph import BoundGraph
from robust_tf.interchange import arrangement
from robust_tf.interchange import runtime
from robust_tf.interchange.onnx_nodes import Nodes
from robust_tf.interchange.onnx_nodes import Tensor
from robust_tf.interchange.onnx_rules import rule_for
from robust_tf.layers import convert

# Old enough for the tools of competitions, and what they themselves are given.
_OPSET, _IR_VERSION = 13, 7


def write_onnx(
    model, path: str | os.PathLike, free_batch: bool = False, box=(0.0, 1.0)
) -> None:
    """Writes a classifier as ONNX, as it computes at inference, in float32.

    `input` is `[batch, channels, height, width]` where the model takes `[batch, height,
    width, channels]`, and of the model's own shape otherwise; `output` is `[batch,
    classes]`. Images have channels first throughout; where they are flattened, the rows
    of the next kernel are permuted. Operators are of version 13. A softmax at the end
    is dropped, as by `robust_tf.convert`. The file appears whole, or not at all.

    Args:
        model: that `robust_tf.convert` takes: Keras layers or ours; or the path of a
            `.keras` file.
        path: of the file; its folder must exist.
        free_batch: leave the size of the first axis open, instead of 1.
        box: lower and upper end, as numbers, from which the inputs of the check are
            drawn. Outputs may differ by 1e-5, and 1e-4 of their size.

    Raises:
        InputError: as `convert`; for layers without a rule, or a folder that does not
            exist; and by how much outputs differ, where the runtime computes others.
    """
    onnx = runtime.require("onnx")
    model = convert(model)
    nodes = Nodes(onnx)
    given, result = _write_graph(nodes, BoundGraph.from_model(model))
    content = _model(onnx, nodes, given, result, free_batch).SerializeToString()
    _check(content, path, model, given, box)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise InputError(
            f"'{path}' could not be written. Received: {error}. Create the folder, or "
            "choose another one."
        ) from error


def _write_graph(nodes, graph) -> tuple[Tensor, Tensor]:
    """Adds all nodes, and returns the input and the output."""
    given = Tensor("input", *_input_arrangement(graph.shapes[0]))
    edges = {0: given}
    for node in graph.nodes:
        reads = (edges[edge] for edge in node.inputs)
        edges[node.output] = rule_for(node.layer)(nodes, node.layer, *reads)
    order = arrangement.in_place(graph.shapes[graph.output])
    result = nodes.arranged(edges[graph.output], order.shape, order, "output")
    nodes.add("Identity", "output", [result.name], output="output")
    return given, result


def _input_arrangement(held_shape):
    """Shape of the written input without the batch axis, and its order."""
    if len(held_shape) != 3:
        return held_shape, arrangement.in_place(held_shape)
    height, width, channels = held_shape
    return (channels, height, width), arrangement.channels_first(held_shape)


def _model(onnx, nodes, given, result, free_batch):
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    batch = "batch" if free_batch else 1
    graph = helper.make_graph(
        nodes.protos,
        "robust_tf",
        [helper.make_tensor_value_info("input", kind, [batch, *given.shape])],
        [helper.make_tensor_value_info("output", kind, [batch, *result.shape])],
        nodes.constants,
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="robust_tf",
    )


def _check(content, path, model, given, box):
    """Compares ONNX Runtime with the model."""
    session = runtime.Session(content, os.fspath(path))
    size = given.order.size

    def evaluate(flat):
        images = np.reshape(flat, [-1, size])[:, given.order.reshape(-1)]
        images = images.reshape(-1, *given.order.shape)
        images = images.astype(model.inputs[0].dtype)
        outputs = np.asarray(model(images, training=False))
        return outputs.reshape(len(flat), -1)

    runtime.compare(session, evaluate, box, f"'{path}' was not written.")
