"""Training on noisy copies: metrics, replicas, XLA, falling losses."""

import keras
import numpy as np
import pytest

from robust_tf import layers
from robust_tf.attacks.smoothadv import SmoothDDN
from robust_tf.attacks.smoothadv import SmoothPGD
from robust_tf.objectives import smoothed
from robust_tf.objectives import terms
from robust_tf.objectives.noise import Noise
from robust_tf.regions import Threat
from robust_tf.training.distribution import strategy_for
from robust_tf.training.optimizers import MomentumDescent
from tests.training import small

NOISY = smoothed.NoisyCrossEntropy()
# terms, copies, attack
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
}


def smooth_cnn():
    """No entry of it is ever flat: a ReLU network that is dead at an image has no
    gradient there, and then replicas draw directions of their own."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(small.SHAPE)
    tensor = layers.Conv2D(3, 3, 2, "same", use_bias=False)(inputs)
    tensor = layers.BatchNormalization(momentum=0.9)(tensor)
    tensor = layers.Flatten()(layers.Softplus()(tensor))
    return keras.Model(inputs, layers.Dense(small.CLASSES)(tensor))


def model_of(name, sigma=0.2, strategy=None, jit=False, build=None):
    parts, copies, attack = CASES[name]
    objective = terms.WeightedSum(
        parts, (1.0,) * len(parts), noise=Noise(sigma, copies, attack)
    )
    with (strategy or strategy_for()).scope():
        return small.certified_model(
            build() if build else small.cnn(normalized=True),
            objective,
            threat=Threat(0.2, 2),
            optimizer=MomentumDescent(0.05, 0.9, 1e-4),
            jit=jit,
        )


@pytest.mark.parametrize("name", CASES)
def test_losses_fall_and_metrics_tell_what_they_measure(name):
    model = model_of(name)
    history = small.fit(model, small.batches(), 12, validation_data=small.batches())
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert history["noisy_accuracy"][-1] > history["noisy_accuracy"][0]
    assert history["val_noisy_accuracy"][-1] > 0.5
    # What no clean image was run for is not told.
    assert "clean_accuracy" not in history
    assert history["val_clean_accuracy"][-1] > 0.5


@pytest.mark.parametrize("name", CASES)
def test_two_replicas_and_xla(name):
    """Almost without noise, as each replica draws its own."""
    if name == "smoothadv_ddn":
        pytest.skip("Rounded to levels: a last bit moves a pixel by a whole one.")
    weights = {}
    for key, options in {
        "one": {},
        "two": {"strategy": strategy_for(("CPU:0", "CPU:1"))},
        "xla": {"jit": True},
    }.items():
        model = model_of(name, sigma=1e-9, build=smooth_cnn, **options)
        small.fit(model, small.batches())
        weights[key] = small.weights(model.classifier)
    for key, tolerance in {"two": 1e-6, "xla": 1e-5}.items():
        for value, wanted in zip(weights[key], weights["one"], strict=True):
            np.testing.assert_allclose(value, wanted, rtol=0, atol=tolerance)


def test_each_step_draws_its_own_noise():
    model = model_of("gaussian")
    model.optimizer.learning_rate = 0.0
    first, second = (small.fit(model, small.batches(48))["loss"][0] for _ in range(2))
    assert first != second
