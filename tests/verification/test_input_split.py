"""Halving boxes of few inputs, against grids and by its book-keeping."""

import numpy as np
import pytest

import robust_tf as rt
from robust_tf.errors import InputError
from robust_tf.verification import stages
from robust_tf.verification.boxes import Boxes
from robust_tf.verification.input_split import InputSplit
from robust_tf.verification.result import Claim
from robust_tf.verification.result import Verdict
from tests.verification import verifying
from tests.verification.verifying import FALSIFIED
from tests.verification.verifying import SOON
from tests.verification.verifying import VERIFIED
from tests.verification.verifying import assert_counterexample
from tests.verification.verifying import below

OPTIONS = {"batch_size": 64, "attack": verifying.QUICK}


@pytest.fixture(scope="module")
def plane():
    return verifying.mlp((2, 8, 8, 3), seed=9)


@pytest.fixture(scope="module")
def verifier(plane):
    plan = rt.Plan((stages.Interval(), InputSplit(**OPTIONS)))
    return rt.Verifier(plane, plan)


def box(low, high):
    return rt.Box(np.asarray([low], "float32"), np.asarray([high], "float32"))


REGION = box([-1.1, -0.9], [1.0, 0.8])


def decided(verifier, unsafe, region=REGION):
    (result,) = verifier.verify(region, timeout_s=SOON, unsafe=unsafe)
    return result


def shifted(clauses, shift):
    return rt.UnsafeSet.from_clauses(
        [(rows, np.asarray(ends) + shift) for rows, ends in clauses]
    )


ROWS = [verifying.row_between(3, a, b) for a, b in ((0, 1), (1, 2), (2, 0), (2, 1))]
CLAUSES = {
    "one_row": [(ROWS[:1], [0.0])],
    "all_of_two": [((ROWS[0], ROWS[3]), [0.2, -0.1])],
    "opposite": [((ROWS[1], ROWS[3]), [0.3, -0.3])],
    "some_of_three": [
        (ROWS[:1], [0.0]),
        ((ROWS[1], np.eye(3)[0]), [0.2, 0.5]),
        ((-np.eye(3)[2], ROWS[2], np.eye(3)[1]), [-0.3, 0.0, 0.7]),
    ],
}


@pytest.mark.parametrize("name", CLAUSES)
@pytest.mark.parametrize("shift", [pytest.param(0.05, marks=pytest.mark.slow), 0.003])
def test_against_a_grid(plane, verifier, name, shift):
    clauses = CLAUSES[name]
    outputs = verifying.outputs_of(plane, verifying.grid_of(REGION, 601))
    least = verifying.clause_margins(shifted(clauses, 0.0), outputs).min()
    result = decided(verifier, shifted(clauses, least - shift))
    assert result.verdict is VERIFIED
    assert result.claim is Claim.SOUND
    assert 0.0 < result.lower_bound <= shift + 1e-6
    unsafe = shifted(clauses, least + shift)
    result = decided(verifier, unsafe)
    assert_counterexample(plane, REGION, unsafe, result)


def test_every_example_of_a_batch(plane, verifier):
    rng = np.random.default_rng(1)
    centers = rng.uniform(-0.5, 0.5, size=(8, 2)).astype("float32")
    region = rt.LpBall(centers, 0.25, valid_range=None)
    labels = verifying.outputs_of(plane, centers).argmax(-1)
    unsafe = rt.UnsafeSet.misclassified(labels, 3)
    for index, result in enumerate(verifier.verify(region, labels, SOON)):
        points = verifying.grid_of(region, 301, index)
        margins = verifying.outputs_of(plane, points)
        least = verifying.clause_margins(unsafe, margins, index).min()
        if result.verdict is FALSIFIED:
            assert_counterexample(plane, region, unsafe, result, index)
        else:
            assert result.verdict is VERIFIED
            assert result.lower_bound <= least + 1e-6


def test_entries_without_width(plane, verifier):
    for free in range(2):
        low, high = [-0.3, 0.35], [-0.3, 0.35]
        low[free], high[free] = -1.0, 1.0
        region = box(low, high)
        points = verifying.grid_of(region, 601)
        least = (verifying.outputs_of(plane, points) @ ROWS[0]).min()
        assert decided(verifier, below(least - 1e-3, 3), region).verdict is VERIFIED
        unsafe = below(least + 1e-3, 3)
        result = decided(verifier, unsafe, region)
        assert_counterexample(plane, region, unsafe, result)
        assert result.counterexample[1 - free] == np.float32(low[1 - free])


