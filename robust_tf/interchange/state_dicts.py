"""Published weights of PyTorch networks for the architectures of this library.

Those of CROWN-IBP (arXiv:1906.06316), fast certified training (arXiv:2103.17268) and
expressive losses (arXiv:2305.13991). Names differ from system to system, so modules are
told by what they hold and taken in the order in which PyTorch lists them: that of the
network, where a block's branch comes before its shortcut. Prefixes (`module.`) do not
matter. PyTorch has channels first: kernels are turned, and rows that read a flattened
image are put in the order of channels last.

Two things are not in a state dict: the normalisation of the pixels, which these systems
apply to the data (give the architecture the data set's), and the `epsilon` of
BatchNormalization, 1e-5 in all of them and here.
"""

import collections
import dataclasses
from collections.abc import Mapping

import keras
import numpy as np

from robust_tf import layers
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.interchange import arrangement

_CONVOLUTION, _DENSE, _NORMALIZATION = "convolution", "dense", "BatchNormalization"
_KINDS = {
    layers.BatchNormalization: _NORMALIZATION,
    layers.Conv2D: _CONVOLUTION,
    layers.Dense: _DENSE,
}
# PyTorch's name of each of a layer's variables, by kind.
_ENTRIES = {
    _CONVOLUTION: {"kernel": "weight", "bias": "bias"},
    _DENSE: {"kernel": "weight", "bias": "bias"},
    _NORMALIZATION: {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    },
}
_COUNTER = "num_batches_tracked"  # Of no use here.
# What keeps the order of a flattened image.
_ORDER_KEEPING = (layers.BatchNormalization, layers.Dropout, layers.ReLU)


def load_state_dict(model: keras.Model, state: Mapping[str, np.ndarray]) -> None:
    """Gives a classifier the weights of a PyTorch state dict; all, or none on error.

    Args:
        model: of `robust_tf.architectures`, or from `robust_tf.convert`.
        state: arrays by name, in PyTorch's order: kernels of convolutions `[filters,
            channels, height, width]`, of dense layers `[units, inputs]`. They are
            rounded to the type of the model's variables.

    Raises:
        InputError: listing at once every entry that no layer takes, every variable that
            finds none, every shape that does not fit, and NaN or infinity.
    """
    graph = BoundGraph.from_model(model)
    places = _places(graph)
    modules, problems = _modules(state)
    assigned = []
    for kind in _ENTRIES:
        ours = [place for place in places if place.kind == kind]
        theirs = [module for module in modules if module.kind == kind]
        for place, module in zip(ours, theirs, strict=False):
            assigned += _fitted(place, module, problems)
        for module in theirs[len(ours) :]:
            problems.append(f"'{module.name}' ({kind}): the model has no such layer")
        for place in ours[len(theirs) :]:
            problems.append(f"layer '{place.layer.name}' ({kind}) finds no weights")
    if problems:
        raise InputError(
            f"The state dict does not fit model '{model.name}'. Received: "
            f"{'; '.join(problems)}. Give the architecture that the weights were "
            "trained in, with its width, BatchNormalization and input shape."
        )
    for variable, values in assigned:
        variable.assign(values)


def num_classes(state: Mapping[str, np.ndarray]) -> int:
    """Returns how many logits the last dense layer of a state dict has.

    Raises:
        InputError: where there is none.
    """
    dense = [module for module in _modules(state)[0] if module.kind == _DENSE]
    if not dense:
        raise InputError(
            "A classifier's state dict ends in a dense layer. Received: "
            f"{sorted(state)}"
        )
    return len(dense[-1].entries["weight"])


@dataclasses.dataclass(frozen=True)
class _Module:
    """Entries of a state dict that belong to one layer, by their last names."""

    name: str
    kind: str
    entries: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Place:
    """A layer that takes weights.

    `order` says which of PyTorch's inputs each of its own is, `[inputs]`; None for the
    same ones.
    """

    layer: keras.Layer
    kind: str
    order: np.ndarray | None


def _modules(state) -> tuple[list[_Module], list[str]]:
    """The modules in PyTorch's order, and what is wrong with entries of others."""
    grouped = collections.defaultdict(dict)
    for key, value in state.items():
        name, _, entry = key.rpartition(".")
        grouped[name][entry] = np.asarray(value)
    modules, problems = [], []
    for name in _in_order(list(grouped)):
        entries = grouped[name]
        entries.pop(_COUNTER, None)
        kind = _kind_of(entries)
        if kind is None:
            keys = ", ".join(
                f"'{name}.{entry}'".replace("'.", "'") for entry in entries
            )
            problems += [f"{keys}: of no known kind of layer"] if entries else []
        else:
            modules.append(_Module(name, kind, entries))
    return modules, problems


