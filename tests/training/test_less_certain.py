"""EDAC: two updates of the weights for each batch, each by an attack of its own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf import schedules
from robust_tf.attacks import PGD
from robust_tf.objectives import terms
from robust_tf.regions import Threat
from robust_tf.training.distribution import strategy_for
from robust_tf.training.gradients import LessCertain
from robust_tf.training.gradients import deviation
from tests.training import small

PAIR = ("CPU:0", "CPU:1")
CLASSES = 3
EPSILON, STEP_SIZE, RATE = 0.05, 0.3, 0.7
# One step to the corner that the gradient's sign names.
CORNER = PGD(
    1,
    relative_step_size=1.0,
    random_start=False,
    objective="cross_entropy",
    step_decay=(),
    keep="last",
)


def _linear():
    """`logits = x W + b` of four inputs."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(CLASSES)(inputs))


def _errors(weights, images, labels):
    """By hand: `p - y` at those images, `[n, classes]`."""
    logits = images @ weights[0] + weights[1]
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True) - np.eye(CLASSES)[labels]


def _attacked(weights, images, labels):
    """The corner of greatest slope: `dL/dx = (p - y) W^T`."""
    slope = _errors(weights, images, labels) @ weights[0].T
    return images + EPSILON * np.sign(slope)


def _certainty_slope(weights, images):
    """Of the mean standard deviation: `(z_j - mean) / ((K - 1) sd)` for each logit."""
    logits = images @ weights[0] + weights[1]
    offset = logits - logits.mean(-1, keepdims=True)
    return offset / ((CLASSES - 1) * logits.std(-1, ddof=1, keepdims=True))


def _moved(weights, images, slopes, rate):
    """Weights after a step of gradient descent, for slopes of each logit."""
    gradients = images.T @ slopes / len(images), slopes.mean(0)
    return [w - rate * g for w, g in zip(weights, gradients, strict=True)]


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_two_updates_by_hand(micro_batches):
    random = np.random.default_rng(0)
    images, labels = random.uniform(0.2, 0.8, (8, 4)), random.integers(0, CLASSES, 8)
    model = small.certified_model(
        _linear(),
        small.adversarial(CORNER),
        threat=Threat(EPSILON),
        optimizer=keras.optimizers.SGD(RATE),
        gradient_rule=LessCertain(STEP_SIZE),
        micro_batches=micro_batches,
    )
    before = [weight.astype("float64") for weight in model.classifier.get_weights()]
    data = (images.astype("float32"), labels.astype("int32"))
    history = small.fit(model, tf.data.Dataset.from_tensors(data))
    first = _attacked(before, images, labels)
    slopes = _certainty_slope(before, first)
    halfway = _moved(before, first, slopes, RATE * STEP_SIZE)
    second = _attacked(halfway, images, labels)
    errors = _errors(halfway, second, labels)
    wanted = _moved(halfway, second, errors, RATE)
    for weight, start, middle, end in zip(
        model.classifier.get_weights(), before, halfway, wanted, strict=True
    ):
        assert np.abs(middle - start).max() > 1e-3
        np.testing.assert_allclose(weight, end, rtol=1e-5, atol=1e-6)
    # What is reported is the loss at the weights halfway.
    logits = second @ halfway[0] + halfway[1]
    own = np.take_along_axis(logits, labels[:, None], -1)[:, 0]
    loss = np.log(np.exp(logits).sum(-1)) - own
    assert history["loss"] == [pytest.approx(loss.mean(), rel=1e-5)]


def test_each_half_has_an_attack_of_its_own():
    seeds, weights = [], []

    def attack(logits_fn, region, labels, seed):
        del logits_fn, labels
        seeds.append(seed.numpy())
        weights.append(model.classifier.get_weights())
        return region.x

    model = small.certified_model(
        small.cnn(), small.adversarial(attack), gradient_rule=LessCertain()
    )
    model.run_eagerly = True
    small.fit(model, small.batches(size=24))
    assert len({tuple(seed) for seed in seeds}) == len(seeds) == 4
    for one, other in zip(weights, weights[1:], strict=False):
        assert any((a != b).any() for a, b in zip(one, other, strict=True))


def test_schedules_go_by_batches():
    """Three batches are three steps, and six of the optimizer."""
    seen = []
    ramp = schedules.LinearRamp(start=1, length=4)
    model = small.certified_model(
        small.cnn(), small.adversarial(), ramp=ramp, gradient_rule=LessCertain()
    )
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: seen.append(logs["epsilon"])
    )
    small.fit(model, small.batches(size=16), callbacks=[record])
    assert int(model.optimizer.iterations) == 6
    assert int(model.step) == 3
    ramps = [0.0, 0.0, 0.25]  # Logs hold means over the batches so far.
    means = np.cumsum(ramps) / np.arange(1, 4) * model.threat.epsilon
    np.testing.assert_allclose(seen, means, rtol=1e-5)


# Whether there is a BatchNormalization (micro-batches differ in their statistics, and
# replicas have others), and what the model is given.
CASES = {
    "parts_clipped": (False, {"micro_batches": 2, "max_gradient_norm": 0.05}),
    "normalized": (True, {}),
}


def _trained(name, devices=(), jit=False):
    normalized, options = CASES[name]
    with strategy_for(devices).scope():
        model = small.certified_model(
            small.cnn(normalized=normalized),
            small.adversarial(),
            gradient_rule=LessCertain(),
            jit=jit,
            **options,
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


def test_deviation():
    """Of 1, 2, 6 it is sqrt(7); where all are equal it is 0, and so is its slope."""
    logits = tf.constant([[1.0, 2.0, 6.0], [2.0, 2.0, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        values = deviation(logits)
    np.testing.assert_allclose(values, [np.sqrt(7.0), 0.0], rtol=1e-6)
    slopes = np.array([[-2.0, -1.0, 3.0], [0.0, 0.0, 0.0]]) / (2.0 * np.sqrt(7.0))
    np.testing.assert_allclose(tape.gradient(values, logits), slopes, rtol=1e-6)


def test_it_needs_attacked_images():
    model = small.certified_model(
        small.cnn(), terms.natural(), gradient_rule=LessCertain()
    )
    with pytest.raises(rt.InputError, match="needs attacked images, and no"):
        small.fit(model, small.batches())


@pytest.mark.parametrize("size", [0.0, -1.0, float("inf"), float("nan")])
def test_step_sizes_out_of_range(size):
    with pytest.raises(rt.InputError, match="`step_size` must be a finite number"):
        LessCertain(size)