def test_no_width_at_all(plane, verifier):
    region = box([0.1, 0.2], [0.1, 0.2])
    margin = verifying.outputs_of(plane, region.box.lower)[0] @ ROWS[0]
    assert decided(verifier, below(margin - 1e-5, 3), region).verdict is VERIFIED
    unsafe = below(margin + 1e-5, 3)
    result = decided(verifier, unsafe, region)
    assert_counterexample(plane, region, unsafe, result)


def test_rounding_leaves_the_answer_open(verifier, plane):
    """Opposite rows with a gap below float64's reach: halving must end somewhere."""
    region = box([0.1, 0.2], [0.1001, 0.2])
    margins = verifying.outputs_of(plane, verifying.grid_of(region, 11)) @ ROWS[0]
    ends = np.array([margins.mean(), -margins.mean()])
    unsafe = rt.UnsafeSet.from_clauses(
        [((ROWS[0], verifying.row_between(3, 1, 0)), ends - 1e-17)]
    )
    result = decided(verifier, unsafe, region)
    assert result.verdict is not VERIFIED
    if result.verdict is Verdict.UNKNOWN:
        assert result.reason


def test_room_for_boxes(plane):
    outputs = verifying.outputs_of(plane, verifying.grid_of(REGION, 601))
    least = (outputs @ ROWS[0]).min()
    stage = InputSplit(**OPTIONS, max_boxes=1)
    plan = rt.Plan((stages.Interval(), stage))
    result = decided(rt.Verifier(plane, plan), below(least - 0.01, 3))
    assert result.verdict is Verdict.UNKNOWN
    assert "max_boxes" in result.reason
    assert result.lower_bound <= 0.01


def test_later_stages_get_what_is_left(plane):
    """A stage that gives up does not decide: the next one may know more."""
    outputs = verifying.outputs_of(plane, verifying.grid_of(REGION, 601))
    least = (outputs @ ROWS[0]).min()
    proof = verifying.Fake(lambda task, i: task.prove(i, np.full([1, 1], 1e-9), "x"))
    for stage in (InputSplit(**OPTIONS, max_boxes=1), NeverHalved(**OPTIONS)):
        plan = rt.Plan((stages.Interval(), stage, proof))
        result = decided(rt.Verifier(plane, plan), below(least - 0.01, 3))
        assert result.verdict is VERIFIED
        assert result.method == "x"


class NeverHalved(InputSplit):
    """Gives up at once, as where a box has no middle."""

    def run(self, task, indices):
        for index in indices:
            task.reasons[index] = "numeric: a box cannot be halved"


def test_affine_classifiers():
    """Without activations, lines are exact and shared by all boxes."""
    model = verifying.mlp((2, 4, 3), activation=Identity)
    plan = rt.Plan((InputSplit(**OPTIONS),))
    verifier = rt.Verifier(model, plan)
    corners = verifying.grid_of(REGION, 2)
    least = (verifying.outputs_of(model, corners) @ ROWS[0]).min()
    assert decided(verifier, below(least - 1e-3, 3)).verdict is VERIFIED
    unsafe = below(least + 1e-3, 3)
    assert_counterexample(model, REGION, unsafe, decided(verifier, unsafe))


def Identity(dtype):  # noqa: N802
    del dtype
    return lambda tensor: tensor


def test_many_inputs_are_left_to_others(plane):
    plan = rt.Plan((InputSplit(max_inputs=1),))
    (result,) = rt.verify(plane, REGION, [0], plan=plan)
    assert result.verdict is Verdict.UNKNOWN
    assert result.domains == 0


@pytest.mark.parametrize("name", ["all_of_two", "some_of_three"])
def test_splits_of_neurons_against_a_grid(plane, monkeypatch, name):
    split, neurons = Boxes.split, []

    def noted(self):
        neurons.extend(self.neuron.tolist())
        return split(self)

    monkeypatch.setattr(Boxes, "split", noted)
    for after, is_split in ((10_000, False), (0, True)):
        stage = InputSplit(**OPTIONS, open_share=1.0, long_after=after)
        plan = rt.Plan((stages.Interval(), stage))
        test_against_a_grid(plane, rt.Verifier(plane, plan), name, 0.003)
        assert (max(neurons) >= 0) == is_split


@pytest.mark.parametrize(
    "name", ["max_inputs", "batch_size", "max_boxes", "attack_every"]
)
def test_wrong_options(name):
    with pytest.raises(InputError, match=f"`{name}` must be at least 1. Received: 0"):
        InputSplit(**{name: 0})


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_wrong_shares(share):
    with pytest.raises(InputError, match=f"`open_share` must be in .*{share}, "):
        InputSplit(open_share=share)


def test_wrong_begin_of_a_long_search():
    with pytest.raises(InputError, match="`long_after` at least 0.*-1"):
        InputSplit(long_after=-1)
