"""Rebuilds a plain Keras model from layers that carry bound rules."""

import functools
import pathlib

import keras
import numpy as np
from absl import logging

from robust_tf.errors import InputError
from robust_tf.layers import activations
from robust_tf.layers import affine
from robust_tf.layers import convolution
from robust_tf.layers import elementwise_affine
from robust_tf.layers import normalization
from robust_tf.layers import padded_pooling
from robust_tf.layers import pooling
from robust_tf.layers import structural
from robust_tf.layers.base import BoundLayer

_EXACT = "interval and backward rules exact"
_RELAXED = "interval rule exact; backward rule by two lines"
_COUNTERPARTS = {
    keras.layers.Add: (structural.Add, f"sum of inputs of one shape; {_EXACT}"),
    keras.layers.Average: (structural.Average, f"mean of inputs; {_EXACT}"),
    keras.layers.AveragePooling2D: (pooling.AveragePooling2D, _EXACT),
    keras.layers.BatchNormalization: (
        normalization.BatchNormalization,
        f"last axis, batch statistics in training, moving ones after; {_EXACT}",
    ),
    keras.layers.Concatenate: (structural.Concatenate, _EXACT),
    keras.layers.Conv1D: (convolution.Conv1D, f"any padding, groups; {_EXACT}"),
    keras.layers.Conv2D: (
        convolution.Conv2D,
        f"stride, dilation, groups; {_EXACT}; intermediate bounds as patches",
    ),
    keras.layers.Dense: (affine.Dense, _EXACT),
    keras.layers.DepthwiseConv2D: (convolution.DepthwiseConv2D, _EXACT),
    keras.layers.Dropout: (structural.Dropout, "the identity at inference"),
    keras.layers.ELU: (activations.ELU, f"{_RELAXED}: tangent and chord"),
    keras.layers.Flatten: (structural.Flatten, _EXACT),
    keras.layers.GlobalAveragePooling2D: (pooling.GlobalAveragePooling2D, _EXACT),
    keras.layers.GlobalMaxPooling2D: (
        pooling.GlobalMaxPooling2D,
        f"{_RELAXED}: one entry, chord against the rest",
    ),
    keras.layers.LeakyReLU: (activations.LeakyReLU, f"{_RELAXED}: as ReLU"),
    keras.layers.MaxPooling2D: (
        pooling.MaxPooling2D,
        f"{_RELAXED}: one entry, chord against the rest",
    ),
    keras.layers.Normalization: (normalization.Normalization, _EXACT),
    keras.layers.Permute: (structural.Permute, _EXACT),
    keras.layers.ReLU: (
        activations.ReLU,
        f"{_RELAXED}: chord above, chosen slope below",
    ),
    keras.layers.Rescaling: (normalization.Rescaling, _EXACT),
    keras.layers.Reshape: (structural.Reshape, _EXACT),
    keras.layers.Subtract: (structural.Subtract, _EXACT),
    keras.layers.ZeroPadding2D: (structural.ZeroPadding2D, _EXACT),
}
# Layers of ours that Keras has no counterpart of.
_OWN = {
    elementwise_affine.ElementwiseAffine: f"constants of the whole shape; {_EXACT}",
    padded_pooling.PaddedMaxPooling2D: "as MaxPooling2D, with explicit padding",
}
# `activation=` of a layer, and the layer `Activation`; None stands for the identity.
_ACTIVATIONS = {
    keras.activations.elu: activations.ELU,
    keras.activations.leaky_relu: functools.partial(activations.LeakyReLU, 0.2),
    keras.activations.linear: None,
    keras.activations.relu: activations.ReLU,
    keras.activations.sigmoid: activations.Sigmoid,
    keras.activations.softplus: activations.Softplus,
    keras.activations.tanh: activations.Tanh,
}
# Layers that apply one of these functions.
_FUNCTION_LAYERS = (keras.layers.Activation, keras.layers.Softmax)
_ACTIVATION_NOTE = (
    "relu, leaky_relu, elu, sigmoid, tanh, softplus, linear; a softmax is dropped at "
    "the end of a model, and refused elsewhere"
)


