"""Margins by branch and bound, against exact programs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation.crown import crown_bounds
from robust_tf.verification import branch_and_bound
from robust_tf.verification import stages
from robust_tf.verification.margins import MarginSearch
from robust_tf.verification.milp import minimal_margin

GAP = 0.02
PLAN = rt.Plan(
    stages=(
        stages.Clean(),
        stages.Interval(),
        stages.Crown(),
        branch_and_bound.BranchAndBound(attack=None),
    )
)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(8, activation="relu") for _ in range(2)]
    model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(3)])
    return rt.convert(model)


@pytest.fixture(scope="module")
def region():
    points = np.random.default_rng(0).normal(size=(2, 3))
    return rt.LpBall(points, 0.6, valid_range=None)


def exact(model, region, labels):
    graph, found = BoundGraph.from_model(model), []
    rows = rt.margin_specification(labels, 3, tf.float64).numpy()
    for place, row in enumerate(rows):
        one = rt.LpBall(region.x[place : place + 1], region.radius, valid_range=None)
        bounds = crown_bounds(graph, one, (Choices(),))
        found.append([minimal_margin(graph, one, bounds, r).value for r in row])
    return np.asarray(found)


def test_margins_end_within_the_gap_of_the_minimum(network, region):
    labels = tf.constant([0, 2])
    rows = rt.margin_specification(labels, 3, tf.float64)
    known = rt.compute_bounds(network, region, "crown", rows).lower.numpy()
    found = MarginSearch(PLAN, 600.0, GAP)(network, region, labels, known)
    expected = exact(network, region, labels)
    assert (found <= expected + 1e-9).all()
    assert (expected - found <= 2.0 * GAP).all()
    assert (found > known + 0.01).any()  # There was something to find.


def test_without_time_margins_stay_what_they_were(network, region):
    labels = tf.constant([0, 2])
    known = np.full([2, 2], -50.0)
    found = MarginSearch(PLAN, timeout_s=1e-9)(network, region, labels, known)
    np.testing.assert_array_equal(found, known)


@pytest.mark.parametrize("options", [{"timeout_s": 0.0}, {"gap": -1.0}])
def test_bad_options_are_refused(options):
    with pytest.raises(rt.InputError, match="must be above 0"):
        MarginSearch(**options)
