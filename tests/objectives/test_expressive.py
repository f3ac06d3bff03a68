"""Expressive losses: golden values, ends, and order, on given margins and networks."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.attacks import PGD
from robust_tf.graph import BoundGraph
from robust_tf.objectives import expressive
from robust_tf.objectives import terms
from robust_tf.objectives.forward import Adversary
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.objectives.small_boxes import small_box
from tests import golden_cases
from tests.training import small

GOLDEN = golden_cases.losses()
LOSSES = GOLDEN["losses"]
KINDS = (expressive.CcIbp, expressive.MtlIbp, expressive.ExpIbp)
ATTACK = PGD(steps=3, random_start=False, objective="cross_entropy")
ADVERSARY = Adversary(ATTACK)


class _GivenForward(CertifiedForward):
    """A forward pass whose margins are given; the label is class 0."""

    interval_margins = tf.constant(LOSSES["certified_margins"], tf.float64)
    adversarial_margins = tf.constant(LOSSES["adversarial_margins"], tf.float64)

    @property
    def adversarial_logits(self):
        return tf.pad(-self.adversarial_margins, [[0, 0], [1, 0]])


def given():
    images = tf.zeros([2, 1], tf.float64)
    return _GivenForward(
        graph=None,
        images=images,
        labels=tf.constant([0, 0]),
        region=rt.LpBall(images, 0.1),
        ramp=tf.constant(1.0, tf.float64),
        seed=tf.constant([0, 0]),
        training=True,
    )


def passed(
    epsilon=0.05, adversary=ADVERSARY, *, normalized=True, training=True, seed=0
):
    """A pass through a small network in float64."""
    images, labels = small.images_and_labels(12, seed)
    images = images.astype("float64")
    return CertifiedForward(
        graph=BoundGraph.from_model(
            small.cnn(seed, normalized=normalized, dtype="float64")
        ),
        images=tf.constant(images),
        labels=tf.constant(labels),
        region=rt.LpBall(images, epsilon),
        ramp=tf.constant(1.0, tf.float64),
        seed=tf.constant([0, 0]),
        training=training,
        adversary=adversary,
    )


@pytest.mark.parametrize("row", LOSSES["rows"], ids=lambda row: str(row["coefficient"]))
@pytest.mark.parametrize("kind", KINDS)
def test_golden_losses(kind, row):
    losses = kind(row["coefficient"])(given())
    assert losses.shape == [2]
    assert float(tf.reduce_mean(losses)) == pytest.approx(row[kind.__name__], abs=2e-7)


def test_golden_ends():
    for term, key in (
        (terms.IntervalCrossEntropy(), "certified"),
        (terms.AdversarialCrossEntropy(), "adversarial"),
    ):
        loss = tf.reduce_mean(term(given()))
        assert float(loss) == pytest.approx(LOSSES[key], abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_the_coefficients_0_and_1_are_the_ends(kind):
    forward = passed(adversary=Adversary(ATTACK, statistics="adversarial"))
    for coefficient, end in (
        (0.0, terms.AdversarialCrossEntropy()),
        (1.0, terms.IntervalCrossEntropy()),
    ):
        losses, wanted = kind(coefficient)(forward), end(forward)
        if kind is expressive.ExpIbp:
            wanted = tf.fill([12], tf.reduce_mean(wanted))
        np.testing.assert_allclose(losses, wanted, rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("epsilon", [0.002, 0.03, 0.2])
def test_order_of_the_losses(epsilon, seed):
    """Under equal statistics, as the attacked points lie in the bounded region."""
    adversary = Adversary(ATTACK, statistics="adversarial")
    forward = passed(epsilon, adversary, seed=seed)
    least = terms.AdversarialCrossEntropy()(forward).numpy()
    greatest = terms.IntervalCrossEntropy()(forward).numpy()
    assert (least <= greatest + 1e-12).all()
    assert greatest.mean() > least.mean() * 1.0001
    for coefficient in (0.01, 0.3, 0.5, 0.9):
        cc, mtl, exp = (kind(coefficient)(forward).numpy() for kind in KINDS)
        assert (least <= cc + 1e-12).all() and (cc <= mtl + 1e-12).all()
        assert (mtl <= greatest + 1e-12).all()
        assert least.mean() <= exp[0] <= mtl.mean() + 1e-12
        assert exp[0] <= greatest.mean()


def test_sabr_with_the_whole_box_is_ibp():
    wanted = terms.IntervalCrossEntropy()(passed())
    whole = passed(adversary=Adversary(ATTACK, box_share=1.0))
    np.testing.assert_allclose(terms.IntervalCrossEntropy()(whole), wanted, rtol=1e-12)


def test_sabr_with_no_box_is_adversarial_training():
    forward = passed(
        adversary=Adversary(ATTACK, box_share=0.0, statistics="adversarial")
    )
    np.testing.assert_allclose(
        terms.IntervalCrossEntropy()(forward),
        terms.AdversarialCrossEntropy()(forward),
        rtol=1e-9,
    )


def test_sabr_is_measured_over_the_whole_region():
    adversary = Adversary(ATTACK, box_share=0.1)
    small_ones = passed(adversary=adversary)
    assert float(tf.reduce_max(small_ones.bound_region.box.radius)) < 0.00501
    measured = passed(adversary=adversary, training=False)
    plain = passed(adversary=None, training=False)
    np.testing.assert_array_equal(measured.interval_margins, plain.interval_margins)


@pytest.mark.parametrize("case", GOLDEN["small_boxes"], ids=lambda c: str(c["image"]))
def test_golden_small_boxes(case):
    ball = rt.LpBall(tf.constant([[case["image"]]], tf.float64), case["epsilon"])
    points = tf.constant([[case["attacked"]]], tf.float64)
    box = small_box(ball, points, case["share"]).box
    assert box.lower.numpy().item() == pytest.approx(case["lower"], abs=1e-12)
    assert box.upper.numpy().item() == pytest.approx(case["upper"], abs=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_small_boxes_hold_their_share_within_the_ball(share):
    random = np.random.default_rng(0)
    images = random.choice([0.0, 0.02, 0.5, 0.97, 1.0], (50, 8))
    ball = rt.LpBall(images, 0.1)
    points = random.uniform(ball.box.lower, ball.box.upper)
    box = small_box(ball, tf.constant(points), share).box
    assert (box.lower.numpy() >= ball.box.lower.numpy() - 1e-15).all()
    assert (box.upper.numpy() <= ball.box.upper.numpy() + 1e-15).all()
    assert (box.radius.numpy() <= share * 0.1 + 1e-15).all()
    inside = (images >= 0.1) & (images <= 0.9)
    np.testing.assert_allclose(box.radius.numpy()[inside], share * 0.1, rtol=1e-9)


def test_the_attack_reaches_beyond_the_bounds():
    def corner(logits_fn, region, labels, seed):
        del logits_fn, labels, seed
        return region.box.upper

    forward = passed(0.02, Adversary(corner, radius_factor=2.1))
    images = forward.images.numpy()
    np.testing.assert_allclose(forward.attacked, np.minimum(images + 0.042, 1.0))
    np.testing.assert_allclose(
        forward.bound_region.box.upper, np.minimum(images + 0.02, 1.0)
    )


def test_statistics_of_the_bounds():
    """The clean batch is seen first, then the attacked one; bounds move nothing."""
    seen = {}
    for statistics in ("clean", "adversarial"):
        forward = passed(0.2, Adversary(ATTACK, statistics=statistics))
        norm = next(n.layer for n in forward.graph.nodes if n.layer.name == "norm")
        conv = next(n.layer for n in forward.graph.nodes if n.layer.name == "conv")
        _ = forward.interval_margins, forward.adversarial_logits
        source = forward.images if statistics == "clean" else forward.attacked
        wanted = np.mean(conv(source), axis=(0, 1, 2))
        moments = forward.choices.moments["norm"]
        np.testing.assert_allclose(moments.mean, wanted, rtol=1e-9)
        means = [
            np.mean(conv(batch), axis=(0, 1, 2))
            for batch in (forward.images, forward.attacked)
        ]
        moved = 0.9 * (0.1 * means[0]) + 0.1 * means[1]
        np.testing.assert_allclose(norm.moving_mean, moved, rtol=1e-6)
        seen[statistics] = forward.interval_margins.numpy()
    assert np.abs(seen["clean"] - seen["adversarial"]).max() > 1e-4


def test_the_attack_sees_the_classifier_at_inference():
    seen = []

    def attack(logits_fn, region, labels, seed):
        del labels, seed
        seen.append(logits_fn(region.x).numpy())
        return region.x

    forward = passed(0.05, Adversary(attack))
    _ = forward.adversarial_logits
    # The clean batch has moved the statistics once by then, the attacked one has since.
    replay = passed(0.05, None)
    _ = replay.logits
    wanted = replay.graph.forward(replay.images)[0]
    np.testing.assert_allclose(seen[0], wanted, rtol=1e-9)


def test_gradients_of_a_power_are_finite_at_loss_0():
    forward = given()
    with tf.GradientTape() as tape:
        margins = tf.constant([[900.0, 900.0], [900.0, 900.0]], tf.float64)
        tape.watch(margins)
        logits = tf.pad(-margins, [[0, 0], [1, 0]])
        forward.__dict__["interval_margins"] = margins
        object.__setattr__(forward, "labels", tf.constant([0, 0]))
        patched = type("Patched", (_GivenForward,), {"adversarial_logits": logits})
        forward.__class__ = patched
        loss = tf.reduce_mean(expressive.ExpIbp(0.3)(forward))
    assert np.isfinite(loss)
    assert np.isfinite(tape.gradient(loss, margins)).all()


def test_what_cannot_be():
    for kind in KINDS:
        with pytest.raises(rt.InputError, match=r"`coefficient`.*\[0, 1\].*1.5"):
            kind(1.5)
    for field, value in (
        ("radius_factor", 0.0),
        ("box_share", -0.1),
        ("statistics", "noisy"),
    ):
        with pytest.raises(rt.InputError, match=f"`{field}`.*{value}"):
            Adversary(ATTACK, **{field: value})
    with pytest.raises(rt.InputError, match="no `adversary`"):
        _ = passed(adversary=None).adversarial_logits
    forward = passed(adversary=Adversary(ATTACK, box_share=0.5))
    ball = dataclasses.replace(forward, region=rt.LpBall(forward.images, 0.1, 2))
    with pytest.raises(rt.InputError, match="Linf.*norm 2"):
        _ = ball.bound_region
