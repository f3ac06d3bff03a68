"""Losses of classifiers that will be smoothed, against worked examples."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.objectives import smoothed
from robust_tf.objectives import terms
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.objectives.noise import Noise
from robust_tf.objectives.noise import NoisyForward

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden/golden_smoothing.json").read_text()
)


def given(logits, labels, sigma=0.25, clean=None):
    """A forward pass whose logits on noisy copies are given."""
    noisy = object.__new__(NoisyForward)
    noisy.__dict__.update(
        noise=Noise(sigma, logits.shape[1]),
        labels=tf.constant(labels, tf.int32),
        logits=logits,
    )
    forward = object.__new__(CertifiedForward)
    forward.__dict__.update(labels=noisy.labels, noisy=noisy, _clean=(clean, {}))
    return forward


def numbers(values, dtype="float64"):
    return tf.constant(np.asarray(values, dtype))


def macer_loss(logits, labels, config):
    """The loss as the system of arXiv:2001.02378 puts it together, and its parts."""
    forward = given(logits, labels, config["sigma"])
    hinge = smoothed.CertifiedRadiusHinge(config["gamma"], config["beta"])
    first = smoothed.SmoothedCrossEntropy()(forward)
    second = hinge(forward)
    return tf.reduce_mean(first + config["lbd"] * second), first, second


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)]
)
def test_macer(dtype, tolerance):
    case = GOLDEN["macer_loss"]
    logits = numbers(case["logits"], dtype)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss, first, second = macer_loss(logits, case["labels"], case["config"])
    close = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(first, case["classification_loss_each"], **close)
    each = case["robustness_loss_each (already times sigma/2)"]
    np.testing.assert_allclose(second, each, **close)
    np.testing.assert_allclose(loss, case["loss"], rtol=tolerance)
    gradient = tape.gradient(loss, logits)
    np.testing.assert_allclose(gradient, case["grad_logits"], **close)


@pytest.mark.parametrize("variant", GOLDEN["macer_loss"]["variants"], ids=str)
def test_macer_with_other_settings(variant):
    case = GOLDEN["macer_loss"]
    loss, first, second = macer_loss(
        numbers(case["logits"]), case["labels"], variant["config"]
    )
    assert loss.numpy() == pytest.approx(variant["loss"], rel=1e-12)
    assert tf.reduce_sum(first).numpy() == pytest.approx(variant["cl_sum"], rel=1e-12)
    assert tf.reduce_sum(second).numpy() == pytest.approx(variant["rl_sum"], rel=1e-12)
    np.testing.assert_array_equal(second.numpy() > 0.0, variant["used"])


def test_macer_at_saturated_probabilities_has_finite_gradients():
    logits = tf.Variable([[[500.0, 0.0], [500.0, 0.0]], [[0.0, 900.0], [0.0, 900.0]]])
    with tf.GradientTape() as tape:
        loss, _, second = macer_loss(
            tf.convert_to_tensor(logits),
            [0, 1],
            {"sigma": 0.5, "beta": 16.0, "gamma": 8.0, "lbd": 4.0},
        )
    np.testing.assert_array_equal(second, 0.0)
    assert np.isfinite(tape.gradient(loss, logits).numpy()).all()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)]
)
def test_consistency(dtype, tolerance):
    case = GOLDEN["consistency_loss"]
    copies = np.stack([case["logits_noise1"], case["logits_noise2"]], 1)
    forward = given(numbers(copies, dtype), case["labels"])
    plain = tf.reduce_mean(smoothed.NoisyCrossEntropy()(forward)).numpy()
    assert plain == pytest.approx(
        case["cross_entropy_mean_over_all_noisy"], rel=tolerance
    )
    term = smoothed.Consistency(case["lambda"], case["eta"])
    apart = tf.reduce_mean(term(forward)).numpy()
    assert apart == pytest.approx(case["consistency_term"], rel=tolerance)
    only_entropy = smoothed.Consistency(0.0, 1.0)(forward)
    np.testing.assert_allclose(only_entropy, case["entropy_each"], rtol=tolerance)
    only_divergence = smoothed.Consistency(1.0, 0.0)(forward)
    np.testing.assert_allclose(only_divergence, case["kl_each"], rtol=10 * tolerance)


def test_stability_is_the_entropy_where_noise_changes_nothing():
    clean = numbers([[2.0, 0.0, -1.0], [0.5, 0.5, 0.1]])
    copies = tf.repeat(clean[:, None], 3, 1)
    share = tf.nn.softmax(clean).numpy()
    np.testing.assert_allclose(
        smoothed.Stability()(given(copies, [0, 1], clean=clean)),
        -(share * np.log(share)).sum(-1),
        rtol=1e-12,
    )
    moved = smoothed.Stability()(given(copies[:, :, ::-1], [0, 1], clean=clean))
    assert (moved.numpy() > -(share * np.log(share)).sum(-1)).all()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: smoothed.CertifiedRadiusHinge(gamma=0.0), "`gamma`"),
        (lambda: smoothed.CertifiedRadiusHinge(beta=-1.0), "`beta`"),
        (lambda: smoothed.Consistency(weight=-1.0), "`weight`"),
        (lambda: smoothed.Consistency(entropy_weight=float("nan")), "`entropy_weight`"),
        (lambda: Noise(0.0), "`sigma`"),
        (lambda: Noise(0.5, 0), "`copies`"),
        (lambda: Noise(0.5, 2.0), "`copies`"),
    ],
)
def test_bad_settings_are_refused(make, text):
    with pytest.raises(InputError, match=text):
        make()


def test_a_term_without_noise_says_what_is_missing():
    forward = object.__new__(CertifiedForward)
    forward.__dict__["noise"] = None
    with pytest.raises(InputError, match=r"no `noise`.*Noise\(sigma=0.25\)"):
        terms.WeightedSum((smoothed.NoisyCrossEntropy(),), (1.0,))(forward)
