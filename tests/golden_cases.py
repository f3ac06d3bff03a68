"""Reads the golden values and builds their networks."""

import functools
import json
import pathlib

import keras
import numpy as np
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers

_FOLDER = pathlib.Path(__file__).parent / "golden"


@functools.cache
def cases():
    """All cases of `golden_bounds.json` by id."""
    content = json.loads((_FOLDER / "golden_bounds.json").read_text())
    return {case["id"]: case for case in content["cases"]}


@functools.cache
def losses():
    """Schedules, regularizers, losses and small boxes: `golden_losses.json`."""
    return json.loads((_FOLDER / "golden_losses.json").read_text())


def of_kind(*kinds):
    return [case for case in cases().values() if case["kind"] in kinds]


def array(values):
    return np.asarray(values, "float64")


def build(case):
    """The network of a case, in float64, in layers that carry bounds."""
    return _BUILDERS[case["kind"]](case)


def _dense(parameters, name=None):
    kernel, bias = array(parameters["kernel"]), array(parameters["bias"])
    return layers.Dense(
        kernel.shape[1],
        dtype="float64",
        name=name,
        kernel_initializer=_given(kernel),
        bias_initializer=_given(bias),
    )


def _given(values):
    return lambda shape, dtype=None: tf.reshape(tf.constant(values, dtype), shape)


def _conv(parameters):
    kernel = array(parameters["kernel_HWIO"])
    return layers.Conv2D(
        kernel.shape[-1],
        kernel.shape[:2],
        strides=tuple(parameters["strides"]),
        dtype="float64",
        kernel_initializer=_given(kernel),
        bias_initializer=_given(array(parameters["bias"])),
    )


def _network(case):
    shape = array(case.get("x", case.get("x_raw"))).shape[1:]
    inputs = tensor = keras.Input(shape, dtype="float64")
    for parameters in case["layers"]:
        if parameters["type"] == "dense":
            tensor = _dense(parameters)(tensor)
        elif parameters["type"] == "conv2d":
            padding = parameters["padding"]
            if np.any(padding):
                tensor = layers.ZeroPadding2D(padding, dtype="float64")(tensor)
            tensor = _conv(parameters)(tensor)
        elif parameters["type"] == "relu":
            tensor = layers.ReLU(dtype="float64")(tensor)
        else:
            tensor = layers.Flatten(dtype="float64")(tensor)
    return keras.Model(inputs, tensor)


def _residual(case):
    inputs = keras.Input((len(case["x"][0]),), dtype="float64")
    hidden = layers.ReLU(dtype="float64")(_dense(case["dense1"])(inputs))
    total = layers.Add(dtype="float64")([_dense(case["dense2"])(hidden), inputs])
    return keras.Model(
        inputs, _dense(case["dense3"])(layers.ReLU(dtype="float64")(total))
    )


def _batchnorm(case):
    parameters = case["bn"]
    inputs = keras.Input((len(case["x"][0]),), dtype="float64")
    normalization = layers.BatchNormalization(
        epsilon=parameters["epsilon"], dtype="float64"
    )
    tensor = normalization(_dense(case["dense1"])(inputs))
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    normalization.set_weights([array(parameters[name]) for name in names])
    return keras.Model(
        inputs, _dense(case["dense2"])(layers.ReLU(dtype="float64")(tensor))
    )


_BUILDERS = {"network": _network, "residual": _residual, "batchnorm": _batchnorm}


def region(case, dtype="float64"):
    """The input set of a case."""
    if "box_lower" in case:
        return rt.Box(
            array(case["box_lower"]).astype(dtype),
            array(case["box_upper"]).astype(dtype),
        )
    return rt.LpBall(
        array(case["x"]).astype(dtype), case["eps"], case["norm"], valid_range=None
    )
