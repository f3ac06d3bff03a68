"""Least perturbations, against exhaustive enumeration and bisection."""

import keras
import numpy as np
import pytest

import robust_tf as rt
from robust_tf.bounds import IntervalBound
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.verification import milp_perturbation
from robust_tf.verification.encoding import Encoding
from robust_tf.verification.lp_program import SolverOptions
from robust_tf.verification.lp_program import Status
from robust_tf.verification.milp import minimal_margin
from robust_tf.verification.milp_euclidean import EuclideanColumn
from robust_tf.verification.milp_euclidean import nearest_unsafe
from robust_tf.verification.milp_perturbation import minimal_perturbation
from tests.propagation import margin_cases as margins
from tests.verification import lp_cases as cases

GOLDEN = [
    (net, name)
    for net, name in margins.names()
    if "min_adv" in margins.case_of(net, name)
]
EACH = pytest.mark.parametrize(
    ("net", "name"), GOLDEN, ids=[f"{net}-{name}" for net, name in GOLDEN]
)
LEAST = {"inf": np.max, "1": np.sum, "2": np.linalg.norm}


def golden_graph(net):
    return BoundGraph.from_model(margins.network(net))


def sought(graph, center, radius, norm, valid_range, label, options=None, **more):
    ball = rt.LpBall(center, radius, norm, valid_range)
    bounds = cases.crown(graph, ball)
    return minimal_perturbation(graph, ball, bounds, label, options, **more)


def check_golden(net, name, norm):
    """The least distance, with and without the unit box, and what reaches it."""
    graph, case = golden_graph(net), margins.case_of(net, name)
    inputs, _ = margins.points(net, [case])
    center, label = inputs.numpy()[0], case["label"]
    for box, valid_range in (("box01", (0.0, 1.0)), ("no_box", None)):
        expected = case["min_adv"][box][norm]
        least = expected["enumeration"]
        found = sought(graph, center[None], least * 1.2, norm, valid_range, label)
        assert found.status is Status.OPTIMAL
        assert found.distance == pytest.approx(least, abs=1e-6)
        assert found.target == expected["target"]
        assert found.lower_bound <= least
        assert found.lower_bound >= least - 3e-6
        logits = cases.values_on(graph, found.point[None])[graph.output].numpy()[0]
        assert logits[found.target] == pytest.approx(logits[label], abs=1e-5)
        away = np.abs(found.point - center).ravel()
        assert LEAST[norm](away) == pytest.approx(found.distance, abs=1e-12)
        if valid_range:
            assert 0.0 <= found.point.min() <= found.point.max() <= 1.0
        assert (found.num_cuts > 0) == (norm == "2")


@EACH
@pytest.mark.parametrize("norm", ["inf", "1"])
def test_least_perturbations(net, name, norm):
    check_golden(net, name, norm)


@pytest.mark.parametrize(
    ("net", "name"), [pair for pair in GOLDEN if pair[0] == "fc_net"]
)
def test_least_perturbations_in_l2(net, name):
    check_golden(net, name, "2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "name"), [pair for pair in GOLDEN if pair[0] != "fc_net"]
)
def test_least_perturbations_in_l2_of_convolutions(net, name):
    check_golden(net, name, "2")


def test_nothing_within_the_radius():
    graph, case = golden_graph("fc_net"), margins.case_of("fc_net", "A")
    center = np.array(case["x"])[None]
    for norm in ("inf", "1", "2"):
        radius = case["min_adv"]["box01"][norm]["enumeration"] * 0.99
        found = sought(graph, center, radius, norm, (0.0, 1.0), case["label"])
        assert found.status is Status.OPTIMAL
        assert found.lower_bound == radius
        assert found.point is None
        assert found.target is None
        assert np.isinf(found.distance)


def test_perturbation_limits_and_misclassified():
    graph, case = golden_graph("fc_net"), margins.case_of("fc_net", "A")
    center = np.array(case["x"])[None]
    options = SolverOptions(time_limit_s=0.0)
    for norm in ("inf", "1", "2"):
        arguments = (graph, center, 0.3, norm, (0.0, 1.0))
        found = sought(*arguments, case["label"], options)
        assert found.status is Status.LIMIT
        assert found.lower_bound == 0.0
        found = sought(*arguments, 1)  # Another class wins.
        assert found.distance == pytest.approx(0.0, abs=1e-9)
        assert found.lower_bound == 0.0
    with pytest.raises(InputError, match="Linf balls and L1 balls"):
        sought(graph, center, 0.3, 3, None, case["label"])
    with pytest.raises(InputError, match="sought in an `LpBall`"):
        region = rt.Box(center, center)
        minimal_perturbation(graph, region, {0: IntervalBound(center, center)}, 0)


