"""Estimates of the convex adversarial polytope by random projections."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.bounds import IntervalBound
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation import random_projections
from robust_tf.propagation.random_projections import estimated_bounds
from robust_tf.regions import dual_norm
from tests.propagation import networks

_FILE = pathlib.Path(__file__).parents[1] / "golden" / "golden_bounds.json"
ALL_EXACT = 10_000
REGIONS = {
    "cut box": ("inf", (0.0, 1.0)),
    "box": ("inf", None),
    "euclidean": (2, None),
}


def _golden():
    cases = json.loads(_FILE.read_text())["cases"]
    return next(one for one in cases if one["id"] == "K_cauchy_projection")


def _region(model, kind, radius=0.05):
    norm, valid_range = REGIONS[kind]
    inputs = networks.centers(model, dtype="float64")
    return rt.LpBall(inputs, radius, norm, valid_range)


def _seed(number=0):
    return tf.constant([7, number], tf.int64)


def test_golden_medians_and_means():
    case = _golden()
    vectors = tf.constant(case["R"], tf.float64)
    projected = vectors @ tf.transpose(tf.constant(case["W_out_in"], tf.float64))
    np.testing.assert_allclose(projected, case["projected"], atol=1e-12)
    median = random_projections.lower_median(tf.abs(projected))
    np.testing.assert_allclose(median, case["median_lower"], atol=1e-12)
    mean = random_projections.mean_square_length(projected[None])[0]
    np.testing.assert_allclose(mean, case["gaussian_l2_estimate"], atol=1e-12)
    rows = tf.constant(case["W_out_in"], tf.float64)
    np.testing.assert_allclose(dual_norm(rows, np.inf), case["exact_l1"], atol=1e-12)
    center = tf.linalg.matvec(rows, tf.constant(case["x"], tf.float64))
    reach = case["eps"] * median
    np.testing.assert_allclose(center - reach, case["ball_lower_from_median"])
    np.testing.assert_allclose(center + reach, case["ball_upper_from_median"])


def test_an_odd_number_has_one_middle():
    values = tf.constant([[3.0], [1.0], [2.0]])
    np.testing.assert_array_equal(random_projections.lower_median(values), [2.0])


@pytest.mark.parametrize("kind", REGIONS)
@pytest.mark.parametrize("name", ["mlp", "patches", "residual"])
def test_enough_projections_are_exact(name, kind):
    model = networks.converted(name, dtype="float64")
    region = _region(model, kind)
    graph = BoundGraph.from_model(model)
    found = estimated_bounds(graph, region, Choices(), ALL_EXACT, _seed())
    exact, layers = rt.compute_bounds(
        model, region, "convex-adversarial", intermediate=True
    )
    for node in graph.nodes:
        wanted = layers[node.layer.name]
        for end in ("lower", "upper"):
            np.testing.assert_allclose(
                getattr(found[node.output], end), getattr(wanted, end), atol=1e-9
            )
    whole = rt.estimate_bounds(model, region, projections=ALL_EXACT)
    np.testing.assert_allclose(whole.lower, exact.lower, atol=1e-9)
    np.testing.assert_allclose(whole.upper, exact.upper, atol=1e-9)


@pytest.mark.parametrize("kind", REGIONS)
def test_estimates_come_near(kind):
    model = networks.converted("patches", dtype="float64")
    region, graph = _region(model, kind), BoundGraph.from_model(model)
    edge = graph.nodes[2].output  # Before the second activation.
    exact = estimated_bounds(graph, region, Choices(), ALL_EXACT, _seed())[edge]
    ratios = []
    for number in range(20):
        found = estimated_bounds(graph, region, Choices(), 41, _seed(number))[edge]
        ratios.append(found.radius / exact.radius)
        np.testing.assert_allclose(found.center, exact.center, atol=1e-9)
    ratios = np.stack(ratios)
    # The standard error of a median of 41 Cauchy values is pi / 2 / sqrt(41), 0.25.
    assert 0.95 < np.median(ratios) < 1.05
    assert 0.05 < ratios.std() < 0.4
    assert ratios.min() < 1.0 < ratios.max()


def test_the_seed_decides():
    model = networks.converted("patches")
    region = rt.LpBall(networks.centers(model), 0.05)

    def lower(seed):
        return rt.estimate_bounds(model, region, projections=5, seed=seed).lower

    np.testing.assert_array_equal(lower((0, 1)), lower((0, 1)))
    assert np.abs(lower((0, 1)) - lower((0, 2))).max() > 1e-4


def test_graphs_give_the_same():
    model = networks.converted("patches")
    images = networks.centers(model)

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 7, 1])])
    def estimate(images):
        region = rt.LpBall(images, 0.03)
        return rt.estimate_bounds(model, region, projections=9).lower

    eager = rt.estimate_bounds(model, rt.LpBall(images, 0.03), projections=9).lower
    np.testing.assert_allclose(estimate(tf.constant(images)), eager, atol=1e-4)


def test_estimates_are_no_bounds():
    model = networks.converted("mlp")
    region = rt.LpBall(networks.centers(model), 0.05)
    rows = rt.margin_specification([0, 1, 2], 3)
    found = rt.estimate_bounds(model, region, rows, projections=3)
    assert not isinstance(found, IntervalBound)
    assert found.lower.shape == (3, 2)


@pytest.mark.parametrize("projections", [0, -1, 2.5, True, "50"])
def test_projections_are_counted(projections):
    model = networks.converted("mlp")
    region = rt.LpBall(networks.centers(model), 0.05)
    with pytest.raises(InputError, match="at least 1, published 50"):
        rt.estimate_bounds(model, region, projections=projections)


def test_other_norms_are_refused():
    model = networks.converted("mlp")
    region = rt.LpBall(networks.centers(model), 0.05, norm=1)
    with pytest.raises(InputError, match=r"Linf and\s+L2. Received: a ball of norm 1"):
        rt.estimate_bounds(model, region)


@pytest.mark.parametrize(
    ("name", "layer"), [("smooth", "Activation|Sigmoid"), ("convolutions", "MaxPool")]
)
def test_other_layers_are_refused(name, layer):
    model = networks.converted(name)
    region = rt.LpBall(networks.centers(model), 0.05)
    with pytest.raises(InputError, match=layer):
        rt.estimate_bounds(model, region)
