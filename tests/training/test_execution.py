"""Two replicas, or XLA, train like one device without it."""

import functools

import keras
import numpy as np
import pytest

from robust_tf import schedules
from robust_tf.attacks import PGD
from robust_tf.objectives import expressive
from robust_tf.objectives import fusion
from robust_tf.objectives import terms
from robust_tf.objectives.certified_training import certified_training
from robust_tf.objectives.forward import Adversary
from robust_tf.training.determinism import sum_in_fixed_order
from robust_tf.training.distribution import strategy_for
from tests.training import small

PAIR = ("CPU:0", "CPU:1")
RAMP = schedules.LinearRamp(start=1, length=3)  # In steps; a run has 6.


def _sgd():
    return keras.optimizers.SGD(0.1)


def _adam():
    return keras.optimizers.Adam(0.01)


def _expressive(loss, **adversary):
    attack = PGD(steps=2, random_start=False, objective="cross_entropy")
    return certified_training(
        loss,
        "expressive",
        adversary=Adversary(attack, statistics="adversarial", **adversary),
        regularizer_weight=0.5,
        l1_weight=1e-3,
    )


# objective, optimizer, whether there is a BatchNormalization, options of the model
CASES = {
    "natural": (terms.natural(), _sgd, True, {}),
    "ibp": (terms.robust(None), _adam, True, {}),
    "ibp_natural_l1": (
        small.with_penalty(terms.robust_natural(0.5, None)),
        _sgd,
        1,
        {},
    ),
    "crown_ibp_clipped": (terms.robust(), _sgd, True, {"max_gradient_norm": 0.1}),
    "crown_ibp_natural_in_parts": (
        terms.robust_natural(),
        _adam,
        False,
        {"micro_batches": 2, "max_gradient_norm": 0.5},
    ),
    "pgd": (small.adversarial(), _sgd, True, {}),
    "fast_ibp": (
        certified_training(
            terms.IntervalCrossEntropy(), "fast", regularizer_weight=0.5
        ),
        _adam,
        True,
        {"min_radius": 1e-4, "radius_factor": 1.5},
    ),
    "exp_ibp": (_expressive(expressive.ExpIbp(0.4)), _sgd, True, {}),
    "sabr": (_expressive(terms.IntervalCrossEntropy(), box_share=0.5), _sgd, True, {}),
    "crown_ibp_fused": (
        certified_training(fusion.FusedCrownIbpCrossEntropy(), "fused"),
        _sgd,
        True,
        {},
    ),
}


def run(name, strategy, jit=False):
    sum_in_fixed_order()  # As `train` does; without it, sums differ in a bit at times.
    objective, optimizer, normalized, options = CASES[name]
    with strategy.scope():
        model = small.certified_model(
            small.cnn(normalized=normalized),
            objective,
            ramp=RAMP,
            optimizer=optimizer(),
            jit=jit,
            **options,
        )
    history = small.fit(model, small.batches(), epochs=2)
    return history, small.weights(model.classifier)


@functools.cache
def expected(name):
    return run(name, strategy_for())


def assert_same(actual, wanted, tolerance):
    history, weights = actual
    wanted_history, wanted_weights = wanted
    assert history.keys() == wanted_history.keys()
    for key, values in wanted_history.items():
        np.testing.assert_allclose(history[key], values, rtol=tolerance, atol=tolerance)
    for value, wanted_value in zip(weights, wanted_weights, strict=True):
        np.testing.assert_allclose(value, wanted_value, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_two_replicas(name):
    assert_same(run(name, strategy_for(PAIR)), expected(name), 1e-6)


@pytest.mark.parametrize("name", CASES)
def test_xla(name):
    assert_same(run(name, strategy_for(), jit=True), expected(name), 1e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_run_is_worth_comparing(name):
    history, weights = expected(name)
    factor = CASES[name][3].get("radius_factor", 1.0)
    least = CASES[name][3].get("min_radius", 0.0) * 2 / 3  # In two steps of three.
    radii = [0.05 / 9 * factor + least, 0.05 * 8 / 9 * factor]
    assert history["epsilon"] == pytest.approx(radii)
    assert np.isfinite(list(history.values())).all()
    moved = small.weights(small.cnn(normalized=CASES[name][2]))
    changes = [np.abs(a - b).max() for a, b in zip(weights, moved, strict=True)]
    assert min(changes) > 1e-4


def test_a_run_repeats_bit_for_bit():
    again, weights = run("crown_ibp_clipped", strategy_for())
    history, wanted = expected("crown_ibp_clipped")
    assert again == history
    for value, other in zip(weights, wanted, strict=True):
        np.testing.assert_array_equal(value, other)