def _in_order(names: list[str]) -> list[str]:
    """Names in the order of the file; those of a Sequential by their numbers."""
    parents = {name.rpartition(".")[0] for name in names}
    numbers = [name.rpartition(".")[2] for name in names]
    if len(parents) == 1 and all(number.isdecimal() for number in numbers):
        return sorted(names, key=lambda name: int(name.rpartition(".")[2]))
    return names


def _kind_of(entries) -> str | None:
    if {"running_mean", "running_var"} <= entries.keys():
        return _NORMALIZATION
    rank = entries["weight"].ndim if "weight" in entries else None
    return {2: _DENSE, 4: _CONVOLUTION}.get(rank)


def _places(graph) -> list[_Place]:
    """The layers with weights, a sum's first branch before its second."""
    places = []
    for node in _depth_first(graph):
        if not node.layer.weights:
            continue
        kind = _KINDS.get(type(node.layer))
        if kind is None:
            raise InputError(
                f"State dicts give weights to {sorted(k.__name__ for k in _KINDS)}. "
                f"Received: layer '{node.layer.name}' ({type(node.layer).__name__})"
            )
        order = None if kind == _CONVOLUTION else _flattened(graph, node)
        places.append(_Place(node.layer, kind, order))
    return places


def _depth_first(graph) -> list:
    """Nodes, each after all that it reads; what a node reads first comes first."""
    ordered, done, pending = [], set(), [(graph.output, False)]
    while pending:
        edge, is_ready = pending.pop()
        node = graph.producer(edge)
        if node is None or edge in done:
            continue
        if is_ready:
            done.add(edge)
            ordered.append(node)
            continue
        pending.append((edge, True))
        pending += [(source, False) for source in reversed(node.inputs)]
    return ordered


def _flattened(graph, node) -> np.ndarray | None:
    """The order of a node's inputs where they are a flattened image."""
    before = graph.producer(node.inputs[0])
    while before is not None and isinstance(before.layer, _ORDER_KEEPING):
        before = graph.producer(before.inputs[0])
    if before is None or len(graph.shapes[node.inputs[0]]) != 1:
        return None
    if isinstance(before.layer, layers.Flatten):
        shape = graph.shapes[before.inputs[0]]
        is_image = len(shape) == 3
        return arrangement.channels_first(shape).reshape(-1) if is_image else None
    if isinstance(before.layer, layers.Reshape | layers.Permute | layers.Concatenate):
        raise InputError(
            f"Before layer '{node.layer.name}' an image must be flattened by "
            "`Flatten`, or the order of its inputs is unknown. Received: "
            f"{type(before.layer).__name__}"
        )
    return None


def _fitted(place, module, problems) -> list[tuple]:
    """Pairs of variables and their values; adds what does not fit to `problems`."""
    names = _ENTRIES[place.kind]
    variables = {names[v.name]: v for v in place.layer.weights if v.name in names}
    layer, pairs = f"layer '{place.layer.name}'", []
    for entry in module.entries:
        if entry not in variables:
            problems.append(f"'{module.name}.{entry}': {layer} has no such variable")
    for entry, variable in variables.items():
        key = f"{module.name}.{entry}".removeprefix(".")
        if entry not in module.entries:
            problems.append(f"{layer} finds no '{key}'")
            continue
        values = module.entries[entry]
        wanted = _shape_in_torch(place.kind, variable.shape)
        if values.shape != wanted:
            problems.append(
                f"'{key}' has shape {values.shape}, and {layer} takes {wanted}"
            )
        elif not (values.dtype.kind == "f" and np.isfinite(values).all()):
            problems.append(f"'{key}' holds NaN, infinity or what are no floats")
        else:
            pairs.append((variable, _turned(values, place)))
    return pairs


def _shape_in_torch(kind, shape) -> tuple[int, ...]:
    if kind == _NORMALIZATION or len(shape) == 1:
        return tuple(shape)
    *window, inputs, outputs = shape
    return (outputs, inputs, *window)


def _turned(values, place) -> np.ndarray:
    """An array of PyTorch's in the layout of Keras."""
    if values.ndim == 4:
        return values.transpose(2, 3, 1, 0)
    is_of_inputs = values.ndim == 2 or place.kind == _NORMALIZATION
    is_ordered = place.order is not None and is_of_inputs
    return values.T[place.order] if is_ordered else values.T
