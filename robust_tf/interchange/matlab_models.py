"""Classifiers as MATLAB files, in the layouts of maximum margin regularization.

Those of arXiv:1810.07481: weights are `[inputs, outputs]`, kernels of convolutions
`[height, width, channels, filters]`, and images are flattened by height, width,
channels, which is Keras's order throughout. Biases are rows. There are:

- `fc1`, one hidden layer: `U`, `bU`, `W`, `bW`;
- `cnn_lenet_small`, two Conv 4x4/2 with "same" padding and one hidden dense layer:
  `weights_conv1`, `biases_conv1`, ..., `weights_fc2`, `biases_fc2`;
- dense layers of any number: `weight_0`, `bias_0`, `weight_1`, ...;
- the first two under the names that MIPVerify (arXiv:1711.07356) is given:
  `fc1/weight`, `softmax/weight`, and `conv1/weight`, ..., `logits/bias`. They are read,
  not written.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping

import keras
import numpy as np
from absl import logging

from robust_tf import files
from robust_tf import layers
from robust_tf import matlab
from robust_tf.architectures import blocks
from robust_tf.architectures import cnn
from robust_tf.architectures import max_margin
from robust_tf.errors import InputError
from robust_tf.layers.convert import convert

_KERNEL_SIZE, _STRIDE = (4, 4), (2, 2)  # Of both convolutions.
# Of inputs of so many pixels: the data sets these files are made for.
_IMAGE_SHAPES = {784: (28, 28, 1), 3072: (32, 32, 3)}
# Layers of `cnn_lenet_small`.
_CONVOLUTIONAL = [*2 * ("Conv2D", "ReLU"), "Flatten", "Dense", "ReLU", "Dense"]
_AFFINE = (layers.Conv2D, layers.Dense)
_OTHERS = (layers.Flatten, layers.ReLU)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Names of the variables of a network: (weights, bias) of each layer.

    The first `num_convolutions` layers are convolutions.
    """

    name: str
    variables: tuple[tuple[str, str], ...]
    num_convolutions: int = 0

    @property
    def names(self) -> list[str]:
        return [name for pair in self.variables for name in pair]


def _convolutional(name, weights, bias, places):
    pairs = tuple((weights.format(p), bias.format(p)) for p in places)
    return _Layout(name, pairs, num_convolutions=2)


_FC1 = _Layout("fc1", (("U", "bU"), ("W", "bW")))
_LENET = _convolutional(
    "cnn_lenet_small", "weights_{}", "biases_{}", ("conv1", "conv2", "fc1", "fc2")
)
_MIP_FC1 = _Layout(
    "fc1 of MIPVerify",
    (("fc1/weight", "fc1/bias"), ("softmax/weight", "softmax/bias")),
)
_MIP_LENET = _convolutional(
    "cnn_lenet_small of MIPVerify",
    "{}/weight",
    "{}/bias",
    ("conv1", "conv2", "fc1", "logits"),
)


def _numbered(count):
    pairs = tuple((f"weight_{i}", f"bias_{i}") for i in range(count))
    return _Layout("dense layers", pairs)


def read_model(
    path: str | os.PathLike, input_shape: tuple[int, ...] | None = None
) -> keras.Model:
    """Returns the classifier of a `.mat` file, of `robust_tf.layers`, in float32.

    Weights of another floating-point type are rounded to float32, with a warning where
    that changes one.

    Args:
        path: of the file.
        input_shape: of one input: (height, width, channels), or (size,) where there are
            no convolutions. None for that of the sidecar of `write_model`, if there is
            one, else for images of 28x28x1 or 32x32x3 where the sizes fit, and for
            square images of sides divisible by 4 before convolutions.

    Raises:
        InputError: for a file that cannot be read, variables of no known layout,
            weights that are missing, of a wrong type or shape, or not finite, and
            where `input_shape` is needed or does not fit.
    """
    path = pathlib.Path(path)
    arrays = matlab.read_arrays(path)
    layout = _layout_of(path, arrays)
    weights = _checked_weights(path, layout, arrays)
    if input_shape is None:
        input_shape = _stated_shape(path)
    shape = _input_shape(path, layout, weights, input_shape)
    model = _build(layout, weights, shape)
    model.set_weights(weights)
    return model


