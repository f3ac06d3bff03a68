"""The ladder: verdicts against exact margins, grids and samples."""

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.verification import stages
from robust_tf.verification.result import Claim
from robust_tf.verification.result import Verdict
from robust_tf.verification.verify import counts
from tests.verification import verifying
from tests.verification.verifying import FALSIFIED
from tests.verification.verifying import SEARCH
from tests.verification.verifying import SOON
from tests.verification.verifying import VERIFIED
from tests.verification.verifying import assert_counterexample
from tests.verification.verifying import below
from tests.verification.verifying import only
from tests.verification.verifying import predictions


class TestFrozen:
    """Networks in float64 whose exact margins are known."""

    def decided(self, name):
        model, region, exact = verifying.frozen_model(name)
        plan = rt.Plan((stages.Clean(), stages.Interval(), SEARCH))
        verifier = rt.Verifier(model, plan)
        for shift in (-1e-2, 1e-2, -1e-4, 1e-4):
            unsafe = below(exact + shift, model.output_shape[-1])
            result = only(verifier.verify(region, timeout_s=SOON, unsafe=unsafe))
            if shift < 0.0:
                assert result.verdict is VERIFIED
                assert result.claim is Claim.SOUND
                assert 0.0 < result.lower_bound <= -shift + 1e-6
            else:
                assert_counterexample(model, region, unsafe, result)
                assert result.lower_bound <= -shift + 1e-6 <= result.upper_bound + 2e-6

    @pytest.mark.parametrize("name", ["one", "three"])
    def test_thresholds_on_both_sides(self, name):
        self.decided(name)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["two", "four", "five"])
    def test_the_other_networks(self, name):
        self.decided(name)