def supported_layers() -> dict[str, str]:
    """Returns one line on the bound rules of each layer that has some.

    By names of Keras layers, and of those of `robust_tf.layers` that Keras lacks.
    """
    table = {kind.__name__: note for kind, (_, note) in _COUNTERPARTS.items()}
    table |= {kind.__name__: note for kind, note in _OWN.items()}
    for kind in (activations.Sigmoid, activations.Softplus, activations.Tanh):
        table[f"Activation('{kind.__name__.lower()}')"] = f"{_RELAXED}: chord, tangent"
    table["Activation"] = _ACTIVATION_NOTE
    return dict(sorted(table.items()))


def convert(model) -> keras.Model:
    """Returns a copy of a classifier, weights included, that carries bound rules.

    `activation=` inside a layer becomes a layer of its own, nested models are opened,
    and a softmax at the end is dropped, with a log message: bounds are on the logits,
    and a softmax changes neither the prediction nor whether it is robust.

    Args:
        model: a built Sequential or Functional `keras.Model` of one input and one
            output, channels last; or the path of a `.keras` file.

    Raises:
        InputError: naming every layer without rules at once; for models that are not
            built, share layers, or have several inputs or outputs; for NaN weights.
    """
    model = _opened(loaded(model))
    _check_model(model)
    _raise_for(_unsupported(model))
    rebuilt = _Rebuilder(model).run()
    _check_weights(rebuilt)
    return rebuilt


def loaded(model):
    """Returns the model that a path names; anything else as it is.

    Raises:
        InputError: for a path that holds no Keras model.
    """
    if not isinstance(model, (str, pathlib.Path)):
        return model
    path = pathlib.Path(model)
    if not path.is_file():
        raise InputError(f"There is no model file. Received: '{path}'")
    try:
        return keras.models.load_model(path, compile=False)
    except (ValueError, TypeError, OSError) as error:
        raise InputError(
            f"'{path}' could not be read as a Keras model. Received: {error}. Save it "
            "by `model.save('name.keras')`."
        ) from error


def _opened(model):
    """The model as a Functional one."""
    if not isinstance(model, keras.Model):
        raise InputError(
            "`convert` takes a Keras model or the path of a `.keras` file. Received: "
            f"{type(model).__name__}"
        )
    try:
        inputs, outputs = model.inputs, model.outputs
        return keras.Model(inputs, outputs, name=model.name)
    except (AttributeError, ValueError, TypeError) as error:
        raise InputError(
            f"Model '{model.name}' ({type(model).__name__}) has no graph to read: it "
            "must be built, Sequential or Functional. Add a `keras.Input`, or rebuild "
            "a subclassed model as a Functional one."
        ) from error


def _check_model(model):
    for what, tensors in (("input", model.inputs), ("output", model.outputs)):
        if len(tensors) != 1:
            raise InputError(
                f"A classifier has one {what}. Received: model '{model.name}' with "
                f"{len(tensors)}: {[t.name for t in tensors]}"
            )
    if None in model.inputs[0].shape[1:]:
        raise InputError(
            "All axes of the input but the batch must be fixed. Received: model "
            f"'{model.name}' with input shape {model.inputs[0].shape}"
        )


def _unsupported(model, prefix="") -> list[str]:
    """One line for each operation that has no rules, through nested models."""
    problems = []
    for layer in model.operations:
        name = f"{prefix}{layer.name}"
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if isinstance(layer, keras.Model):
            inner = _opened(layer)
            _check_model(inner)
            problems += _unsupported(inner, f"{name}/")
        elif not isinstance(layer, BoundLayer) and (problem := _problem(layer)):
            problems.append(f"'{name}' ({type(layer).__name__}): {problem}")
    return problems


