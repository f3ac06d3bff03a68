"""Golden linear regions: the networks and cases of `golden_max_margin.json`."""

import functools
import json
import pathlib

import keras
import numpy as np
import tensorflow as tf

from robust_tf import layers
from robust_tf.graph import BoundGraph
from robust_tf.propagation.linear_regions import LinearRegions
from robust_tf.specifications import margin_specification

_FILE = pathlib.Path(__file__).parents[1] / "golden" / "golden_max_margin.json"
NETS = ("fc_net", "conv_net_1", "conv_net_2")
NORMS = {"inf": np.inf, "2": 2.0, "1": 1.0}


@functools.cache
def golden():
    """The content of the file."""
    return json.loads(_FILE.read_text())


def names():
    """Pairs of a net and the name of one of its cases."""
    return [(net, case["name"]) for net in NETS for case in golden()[net]["cases"]]


def case_of(net, name):
    """One golden case."""
    return next(case for case in golden()[net]["cases"] if case["name"] == name)


@functools.cache
def network(net, dtype="float64"):
    """A golden network, of layers that carry bounds."""
    description = golden()[net]["net"]
    parts = description["layers"]
    inputs = tensor = keras.Input(tuple(description["in_shape"]), dtype=dtype)
    for number, part in enumerate(parts):
        kernel, bias = np.asarray(part["W"]), np.asarray(part["b"])
        options = {
            "dtype": dtype,
            "kernel_initializer": _given(kernel),
            "bias_initializer": _given(bias),
        }
        if kernel.ndim == 4:
            layer = layers.Conv2D(
                kernel.shape[-1], kernel.shape[:2], part["stride"], "same", **options
            )
        else:
            if len(tensor.shape) > 2:
                tensor = layers.Flatten(dtype=dtype)(tensor)
            layer = layers.Dense(kernel.shape[1], **options)
        tensor = layer(tensor)
        if number < len(parts) - 1:
            tensor = layers.ReLU(dtype=dtype)(tensor)
    return keras.Model(inputs, tensor)


def points(net, cases, dtype="float64"):
    """Inputs and labels of several cases, as tensors."""
    shape = network(net).inputs[0].shape[1:]
    inputs = np.asarray([case["x"] for case in cases], dtype).reshape(-1, *shape)
    labels = np.asarray([case["label"] for case in cases], "int32")
    return tf.constant(inputs), tf.constant(labels)


def regions_of(net, case, numerics="exact", dtype="float64"):
    """The region of a case, and its rows of margins."""
    graph = BoundGraph.from_model(network(net, dtype))
    inputs, labels = points(net, [case], dtype)
    classes = graph.shapes[graph.output][0]
    rows = margin_specification(labels, classes, dtype)
    return LinearRegions.around(graph, inputs, numerics=numerics), rows


def _given(values):
    return lambda shape, dtype=None: tf.reshape(tf.constant(values, dtype), shape)
