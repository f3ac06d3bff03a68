"""Training on noisy copies: metrics, replicas, XLA, falling losses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from robust_tf import layers
from robust_tf.attacks.smoothadv import SmoothDDN
from robust_tf.attacks.smoothadv import SmoothPGD
from robust_tf.errors import InputError
from robust_tf.objectives import cat_rs
from robust_tf.objectives import smooth_mix
from robust_tf.objectives import smoothed
from robust_tf.objectives import terms
from robust_tf.objectives.noise import Noise
from robust_tf.objectives.smooth_mix import MixPGD
from robust_tf.objectives.sphere_noise import SpherePGD
from robust_tf.regions import Threat
from robust_tf.training.distribution import strategy_for
from robust_tf.training.optimizers import MomentumDescent
from tests.training import small

NOISY = smoothed.NoisyCrossEntropy()
# terms, copies, attack, attack on noise
CASES = {
    "gaussian": ((NOISY,), 1, None),
    "smoothadv": ((NOISY,), 2, SmoothPGD(2)),
    "smoothadv_ddn": ((NOISY,), 2, SmoothDDN(2)),
    "macer": (
        (smoothed.SmoothedCrossEntropy(), smoothed.CertifiedRadiusHinge()),
        4,
        None,
    ),
    "consistency": ((NOISY, smoothed.Consistency(5.0)), 2, None),
    "stability": ((terms.StandardCrossEntropy(), smoothed.Stability()), 1, None),
    "smoothmix": ((NOISY, smooth_mix.SmoothMix()), 2, MixPGD(0.2, 3, 1)),
    "cat_rs": (
        (cat_rs.ConfidentCrossEntropy(), cat_rs.WorstNoise(cat_rs.NoisePGD(2))),
        4,
        None,
    ),
    "sphere": ((NOISY,), 2, None, SpherePGD(2)),
}


def batches(name, **options):
    """With soft targets where the method needs them."""
    data = small.batches(**options)
    if name != "cat_rs":
        return data

    def with_targets(images, labels):
        targets = 0.7 * tf.one_hot(labels, small.CLASSES) + 0.3 / small.CLASSES
        return images, {"label": labels, "target": targets}

    return data.map(with_targets)


def smooth_cnn():
    """No entry of it is ever flat: a ReLU network that is dead at an image has no
    gradient there, and then replicas draw directions of their own."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(small.SHAPE)
    tensor = layers.Conv2D(3, 3, 2, "same", use_bias=False)(inputs)
    tensor = layers.BatchNormalization(momentum=0.9)(tensor)
    tensor = layers.Flatten()(layers.Softplus()(tensor))
    return keras.Model(inputs, layers.Dense(small.CLASSES)(tensor))


def plain_cnn():
    """Without BatchNormalization, whose statistics depend on the parts of a batch."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(small.SHAPE)
    tensor = layers.Softplus()(layers.Conv2D(3, 3, 2, "same")(inputs))
    tensor = layers.Flatten()(tensor)
    return keras.Model(inputs, layers.Dense(small.CLASSES)(tensor))


def model_of(name, sigma=0.2, strategy=None, jit=False, build=None, **more):
    parts, copies, *attacks = CASES[name]
    objective = terms.WeightedSum(
        parts,
        (1.0,) * len(parts),
        reported=() if NOISY in parts else (NOISY,),
        noise=Noise(sigma, copies, *attacks),
    )
    with (strategy or strategy_for()).scope():
        return small.certified_model(
            build() if build else small.cnn(normalized=True),
            objective,
            threat=Threat(0.2, 2),
            optimizer=MomentumDescent(0.05, 0.9, 1e-4),
            jit=jit,
            **more,
        )


@pytest.mark.parametrize("name", CASES)
def test_losses_fall_and_metrics_tell_what_they_measure(name):
    model = model_of(name)
    history = small.fit(model, batches(name), 12, validation_data=batches(name))
    # The loss of CAT-RS grows with the copies that count, so with their accuracy.
    falling = history["noisy_loss" if name == "cat_rs" else "loss"]
    assert falling[-1] < 0.8 * falling[0]
    assert history["noisy_accuracy"][-1] > history["noisy_accuracy"][0]
    assert history["val_noisy_accuracy"][-1] > 0.5
    # What no clean image was run for is not told.
    assert "clean_accuracy" not in history
    assert history["val_clean_accuracy"][-1] > 0.5


@pytest.mark.parametrize("name", CASES)
def test_two_replicas_and_xla(name, monkeypatch):
    """Almost without noise, and with nothing else drawn: each replica draws its own."""
    monkeypatch.setattr(
        smooth_mix, "mixing_shares", lambda noisy: tf.fill(tf.shape(noisy.labels), 0.3)
    )
    monkeypatch.setattr(
        cat_rs, "kept_copies", lambda noisy: tf.fill(tf.shape(noisy.labels), 4)
    )
    if name == "smoothadv_ddn":
        pytest.skip("Rounded to levels: a last bit moves a pixel by a whole one.")
    weights = {}
    for key, options in {
        "one": {},
        "two": {"strategy": strategy_for(("CPU:0", "CPU:1"))},
        "xla": {"jit": True},
    }.items():
        model = model_of(name, sigma=1e-9, build=smooth_cnn, **options)
        small.fit(model, batches(name))
        weights[key] = small.weights(model.classifier)
    for key, tolerance in {"two": 1e-6, "xla": 1e-5}.items():
        for value, wanted in zip(weights[key], weights["one"], strict=True):
            np.testing.assert_allclose(value, wanted, rtol=0, atol=tolerance)


def test_each_step_draws_its_own_noise():
    model = model_of("gaussian")
    model.optimizer.learning_rate = 0.0
    first, second = (small.fit(model, small.batches(48))["loss"][0] for _ in range(2))
    assert first != second


@pytest.mark.parametrize("name", ["macer", "cat_rs"])
def test_micro_batches_take_their_own_labels_and_targets(name):
    weights = {}
    for parts in (1, 2):
        model = model_of(name, sigma=1e-9, build=plain_cnn, micro_batches=parts)
        small.fit(model, batches(name))
        weights[parts] = small.weights(model.classifier)
    for value, wanted in zip(weights[2], weights[1], strict=True):
        np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-6)


def test_batches_without_soft_targets_are_refused():
    with pytest.raises(InputError, match="batches have none"):
        small.fit(model_of("cat_rs"), small.batches())