def _problem(layer) -> str | None:
    """Why a layer cannot be converted; None if it can."""
    if isinstance(layer, keras.layers.Softmax):
        # Whether it is the last layer is seen when the model is rebuilt.
        return None if layer.axis in (-1, 1) else f"axis={layer.axis}"
    if isinstance(layer, keras.layers.Activation):
        return _activation_problem(layer.activation)
    if not isinstance(layer, keras.layers.Layer):
        return "an operation of `keras.ops`; use the layer of that name"
    if type(layer) not in _COUNTERPARTS:
        return "no bound rules"
    if layer.compute_dtype not in ("float32", "float64"):
        return f"computes in {layer.compute_dtype}; bounds hold for float32 and float64"
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        return "channels first; only channels last is supported"
    if isinstance(layer, keras.layers.BatchNormalization):
        rank = len(layer.output.shape)
        if layer.axis not in (-1, rank - 1):
            return f"axis={layer.axis}; only the last axis is supported"
    if isinstance(layer, _SAME_SHAPES):
        shapes = {tuple(t.shape[1:]) for t in keras.tree.flatten(layer.input)}
        if len(shapes) > 1:
            return f"broadcasts inputs of shapes {sorted(shapes)}"
    return _parameter_problem(layer) or _activation_problem(
        getattr(layer, "activation", None)
    )


def _parameter_problem(layer) -> str | None:
    if isinstance(layer, keras.layers.ReLU) and (
        layer.max_value is not None or layer.threshold
    ):
        return f"max_value={layer.max_value}, threshold={layer.threshold}"
    slope = getattr(layer, "negative_slope", 0.0)  # Of ReLU and LeakyReLU.
    if not 0.0 <= float(slope) <= 1.0:
        return f"negative_slope={slope}; only 0 to 1 is supported"
    if isinstance(layer, keras.layers.ELU) and not layer.alpha >= 0.0:
        return f"alpha={layer.alpha}; only 0 and above is supported"
    if isinstance(layer, keras.layers.Concatenate) and layer.axis == 0:
        return "axis=0 joins examples"
    return None


_SAME_SHAPES = (keras.layers.Add, keras.layers.Subtract, keras.layers.Average)


def _activation_problem(activation) -> str | None:
    known = (None, keras.activations.softmax, *_ACTIVATIONS)
    if any(activation is one for one in known):
        return None
    if isinstance(activation, keras.layers.Layer):
        return _problem(activation)
    name = getattr(activation, "__name__", repr(activation))
    return f"activation '{name}' has no bound rules"


def _raise_for(problems):
    if problems:
        listing = "\n  ".join(problems)
        raise InputError(
            f"{len(problems)} layer(s) have no bound rules:\n  {listing}\n"
            f"Layers with rules: {', '.join(supported_layers())}. Replace the layers, "
            "or write their rules and add a row to `_COUNTERPARTS` in "
            "`robust_tf.layers.convert`."
        )


