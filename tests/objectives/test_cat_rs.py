"""Confidence-aware training: worked examples, the attack on noise, draws of K."""

import numpy as np
import pytest
import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.objectives import cat_rs
from robust_tf.objectives import terms
from robust_tf.objectives.noise import Noise
from robust_tf.objectives.noise import divergences
from tests.objectives.test_noise import noisy
from tests.objectives.test_smooth_mix import CLEAN
from tests.objectives.test_smooth_mix import MIXED
from tests.objectives.test_smooth_mix import linear
from tests.objectives.test_smoothed import GOLDEN
from tests.objectives.test_smoothed import given
from tests.objectives.test_smoothed import numbers

CASE = GOLDEN["cat_rs_loss"]


class Unmoved:
    """A classifier at inference, which an attack that finds nothing asks for."""

    def inference(self):
        return linear


def worked_example(dtype="float64"):
    forward = given(numbers(CLEAN, dtype), CASE["labels"])
    forward.__dict__["targets"] = numbers(CASE["soft_target"], dtype)
    forward.noisy.__dict__.update(
        graph=Unmoved(),
        _attacked=(tf.zeros([2, 1], dtype),),
        noises=tf.zeros([2, 4, 1], dtype),
        radius=1.0,
        logits_of=lambda _: numbers(MIXED, dtype),
    )
    return forward


def no_attack(logits_fn, images, noises, targets, radius):
    del logits_fn, images, targets, radius
    return noises


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)]
)
@pytest.mark.parametrize("case", CASE["cases"], ids=lambda case: str(case["K"]))
def test_losses(monkeypatch, case, dtype, tolerance):
    monkeypatch.setattr(cat_rs, "kept_copies", lambda _: tf.constant(case["K"]))
    forward = worked_example(dtype)
    low = cat_rs.ConfidentCrossEntropy()
    high = cat_rs.WorstNoise(no_attack)
    np.testing.assert_allclose(low(forward), case["low_each"], rtol=tolerance)
    np.testing.assert_allclose(
        high(forward), case["high_each_masked"], rtol=10 * tolerance
    )
    losses, _ = terms.WeightedSum((low, high), (1.0, CASE["lambda"]))(forward)
    assert tf.reduce_mean(losses).numpy() == pytest.approx(case["loss"], rel=tolerance)


def test_parts_of_the_worked_example():
    forward = worked_example()
    np.testing.assert_allclose(forward.noisy.losses, CASE["ce[example][m]"], rtol=1e-12)
    found = divergences(numbers(CASE["soft_target"]), numbers(MIXED))
    np.testing.assert_allclose(found, CASE["kl[example][m]"], rtol=1e-12)
    np.testing.assert_allclose(
        forward.noisy.is_correct, CASE["fraction_correct (Binomial parameter)"]
    )


def test_targets_of_one_class_have_finite_divergences():
    target = tf.constant([[1.0, 0.0, 0.0]])
    logits = tf.constant([[[3.0, -900.0, 0.0]]])
    found = divergences(target, logits).numpy()
    np.testing.assert_allclose(found, np.log1p(np.exp(-3.0)), rtol=1e-5)


def drawn(correct, copies=4, examples=4000, seed=(1, 2)):
    """Draws of K where that share of the copies is right."""
    logits = np.zeros([examples, copies, 2], "float32")
    logits[:, : round(correct * copies), 1] = 1.0
    forward = given(tf.constant(logits), np.ones(examples, int))
    forward.noisy.__dict__["seed"] = tf.constant(seed, tf.int64)
    return cat_rs.kept_copies(forward.noisy).numpy()


def test_counts_of_copies_are_binomial_and_at_least_one():
    kept = drawn(0.5)
    # Of 16 equally likely outcomes 1, 4, 6, 4, 1 have 0 to 4 hits; 0 counts as 1.
    shares = np.bincount(kept, minlength=5)[1:] / len(kept)
    np.testing.assert_allclose(shares, np.array([5, 6, 4, 1]) / 16, atol=0.03)
    assert (drawn(0.0) == 1).all() and (drawn(1.0) == 4).all()
    np.testing.assert_array_equal(kept, drawn(0.5))
    assert (kept != drawn(0.5, seed=(1, 3))).any()


def attacked(radius=0.5, steps=4, **given_as):
    forward = noisy(Noise(0.3, 3), count=8, **given_as)
    targets = tf.fill([8, 4], 0.25)
    found = cat_rs.NoisePGD(steps)(
        forward.graph.inference(), forward.images, forward.noises, targets, radius
    )

    def divergence(noises):
        logits = forward.logits_of(forward.images[:, None] + noises)
        return divergences(targets, logits).numpy()

    return forward, found, divergence


def test_attacked_noises_are_worse():
    forward, found, divergence = attacked()
    before, after = divergence(forward.noises), divergence(found)
    assert (after > before).mean() > 0.9 and after.mean() > 1.05 * before.mean()


def test_attacked_noises_keep_their_mean_and_nearly_their_size():
    forward, found, _ = attacked(radius=2.0)
    old, new = forward.noises.numpy(), found.numpy()
    assert np.abs(new - old).max() > 0.05
    np.testing.assert_allclose(
        new.mean((2, 3, 4)), old.mean((2, 3, 4)), rtol=0, atol=1e-6
    )
    sizes = (np.sqrt((noises**2).mean((2, 3, 4))) for noises in (new, old))
    np.testing.assert_allclose(*sizes, rtol=0.1)


def test_one_step_of_the_attack_by_hand():
    """Projection to the ball first, then the original mean and root mean square."""
    images, noise = np.array([[0.2, 0.1]]), np.array([0.3, -0.1])
    found = cat_rs.NoisePGD(steps=1)(
        linear,
        numbers(images),
        numbers(noise[None, None]),
        numbers([[1.0, 0.0]]),
        0.5,
    )
    # Away from class 0, along -(3, 4) / 5, by 1, of which the ball leaves a half.
    moved = noise - 0.5 * np.array([0.6, 0.8])
    size, new_size = (np.sqrt(np.mean(values**2)) for values in (noise, moved))
    wanted = noise.mean() + (moved - moved.mean()) / new_size * size
    np.testing.assert_allclose(found[0, 0], wanted, rtol=1e-6)


def test_copies_are_attacked_each_for_itself():
    forward, found, _ = attacked()
    alone = cat_rs.NoisePGD()(
        forward.graph.inference(),
        forward.images[:1],
        forward.noises[:1, 1:2],
        tf.fill([1, 4], 0.25),
        0.5,
    )
    np.testing.assert_allclose(alone[0, 0], found[0, 1], atol=1e-5)


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="`steps`"):
        cat_rs.NoisePGD(0)


def test_batches_without_targets_are_refused():
    forward = worked_example()
    forward.__dict__["targets"] = None
    with pytest.raises(InputError, match=r"(?s)bin/soft_targets.py.*Data.soft_targets"):
        cat_rs.WorstNoise(no_attack)(forward)
