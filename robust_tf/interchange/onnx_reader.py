"""Networks in ONNX as Keras models, checked against ONNX Runtime."""

import dataclasses
import os

import keras
import numpy as np

from robust_tf.errors import InputError
from robust_tf.interchange import arrangement
from robust_tf.interchange import onnx_operators
from robust_tf.interchange import onnx_windows
from robust_tf.interchange import runtime
from robust_tf.interchange.onnx_build import Builder
from robust_tf.interchange.onnx_build import Value
from robust_tf.interchange.onnx_graph import OnnxGraph
from robust_tf.interchange.onnx_graph import load_graph
from robust_tf.interchange.vnnlib import Property

_OPERATORS = {**onnx_operators.OPERATORS, **onnx_windows.OPERATORS}
_SHAPE_OF = "Shape"  # Constant, as all shapes are fixed.
_TO_CHANNELS_FIRST = [0, 3, 1, 2]


@dataclasses.dataclass(frozen=True)
class OnnxNetwork:
    """A network as it was read, and how its inputs map to the model's.

    The file's inputs are flat: in C order of the shape that it declares, as VNN-LIB
    counts them. The model holds images as `[batch, height, width, channels]`.

    Attributes:
        model: Functional, of layers that `robust_tf.convert` takes; its outputs are
            `[batch, num_outputs]`, in C order of the file's.
        session: runs the file itself.
        input_shape: as the file declares it, a free first axis taken for 1.
        ends_in_softmax: the last layer is a softmax, which `convert` drops.
    """

    model: keras.Model
    session: runtime.Session
    input_shape: tuple[int, ...]
    ends_in_softmax: bool
    _order: np.ndarray

    @property
    def num_inputs(self) -> int:
        """Entries of one input."""
        return self._order.size

    @property
    def num_outputs(self) -> int:
        """Entries of one output."""
        return self.model.outputs[0].shape[-1]

    def to_model(self, flat: np.ndarray) -> np.ndarray:
        """Returns inputs of the file as inputs of the model.

        Args:
            flat: `[..., num_inputs]`, such as the ends of a box.

        Returns:
            `[..., *input_shape of the model]`, of the same type.
        """
        flat = self._checked(flat, (self.num_inputs,))
        held = np.empty_like(flat)
        held[..., self._order] = flat
        return held.reshape(*flat.shape[:-1], *self._model_shape)

    def to_flat(self, inputs: np.ndarray) -> np.ndarray:
        """Returns inputs of the model, such as a counterexample, as the file's.

        Args:
            inputs: `[..., *input_shape of the model]`.

        Returns:
            `[..., num_inputs]`, of the same type.
        """
        inputs = self._checked(inputs, self._model_shape)
        leading = inputs.shape[: inputs.ndim - len(self._model_shape)]
        return inputs.reshape(*leading, -1)[..., self._order]

    def evaluate(self, flat: np.ndarray) -> np.ndarray:
        """Returns the model's outputs, `[points, num_outputs]`, at `flat` inputs."""
        inputs = self.to_model(np.asarray(flat)).astype(self.model.inputs[0].dtype)
        return np.asarray(self.model(inputs, training=False))

    def check_property(self, prop: Property) -> None:
        """Checks that a property can be decided on this network.

        Raises:
            InputError: for other sizes; for a network that ends in a softmax, if the
                property does more than compare outputs with one another.
        """
        prop.check_sizes(self.num_inputs, self.num_outputs, self.session.name)
        if self.ends_in_softmax and not prop.compares_outputs_only:
            raise InputError(
                f"Property '{prop.path}' limits outputs by numbers. Received: network "
                f"'{self.session.name}', which ends in a softmax; bounds are on the "
                "logits before it, and only comparisons of outputs carry over. Export "
                "the network without the softmax, and state the property of its logits."
            )

    @property
    def _model_shape(self):
        return tuple(self.model.inputs[0].shape[1:])

    def _checked(self, values, shape):
        values = np.asarray(values)
        if values.shape[values.ndim - len(shape) :] != shape:
            raise InputError(
                f"Inputs of '{self.session.name}' must end in the shape {shape}. "
                f"Received: {values.shape}"
            )
        return values