class TestLadder:
    def test_later_stages_prove_what_earlier_ones_do(self, bench):
        bench.randomize(5)
        rng = np.random.default_rng(6)
        points = rng.uniform(size=(24, 4)).astype("float32")
        labels = predictions(bench.model, points)
        radii = np.linspace(0.005, 0.12, 24).astype("float32")
        region = rt.LpBall(points, radii)
        task = bench.task(region, rt.UnsafeSet.misclassified(labels, 3, tf.float64))
        stages.Attack(verifying.QUICK).run(task, list(range(24)))
        is_attacked = [result is not None for result in task.results]
        found = bench.lower_bounds(task, verifying.cheap_stages())
        proved = [(lower > 0.0).all(-1) for lower in found.values()]
        for one, other in zip(proved, proved[1:], strict=False):
            assert (other >= one).all()
        assert 0 < proved[0].sum() < proved[-1].sum() < 24
        assert 0 < np.sum(is_attacked) < 24
        assert not (proved[-1] & is_attacked).any()

    def test_ladder_decides_everything(self, model, ladder, centers):
        labels = predictions(model, centers)
        radii = np.linspace(0.002, 0.25, 24).astype("float32")
        region = rt.LpBall(centers, radii)
        results = ladder.verify(region, labels, SOON)
        unsafe = rt.UnsafeSet.misclassified(labels, 3)
        for index, result in enumerate(results):
            assert result.verdict in (VERIFIED, FALSIFIED)
            assert result.prediction == labels[index]
            assert result.lower_bound <= result.upper_bound
            if result.verdict is FALSIFIED:
                assert_counterexample(model, region, unsafe, result, index)
                continue
            assert result.claim is Claim.SOUND
            assert result.counterexample is None
            assert result.lower_bound > 0.0
            points = verifying.samples(region, 500, index, index).astype("float32")
            outputs = verifying.outputs_of(model, points)
            margins = verifying.clause_margins(unsafe, outputs, index)
            assert margins.min() >= result.lower_bound - 1e-5
        found = {result.method for result in results}
        assert found >= {"ibp", "attack"}
        assert counts(results)["VERIFIED"] >= 6
        assert counts(results)["FALSIFIED"] >= 6

    def test_same_seed_same_answers(self, model, ladder, centers):
        labels = predictions(model, centers)
        region = rt.LpBall(centers[:10], 0.15)
        first, second = (
            ladder.verify(region, labels[:10], SOON, seed=4) for _ in range(2)
        )
        assert any(result.domains for result in first)
        for one, other in zip(first, second, strict=True):
            assert (one.verdict, one.method) == (other.verdict, other.method)
            assert one.domains == other.domains
            assert one.lower_bound == other.lower_bound
            np.testing.assert_array_equal(one.counterexample, other.counterexample)

    def test_labels_and_unsafe_sets(self, model, ladder, centers):
        labels = predictions(model, centers)
        region = rt.LpBall(centers[:6], 0.15)
        unsafe = rt.UnsafeSet.misclassified(labels[:6], 3)
        for one, other in zip(
            ladder.verify(region, labels[:6], SOON),
            ladder.verify(region, timeout_s=SOON, unsafe=unsafe),
            strict=True,
        ):
            assert (one.verdict, one.method) == (other.verdict, other.method)
            assert one.lower_bound == other.lower_bound

    def test_converted_models_and_batches(self, model, centers):
        plan = rt.Plan((stages.Clean(), stages.Interval()), batch_size=4)
        region = rt.LpBall(centers[:10], np.full(10, 0.003, "float32"))
        labels = np.arange(10) % 3
        done = {}
        plain = rt.Verifier(model, plan).verify(
            region, labels, on_result=done.__setitem__
        )
        assert [done[index].verdict for index in range(10)] == [
            result.verdict for result in plain
        ]
        converted = rt.verify(rt.convert(model), region, labels, plan=plan)
        whole = rt.verify(model, region, labels, plan=rt.Plan(plan.stages))
        for one, other, third in zip(plain, converted, whole, strict=True):
            assert one.verdict == other.verdict == third.verdict
            assert one.lower_bound == pytest.approx(other.lower_bound, abs=1e-12)
            assert one.lower_bound == pytest.approx(third.lower_bound, abs=1e-12)
        assert {result.verdict for result in plain} == {
            VERIFIED,
            FALSIFIED,
            Verdict.UNKNOWN,
        }

    def test_misclassified_is_falsified_by_its_center(self, model, ladder, centers):
        labels = (predictions(model, centers) + 1) % 3
        region = rt.LpBall(centers[:4], 0.05)
        for index, result in enumerate(ladder.verify(region, labels[:4], SOON)):
            unsafe = rt.UnsafeSet.misclassified(labels, 3)
            assert_counterexample(model, region, unsafe, result, index)
            assert result.method == "clean"
            np.testing.assert_array_equal(result.counterexample, centers[index])

    def test_zero_radius(self, model, ladder, centers):
        outputs = verifying.outputs_of(model, centers)
        for region in (rt.LpBall(centers, 0.0), rt.Box(centers, centers)):
            labels = outputs.argmax(-1)
            for index, result in enumerate(ladder.verify(region, labels, SOON)):
                assert result.verdict is VERIFIED
                top = np.sort(outputs[index])[-2:]
                assert result.lower_bound == pytest.approx(top[1] - top[0], abs=1e-5)

    @pytest.mark.parametrize("norm", [2, 1])
    def test_other_balls(self, model, ladder, centers, norm):
        labels = predictions(model, centers)
        radii = np.linspace(0.05, 0.5, 24).astype("float32")
        region = rt.LpBall(centers, radii, norm)
        unsafe = rt.UnsafeSet.misclassified(labels, 3)
        results = ladder.verify(region, labels, SOON)
        for index, result in enumerate(results):
            assert result.lower_bound <= result.upper_bound
            if result.verdict is FALSIFIED:
                assert_counterexample(model, region, unsafe, result, index)
                continue
            # Balls around these centres are cut by no range before 0.2.
            offsets = np.random.default_rng(index).normal(size=(500, 4))
            lengths = np.linalg.norm(offsets, norm, -1, keepdims=True)
            points = centers[index] + 0.999 * radii[index] * offsets / lengths
            points = np.clip(points, 0.0, 1.0).astype("float32")
            margins = verifying.outputs_of(model, points)
            margins = verifying.clause_margins(unsafe, margins, index)
            assert margins.min() >= result.lower_bound - 1e-5
            if result.verdict is not VERIFIED:
                assert result.verdict is Verdict.UNKNOWN
                assert result.reason
        found = counts(results)
        assert min(found["VERIFIED"], found["FALSIFIED"]) >= 5
        assert found["ERROR"] == found["TIMEOUT"] == 0
        if norm == 1:
            assert found["UNKNOWN"] == 0

    def test_entries_without_width_stay(self, model, ladder, centers):
        labels = predictions(model, centers)
        half = np.linspace(0.01, 0.3, 24).astype("float32")[:, None]
        low, high = centers - half, centers + half
        low[:, 1:3] = high[:, 1:3] = centers[:, 1:3]
        region, unsafe = rt.Box(low, high), rt.UnsafeSet.misclassified(labels, 3)
        results = ladder.verify(region, labels, SOON)
        for index, result in enumerate(results):
            if result.verdict is FALSIFIED:
                assert_counterexample(model, region, unsafe, result, index)
            else:
                assert result.verdict is VERIFIED
        assert min(counts(results)[v] for v in ("VERIFIED", "FALSIFIED")) > 0

    def test_balls_cut_by_the_range(self, model, ladder, centers):
        edges = np.round(centers)
        labels = predictions(model, edges)
        region, unsafe = rt.LpBall(edges, 0.5), rt.UnsafeSet.misclassified(labels, 3)
        results = ladder.verify(region, labels, SOON)
        found = [r.verdict is FALSIFIED for r in results]
        assert sum(found) >= 3
        for index in np.flatnonzero(found):
            assert_counterexample(model, region, unsafe, results[index], index)


