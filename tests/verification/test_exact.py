"""The stage of mixed-integer programs, on networks whose least margins are known."""

import dataclasses

import numpy as np
import pytest

import robust_tf as rt
from robust_tf.verification import exact
from robust_tf.verification import stages
from robust_tf.verification.exact import Milp
from robust_tf.verification.lp_program import Status
from robust_tf.verification.milp import find_unsafe
from robust_tf.verification.result import Claim
from robust_tf.verification.result import Verdict
from tests.verification import verifying
from tests.verification.verifying import below
from tests.verification.verifying import only
from tests.verification.verifying import row_between


@pytest.fixture(scope="module")
def frozen():
    """A network, its box, the least `y_0 - y_1` over it, and a verifier."""
    model, region, least = verifying.frozen_model("one")
    verifier = rt.Verifier(model, rt.Plan((stages.Interval(), Milp())))
    return model, region, least, verifier


def decided(frozen, unsafe):
    return only(frozen[-1].verify(frozen[1], unsafe=unsafe))


def test_proofs_rest_on_the_solver_and_give_no_margin(frozen):
    """The lower bound is the tolerance of the program, far below the margin."""
    result = decided(frozen, below(frozen[2] - 0.1, 3))
    assert result.verdict is Verdict.VERIFIED
    assert result.method == "milp"
    assert result.claim is Claim.TOLERANCE
    assert 1e-5 <= result.lower_bound < 1e-3


def test_counterexamples_are_executed(frozen):
    model, region, least, _ = frozen
    unsafe = below(least + 0.01, 3)
    result = decided(frozen, unsafe)
    verifying.assert_counterexample(model, region, unsafe, result)
    assert result.method == "milp"


@pytest.mark.parametrize("gap", [-5e-6, 0.0, 5e-6])
def test_nothing_is_proved_within_the_tolerance(frozen, gap):
    result = decided(frozen, below(frozen[2] + gap, 3))
    assert result.verdict is not Verdict.VERIFIED
    if result.verdict is Verdict.UNKNOWN:
        assert "within its tolerance of 0" in result.reason
    else:
        assert result.upper_bound <= 0.0


def test_clauses_of_two_rows(frozen):
    """Each of the rows can be unsafe by itself, not both at once."""
    middle = frozen[2] + 0.1
    rows = [row_between(3, 0, 1), row_between(3, 1, 0)]
    for gap, verdict in ((0.01, Verdict.FALSIFIED), (-0.01, Verdict.VERIFIED)):
        unsafe = rt.UnsafeSet.from_clauses([(rows, [middle, gap - middle])])
        assert decided(frozen, unsafe).verdict is verdict


def test_after_a_safe_point_one_beyond_the_tolerance_is_sought(frozen, monkeypatch):
    """A solver may stop where a row just holds, by the adversary's tolerance."""
    asked = []

    def first_gives_a_safe_point(graph, region, bounds, rows, ends, options):
        asked.append(float(ends[0]))
        found = find_unsafe(graph, region, bounds, rows, ends, options)
        if len(asked) > 1:
            return found
        safe = max(
            verifying.samples(frozen[1], 100, 1),
            key=lambda point: row @ verifying.outputs_of(frozen[0], point[None])[0],
        )
        return dataclasses.replace(found, point=safe)

    row = row_between(3, 0, 1)
    threshold = frozen[2] + 0.01
    monkeypatch.setattr(exact, "find_unsafe", first_gives_a_safe_point)
    unsafe = below(threshold, 3)
    result = decided(frozen, unsafe)
    verifying.assert_counterexample(*frozen[:2], unsafe, result)
    assert asked[0] == pytest.approx(threshold)
    assert 2e-5 <= asked[0] - asked[1] < 1e-3


@pytest.mark.parametrize("number", [1, 2])
def test_a_limit_ends_the_stage(frozen, monkeypatch, number):
    """Of the first program, or of the one after a point that turned out safe."""
    asked = []

    def limited(graph, region, bounds, rows, ends, options):
        asked.append(options.time_limit_s)
        found = find_unsafe(graph, region, bounds, rows, ends, options)
        if len(asked) < number:
            center = (frozen[1].box.lower + frozen[1].box.upper).numpy()[0] / 2
            return dataclasses.replace(found, point=center)
        return dataclasses.replace(
            found, status=Status.LIMIT, point=None, is_excluded=False
        )

    monkeypatch.setattr(exact, "find_unsafe", limited)
    result = decided(frozen, below(frozen[2] + 0.01, 3))
    assert result.verdict is Verdict.TIMEOUT
    assert len(asked) == number
    assert all(0.0 < seconds <= 3600.0 for seconds in asked)


def test_refusals():
    for wrong in ({"max_unstable": -1}, {"tightening_s": -0.5}):
        with pytest.raises(rt.InputError, match="must be at least 0"):
            Milp(**wrong)


def test_tighter_bounds_change_no_verdict(frozen):
    model, region, least, _ = frozen
    plan = rt.Plan((stages.Interval(), Milp(tightening_s=5.0)))
    verifier = rt.Verifier(model, plan)
    for gap, verdict in ((-0.01, Verdict.VERIFIED), (0.01, Verdict.FALSIFIED)):
        result = only(verifier.verify(region, unsafe=below(least + gap, 3)))
        assert result.verdict is verdict
        assert np.isfinite(result.lower_bound)
