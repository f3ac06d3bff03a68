"""The stage of the convex adversarial polytope, against exact and published numbers."""

import functools

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.graph import BoundGraph
from robust_tf.verification.prover import Prover
from robust_tf.verification.replay import Replay
from robust_tf.verification.result import Claim
from robust_tf.verification.result import Verdict
from robust_tf.verification.stages import ConvexAdversarial
from robust_tf.verification.task import Clock
from robust_tf.verification.task import Task
from tests.propagation import margin_cases

RANGES = {"box01": (0.0, 1.0), "no_box": None}
each_net_and_norm = pytest.mark.parametrize(
    ("net", "norm"),
    [("fc_net", "inf"), ("fc_net", "2"), ("fc_net", "1"), ("conv_net_1", "inf")]
    + [pytest.param("conv_net_2", "inf", marks=pytest.mark.slow)],
)


def cases_of(net):
    """Those with least perturbations: the others are misclassified."""
    return [case for case in margin_cases.golden()[net]["cases"] if "min_adv" in case]


@functools.cache
def machinery(net):
    """Prover and replay, whose graphs are traced once."""
    model = margin_cases.network(net)
    graph = BoundGraph.from_model(model)
    replay = Replay(lambda points: model(points, training=False), graph, "float64")
    return Prover(graph), replay


def staged(net, norm, radii, valid_range) -> Task:
    """The task of all cases of a net after the stage."""
    inputs, labels = margin_cases.points(net, cases_of(net))
    classes = margin_cases.network(net).output_shape[-1]
    unsafe = rt.UnsafeSet.misclassified(labels, classes, tf.float64)
    radii = np.broadcast_to(radii, len(labels)).astype("float64")
    region = rt.LpBall(inputs, radii, norm, valid_range)
    task = Task(*machinery(net), region, unsafe, Clock(len(labels), 60.0))
    ConvexAdversarial().run(task, list(range(len(labels))))
    return task


@pytest.mark.parametrize("box", RANGES)
@each_net_and_norm
def test_between_published_and_exact_distances(net, norm, box):
    """Proves up to the published distance, and not beyond the least perturbation.

    That distance knows no range of pixels. A range makes intermediate bounds tighter,
    and so changes slopes, with which a margin can also become looser.
    """
    cases = cases_of(net)
    least = np.array([case["min_adv"][box][norm]["enumeration"] for case in cases])
    if box == "no_box":
        published = np.array([case["kw"][norm]["distance"] for case in cases])
        for result in staged(net, norm, published * (1.0 - 1e-7), None).results:
            assert result.verdict is Verdict.VERIFIED
            assert result.claim is Claim.SOUND
    beyond = staged(net, norm, least * (1.0 + 1e-6), RANGES[box])
    assert beyond.results == [None] * len(cases)
    assert (beyond.lower <= 0.0).any(-1).all()


@pytest.mark.parametrize("box", RANGES)
@pytest.mark.parametrize("net", ["fc_net", "conv_net_1"])
def test_margins_are_no_looser_than_published(net, box):
    """Nor above what points of the ball, and of its corners, have."""
    cases = cases_of(net)
    radius = cases[0]["kw"]["at_linf_eps"]["eps"]
    task = staged(net, "inf", radius, RANGES[box])
    for case, lower in zip(cases, task.lower, strict=True):
        wanted = case["kw"]["at_linf_eps"]
        assert wanted["eps"] == radius
        if box == "no_box":
            assert (lower >= np.array(wanted["margin_lower"]) - 1e-8).all()
        inputs, _ = margin_cases.points(net, [case])
        shape = (2000, *inputs.shape[1:])
        shares = np.random.default_rng(1).uniform(-1.0, 1.0, shape)
        shares[::2] = np.sign(shares[::2])
        points = inputs.numpy() + radius * shares
        if RANGES[box] is not None:
            points = np.clip(points, *RANGES[box])
        logits = margin_cases.network(net)(points, training=False).numpy()
        own, others = logits[:, [case["label"]]], np.delete(logits, case["label"], 1)
        assert (lower <= (own - others).min(0)).all()