def test_bounds_in_l2_hold_at_every_stage(monkeypatch):
    """By cuts at solutions alone: ever nearer to the least distance from below."""
    graph, case = golden_graph("fc_net"), margins.case_of("fc_net", "F")
    center, label = np.array(case["x"])[None], case["label"]
    least = case["min_adv"]["no_box"]["2"]["enumeration"]
    monkeypatch.setattr(milp_perturbation, "nearest_unsafe", lambda *_: None)
    lower = [0.98 * least]
    for most in (0, 1, 4):
        found = sought(graph, center, 0.3, "2", None, label, max_cuts=most)
        assert found.status is Status.LIMIT
        assert found.num_cuts == most
        assert found.distance >= least - 1e-9
        lower.append(found.lower_bound)
    assert (np.diff(lower) > 0.0).all()
    assert lower[-1] < least


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_the_column_is_a_close_lower_bound_of_the_distance(size):
    """Every point stays, and a cut makes the column exact there."""
    rng = np.random.default_rng(size)
    inputs = keras.Input((size,), **cases.FLOAT64)
    outputs = cases.relu()(cases.random_dense(rng, size, 2)(inputs))
    graph = cases.converted(inputs, cases.random_dense(rng, 2, 2)(outputs))
    center = rng.uniform(size=size)
    region = rt.Box(center[None] - 1.0, center[None] + 1.0)
    for _ in range(3):
        encoding = Encoding(graph, region, cases.crown(graph, region))
        column = EuclideanColumn(encoding, center, np.sqrt(size))
        point = center + rng.uniform(-1.0, 1.0, size)
        units = encoding.neurons(0, np.arange(size))
        encoding.at_most("not above", units + -point)
        encoding.at_most("not below", -units + point)
        distance = np.linalg.norm(point - center)
        for is_cut in (False, True):
            found = encoding.program.minimize(column.objective, SolverOptions())
            assert found.value <= distance + 1e-8
            assert found.value >= (1.0 - 1e-8 if is_cut else 0.98) * distance
            column.cut(center)  # Says nothing.
            column.cut(point)
        assert column.num_cuts == 2


def test_pooling_has_no_exact_points():
    """Cuts at solutions alone are left, as regions are no polyhedra of inputs."""
    graph = cases.pooling_net(is_global=True)
    region = cases.box_around(graph, 0.5)
    bounds, row = cases.crown(graph, region), cases.row_over(graph)
    center = region.box.center.numpy()[0]
    assert nearest_unsafe(graph, region, bounds, row, center, center) is None


def test_the_nearest_unsafe_point_of_a_linear_region():
    """The foot of the perpendicular, where region and box hold it; else further."""
    graph, case = (
        golden_graph("fc_net"),
        margins.case_of("fc_net", "G_flat_region_exact"),
    )
    center = np.array(case["x"])
    region = rt.Box(center[None] - 0.1, center[None] + 0.1)
    bounds = cases.crown(graph, region)
    num_reached = 0
    for other in {0, 1, 2} - {case["label"]}:
        row = cases.row_over(graph, case["label"], other)
        gradient = np.array(case["V_logits"]) @ row
        margin = cases.margin_at(graph, center, row)
        found = nearest_unsafe(graph, region, bounds, row, center, center)
        wanted = center - margin / (gradient @ gradient) * gradient
        is_reached = (
            np.abs(wanted - center).max() <= 0.1
            and abs(cases.margin_at(graph, wanted, row)) <= 1e-12
        )
        num_reached += is_reached
        if is_reached:
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)
        if found is not None:
            assert cases.margin_at(graph, found, row) <= 1e-9
            lengths = [np.linalg.norm(one - center) for one in (found, wanted)]
            assert lengths[0] >= lengths[1] - 1e-9
    assert num_reached


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
