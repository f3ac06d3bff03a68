"""Domains whose neurons are all decided, by linear programs."""

import dataclasses

import numpy as np
import pytest

import robust_tf as rt
from robust_tf.propagation.ascent import Ascent
from robust_tf.verification import leaves
from robust_tf.verification.result import Verdict
from tests.verification import verifying
from tests.verification.verifying import FALSIFIED
from tests.verification.verifying import VERIFIED
from tests.verification.verifying import Bench
from tests.verification.verifying import assert_counterexample
from tests.verification.verifying import below
from tests.verification.verifying import logits_at
from tests.verification.verifying import searched
from tests.verification.verifying import slow


@pytest.fixture(scope="module")
def small():
    bench = Bench((2, 6, 3))
    bench.randomize(3)
    bench.region = rt.Box(
        np.full([1, 2], -1.0, "float32"), np.full([1, 2], 1.0, "float32")
    )
    return bench


class TestLeaves:
    """Networks of one hidden layer, whose leaves are quickly reached."""

    weak = {"ascent": Ascent(iterations=1), "slope_rate": 1e-30, "batch_size": 64}

    def options(self):
        """A search that finds no slopes or multipliers, so that leaves decide."""
        return self.weak | {"multiplier_rate": 1e-30}

    @pytest.mark.parametrize("shift", [slow(1e-2), 1e-4, slow(1e-6)])
    def test_leaves_decide_what_the_search_does_not(self, small, shift):
        points = verifying.grid_of(small.region, 1001)
        least = (logits_at(small, points) @ [1.0, 0.0, -1.0]).min()
        for _ in range(2):  # The grid's least point, then the search's own.
            unsafe = below(least - 1e-2, 3, 0, 2)
            result = searched(small, unsafe, **self.options())
            assert result.verdict in (VERIFIED, FALSIFIED)
            least = min(least, least - 1e-2 + result.upper_bound)
        # Bisection, down to float32's own steps.
        low, high = least - 1e-2, least
        while high - low > 1e-7:
            middle = (low + high) / 2
            verdict = searched(small, below(middle, 3, 0, 2), **self.options()).verdict
            if verdict is Verdict.UNKNOWN:
                break
            low, high = (middle, high) if verdict is VERIFIED else (low, middle)
        assert high - low < 1e-5
        result = searched(small, below(low - shift, 3, 0, 2), **self.options())
        assert result.verdict is VERIFIED
        assert 0.0 < result.lower_bound <= shift + 1e-5
        unsafe = below(high + shift, 3, 0, 2)
        result = searched(small, unsafe, **self.options())
        assert_counterexample(small.model, small.region, unsafe, result)

    def clause(self, small, shift):
        """Two rows that no leaf excludes one by one, but always together."""
        logits = logits_at(small, verifying.grid_of(small.region, 1001))
        logits = logits.astype("float64")
        rows = [verifying.row_between(3, 0, 1), verifying.row_between(3, 1, 0)]
        middle = np.median(logits @ rows[0])
        # -width <= y_0 - y_1 - middle <= -width - shift: nothing is both.
        return rt.UnsafeSet.from_clauses(
            [(rows, [middle - shift / 2, -middle - shift / 2])]
        )

    def test_rows_that_exclude_each_other(self, small):
        for shift in (1e-1, 1e-3, 1e-5):
            unsafe = self.clause(small, shift)
            result = searched(small, unsafe, **self.options())
            assert result.verdict is VERIFIED, result
            assert 0.0 < result.lower_bound <= shift / 2 + 1e-12
            unsafe = self.clause(small, -shift)
            result = searched(small, unsafe, **self.options())
            assert_counterexample(small.model, small.region, unsafe, result)

    def test_joint_thresholds_on_both_sides(self, small):
        """Two rows over a grid: the least of their greater margin."""
        logits = logits_at(small, verifying.grid_of(small.region, 1001))
        rows = np.array([[1.0, -1.0, 0.2], [-0.4, 1.0, -1.0], [0.1, 0.3, 1.0]])
        margins = logits.astype("float64") @ rows.T
        ends = np.quantile(margins, 0.3, axis=0)
        least = (margins - ends).max(-1).min()
        for shift in (2e-3,):
            unsafe = rt.UnsafeSet.from_clauses([(rows, ends + least - shift)])
            result = searched(small, unsafe, **self.options())
            assert result.verdict is VERIFIED
            assert 0.0 < result.lower_bound <= shift + 1e-6
            unsafe = rt.UnsafeSet.from_clauses([(rows, ends + least + shift)])
            result = searched(small, unsafe, **self.options())
            assert_counterexample(small.model, small.region, unsafe, result)

    def test_tie_is_never_proved(self, small):
        """Opposite rows with one threshold: equality is reached, and is unsafe."""
        result = searched(small, self.clause(small, 0.0), **self.options())
        assert result.verdict is not VERIFIED

    def test_infeasible_leaf_counts_by_its_bound_alone(self, small, monkeypatch):
        """Where the solver calls leaves infeasible, its word is not enough."""
        solve = leaves.lp_bound

        def lying(*args):
            found = solve(*args)
            return dataclasses.replace(
                found, status=leaves.Status.INFEASIBLE, bound=-1.0, value=np.inf
            )

        points = verifying.grid_of(small.region)
        least = (logits_at(small, points) @ [1.0, 0.0, -1.0]).min()
        unsafe = below(least - 0.05, 3, 0, 2)
        assert searched(small, unsafe, **self.options()).verdict is VERIFIED
        monkeypatch.setattr(leaves, "lp_bound", lying)
        result = searched(small, unsafe, **self.options())
        assert result.verdict is Verdict.UNKNOWN
        assert "leaf" in result.reason
