"""Attacks on smoothed classifiers, against worked examples and by what they must do."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from robust_tf.attacks.smoothadv import SmoothDDN
from robust_tf.attacks.smoothadv import SmoothPGD
from robust_tf.errors import InputError

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden/golden_smoothing.json").read_text()
)
CASE = GOLDEN["smoothadv_pgd_linear"]
SEED = tf.constant([3, 4], tf.int64)


def array(key, dtype="float64"):
    return tf.constant(np.asarray(CASE[key], dtype))


def linear(points):
    return tf.linalg.matmul(points, array("W"), transpose_b=True) + array("b")


def run(attack, radius, logits_fn=linear, images=None):
    return attack(
        logits_fn,
        array("x") if images is None else images,
        array("noise[example][m][dim]"),
        array("labels", "int32"),
        radius,
        SEED,
    )


def steps_of(attack, radius):
    """How far the attack moves each image."""
    return run(attack, radius).numpy() - CASE["x"]


def test_gradient_steps_match_the_worked_example():
    points = run(SmoothPGD(CASE["steps"]), CASE["eps"])
    first, second = CASE["adv"]
    np.testing.assert_allclose(points[0], first, rtol=0, atol=1e-12)
    # A step is as long as the radius: the last bit of the first one's length decides
    # whether it is shortened by 1e-7, which the second step all but undoes.
    lengths = [one["delta_norm"] for one in CASE["trace"][1]]
    assert lengths[0] == pytest.approx(0.4999999, abs=1e-13)
    np.testing.assert_allclose(points[1], second, rtol=0, atol=1e-9)


def test_the_direction_of_a_step_matches_the_worked_example():
    for found, trace in zip(steps_of(SmoothPGD(1), 0.25), CASE["trace"], strict=True):
        expected = np.asarray(trace[0]["delta"])
        np.testing.assert_allclose(
            found / np.linalg.norm(found),
            expected / np.linalg.norm(expected),
            rtol=0,
            atol=1e-12,
        )


@pytest.mark.parametrize("attack", [SmoothPGD(3), SmoothDDN(5), SmoothPGD(4, False)])
def test_points_stay_in_the_ball_and_the_valid_range(attack):
    points = run(attack, 0.3)
    length = np.linalg.norm(points - CASE["x"], axis=-1)
    # Rounding to levels moves each of the four entries by half a level at most.
    slack = 0.5 / 255 * 2 if isinstance(attack, SmoothDDN) else 1e-9
    assert (length <= 0.3 + slack).all()
    assert (points.numpy() >= -slack).all() and (points.numpy() <= 1 + slack).all()


def test_the_loss_of_the_smoothed_classifier_rises():
    def loss(points):
        copies = points[:, None] + array("noise[example][m][dim]")
        probabilities = tf.nn.softmax(linear(copies))
        mean = tf.reduce_mean(probabilities, 1)
        return -np.log(tf.gather(mean, CASE["labels"], axis=1, batch_dims=1))

    for attack in (SmoothPGD(2), SmoothPGD(2, needs_gradient=False)):
        assert (loss(run(attack, 0.5)) > loss(array("x"))).all()


def test_without_a_gradient_the_direction_is_drawn():
    flat = run(SmoothPGD(1), 0.3, lambda points: 0.0 * linear(points))
    assert np.abs(flat - CASE["x"]).max() > 0.0
    np.testing.assert_array_equal(
        flat, run(SmoothPGD(1), 0.3, lambda points: 0.0 * linear(points))
    )


def test_radius_zero_is_the_image():
    points = run(SmoothPGD(2), 0.0)
    np.testing.assert_allclose(points, CASE["x"], rtol=0, atol=1e-12)


def test_a_misclassified_image_stays():
    def wrong(points):
        right = tf.one_hot(CASE["labels"], 3, dtype=points.dtype)
        return -tf.repeat(right, tf.shape(points)[0] // 2, 0) + 0.0 * linear(points)

    points = run(SmoothDDN(4), 0.5, wrong)
    np.testing.assert_allclose(points, CASE["x"], rtol=0, atol=1e-12)


def test_where_nothing_is_found_the_image_stays():
    def right(points):
        right = tf.one_hot(CASE["labels"], 3, dtype=points.dtype)
        repeated = tf.repeat(right, tf.shape(points)[0] // 2, 0)
        return 100.0 * repeated + linear(points)

    points = run(SmoothDDN(4), 0.5, right)
    np.testing.assert_allclose(points, CASE["x"], rtol=0, atol=1e-12)


def test_ties_of_votes_go_to_the_smallest_class():
    # One copy says class 0 and one class 2: the majority is 0, the label of the first
    # image alone.
    def tied(points):
        votes = tf.tile([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], [len(points) // 2, 1])
        return tf.cast(votes, points.dtype) + 0.0 * linear(points)

    attack = SmoothDDN(1)
    points = attack(
        tied,
        array("x"),
        array("noise[example][m][dim]"),
        tf.constant([0, 2]),
        0.5,
        SEED,
    )
    np.testing.assert_allclose(points, CASE["x"], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: SmoothPGD(0), "`steps`"),
        (lambda: SmoothDDN(2.5), "`steps`"),
        (lambda: SmoothDDN(2, gamma=1.0), "`gamma`"),
        (lambda: SmoothDDN(2, first_norm=0.0), "`first_norm`"),
    ],
)
def test_bad_settings_are_refused(make, text):
    with pytest.raises(InputError, match=text):
        make()
