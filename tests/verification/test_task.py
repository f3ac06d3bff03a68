"""What is refused, and stages that lie, fail or take long."""

from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.errors import InputError
from robust_tf.verification import stages
from robust_tf.verification.result import ContradictionError
from robust_tf.verification.result import Verdict
from robust_tf.verification.task import Clock
from tests.verification import verifying
from tests.verification.verifying import CHEAP
from tests.verification.verifying import FALSIFIED
from tests.verification.verifying import SEARCH
from tests.verification.verifying import SOON
from tests.verification.verifying import VERIFIED
from tests.verification.verifying import Fake
from tests.verification.verifying import below
from tests.verification.verifying import predictions


class TestHostileStages:
    """Stages that lie, fail, or take long."""

    region = rt.LpBall(np.full([4, 4], 0.5, "float32"), 0.4)

    def run(self, model, *ladder, timeout_s=SOON, labels=(0, 0, 0, 0), batch_size=32):
        plan = rt.Plan(ladder, batch_size=batch_size)
        return rt.verify(model, self.region, list(labels), timeout_s, plan=plan)

    def good(self, model):
        return predictions(model, self.region.x)

    def test_proof_above_what_a_point_shows(self, model):
        def lie(task, indices):
            task.prove(indices, np.full([len(indices), 2], -1e-3), "fake")

        labels = (self.good(model) + 1) % 3
        with pytest.raises(ContradictionError, match="One of the two is wrong"):
            self.run(model, Fake(lie), stages.Clean(), labels=labels)

    def test_claim_of_one_clause_against_a_point(self, model):
        """Another clause without any proof hides no contradiction in this one."""
        order = verifying.outputs_of(model, self.region.x[:1])[0].argsort()
        label = order[1]  # Only the best class is unsafe.
        others = [c for c in range(3) if c != label]
        wrong = np.where(np.equal(others, order[2]), 0.5, -np.inf)

        def lie(task, indices):
            task.prove(indices, np.tile(wrong, [len(indices), 1]), "fake")

        with pytest.raises(ContradictionError):
            self.run(model, Fake(lie), stages.Clean(), labels=[label] * 4)

    def test_proof_against_a_point_that_was_seen_before(self, model):
        def lie(task, indices):
            task.prove(indices, np.full([len(indices), 2], 1e3), "fake")

        with pytest.raises(ContradictionError):
            self.run(model, stages.Clean(), Fake(lie), labels=self.good(model))

    def test_exception_is_an_error_of_its_example(self, model):
        def fail(task, indices):
            if 1 in indices:
                raise ValueError("out of luck")
            task.prove(indices, np.ones([len(indices), 2]), "fake")

        results = self.run(model, Fake(fail, is_batched=False))
        assert [r.verdict for r in results] == [
            VERIFIED,
            Verdict.ERROR,
            VERIFIED,
            VERIFIED,
        ]
        assert "fake: ValueError: out of luck" in results[1].reason
        later = self.run(
            model, Fake(fail), Fake(lambda *_: None), labels=self.good(model)
        )
        assert {r.verdict for r in later} == {Verdict.ERROR}

    def test_want_of_memory_halves_the_batch(self, model):
        sizes = []

        def greedy(task, indices):
            sizes.append(len(indices))
            if len(indices) > 1:
                raise tf.errors.ResourceExhaustedError(None, None, "no room")
            task.prove(indices, np.ones([1, 2]), "fake")

        results = self.run(model, Fake(greedy))
        assert [r.verdict for r in results] == [VERIFIED] * 4
        assert sizes == [4, 2, 1, 1, 2, 1, 1]

    def test_want_of_memory_for_one(self, model):
        def greedy(task, indices):
            del task, indices
            raise MemoryError

        for result in self.run(model, Fake(greedy)):
            assert result.verdict is Verdict.UNKNOWN
            assert "memory in fake" in result.reason

    def test_nothing_tried_is_unknown(self, model):
        for result in self.run(model, Fake(lambda *_: None)):
            assert result.verdict is Verdict.UNKNOWN
            assert result.reason

    def test_not_a_number_proves_nothing(self, model):
        def vague(task, indices):
            task.prove(indices, np.full([len(indices), 2], np.nan), "fake")

        for result in self.run(model, Fake(vague)):
            assert result.verdict is Verdict.UNKNOWN
            assert result.lower_bound == -np.inf

    def test_no_time(self, model):
        results = self.run(
            model, *CHEAP, SEARCH, timeout_s=1e-9, labels=self.good(model)
        )
        assert {r.verdict for r in results} == {Verdict.TIMEOUT}
        assert all(r.seconds > 0.0 for r in results)

    @pytest.mark.parametrize(
        ("timeout_s", "verdict"), [(5.0, Verdict.TIMEOUT), (20.0, VERIFIED)]
    )
    def test_proof_after_the_deadline(self, model, monkeypatch, timeout_s, verdict):
        now = [0.0]

        def slow(task, indices):
            now[0] += 10.0 * len(indices)
            task.prove(indices, np.ones([len(indices), 2]), "fake")

        def clock(*args):
            return Clock(*args, lambda: now[0])

        monkeypatch.setattr("robust_tf.verification.verify.Clock", clock)
        results = self.run(model, Fake(slow), timeout_s=timeout_s)
        assert {r.verdict for r in results} == {verdict}
        assert {r.seconds for r in results} == {10.0}