@pytest.fixture(scope="module")
def plane():
    return verifying.mlp((2, 8, 8, 3), seed=8)


@pytest.fixture(scope="module")
def planar(plane):
    return rt.Verifier(plane, rt.Plan((stages.Clean(), stages.Interval(), SEARCH)))


class TestClauses:
    """A plane of inputs, where a grid shows what is unsafe."""

    region = rt.Box(np.full([1, 2], -0.8, "float32"), np.full([1, 2], 0.9, "float32"))

    def check(self, plane, planar, clauses, shift):
        """Thresholds are shifted off the grid's least margin, on both sides."""
        unsafe = rt.UnsafeSet.from_clauses(clauses)
        outputs = verifying.outputs_of(plane, verifying.grid_of(self.region, 401))
        least = verifying.clause_margins(unsafe, outputs).min()
        for sign, verdict in ((1.0, VERIFIED), (-1.0, FALSIFIED)):
            moved = [
                (rows, np.asarray(ends) + least - sign * shift)
                for rows, ends in clauses
            ]
            unsafe = rt.UnsafeSet.from_clauses(moved)
            result = only(planar.verify(self.region, timeout_s=SOON, unsafe=unsafe))
            assert result.verdict is verdict, (result, sign)
            if verdict is VERIFIED:
                assert 0.0 < result.lower_bound <= shift + 1e-6
            else:
                assert_counterexample(plane, self.region, unsafe, result)

    def test_all_rows_of_a_clause(self, plane, planar):
        rows = [verifying.row_between(3, 0, 1), verifying.row_between(3, 2, 1)]
        self.check(plane, planar, [(rows, [0.1, -0.2])], 0.05)
        self.check(plane, planar, [(rows, [0.0, 0.0])], 0.002)

    def test_opposite_rows(self, plane, planar):
        row = verifying.row_between(3, 0, 1)
        self.check(plane, planar, [([row, -row], [0.3, -0.3])], 0.03)

    def test_some_clause(self, plane, planar):
        clauses = [
            ([verifying.row_between(3, 0, 1)], [0.0]),
            ([verifying.row_between(3, 1, 2), np.eye(3)[0]], [0.1, 0.4]),
            ([-np.eye(3)[2], np.eye(3)[1], verifying.row_between(3, 2, 0)], [0, 0, 1]),
        ]
        self.check(plane, planar, clauses, 0.02)

    def test_min_and_max_are_not_mixed(self, plane, planar):
        outputs = verifying.outputs_of(plane, verifying.grid_of(self.region))
        rows = [verifying.row_between(3, 0, 1), verifying.row_between(3, 1, 2)]
        least = (outputs @ np.transpose(rows)).min(0)
        ends = least + 0.3  # Each row holds somewhere, ...
        jointly = ((outputs @ np.transpose(rows)) - ends).max(-1).min()
        assert jointly > 0.05  # ... but never both.
        together = rt.UnsafeSet.from_clauses([(rows, ends)])
        apart = rt.UnsafeSet.from_clauses(
            [([row], [end]) for row, end in zip(rows, ends, strict=True)]
        )
        for unsafe, verdict in ((together, VERIFIED), (apart, FALSIFIED)):
            result = only(planar.verify(self.region, timeout_s=SOON, unsafe=unsafe))
            assert result.verdict is verdict