class _Call(keras.Operation):
    """One call of a layer or model in a graph, whose tensors can be read."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def compute_output_spec(self, *args):
        return self.layer.compute_output_spec(*args)


def _calls(model) -> keras.Model:
    """The graph of a Functional model, with a `_Call` for every layer."""
    return keras.models.clone_model(
        model,
        clone_function=lambda layer: layer,
        call_function=lambda layer, *args, **_: _Call(layer)(*args),
    )


class _Rebuilder:
    """Calls the counterpart of every layer on the tensors of a new graph."""

    def __init__(self, model):
        self._model = model
        self._names = set()
        self._called = set()
        self._softmax = {}  # id of a softmax's output: (its name, its input)

    def run(self) -> keras.Model:
        """Returns the model of counterparts, with the weights copied."""
        (given,) = self._model.inputs
        name = self._unique(given.name)
        inputs = keras.Input(given.shape[1:], dtype=given.dtype, name=name)
        output = self._inline(self._model, inputs)
        if id(output) in self._softmax:
            name, output = self._softmax[id(output)]
            logging.warning(
                "The softmax '%s' at the end of model '%s' is dropped: bounds are on "
                "the logits that it reads.",
                name,
                self._model.name,
            )
        return keras.Model(inputs, output, name=self._model.name)

    def _inline(self, model, tensor):
        """Replays a model's calls on a tensor of the new graph."""
        graph = _calls(_opened(model))
        tensors = {id(graph.inputs[0]): tensor}
        for call in graph.operations:
            if isinstance(call, _Call):
                read = [tensors[id(one)] for one in keras.tree.flatten(call.input)]
                output = self._call(call.layer, read if len(read) > 1 else read[0])
                tensors[id(call.output)] = output
        return tensors[id(graph.outputs[0])]

    def _call(self, layer, tensors):
        """Stands for `layer(tensors)`: called once for each call in the old graph."""
        if id(layer) in self._called:
            raise InputError(
                f"Layer '{layer.name}' ({type(layer).__name__}) is called more than "
                "once, so its place in the graph is ambiguous. Create one layer for "
                "each call."
            )
        self._called.add(id(layer))
        self._refuse_inner_softmax(tensors)
        if isinstance(layer, keras.Model):
            return self._inline(layer, tensors)
        if isinstance(layer, _FUNCTION_LAYERS):
            return self._activate(layer, layer.name, _function_of(layer), tensors)
        return self._replace(layer, tensors)

    def _replace(self, layer, tensors):
        kind = type(layer)
        config = layer.get_config()
        function = None
        if not isinstance(layer, BoundLayer):
            kind, _ = _COUNTERPARTS[kind]
            if "activation" in config:
                function = layer.activation
                config["activation"] = "linear"
        config["name"] = self._unique(layer.name)
        counterpart = kind.from_config(config)
        output = counterpart(tensors)
        counterpart.set_weights(layer.get_weights())
        if isinstance(layer, keras.layers.Normalization):
            counterpart.finalize_state()
        return self._activate(layer, f"{layer.name}_activation", function, output)

    def _activate(self, layer, name, function, tensor):
        """Applies a layer's activation as a layer of its own, of the same type."""
        if function is None or function is keras.activations.linear:
            return tensor
        if function is keras.activations.softmax:
            output = keras.layers.Identity(name=self._unique(name))(tensor)
            self._softmax[id(output)] = (name, tensor)
            return output
        if isinstance(function, _FUNCTION_LAYERS):
            return self._activate(layer, name, _function_of(function), tensor)
        if isinstance(function, keras.layers.Layer):
            return self._replace(function, tensor)
        kind = _ACTIVATIONS[function]
        return kind(name=self._unique(name), dtype=layer.dtype_policy.name)(tensor)

    def _refuse_inner_softmax(self, tensors):
        for tensor in keras.tree.flatten(tensors):
            if id(tensor) in self._softmax:
                name, _ = self._softmax[id(tensor)]
                raise InputError(
                    f"The softmax '{name}' is not the end of the model, and has no "
                    "bound rules elsewhere. Move it to the end, or remove it."
                )

    def _unique(self, name):
        count, candidate = 1, name
        while candidate in self._names:
            count += 1
            candidate = f"{name}_{count}"
        self._names.add(candidate)
        return candidate


def _function_of(layer):
    if isinstance(layer, keras.layers.Activation):
        return layer.activation
    return keras.activations.softmax


def _check_weights(model):
    for layer in model.layers:
        for values in layer.get_weights():
            if not np.isfinite(values).all():
                raise InputError(
                    f"Weights must be finite. Received: NaN or infinity in layer "
                    f"'{layer.name}' ({type(layer).__name__}). Load a sound "
                    "checkpoint, or train again with a lower learning rate."
                )
