"""Linear relaxations and the backward passes that repeat them."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.errors import InputError
from robust_tf.verification import lp_bounds
from robust_tf.verification.lp_bounds import leaf_bound
from robust_tf.verification.lp_bounds import lp_bound
from robust_tf.verification.lp_program import SolverOptions
from robust_tf.verification.lp_program import Status
from robust_tf.verification.lp_tightening import tighten_bounds
from robust_tf.verification.milp import minimal_margin
from tests.verification import lp_cases as cases

NETS = {
    "conv": (cases.conv_net, 0.2, 0.0),
    "residual": (cases.residual_net, 0.3, 0.0),
    "leaky": (cases.leaky_net, 0.4, 0.25),
}
each_net = pytest.mark.parametrize("name", NETS)


def prepared(name):
    make, radius, leak = NETS[name]
    graph = make()
    region = cases.box_around(graph, radius)
    return graph, region, cases.crown(graph, region), leak


@each_net
def test_backward_pass_repeats_the_relaxation(name):
    graph, region, bounds, leak = prepared(name)
    for first, second in itertools.permutations(range(3), 2):
        row = cases.row_over(graph, first, second)
        found = lp_bound(graph, region, bounds, row)
        assert found.bound == pytest.approx(found.value, abs=1e-8)
        assert found.bound > cases.crown_margin(graph, region, bounds, row)
        for slope in found.choices.lower_slopes.values():
            assert slope.numpy().min() >= leak
            assert slope.numpy().max() <= 1.0


@pytest.mark.parametrize("is_global", [False, True])
def test_backward_pass_of_pooling_is_a_bound(is_global):
    graph = cases.pooling_net(is_global=is_global)
    region = cases.box_around(graph, 0.2)
    bounds, row = cases.crown(graph, region), cases.row_over(graph)
    found = lp_bound(graph, region, bounds, row)
    exact = minimal_margin(graph, region, bounds, row)
    least = cases.margins_at(graph, cases.samples(region), row).min()
    assert max(found.value, found.bound) <= exact.value + 1e-6 <= least + 2e-6


def single_splits(graph, bounds):
    """All splits of one unstable neuron."""
    for edge in graph.inputs_of(rt.layers.ReLU):
        ends = (bounds[edge].lower.numpy(), bounds[edge].upper.numpy())
        for number in np.flatnonzero((ends[0] < 0.0) & (ends[1] > 0.0)):
            for sign in (1, -1):
                signs = np.zeros(graph.shapes[edge], int)
                signs.flat[number] = sign
                yield {edge: signs}


@pytest.mark.parametrize("name", ["one", "four"])
def test_every_single_split(name):
    graph, region, bounds = cases.frozen(name)
    row = cases.row_over(graph)
    whole = lp_bound(graph, region, bounds, row)
    gains, wrong = [], []
    for splits in single_splits(graph, bounds):
        found = lp_bound(graph, region, bounds, row, splits=splits)
        assert found.status is Status.OPTIMAL
        assert found.bound == pytest.approx(found.value, abs=1e-8)
        gains.append(found.bound - whole.bound)
        ((edge, multiplier),) = found.choices.multipliers.items()
        assert (multiplier.numpy() * splits[edge] >= 0.0).all()
        if multiplier.numpy().any():
            flipped = dataclasses.replace(
                found.choices, multipliers={edge: -multiplier}
            )
            backward_pass = lp_bounds.plain_pass(graph, region)
            rows = tf.constant(row[None, None])
            wrong.append(
                float(backward_pass(rows, graph.output, found.bounds, flipped)[0, 0])
                - found.value
            )
    assert min(gains) >= -1e-8
    assert max(gains) > 0.01
    assert len(wrong) >= 4
    assert max(np.abs(wrong)) > 1e-3  # The sign matters: this is not the bound.


def test_splits_against_exact_and_children_cover_the_parent():
    graph, region, bounds = cases.frozen("one")
    row = cases.row_over(graph)
    parent = minimal_margin(graph, region, bounds, row).value
    singles = list(single_splits(graph, bounds))
    for positive, negative in zip(singles[::2], singles[1::2], strict=True):
        children = []
        for splits in (positive, negative):
            exact = minimal_margin(graph, region, bounds, row, splits=splits)
            relaxed = lp_bound(graph, region, bounds, row, splits=splits)
            assert relaxed.bound <= exact.value + 1e-6
            children.append(exact.value)
        assert min(children) == pytest.approx(parent, abs=1e-5)


class TestLeaves:
    """All sign patterns of networks with one hidden layer."""

    def leaves(self, leak):
        graph = cases.leaky_net(21, leak, (2, 5, 3))
        region = cases.box_around(graph, 0.9)
        bounds = cases.crown(graph, region)
        edge = graph.nodes[0].output
        low, high = bounds[edge].lower.numpy()[0], bounds[edge].upper.numpy()[0]
        choices = [
            (1, -1) if least < 0.0 < most else (1 if least >= 0.0 else -1,)
            for least, most in zip(low, high, strict=True)
        ]
        for signs in itertools.product(*choices):
            yield graph, region, bounds, {edge: np.array(signs)}

    @pytest.mark.parametrize("leak", [0.0, 0.25])
    def test_against_enumeration(self, leak):
        counts = {Status.OPTIMAL: 0, Status.INFEASIBLE: 0}
        for graph, region, bounds, splits in self.leaves(leak):
            row = cases.row_over(graph)
            ((_, signs),) = splits.items()
            expected = cases.enumerated(graph, region, row, leak, signs)
            found = leaf_bound(graph, region, bounds, row, splits=splits)
            counts[found.status] += 1
            if np.isinf(expected):
                assert found.status is Status.INFEASIBLE
                assert found.point is None
                assert found.bound > 0.0
                continue
            assert found.value == pytest.approx(expected, abs=1e-7)
            assert found.bound == pytest.approx(expected, abs=1e-7)
            attained = cases.margin_at(graph, found.point, row)
            assert attained == pytest.approx(expected, abs=1e-7)
        assert min(counts.values()) >= 3

    def test_high_thresholds_are_passed_by_contradictions_alone(self):
        for graph, region, bounds, splits in self.leaves(0.0):
            row = cases.row_over(graph)
            found = leaf_bound(graph, region, bounds, row, 1e3, splits)
            assert (found.bound > 0.0) == (found.status is Status.INFEASIBLE)

    def test_a_failing_solver_leaves_a_bound(self):
        graph, region, bounds = cases.frozen("one")
        row = cases.row_over(graph)
        options = SolverOptions(time_limit_s=0.0)
        found = lp_bound(graph, region, bounds, row, options=options)
        assert found.status is not Status.OPTIMAL
        assert np.isnan(found.value)
        assert found.bound <= cases.FROZEN["one"][-1]

    def test_undecided_neurons(self):
        graph, region, bounds = cases.frozen("one")
        with pytest.raises(InputError, match="undecided neurons by layer"):
            leaf_bound(graph, region, bounds, cases.row_over(graph))


class TestTightening:
    @pytest.mark.parametrize("name", ["conv", "residual", "leaky"])
    def test_bounds_hold_and_shrink(self, name):
        graph, region, bounds, _ = prepared(name)
        tightened = tighten_bounds(graph, region, bounds)
        values = cases.values_on(graph, cases.samples(region))
        gain = 0.0
        for edge, interval in tightened.items():
            low, high = interval.lower.numpy(), interval.upper.numpy()
            assert (low <= values[edge].numpy().min(0) + 1e-9).all()
            assert (high >= values[edge].numpy().max(0) - 1e-9).all()
            assert (low >= bounds[edge].lower.numpy() - 1e-12).all()
            assert (high <= bounds[edge].upper.numpy() + 1e-12).all()
            gain += float(tf.reduce_sum(bounds[edge].radius - interval.radius))
        assert gain > 0.05

    def test_ends_are_those_of_the_relaxation(self):
        graph, region, bounds = cases.frozen("two")
        tightened = tighten_bounds(graph, region, bounds)
        edge = graph.inputs_of(rt.layers.ReLU)[1]
        encoding = lp_bounds.Encoding(graph, region, bounds, True, edge=edge)
        is_stable = (bounds[edge].lower * bounds[edge].upper).numpy()[0] >= 0.0
        for sign, end, better in ((1, "lower", max), (-1, "upper", min)):
            old, actual = (
                getattr(one[edge], end).numpy()[0] for one in (bounds, tightened)
            )
            rows = encoding.rows(edge, sign * np.eye(10))
            for number, objective in enumerate(rows.matrix.toarray()):
                found = encoding.program.minimize_relaxed(objective, SolverOptions())
                expected = sign * (found.value + rows.constant[number])
                expected = better(expected, old[number])
                if is_stable[number]:
                    expected = old[number]
                assert actual[number] == pytest.approx(expected, abs=1e-8)

    def test_the_margin_gains(self):
        graph, region, bounds = cases.frozen("three")
        row = cases.row_over(graph)
        tightened = tighten_bounds(graph, region, bounds)
        before, after = (
            lp_bound(graph, region, one, row).bound for one in (bounds, tightened)
        )
        assert before + 0.1 < after <= cases.FROZEN["three"][-1]

    def test_no_time(self):
        graph, region, bounds = cases.frozen("two")
        tightened = tighten_bounds(graph, region, bounds, time_limit_s=0.0)
        for edge, interval in bounds.items():
            assert tightened[edge] is interval

    def test_bounds_come_from_the_given_pass(self):
        graph, region, bounds = cases.frozen("two")
        plain = lp_bounds.plain_pass(graph, region)

        def cautious(rows, edge, bounds, choices):
            return plain(rows, edge, bounds, choices) - 0.01

        edge = graph.inputs_of(rt.layers.ReLU)[1]
        one, other = (
            tighten_bounds(graph, region, bounds, backward_pass=one)[edge]
            for one in (plain, cautious)
        )
        gap = (one.lower - other.lower).numpy().max()
        assert 0.005 < gap <= 0.01 + 1e-12

        def useless(rows, edge, bounds, choices):
            return plain(rows, edge, bounds, choices) - 100.0

        unchanged = tighten_bounds(graph, region, bounds, backward_pass=useless)[edge]
        np.testing.assert_array_equal(unchanged.lower, bounds[edge].lower)
        np.testing.assert_array_equal(unchanged.upper, bounds[edge].upper)