def write_model(
    path: str | os.PathLike, model: keras.Model, record: Mapping | None = None
) -> None:
    """Writes a classifier as `NAME.mat`, and what is known of it as `NAME.json`.

    The layout is `fc1` for one hidden dense layer, `cnn_lenet_small` for that network,
    whatever its numbers of filters, and numbered variables for other dense networks. A
    softmax at the end is dropped, as by `robust_tf.convert`.

    Args:
        path: of the `.mat` file; its folder must exist.
        model: that `robust_tf.convert` takes, in float32.
        record: further facts for the sidecar, such as the run's summary; what
            `files.to_json` takes.

    Raises:
        InputError: as `convert`, for another ending of the path, and for networks that
            no layout can express.
    """
    path = pathlib.Path(path)
    if path.suffix != ".mat" or not path.parent.is_dir():
        raise InputError(
            "A classifier is written to a `.mat` file in a folder that exists. "
            f"Received: '{path}'"
        )
    model = convert(model)
    affine = _affine_layers(model)
    layout = _layout_for(affine)
    arrays = {}
    for (weights, bias), layer in zip(layout.variables, affine, strict=True):
        arrays[weights] = _array(layer, layer.kernel)
        zeros = np.zeros(layer.kernel.shape[-1], "float32")
        row = _array(layer, layer.bias) if layer.use_bias else zeros
        arrays[bias] = row[np.newaxis]
    matlab.write_arrays(path, arrays)
    facts = {
        "file": path.name,
        "sha256": _digest(path),
        "layout": layout.name,
        "input_shape": list(model.input_shape[1:]),
        "num_classes": model.output_shape[-1],
        "variables": {name: list(value.shape) for name, value in arrays.items()},
        "record": dict(record or {}),
    }
    files.write_json(path.with_suffix(".json"), facts)


def _layout_of(path, arrays) -> _Layout:
    """The layout with exactly the names of a file."""
    count = sum(name.startswith("weight_") for name in arrays)
    known = (_FC1, _LENET, _numbered(max(count, 1)), _MIP_FC1, _MIP_LENET)
    found = set(arrays)
    layout = max(known, key=lambda one: len(found.intersection(one.names)))
    missing = [name for name in layout.names if name not in found]
    others = sorted(found.difference(layout.names))
    if not missing and not others:
        return layout
    if not found.intersection(layout.names):
        listing = "\n  ".join(f"{one.name}: {', '.join(one.names)}" for one in known)
        raise InputError(
            f"'{path}' has the variables of no known layout. Received: "
            f"{sorted(found) or 'none'}. Known layouts:\n  {listing}\n(and so on with "
            "weight_1, bias_1)"
        )
    problem = f"misses {missing}" if missing else f"has {others} besides"
    raise InputError(
        f"'{path}' looks like a network of layout '{layout.name}' and {problem}. "
        f"Received: {sorted(found)}. The layout has the variables {layout.names}."
    )


def _checked_weights(path, layout, arrays) -> list[np.ndarray]:
    """Weights and bias of each layer in turn, in the shapes of Keras."""
    checked, inputs = [], None
    for place, (weights, bias) in enumerate(layout.variables):
        kernel = _checked_values(path, weights, arrays[weights])
        rule, fits = _fit(layout, place, kernel.shape, inputs)
        if not fits or not kernel.size:
            _refuse_shape(path, weights, rule, kernel)
        inputs = kernel.shape[-1]
        row = _checked_values(path, bias, arrays[bias])
        if row.size != inputs or max(row.shape) != inputs:
            _refuse_shape(path, bias, f"[1, {inputs}]", row)
        checked += [kernel, row.reshape(-1)]
    return checked


def _fit(layout, place, shape, inputs) -> tuple[str, bool]:
    """What shape the weights of a layer must have, and whether they do.

    Args:
        layout: of the file.
        place: of the layer among those with weights.
        shape: of its weights.
        inputs: outputs of the layer before; None for the first.
    """
    if place < layout.num_convolutions:
        height, width = _KERNEL_SIZE
        fits = shape[:2] == _KERNEL_SIZE and len(shape) == 4
        fits = fits and inputs in (None, shape[2])
        return f"[{height}, {width}, {inputs or 'channels'}, filters]", fits
    if place == layout.num_convolutions > 0:
        fits = len(shape) == 2 and shape[0] % inputs == 0
        return f"[places * {inputs}, outputs]", fits
    fits = len(shape) == 2 and inputs in (None, shape[0])
    return f"[{inputs or 'inputs'}, outputs]", fits


def _refuse_shape(path, name, rule, array):
    raise InputError(
        f"Variable '{name}' of '{path}' must be of shape {rule}. Received: "
        f"{list(array.shape)}"
    )


def _checked_values(path, name, array) -> np.ndarray:
    """The array as float32, all finite."""
    if array.dtype.kind != "f":
        raise InputError(
            f"Variable '{name}' of '{path}' must hold floating-point numbers. "
            f"Received: {array.dtype}"
        )
    with np.errstate(over="ignore"):  # What overflows is not finite.
        rounded = array.astype(np.float32)
    if not np.isfinite(rounded).all():
        value = array[~np.isfinite(rounded)][0]
        raise InputError(
            f"All numbers of variable '{name}' of '{path}' must be finite in float32. "
            f"Received: {value}"
        )
    if (rounded != array).any():
        logging.warning("Variable '%s' of '%s' is rounded to float32.", name, path)
    return rounded


