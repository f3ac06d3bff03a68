"""MART and ARoW against their formulas in plain numpy."""

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.attacks.pgd import PGD
from robust_tf.objectives import adversarial
from robust_tf.objectives import terms
from robust_tf.objectives.forward import Adversary
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.training.distribution import strategy_for
from tests.training import small

RANDOM = np.random.default_rng(0)
CLEAN, ATTACKED = RANDOM.normal(0.0, 3.0, (2, 6, 5))
LABELS = np.array([0, 4, 2, 2, 1, 3])
TERMS = {
    "mart": adversarial.Mart(5.0),
    "mart_alone": adversarial.Mart(0.0),
    "arow": adversarial.Arow(7.0, 0.2),
    "arow_plain": adversarial.Arow(2.0, 0.0),
}


class _GivenForward(CertifiedForward):
    """A forward pass whose logits are given."""

    def __init__(self, clean, attacked, labels=LABELS):
        self.__dict__.update(
            labels=tf.constant(labels, tf.int32), _clean=(clean, {}), given=attacked
        )

    @property
    def adversarial_logits(self):
        return self.given


def probabilities(logits):
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


def kl(p, q):
    return sum(p[k] * np.log(p[k] / q[k]) for k in range(len(p)))


def mart(clean, attacked, label, weight):
    p, q = probabilities(clean), probabilities(attacked)
    rival = max(q[k] for k in range(len(q)) if k != label)
    boosted = -np.log(q[label]) - np.log(1.0 - rival)
    return boosted + weight * kl(p, q) * (1.0 - p[label])


def arow(clean, attacked, label, weight, smoothing):
    p, q = probabilities(clean), probabilities(attacked)
    smoothed = (1.0 - smoothing) * -np.log(p[label]) + smoothing * np.mean(-np.log(p))
    return smoothed + weight * kl(p, q) * (1.0 - q[label])


def wanted(name):
    term = TERMS[name]
    rows = list(zip(CLEAN, ATTACKED, LABELS, strict=True))
    if name.startswith("mart"):
        return [mart(*row, term.weight) for row in rows]
    return [arow(*row, term.weight, term.smoothing) for row in rows]


@pytest.mark.parametrize("name", TERMS)
def test_formulas(name):
    forward = _GivenForward(tf.constant(CLEAN), tf.constant(ATTACKED))
    np.testing.assert_allclose(TERMS[name](forward), wanted(name), rtol=1e-11)


@pytest.mark.parametrize("name", ["mart", "arow"])
def test_gradients_reach_both_predictions(name):
    """Against differences of the formula, in each logit of the first example."""
    both = tf.constant(CLEAN[:1]), tf.constant(ATTACKED[:1])
    with tf.GradientTape() as tape:
        tape.watch(both)
        loss = TERMS[name](_GivenForward(*both, LABELS[:1]))
    formula = mart if name == "mart" else arow
    options = (5.0,) if name == "mart" else (7.0, 0.2)
    gradients = tape.gradient(loss, both)
    for number, gradient in enumerate(gradients):
        for k in range(5):
            rows = []
            for step in (1e-6, -1e-6):
                pair = [CLEAN[0].copy(), ATTACKED[0].copy()]
                pair[number][k] += step
                rows.append(formula(*pair, LABELS[0], *options))
            slope = (rows[0] - rows[1]) / 2e-6
            assert float(gradient[0, k]) == pytest.approx(slope, abs=1e-7)


def test_without_a_shift_only_the_supervised_parts_are_left():
    forward = _GivenForward(tf.constant(CLEAN), tf.constant(CLEAN))
    for strong, weak in (
        (adversarial.Mart(9.0), adversarial.Mart(0.0)),
        (adversarial.Arow(9.0), adversarial.Arow(0.0)),
    ):
        np.testing.assert_allclose(strong(forward), weak(forward), atol=1e-14)
    np.testing.assert_allclose(
        adversarial.Arow(9.0, 0.0)(forward),
        terms.StandardCrossEntropy()(forward),
        atol=1e-14,
    )


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_sure_predictions_stay_finite(dtype):
    logits = tf.constant([[200.0, 0.0, -200.0], [-200.0, 200.0, 0.0]], dtype)
    for label in range(3):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            forward = _GivenForward(logits, -logits, [label, label])
            loss = adversarial.Mart()(forward) + adversarial.Arow()(forward)
        assert np.isfinite(loss).all()
        assert np.isfinite(tape.gradient(loss, logits)).all()


def test_bad_values():
    for kind in (adversarial.Mart, adversarial.Arow):
        for weight in (-1.0, float("nan"), float("inf")):
            with pytest.raises(rt.InputError, match="`weight` must be finite"):
                kind(weight)
    for smoothing in (-0.1, 1.0):
        with pytest.raises(rt.InputError, match="`smoothing` must lie in"):
            adversarial.Arow(1.0, smoothing)


def test_the_divergence_attack_finds_other_predictions():
    model = small.cnn(dtype="float64")
    images, labels = small.images_and_labels(8)
    region = rt.LpBall(tf.constant(images, tf.float64), 0.1)
    attack = PGD(steps=10, keep="last")
    seed = tf.constant([1, 2])

    def apart(points):
        return adversarial.divergence(model(region.x), model(points))

    found = adversarial.DivergenceAttack(attack)(
        model, region, tf.constant(labels), seed
    )
    assert (abs(found - region.x) <= 0.1 + 1e-12).numpy().all()
    noise = PGD(steps=0)(model, region, tf.constant(labels), seed)
    misled = attack(model, region, tf.constant(labels), seed)
    assert (apart(found) > apart(noise)).numpy().all()
    assert float(tf.reduce_mean(apart(found) - apart(misled))) > 0.0


def objective(term):
    quiet = Adversary(PGD(steps=2, random_start=False))
    return terms.WeightedSum((term,), (1.0,), adversary=quiet)


def run(term, strategy):
    with strategy.scope():
        model = small.certified_model(small.cnn(normalized=True), objective(term))
    history = small.fit(model, small.batches(), epochs=2)
    return history, small.weights(model.classifier)


@pytest.mark.parametrize("name", ["mart", "arow"])
def test_training(name):
    """The loss falls, nothing is certified, and two replicas do as one does."""
    history, weights = run(TERMS[name], strategy_for())
    assert history["loss"][-1] < 0.98 * history["loss"][0]
    assert not objective(TERMS[name]).is_certified
    other, others = run(TERMS[name], strategy_for(("CPU:0", "CPU:1")))
    np.testing.assert_allclose(other["loss"], history["loss"], rtol=1e-5)
    for value, wanted_value in zip(others, weights, strict=True):
        np.testing.assert_allclose(value, wanted_value, rtol=0, atol=1e-5)