class TestRefusals:
    region = rt.LpBall(np.full([3, 4], 0.5, "float32"), 0.1)

    @pytest.mark.parametrize("labels", [[0], [0, 1], [0, 1, 3], [0.0, 1.0, 2.0], None])
    def test_labels(self, ladder, labels):
        with pytest.raises(InputError, match="Received|Give either"):
            ladder.verify(self.region, labels)

    @pytest.mark.parametrize("timeout_s", [0.0, -1.0, np.nan, "60"])
    def test_timeouts(self, ladder, timeout_s):
        with pytest.raises(InputError, match="timeout_s"):
            ladder.verify(self.region, [0, 1, 2], timeout_s)

    def test_thresholds_of_their_own_for_shared_rows(self, model):
        rows = np.asarray([[verifying.row_between(3)]], "float64")
        ends = np.asarray([[-1e3], [1e3], [-1e3]])
        unsafe = rt.UnsafeSet(rows, ends, [0])
        plan = rt.Plan((stages.Interval(), stages.Clean()))
        results = rt.verify(model, self.region, unsafe=unsafe, plan=plan)
        assert [r.verdict for r in results] == [VERIFIED, FALSIFIED, VERIFIED]

    @pytest.mark.parametrize(
        "clauses",
        [
            [(np.eye(3)[:1], [0.0]), (np.zeros([0, 3]), [])],  # Always unsafe.
            [(np.eye(3)[:2], [0.0]), (np.eye(3)[:1], [0.0, 1.0])],
            [(np.eye(3)[:1], [0.0]), (np.eye(4)[:1], [0.0])],
            [(np.eye(3)[:1], [np.nan])],
            [(np.full([1, 3], np.inf), [0.0])],
            [],
        ],
    )
    def test_clauses(self, clauses):
        with pytest.raises(InputError, match="Received"):
            rt.UnsafeSet.from_clauses(clauses)

    def test_thresholds_of_another_number_of_examples(self):
        with pytest.raises(InputError, match="Received"):
            rt.UnsafeSet(np.ones([2, 1, 3]), np.ones([3, 1]), (0,))


class TestReplay:
    def check(self, bench, region, point):
        unsafe = below(0.0, 3)
        return bench.replay.check(np.asarray([point]), region, unsafe)

    def test_entries_that_the_model_cannot_take(self, bench):
        """0.1 is no float32: its neighbour is run, but shows nothing of the region."""
        low, high = [[0.1, 0.5, 0.0, 0.0]], [[0.1, 0.5, 1.0, 1.0]]
        region = rt.Box(np.asarray(low), np.asarray(high))
        found = self.check(bench, region, [0.3, 0.5, 0.2, 0.7])
        np.testing.assert_array_equal(
            found.point, np.asarray([0.1, 0.5, 0.2, 0.7], "float32")
        )
        assert found.is_inside
        assert not found.is_strict

    def test_points_are_brought_into_the_region(self, bench):
        center = np.asarray([[0.1, 0.5, 0.9, 0.3]])
        for norm in ("inf", 1, 2):
            region = rt.LpBall(center, 0.2, norm)
            found = self.check(bench, region, [2.0, -1.0, 0.9, 0.3])
            assert found.is_inside
            assert found.is_strict
            point = [Fraction(float(value)) for value in found.point]
            assert verifying.is_within(point, region, 0)
            outputs = verifying.outputs_of(bench.model, found.point[None])
            assert found.executed == outputs[0, 0] - outputs[0, 1]
            assert found.exact == pytest.approx(found.executed, abs=1e-5)
            assert found.exact == found.exact_margins.min()
