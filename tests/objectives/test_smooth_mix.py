"""SmoothMix: its attack, its targets, and a worked example of its loss."""

import numpy as np
import pytest
import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.objectives import smooth_mix
from robust_tf.objectives import smoothed
from robust_tf.objectives import terms
from robust_tf.objectives.noise import Noise
from robust_tf.objectives.smooth_mix import MixPGD
from tests.objectives.test_noise import noisy
from tests.objectives.test_smoothed import GOLDEN
from tests.objectives.test_smoothed import given
from tests.objectives.test_smoothed import numbers

CASE = GOLDEN["smoothmix_loss"]
SHARED = GOLDEN["cat_rs_loss"]
CLEAN, MIXED = (
    np.swapaxes(SHARED[f"logits_{kind}[m][example][class]"], 0, 1)
    for kind in ("gaussian", "attacked")
)


def worked_example(monkeypatch, clean, dtype="float64"):
    """A forward pass with those logits, and the term's logits at mixed images."""
    monkeypatch.setattr(
        smooth_mix, "mixing_shares", lambda _: numbers(CASE["lam"], dtype)
    )
    forward = given(clean, CASE["labels"])
    zeros = tf.zeros([2, 1], dtype)
    forward.noisy.__dict__.update(
        _attacked=(zeros, zeros),
        noises=tf.zeros([2, 4, 1], dtype),
        logits_of=lambda _: numbers(MIXED, dtype),
    )
    return forward


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)]
)
def test_loss(monkeypatch, dtype, tolerance):
    forward = worked_example(monkeypatch, numbers(CLEAN, dtype), dtype)
    plain = tf.reduce_mean(smoothed.NoisyCrossEntropy()(forward)).numpy()
    assert plain == pytest.approx(CASE["ce_mean"], rel=tolerance)
    mixed = tf.reduce_mean(smooth_mix.SmoothMix()(forward)).numpy()
    assert mixed == pytest.approx(CASE["mix_mean"], rel=10 * tolerance)
    forward.__dict__["ramp"] = tf.constant(CASE["warmup"], dtype)
    objective = terms.WeightedSum(
        (smoothed.NoisyCrossEntropy(), smooth_mix.SmoothMix()),
        (1.0, terms.FollowsRadius(0.0, CASE["eta"])),
    )
    losses, _ = objective(forward)
    assert tf.reduce_mean(losses).numpy() == pytest.approx(CASE["loss"], rel=tolerance)


def test_examples_that_are_wrong_on_average_do_not_count(monkeypatch):
    forward = worked_example(monkeypatch, numbers(CLEAN))
    kept = smooth_mix.SmoothMix()(forward).numpy()
    assert (kept > 0.0).all()
    forward.noisy.__dict__["labels"] = tf.constant([0, 2])
    np.testing.assert_array_equal(
        smooth_mix.SmoothMix()(forward), np.array([kept[0], 0.0])
    )


def test_the_gradient_flows_through_the_target_and_is_finite(monkeypatch):
    # The second class has no probability at all, in the target either at share 0.
    logits = tf.Variable([[[800.0, -800.0, 0.0]] * 4, [[0.0, 0.9, 0.3]] * 4])
    monkeypatch.setattr(smooth_mix, "mixing_shares", lambda _: tf.constant([0.0, 0.2]))
    with tf.GradientTape() as tape:
        forward = given(tf.convert_to_tensor(logits), [0, 1])
        forward.noisy.__dict__.update(
            _attacked=(tf.zeros([2, 1]), tf.zeros([2, 1])),
            noises=tf.zeros([2, 4, 1]),
            logits_of=lambda _: numbers(MIXED, "float32"),
        )
        loss = smooth_mix.SmoothMix()(forward)
    gradient = tape.gradient(loss, logits).numpy()
    assert np.isfinite(loss).all() and np.isfinite(gradient).all()
    assert np.abs(gradient[1]).max() > 1e-4


def test_shares_are_drawn_for_each_example_and_step():
    forward = noisy(Noise(0.2), count=48)
    shares = smooth_mix.mixing_shares(forward).numpy()
    assert shares.shape == (48,) and len(set(shares)) == 48
    assert shares.min() >= 0.0 and 0.45 < shares.max() < 0.5
    np.testing.assert_array_equal(shares, smooth_mix.mixing_shares(forward))
    other = smooth_mix.mixing_shares(noisy(Noise(0.2), seed=(5, 7), count=48)).numpy()
    assert not np.isclose(shares, other).all()