def _stated_shape(path) -> list[int] | None:
    """The input shape that the sidecar of a file states; None without one."""
    sidecar = path.with_suffix(".json")
    try:
        facts = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # Whatever it is, `write_model` has not written it.
    if not isinstance(facts, dict) or not {"sha256", "input_shape"} <= facts.keys():
        return None
    if facts["sha256"] != _digest(path):
        raise InputError(
            f"'{sidecar}' describes another file than '{path}'. Received: SHA-256 "
            f"{_digest(path)}, there {facts['sha256']}. Remove or replace it."
        )
    return facts["input_shape"]


def _input_shape(path, layout, weights, given) -> tuple[int, ...]:
    """The shape that is given, if it fits the weights, or the one they suggest."""
    if layout.num_convolutions:
        channels, filters = weights[0].shape[2], weights[2].shape[3]
        places = weights[4].shape[0] // filters
        side = 4 * math.isqrt(places)
        suggested = (side, side, channels) if side**2 == 16 * places else None
        rule = f"[height, width, {channels}] with {places} places after two strides"
    else:
        size = weights[0].shape[0]
        suggested = _IMAGE_SHAPES.get(size)
        rule = f"[height, width, channels] or [size], of {size} values"
    if given is None and suggested is not None:
        return suggested
    if given is None:
        raise InputError(
            f"The sizes in '{path}' do not tell the shape of its inputs: {rule}. "
            "Received: none. Give it: read_model(path, input_shape=...)."
        )
    sizes = given if isinstance(given, list | tuple) else [given]
    is_shape = all(blocks.is_count(size) for size in sizes)
    given = tuple(sizes)
    if layout.num_convolutions:
        fits = is_shape and len(given) == 3 and given[2] == channels
        fits = fits and math.prod(-(-side // 4) for side in given[:2]) == places
    else:
        fits = is_shape and len(given) in (1, 3) and math.prod(given) == size
    if not fits:
        raise InputError(
            f"`input_shape` must fit the weights of '{path}': {rule}. Received: "
            f"{list(given)}"
        )
    return given


def _build(layout, weights, shape) -> keras.Model:
    """The network of a layout, with first weights of its own."""
    widths = [bias.size for bias in weights[1::2]]
    if not layout.num_convolutions:
        return cnn.mlp(shape, widths[-1], hidden=tuple(widths[:-1]))
    first, second, hidden, classes = widths
    return max_margin.cnn_lenet_small(
        shape, classes, filters=(first, second), linear_size=hidden
    )


def _affine_layers(model) -> list:
    """The layers with weights, in order, of a network that a layout can express.

    Raises:
        InputError: for any other, with its layers.
    """
    found = [o for o in model.operations if not isinstance(o, keras.layers.InputLayer)]
    kinds = [type(layer).__name__ for layer in found]
    dense = kinds[1:] if kinds[:1] == ["Flatten"] else kinds
    is_dense = dense == ["Dense", *("ReLU", "Dense") * (len(dense) // 2)]
    is_ours = all(type(one) in (*_AFFINE, *_OTHERS) for one in found)
    if (
        is_ours
        and (is_dense or kinds == _CONVOLUTIONAL)
        and all(_is_expressible(layer) for layer in found)
    ):
        return [layer for layer in found if isinstance(layer, _AFFINE)]
    raise InputError(
        "A `.mat` file holds dense layers with ReLUs between them, after a Flatten for "
        "images, or `cnn_lenet_small`: two Conv2D 4x4 with stride 2 and padding 'same',"
        f" Flatten, two Dense. Received: model '{model.name}' with the layers {kinds}. "
        "Strides, other kernels, normalisation and branches cannot be written. Save it "
        "by `model.save('name.keras')` or `write_onnx`."
    )


def _is_expressible(layer) -> bool:
    """Whether a layer is what its place in a layout says."""
    if isinstance(layer, layers.ReLU):
        return not layer.negative_slope
    if isinstance(layer, layers.Dense):
        return len(layer.input.shape) == 2
    if isinstance(layer, layers.Conv2D):
        return (
            tuple(layer.kernel_size) == _KERNEL_SIZE
            and tuple(layer.strides) == _STRIDE
            and layer.padding == "same"
            and layer.groups == 1
            and set(layer.dilation_rate) == {1}
        )
    return True


def _layout_for(affine) -> _Layout:
    if isinstance(affine[0], layers.Conv2D):
        return _LENET
    return _FC1 if len(affine) == 2 else _numbered(len(affine))


def _array(layer, variable) -> np.ndarray:
    value = np.asarray(variable)
    if value.dtype != np.float32:
        raise InputError(
            f"Weights in `.mat` files are float32. Received: layer '{layer.name}' in "
            f"{value.dtype}. Build the model in float32."
        )
    if not np.isfinite(value).all():
        raise InputError(
            f"Weights must be finite. Received: layer '{layer.name}' with "
            f"{value[~np.isfinite(value)][0]}"
        )
    return value


def _digest(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
