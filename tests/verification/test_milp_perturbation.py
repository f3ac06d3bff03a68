"""Least perturbations, against exhaustive enumeration and bisection."""

import json
import pathlib

import keras
import numpy as np
import pytest

import robust_tf as rt
from robust_tf.bounds import IntervalBound
from robust_tf.errors import InputError
from robust_tf.verification.lp_program import SolverOptions
from robust_tf.verification.lp_program import Status
from robust_tf.verification.milp import minimal_margin
from robust_tf.verification.milp_perturbation import minimal_perturbation
from tests.verification import lp_cases as cases

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "golden_perturbations.json"


def golden_networks():
    content = json.loads(GOLDEN.read_text())
    return [(net, case) for net in content["networks"] for case in net["cases"]]


def golden_graph(net):
    inputs = tensor = keras.Input(net["in_shape"], **cases.FLOAT64)
    for number, parameters in enumerate(net["layers"]):
        kernel, bias = np.array(parameters["kernel"]), np.array(parameters["bias"])
        tensor = cases.relu()(tensor) if number else tensor
        if parameters["type"] == "dense":
            tensor = keras.layers.Flatten(**cases.FLOAT64)(tensor)
            tensor = cases.dense(kernel, bias)(tensor)
            continue
        tensor = keras.layers.Conv2D(
            kernel.shape[-1],
            kernel.shape[:2],
            parameters["stride"],
            "same",
            kernel_initializer=keras.initializers.Constant(kernel),
            bias_initializer=keras.initializers.Constant(bias),
            **cases.FLOAT64,
        )(tensor)
    return cases.converted(inputs, tensor)


def sought(graph, center, radius, norm, valid_range, label, options=None):
    ball = rt.LpBall(center, radius, norm, valid_range)
    bounds = cases.crown(graph, ball)
    return minimal_perturbation(graph, ball, bounds, label, options)


@pytest.mark.parametrize("norm", ["inf", "1"])
@pytest.mark.parametrize(
    ("net", "case"),
    golden_networks(),
    ids=[f"{net['id']}-{case['id']}" for net, case in golden_networks()],
)
def test_least_perturbations(net, case, norm):
    graph = golden_graph(net)
    center = np.reshape(case["x"], (1, *net["in_shape"]))
    label = case["label"]
    for name, valid_range in (("box01", (0.0, 1.0)), ("no_box", None)):
        expected = case["least"][name][norm]
        arguments = (graph, center, expected["distance"] * 1.2, norm, valid_range)
        found = sought(*arguments, label)
        assert found.status is Status.OPTIMAL
        assert found.distance == pytest.approx(expected["distance"], abs=1e-6)
        assert found.target == expected["target"]
        assert found.lower_bound <= expected["distance"]
        assert found.lower_bound >= expected["distance"] - 3e-6
        logits = cases.values_on(graph, found.point[None])[graph.output].numpy()[0]
        assert logits[found.target] == pytest.approx(logits[label], abs=1e-5)
        away = np.abs(found.point - center[0])
        distance = away.max() if norm == "inf" else away.sum()
        assert distance == pytest.approx(found.distance, abs=1e-12)
        if valid_range:
            assert 0.0 <= found.point.min() <= found.point.max() <= 1.0


def test_nothing_within_the_radius():
    net, case = golden_networks()[0]
    graph, center = golden_graph(net), np.array(case["x"])[None]
    for norm in ("inf", "1"):
        radius = case["least"]["box01"][norm]["distance"] * 0.99
        found = sought(graph, center, radius, norm, (0.0, 1.0), case["label"])
        assert found.status is Status.OPTIMAL
        assert found.lower_bound == radius
        assert found.point is None
        assert found.target is None
        assert np.isinf(found.distance)


def test_perturbation_limits_and_misclassified():
    net, case = golden_networks()[0]
    graph, center = golden_graph(net), np.array(case["x"])[None]
    options = SolverOptions(time_limit_s=0.0)
    found = sought(graph, center, 0.3, "inf", (0.0, 1.0), case["label"], options)
    assert found.status is Status.LIMIT
    assert found.lower_bound == 0.0
    found = sought(graph, center, 0.3, "inf", (0.0, 1.0), 1)  # Another class wins.
    assert found.distance == pytest.approx(0.0, abs=1e-9)
    assert found.lower_bound == 0.0
    with pytest.raises(InputError, match="sought in an `LpBall`"):
        region = rt.Box(center, center)
        minimal_perturbation(graph, region, {0: IntervalBound(center, center)}, 0)


def test_least_perturbation_against_bisection():
    graph = cases.conv_net()
    center = np.random.default_rng(8).uniform(size=(1, 6, 6, 1))
    label = int(np.argmax(cases.values_on(graph, center)[graph.output]))
    rows = [cases.row_over(graph, label, j) for j in range(3) if j != label]

    def margin(radius):
        ball = rt.LpBall(center, radius)
        bounds = cases.crown(graph, ball)
        return min(minimal_margin(graph, ball, bounds, row).value for row in rows)

    low, high = 0.0, 0.5
    assert margin(high) < 0.0
    for _ in range(18):
        middle = (low + high) / 2
        low, high = (middle, high) if margin(middle) > 0.0 else (low, middle)
    found = sought(graph, center, 0.5, "inf", (0.0, 1.0), label)
    assert found.distance == pytest.approx(high, abs=1e-5)
    assert found.lower_bound <= high