# A linear classifier: the gradient's direction is that of the labels' difference.
KERNEL = np.array([[0.3, -0.3], [0.4, -0.4]])


def linear(points):
    return tf.matmul(points, numbers(KERNEL))


def attack(images, labels, radius=9.0, **settings):
    images = numbers(images)
    noises = tf.zeros([images.shape[0], 2, 2], images.dtype)
    return MixPGD(**settings)(
        linear, images, noises, tf.constant(labels), radius, seed=None
    )


def test_steps_have_one_length_and_end_in_the_valid_range():
    # Away from label 0: along -(3, 4) / 5; away from label 1: against it.
    first, ends = attack([[0.9, 0.9], [0.5, 0.8]], [0, 1], step_size=0.1, steps=2)
    np.testing.assert_array_equal(first, [[0.9, 0.9], [0.5, 0.8]])
    wanted = [[0.9 - 0.12, 0.9 - 0.16], [0.5 + 0.12, 0.96]]
    np.testing.assert_allclose(ends, wanted, rtol=1e-6)
    # Twice the length of any ball that a radius would give.
    _, ends = attack([[0.9, 0.9]], [0], radius=0.01, step_size=0.5, steps=4)
    np.testing.assert_array_equal(ends, [[0.0, 0.0]])


def test_the_first_step_is_projected_to_the_radius():
    start = [[0.9, 0.9]]
    first, ends = attack(start, [0], radius=0.05, step_size=0.1, steps=2, mix_step=1)
    np.testing.assert_allclose(first, [[0.9 - 0.03, 0.9 - 0.04]], rtol=1e-5)
    np.testing.assert_allclose(ends, [[0.9 - 0.12, 0.9 - 0.16]], rtol=1e-6)
    first, _ = attack(start, [0], radius=0.1, step_size=0.1, steps=2, mix_step=1)
    np.testing.assert_allclose(first, [[0.9 - 0.06, 0.9 - 0.08]], rtol=1e-6)


def test_where_there_is_no_direction_the_image_stays():
    images = tf.constant([[0.25, 0.75]])
    first, ends = MixPGD()(
        lambda points: 0.0 * points, images, tf.zeros([1, 2, 2]), [0], 1.0, None
    )
    np.testing.assert_array_equal(first, images)
    np.testing.assert_array_equal(ends, images)


@pytest.mark.parametrize("mix_step", [0, 1])
def test_the_noise_is_added_at_the_mix_step_and_to_mixed_images(monkeypatch, mix_step):
    forward = noisy(Noise(0.2, 3, MixPGD(0.5, 3, mix_step)))
    moved = np.abs(forward.centers - forward.images).reshape(4, -1).max(-1)
    assert ((moved > 0.0) == bool(mix_step)).all()
    assert np.abs(forward.ends - forward.centers).max() > 0.1
    monkeypatch.setattr(smooth_mix, "mixing_shares", lambda _: tf.constant([0.25] * 4))
    seen = []
    forward.__dict__["logits_of"] = lambda copies: (
        seen.append(copies),
        tf.zeros([4, 3, 4]),
    )[1]
    forward.__dict__["logits"] = tf.zeros([4, 3, 4])
    whole = given(forward.logits, forward.labels)
    whole.__dict__["noisy"] = forward
    smooth_mix.SmoothMix()(whole)
    mixed = 0.75 * forward.centers + 0.25 * forward.ends
    (copies,) = seen
    np.testing.assert_allclose(copies, mixed[:, None] + forward.noises, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"step_size": 0.0}, "`step_size`"),
        ({"steps": 0}, "`steps`"),
        ({"mix_step": 2}, "`mix_step`"),
        ({"mix_step": 1, "steps": 1}, "`mix_step`.*below `steps`"),
    ],
)
def test_bad_settings_are_refused(settings, text):
    with pytest.raises(InputError, match=text):
        MixPGD(**settings)


def test_another_attack_is_refused():
    with pytest.raises(InputError, match="moved twice.*MixPGD"):
        _ = noisy(Noise(0.2, 2)).ends
