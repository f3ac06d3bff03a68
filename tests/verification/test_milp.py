"""Exact margins, against known values, samples and thresholds."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.errors import InputError
from robust_tf.graph import Choices
from robust_tf.propagation.interval import interval_bounds
from robust_tf.propagation.interval import interval_margins
from robust_tf.verification.lp_bounds import lp_bound
from robust_tf.verification.lp_program import SolverOptions
from robust_tf.verification.lp_program import Status
from robust_tf.verification.milp import find_unsafe
from robust_tf.verification.milp import minimal_margin
from tests.verification import lp_cases as cases

each_frozen = pytest.mark.parametrize("name", cases.FROZEN)


@each_frozen
def test_frozen_networks(name):
    graph, region, bounds = cases.frozen(name)
    row, expected = cases.row_over(graph), cases.FROZEN[name][3:]
    rows, choices = tf.constant(row[None, None]), Choices()
    ibp = interval_bounds(graph, region, choices)
    relaxed = lp_bound(graph, region, bounds, row)
    exact = minimal_margin(graph, region, bounds, row)
    actual = (
        float(interval_margins(graph, region, ibp, rows, choices)[0, 0]),
        cases.crown_margin(graph, region, ibp, row),
        cases.crown_margin(graph, region, bounds, row),
        relaxed.value,
        exact.value,
    )
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    assert exact.status is relaxed.status is Status.OPTIMAL
    assert relaxed.bound == pytest.approx(relaxed.value, abs=1e-9)
    assert exact.dual_bound == pytest.approx(exact.value, abs=1e-5)
    attained = cases.margin_at(graph, exact.point, row)
    assert attained == pytest.approx(exact.value, abs=1e-5)
    least = cases.margins_at(graph, cases.samples(region, 100_000), row).min()
    assert exact.value <= least + 1e-6


@pytest.mark.parametrize("name", ["one", "four"])
def test_thresholds_decide(name):
    graph, region, bounds = cases.frozen(name)
    row, exact = cases.row_over(graph), cases.FROZEN[name][-1]
    for threshold, is_excluded in ((exact - 0.01, True), (exact + 0.01, False)):
        arguments = (graph, region, bounds)
        by_margin = minimal_margin(*arguments, row, threshold)
        by_clause = find_unsafe(*arguments, [row], [threshold])
        for found in (by_margin, by_clause):
            assert found.is_excluded is is_excluded
        assert by_margin.value == pytest.approx(exact - threshold, abs=1e-5)
        if is_excluded:
            assert by_clause.status is Status.INFEASIBLE
            assert by_clause.point is None
        else:
            assert cases.margin_at(graph, by_clause.point, row) <= threshold + 1e-4
            assert cases.margin_at(graph, by_margin.point, row) <= threshold


def test_ties_are_never_excluded():
    graph, region, bounds = cases.frozen("one")
    row = cases.row_over(graph)
    exact = minimal_margin(graph, region, bounds, row).value
    for gap in (0.0, 1e-9, 1e-7, 1e-6, 1e-5):
        found = minimal_margin(graph, region, bounds, row, exact - gap)
        assert found.tolerance >= 1e-5
        assert not found.is_excluded
        clause = find_unsafe(graph, region, bounds, [row], [exact - gap])
        assert not clause.is_excluded


def test_clauses_of_two_rows():
    # Each row alone can hold; whether both do is seen from their least maximum.
    graph, region, bounds = cases.frozen("one")
    rows = np.array([cases.row_over(graph, 0, 1), cases.row_over(graph, 1, 0)])
    # y_0 - y_1 <= a and y_1 - y_0 <= b: at once only where -b <= a.
    low = minimal_margin(graph, region, bounds, rows[0]).value
    high = -minimal_margin(graph, region, bounds, rows[1]).value
    middle = (low + high) / 2
    for a, b, is_excluded in (
        (middle, -middle + 0.01, False),
        (middle, -middle - 0.01, True),
        (low - 0.01, -low + 1.0, True),
    ):
        found = find_unsafe(graph, region, bounds, rows, [a, b])
        assert found.is_excluded is is_excluded
        if not is_excluded:
            values = (
                rows
                @ cases.values_on(graph, found.point[None])[graph.output]
                .numpy()
                .ravel()
            )
            assert (values <= np.array([a, b]) + 1e-4).all()
            assert found.value <= found.tolerance + 1e-6
    for row, threshold in zip(rows, (middle, -middle - 0.01), strict=True):
        assert not find_unsafe(graph, region, bounds, [row], [threshold]).is_excluded


def test_limits_prove_nothing_beyond_their_bound():
    graph, region, bounds = cases.frozen("three")
    row, exact = cases.row_over(graph), cases.FROZEN["three"][-1]
    options = SolverOptions(time_limit_s=0.0)
    for threshold in (-10.0, 0.0):
        found = minimal_margin(graph, region, bounds, row, threshold, options)
        assert found.status is Status.LIMIT
        assert found.dual_bound == -np.inf
        assert found.point is None
        assert not found.is_excluded
        clause = find_unsafe(graph, region, bounds, [row], [threshold], options)
        assert clause.status is Status.LIMIT
        assert not clause.is_excluded
    options = SolverOptions(node_limit=2)
    for threshold, is_excluded in ((exact - 1.5, True), (exact - 0.01, False)):
        found = minimal_margin(graph, region, bounds, row, threshold, options)
        assert found.status is Status.LIMIT
        assert found.is_excluded is is_excluded
        lower = found.dual_bound + threshold
        assert cases.FROZEN["three"][-2] - 1e-5 <= lower <= exact
        attained = cases.margin_at(graph, found.point, row)
        assert attained == pytest.approx(found.value + threshold, abs=1e-4)


def test_wrong_rows():
    graph, region, bounds = cases.frozen("one")
    for rows, thresholds in (([[1.0, 0.0]], [0.0]), ([[1.0, 0.0, 0.0]], [0.0, 1.0])):
        with pytest.raises(InputError, match="Rows over the outputs"):
            find_unsafe(graph, region, bounds, rows, thresholds)


def trigger_net(weight):
    """A classifier of one pixel whose trigger cancels between great numbers."""
    inputs = keras.Input((1,), **cases.FLOAT64)
    layers = [
        ([[-20.0]], [1.0]),
        ([[-2.0, 0.0]], [1.0, 1.0]),
        ([[weight], [-weight]], [1e-3]),
        ([[1e3, -2e3]], [0.0, 1.0]),
    ]
    tensor = inputs
    for kernel, bias in layers:
        tensor = cases.relu()(cases.dense(kernel, np.array(bias))(tensor))
    kernel = np.array([[1.0, -1.0], [-1.0, 1.0]])
    return cases.converted(inputs, cases.dense(kernel, np.zeros(2))(tensor))


@pytest.mark.parametrize("weight", [1e6, 1e9, 1e17])
def test_cancellation_is_no_proof(weight):
    # The order of the logits changes at t = 0.05, so that nothing can be excluded.
    region = rt.Box(np.zeros((1, 1)), np.full((1, 1), 0.2))
    graph = trigger_net(weight)
    bounds = cases.crown(graph, region)
    for classes, point in (((0, 1), 0.0), ((1, 0), 0.2)):
        row = cases.row_over(graph, *classes)
        if weight < 1e16:  # Then float64 still executes it.
            assert cases.margin_at(graph, np.array([point]), row) < -0.5
        assert not minimal_margin(graph, region, bounds, row).is_excluded
        assert not find_unsafe(graph, region, bounds, [row], [0.0]).is_excluded