def read_onnx(path: str | os.PathLike, box=(0.0, 1.0)) -> OnnxNetwork:
    """Reads a network, and checks it against ONNX Runtime at three random inputs.

    One input, one output, of fixed shapes (a free first axis is the batch). Operators:
    those of `_OPERATORS`, and anything that is computed from constants alone. A softmax
    may only come last. A ReLU at the end is kept.

    Args:
        path: of the file; compressed by gzip if it ends in `.gz`.
        box: lower and upper ends from which inputs are drawn for the check: numbers, or
            `[num_inputs]` each. Outputs may differ by 1e-5, and 1e-4 of their size.

    Raises:
        InputError: naming the file, and every operator that is not supported at once;
            the node and the setting that is not; or by how much outputs differ.
    """
    graph = load_graph(path)
    _refuse_unsupported(graph)
    value, order, inputs = _build(graph)
    model = keras.Model(inputs, value.tensor)
    session = runtime.Session(path, graph.file)
    network = OnnxNetwork(
        model, session, graph.input_shape, value.is_softmax, order.reshape(-1)
    )
    runtime.compare(
        session, network.evaluate, box, f"'{path}' was not read as what it is."
    )
    return network


def _refuse_unsupported(graph: OnnxGraph) -> None:
    """Lists all operators at once that neither are known nor act on constants."""
    constant, problems = {"", *graph.constants}, []
    for call in graph.calls:
        if call.op == _SHAPE_OF or constant.issuperset(call.reads):
            constant.update(call.writes)
        elif call.op not in _OPERATORS:
            problems.append(f"{call.op} '{call.name}'")
    if problems:
        listing = "\n  ".join(problems)
        raise InputError(
            f"'{graph.file}': {len(problems)} operation(s) are not supported:\n  "
            f"{listing}\nSupported: {', '.join(sorted(_OPERATORS))}. Replace them, or "
            "export the network without them."
        )


def _build(graph: OnnxGraph):
    """The output's value, the order of the input, and the input of the Keras graph."""
    build = Builder(graph.dtype)
    held_shape, order = _input_arrangement(graph)
    name = build.unique(graph.input_name)
    inputs = keras.Input(held_shape, dtype=graph.dtype, name=name)
    known = {**graph.constants, graph.input_name: Value(inputs, order)}
    for call in graph.calls:
        operands = tuple(_read(call, known, name) for name in call.reads)
        call = dataclasses.replace(call, operands=operands)
        known.update(_written(graph, build, call))
    value = known.get(graph.output_name)
    if not isinstance(value, Value):
        raise InputError(
            f"The output '{graph.output_name}' of '{graph.file}' does not depend on "
            "the input. Export the network again."
        )
    flat = arrangement.in_place(value.shape)
    tensor = build.arranged(value, (flat.size,), flat, "output")
    return dataclasses.replace(value, tensor=tensor), order, inputs


def _read(call, known, name):
    if not name:
        return None
    if name not in known:
        raise call.error(
            f"reads '{name}', which nothing that is supported writes",
            "Optional second outputs, such as masks and indices, cannot be read.",
        )
    return known[name]


def _written(graph, build, call) -> dict:
    """What an operation writes, by name."""
    values = [one for one in call.operands if isinstance(one, Value)]
    if call.op == _SHAPE_OF and values:
        ends = slice(call.attributes.get("start"), call.attributes.get("end"))
        return {call.writes[0]: np.asarray(values[0].shape[ends], "int64")}
    if not values:
        return dict(zip(filter(None, call.writes), graph.fold(call), strict=True))
    if call.op not in onnx_operators.REARRANGE and any(v.is_softmax for v in values):
        raise call.error(
            "follows a softmax", "A softmax may only be the end of a network."
        )
    try:
        value = _OPERATORS[call.op](build, call)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise call.error(
            f"could not be understood. Received: {error}",
            "The node may be damaged, or of a version that is not supported.",
        ) from error
    if graph.uses[call.writes[0]] != 1:  # Its bias must stay as it is.
        value = dataclasses.replace(value, layer=None)
    return {call.writes[0]: value}


def _input_arrangement(graph):
    """How Keras holds the input: images with channels last.

    `[1, a, b, c]` has channels first, unless the network begins by moving them there.
    """
    shape = graph.input_shape
    held_shape = shape[1:] if len(shape) > 1 and shape[0] == 1 else shape
    if len(shape) != 4 or shape[0] != 1 or _moves_channels(graph):
        return held_shape, arrangement.in_place(shape)
    _, channels, height, width = shape
    return (height, width, channels), arrangement.channels_last(shape)


def _moves_channels(graph) -> bool:
    """Whether a transpose to channels first is the first that is not element-wise."""
    name = graph.input_name
    for call in graph.calls:
        if name in call.reads:
            if call.op == "Transpose":
                return call.attributes.get("perm") == _TO_CHANNELS_FIRST
            if call.op not in ("Add", "Sub", "Mul", "Div", "Cast", "Identity"):
                return False
            name = call.writes[0]
    return False
