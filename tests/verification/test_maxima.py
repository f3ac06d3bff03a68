"""The tree of maxima: its values, and that it decides what the clauses decide."""

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.propagation.alpha_crown import AlphaCrown
from robust_tf.propagation.ascent import Ascent
from robust_tf.verification import stages
from robust_tf.verification.branch_and_bound import BranchAndBound
from robust_tf.verification.maxima import TreeOfMaxima
from robust_tf.verification.maxima import with_worst
from robust_tf.verification.result import Claim
from robust_tf.verification.result import Verdict
from tests.verification import verifying

TREE = TreeOfMaxima(
    (
        stages.Interval(),
        stages.AlphaCrownStage(AlphaCrown(ascent=Ascent(iterations=10))),
        BranchAndBound(batch_size=16),
    )
)
DECIDED = (Verdict.VERIFIED, Verdict.FALSIFIED)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_values_are_the_maxima(count):
    model = rt.convert(verifying.mlp((4, 8, 6), seed=2))
    rows = np.random.default_rng(count).integers(-2, 3, (count, 6)).astype(float)
    offsets = np.arange(count) / 4.0
    points = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
    graph = with_worst(BoundGraph.from_model(model), rows, offsets)
    worst, _ = graph.forward(tf.constant(points))
    wanted = (model(points).numpy() @ rows.T + offsets).max(-1, keepdims=True)
    np.testing.assert_allclose(worst, wanted, rtol=1e-5, atol=1e-5)
    assert graph.shapes[graph.output] == (1,)


def decided(plan_stages, model, region, labels, **plan):
    plan = rt.Plan((stages.Clean(), *plan_stages), **plan)
    return rt.verify(model, region, labels, 60.0, plan=plan)


@pytest.mark.parametrize("classes", [3, verifying.slow(5)])
def test_verdicts_are_those_of_the_clauses(classes):
    model = verifying.mlp((3, 10, 10, classes), seed=classes)
    points = np.random.default_rng(1).uniform(0.2, 0.8, (4, 3)).astype("float32")
    labels = model(points).numpy().argmax(-1)
    region = rt.LpBall(points, 0.08)
    by_rows = (stages.Interval(), stages.AlphaCrownStage(), BranchAndBound())
    wanted = decided(by_rows, model, region, labels)
    found = decided((TREE,), model, region, labels)
    verdicts = [result.verdict for result in found]
    assert verdicts == [result.verdict for result in wanted]
    assert set(verdicts) == set(DECIDED)  # Both kinds, or the test shows little.
    for result, point, label in zip(found, points, labels, strict=True):
        if result.verdict is Verdict.VERIFIED:
            assert result.method == "max-tree" and result.lower_bound > 0.0
        else:
            shift = np.abs(result.counterexample - point).max()
            assert shift <= 0.08 * (1 + 1e-6)
            assert model(result.counterexample[None]).numpy().argmax() != label


def test_it_leaves_other_claims_and_sets_alone():
    model = verifying.mlp((3, 6, 3), seed=0)
    region = rt.LpBall(np.full((1, 3), 0.5, "float32"), 0.3)
    executed = decided((TREE,), model, region, [0], claim=Claim.EXECUTED)
    joint = rt.UnsafeSet.from_clauses([(np.eye(3)[:2], [0.0, 0.0])])
    plan = rt.Plan((stages.Interval(), TREE))
    (found,) = rt.verify(model, region, unsafe=joint, plan=plan)
    for result in (*executed, found):
        assert result.method != "max-tree"


def test_a_tree_needs_stages():
    with pytest.raises(InputError, match="`stages`"):
        TreeOfMaxima()
