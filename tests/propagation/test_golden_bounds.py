"""Every network of `golden_bounds.json`, in float64 and float32."""

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.layers.activations import RELAXATIONS
from robust_tf.layers.activations import _TwoPieces
from robust_tf.propagation import crown
from robust_tf.propagation import interval
from tests import golden_cases

TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
CASES = golden_cases.of_kind("network", "residual", "batchnorm")
pytestmark = pytest.mark.parametrize("dtype", ["float64", "float32"])
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])


def bounds(case, dtype, method, relaxation="adaptive", specification=True):
    rows = np.asarray(case["C"], dtype) if specification else None
    return rt.compute_bounds(
        golden_cases.build(case),
        golden_cases.region(case, dtype),
        method,
        rows,
        intermediate=True,
        relaxation=relaxation,
        intersect_intermediates=False,
    )


def expect(actual, case, dtype, *path):
    for end in ("lower", "upper"):
        wanted = []
        for sample in case["expected"]:
            for key in path:
                sample = sample[key]
            wanted.append(sample[end])
        values = getattr(actual, end).numpy()
        assert values.dtype == dtype
        np.testing.assert_allclose(
            values.reshape(len(wanted), -1),
            np.reshape(wanted, (len(wanted), -1)),
            rtol=0,
            atol=TOLERANCE[dtype],
        )


def preactivations(case, intermediate):
    """Bounds of the ReLUs' inputs, in order."""
    graph = BoundGraph.from_model(golden_cases.build(case))
    edges = [n.inputs[0] for n in graph.nodes if isinstance(n.layer, _TwoPieces)]
    order = [graph.nodes.index(graph.producer(edge)) for edge in edges]
    values = list(intermediate.values())
    return [values[position] for position in order]


@each_case
def test_interval(case, dtype):
    margins, intermediate = bounds(case, dtype, "ibp")
    expect(margins, case, dtype, "ibp", "spec_elided")
    outputs, _ = bounds(case, dtype, "ibp", specification=False)
    expect(outputs, case, dtype, "ibp", "output")
    for number, bound in enumerate(preactivations(case, intermediate)):
        expect(bound, case, dtype, "ibp", "preactivation", number)


@each_case
@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_crown_ibp(case, relaxation, dtype):
    margins, _ = bounds(case, dtype, "crown-ibp", relaxation)
    expect(margins, case, dtype, "crown_ibp", relaxation, "spec")
    outputs, _ = bounds(case, dtype, "crown-ibp", relaxation, specification=False)
    expect(outputs, case, dtype, "crown_ibp", relaxation, "output")


@each_case
@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_crown(case, relaxation, dtype):
    margins, intermediate = bounds(case, dtype, "crown", relaxation)
    expect(margins, case, dtype, "crown", relaxation, "spec")
    outputs, _ = bounds(case, dtype, "crown", relaxation, specification=False)
    expect(outputs, case, dtype, "crown", relaxation, "output")
    for number, bound in enumerate(preactivations(case, intermediate)):
        expect(bound, case, dtype, "crown", relaxation, "preactivation", number)


@each_case
@pytest.mark.parametrize("method", ["crown_ibp", "crown"])
def test_final_linear_form(case, method, dtype):
    for relaxation in RELAXATIONS:
        choices = Choices(relaxation)
        graph = BoundGraph.from_model(golden_cases.build(case))
        region = golden_cases.region(case, dtype)
        if method == "crown":
            intervals = crown.crown_bounds(graph, region, (choices,), intersect=False)
        else:
            intervals = interval.interval_bounds(graph, region, choices)
        rows = tf.constant(case["C"], dtype)
        for sign, end in ((1.0, "lower"), (-1.0, "upper")):
            reached, offset = graph.propagate_backward(
                sign * rows, graph.output, intervals, choices
            )
            for number, sample in enumerate(case["expected"]):
                wanted = sample[method][relaxation]["spec_linear"]
                coefficients = sign * reached[0][number].numpy()
                np.testing.assert_allclose(
                    coefficients.reshape(len(coefficients), -1),
                    np.reshape(wanted[f"{end}_A"], (len(coefficients), -1)),
                    atol=TOLERANCE[dtype],
                )
                np.testing.assert_allclose(
                    sign * offset[number].numpy(),
                    wanted[f"{end}_b"],
                    atol=TOLERANCE[dtype],
                )


@each_case
def test_best_is_never_worse_than_any(case, dtype):
    best, _ = bounds(case, dtype, "crown", "best")
    for method, relaxation in [("ibp", "adaptive")] + [
        ("crown", relaxation) for relaxation in RELAXATIONS
    ]:
        other, _ = bounds(case, dtype, method, relaxation)
        assert (best.lower.numpy() >= other.lower.numpy() - 1e-6).all()
    for number, sample in enumerate(case["expected"]):
        if "exact" in sample:
            exact = sample["exact"]["spec"]
            assert (best.lower[number].numpy() <= np.add(exact["lower"], 1e-5)).all()
            assert (
                best.upper[number].numpy() >= np.subtract(exact["upper"], 1e-5)
            ).all()
