"""SAM: the gradient at weights moved uphill, with one state for both passes."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf import schedules
from robust_tf.attacks import PGD
from robust_tf.objectives import terms
from robust_tf.objectives.certified_training import certified_training
from robust_tf.objectives.expressive import MtlIbp
from robust_tf.objectives.forward import Adversary
from robust_tf.regions import Threat
from robust_tf.training.distribution import strategy_for
from robust_tf.training.gradients import SharpnessAware
from tests.training import small

PAIR = ("CPU:0", "CPU:1")
RHO = 0.3


def _logistic():
    """`logits = x W + b` of three inputs: cross-entropy is convex in (W, b)."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    return keras.Model(inputs, layers.Dense(2)(inputs))


def _gradient(weights, images, labels):
    """Of the mean cross-entropy, by hand: `x^T (p - y) / n` and its sum over rows."""
    kernel, bias = weights
    logits = images @ kernel + bias
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    errors = shares / shares.sum(-1, keepdims=True) - np.eye(2)[labels]
    return [images.T @ errors / len(images), errors.mean(0)]


def _norm(tensors):
    return np.sqrt(sum(np.square(tensor).sum() for tensor in tensors))


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_step_by_hand(adaptive, micro_batches):
    random = np.random.default_rng(0)
    images, labels = random.uniform(size=(8, 3)), random.integers(0, 2, 8)
    model = small.certified_model(
        _logistic(),
        terms.natural(),
        threat=Threat(0.0),
        optimizer=keras.optimizers.SGD(1.0),
        gradient_rule=SharpnessAware(RHO, adaptive),
        micro_batches=micro_batches,
    )
    before = [weight.astype("float64") for weight in model.classifier.get_weights()]
    data = (images.astype("float32"), labels.astype("int32"))
    small.fit(model, tf.data.Dataset.from_tensors(data))
    first = _gradient(before, images, labels)
    scales = [np.abs(weight) if adaptive else 1.0 for weight in before]
    length = _norm([s * g for s, g in zip(scales, first, strict=True)])
    moved = [
        weight + RHO * scale**2 * gradient / length
        for weight, scale, gradient in zip(before, scales, first, strict=True)
    ]
    second = _gradient(moved, images, labels)
    assert _norm([a - b for a, b in zip(first, second, strict=True)]) > 0.01
    for weight, old, gradient in zip(
        model.classifier.get_weights(), before, second, strict=True
    ):
        np.testing.assert_allclose(old - weight, gradient, rtol=1e-4, atol=1e-6)


def _small_model(normalized=True, **options):
    return small.certified_model(
        small.cnn(normalized=normalized),
        options.pop("objective", terms.robust(None)),
        **options,
    )


def test_statistics_and_metrics_are_those_of_the_weights_themselves():
    """They move once, by the clean batch of the first pass."""
    plain = _small_model()
    sharp = _small_model(gradient_rule=SharpnessAware(RHO))
    histories = [small.fit(model, small.batches(size=48)) for model in (plain, sharp)]
    assert histories[0] == histories[1]
    norms = [model.classifier.get_layer("norm") for model in (plain, sharp)]
    for one, other in zip(*(n.non_trainable_weights for n in norms), strict=True):
        np.testing.assert_array_equal(one, other)
    kernels = [model.classifier.get_layer("conv").kernel for model in (plain, sharp)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4


def test_no_gradient_is_lost_where_a_loss_of_weight_0_is_skipped():
    """Before the ramp an expressive objective is the clean loss, in both passes."""
    attack = PGD(steps=1, random_start=False)
    expressive = certified_training(
        MtlIbp(0.5), "mtl-ibp", adversary=Adversary(attack, statistics="adversarial")
    )
    results = []
    for objective in (terms.natural(), expressive):
        model = _small_model(
            normalized=False,
            objective=objective,
            ramp=schedules.LinearRamp(start=100, length=1),
            optimizer=keras.optimizers.SGD(1.0),
            gradient_rule=SharpnessAware(RHO),
        )
        small.fit(model, small.batches())
        results.append(small.weights(model.classifier))
    start = small.weights(small.cnn())
    for clean, actual, before in zip(*results, start, strict=True):
        assert np.abs(clean - before).max() > 1e-3
        np.testing.assert_allclose(actual, clean, atol=1e-5)


def test_both_passes_begin_in_one_state():
    """The same seeds, dropped neurons and statistics, for each part of the batch."""
    seen = []

    def attack(logits_fn, region, labels, seed):
        del labels
        value = tf.reduce_sum(logits_fn(region.x))
        tf.py_function(
            lambda *x: seen.append([y.numpy() for y in x]), [seed, value], []
        )
        return region.x

    model = small.certified_model(
        small.cnn(normalized=True, dropout=0.5),
        small.adversarial(attack),
        gradient_rule=SharpnessAware(1e-9),
        micro_batches=2,
    )
    model.run_eagerly = True
    gradients = []
    rule = model.gradient_rule

    class Recorded:
        updates = rule.updates

        def __call__(self, batch):
            def record(*arguments):
                gradients.append(batch.differentiate(*arguments))
                return gradients[-1]

            return rule(dataclasses.replace(batch, differentiate=record))

    model.gradient_rule = Recorded()
    small.fit(model, small.batches(size=48))
    assert len(seen) == 4
    for one, other in zip(seen[:2], seen[2:], strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_allclose(one[1], other[1], rtol=1e-5)
    # At weights that have hardly moved: another draw of dropout would tell.
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    assert np.abs(seen[0][1] - seen[1][1]) > 1e-3


# Whether there is a BatchNormalization (micro-batches differ in their statistics, and
# replicas have others), and what the model is given.
CASES = {
    "parts_clipped": (False, {"micro_batches": 2, "max_gradient_norm": 0.05}),
    "adversarial": (True, {"objective": small.adversarial()}),
}


def _trained(name, devices=(), jit=False):
    normalized, options = CASES[name]
    rho = terms.FollowsRadius(0.0, RHO)
    with strategy_for(devices).scope():
        model = _small_model(
            normalized, gradient_rule=SharpnessAware(rho, True), jit=jit, **options
        )
    small.fit(model, small.batches(size=24))
    return small.weights(model.classifier)


@pytest.mark.parametrize("name", CASES)
def test_two_replicas(name):
    for one, other in zip(_trained(name, PAIR), _trained(name), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_xla(name):
    for one, other in zip(_trained(name, jit=True), _trained(name), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_clipping_bounds_the_step():
    model = _small_model(
        gradient_rule=SharpnessAware(RHO),
        optimizer=keras.optimizers.SGD(1.0),
        max_gradient_norm=0.01,
    )
    before = [np.asarray(w) for w in model.classifier.trainable_variables]
    small.fit(model, small.batches(size=48))
    after = model.classifier.trainable_variables
    step = _norm([np.asarray(a) - b for a, b in zip(after, before, strict=True)])
    assert step == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("rho", [0.0, -1.0, float("inf")])
def test_lengths_out_of_range(rho):
    with pytest.raises(rt.InputError, match="`rho` must be a finite number above 0"):
        SharpnessAware(rho)
