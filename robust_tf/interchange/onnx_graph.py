"""ONNX files as lists of operations, with everything constant computed."""

import collections
import dataclasses
import gzip
import os
import pathlib
import zlib

import numpy as np

from robust_tf.errors import InputError
from robust_tf.interchange import runtime


@dataclasses.dataclass(frozen=True)
class Call:
    """One operation of a network.

    Attributes:
        file: of the network, for errors.
        op: the operator's name.
        name: of the node, or of what it writes.
        attributes: by name: numbers, strings, lists and arrays.
        reads: names of tensors; "" for one that is left out.
        writes: names of tensors.
        proto: the node itself.
        operands: what is read: a constant array, a value of the importer, or None.
    """

    file: str
    op: str
    name: str
    attributes: dict
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    proto: object
    operands: tuple = ()

    def error(self, problem: str, advice: str) -> InputError:
        """Returns an error that names file and node."""
        return InputError(
            f"'{self.file}', {self.op} '{self.name}': {problem}. {advice}"
        )

    def operand(self, index: int):
        """Returns what is read at a place, None where nothing is."""
        return self.operands[index] if index < len(self.operands) else None

    def constant(self, index: int, what: str) -> np.ndarray | None:
        """Returns a constant that is read, None where it is left out.

        Raises:
            InputError: where it is computed from the network's input.
        """
        value = self.operand(index)
        if value is None or isinstance(value, np.ndarray):
            return value
        raise self.error(
            f"{what} must be constant. Received: '{self.reads[index]}', which depends "
            "on the network's input",
            "Replace what computes it by a constant.",
        )

    def setting(self, name: str, index: int):
        """Returns what newer files read at a place, and older ones have as attribute.

        As an attribute or an array; None where it is left out.
        """
        if name in self.attributes:
            return self.attributes[name]
        return self.constant(index, f"`{name}`")


@dataclasses.dataclass(frozen=True)
class OnnxGraph:
    """A network of one input and one output.

    Attributes:
        file: its name, for errors.
        calls: in an order in which all that is read has been written.
        constants: arrays by name.
        input_name: of the input.
        input_shape: as declared, with a free first axis taken for 1.
        dtype: of the input, "float32" or "float64".
        output_name: of the output.
        uses: how often each tensor is read; the output once more.
        opsets: versions of the operators, as the file states them.
        ir_version: of the file's format.
    """

    file: str
    calls: list[Call]
    constants: dict[str, np.ndarray]
    input_name: str
    input_shape: tuple[int, ...]
    dtype: str
    output_name: str
    uses: collections.Counter
    opsets: list
    ir_version: int

    def fold(self, call: Call) -> list[np.ndarray]:
        """Returns what an operation on constants computes."""
        onnx = runtime.require("onnx")
        helper = onnx.helper
        outputs = [onnx.ValueInfoProto(name=name) for name in call.writes if name]
        graph = helper.make_graph([call.proto], "fold", [], outputs)
        graph.initializer.extend(
            onnx.numpy_helper.from_array(value, name)
            for name, value in zip(call.reads, call.operands, strict=True)
            if value is not None
        )
        model = helper.make_model(
            graph, opset_imports=self.opsets, ir_version=max(self.ir_version, 4)
        )
        return runtime.evaluate_constants(model.SerializeToString(), call.name)


def load_graph(path: str | os.PathLike) -> OnnxGraph:
    """Reads an ONNX file, compressed if its name ends in `.gz`.

    Raises:
        InputError: for files that are missing or damaged, and for networks with several
            inputs or outputs, or an input that is not of floating point or not of a
            fixed shape.
    """
    onnx = runtime.require("onnx")
    path = pathlib.Path(path)
    model = _load(onnx, path)
    graph, file = model.graph, os.fspath(path)
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer
    }
    given = [one for one in graph.input if one.name not in constants]
    for what, ends in (("input", given), ("output", graph.output)):
        if len(ends) != 1:
            raise InputError(
                f"A classifier has one {what}. Received: '{path}' with {len(ends)}: "
                f"{[end.name for end in ends]}"
            )
    shape, dtype = _input_type(onnx, file, given[0])
    calls = [_call(onnx, file, node, i) for i, node in enumerate(graph.node)]
    uses = collections.Counter(name for call in calls for name in call.reads)
    uses[graph.output[0].name] += 1
    return OnnxGraph(
        file,
        calls,
        constants,
        given[0].name,
        shape,
        dtype,
        graph.output[0].name,
        uses,
        list(model.opset_import),
        model.ir_version,
    )


def _load(onnx, path):
    """The file as the package parses it."""
    if not path.is_file():
        raise InputError(f"There is no network file. Received: '{path}'")
    try:
        if path.suffix == ".gz":
            model = onnx.load_model_from_string(gzip.decompress(path.read_bytes()))
        else:
            model = onnx.load(os.fspath(path))
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"'{path}' could not be read. Received: {error}. Copy the file again."
        ) from error
    except Exception as error:  # Of the parser, or of weights in other files.
        raise InputError(
            f"'{path}' is no ONNX file, or its weights, which lie in other files, are "
            f"missing. Received: {error}. Export the network again."
        ) from error
    if not model.graph.node:
        raise InputError(f"'{path}' holds no operations; the file may be cut off.")
    return model


def _input_type(onnx, file, given) -> tuple[tuple[int, ...], str]:
    """Shape and type of the input."""
    kind = given.type.tensor_type
    names = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.DOUBLE: "float64"}
    if kind.elem_type not in names:
        raise InputError(
            f"The input must be float32 or float64. Received: '{given.name}' of "
            f"'{file}' as {onnx.TensorProto.DataType.Name(kind.elem_type)}. Export the "
            "network in float32."
        )
    sizes = [axis.dim_value or axis.dim_param or None for axis in kind.shape.dim]
    return runtime.concrete_shape(sizes, file), names[kind.elem_type]


def _call(onnx, file, node, index) -> Call:
    attributes = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, onnx.TensorProto):
            value = onnx.numpy_helper.to_array(value)
        elif isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        attributes[attribute.name] = value
    name = node.name or next(filter(None, node.output), f"number {index}")
    op = node.op_type
    if node.domain not in ("", "ai.onnx"):
        op = f"{node.domain}.{op}"
    return Call(file, op, name, attributes, (*node.input,), (*node.output,), node)
