"""Momentum with the rate outside of the velocity, by hand and against Keras."""

import keras
import numpy as np
import pytest

from robust_tf import schedules
from robust_tf.errors import InputError
from robust_tf.training.optimizers import MomentumDescent


def by_hand(weight, gradients, rates, momentum, decay):
    velocity = 0.0
    for gradient, rate in zip(gradients, rates, strict=True):
        velocity = momentum * velocity + gradient + decay * weight
        weight = weight - rate * velocity
    return weight


def descended(optimizer, weight, gradients):
    variable = keras.Variable(np.asarray(weight, "float32"))
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([np.asarray(gradient, "float32")])
    return variable.numpy()


START = np.array([1.0, -2.0])
GRADIENTS = np.array([[0.5, 1.0], [-0.25, 0.5], [1.0, 0.0], [0.0, 0.0]])


def test_a_drop_of_the_rate_counts_for_old_steps_too():
    schedule = schedules.StepDecay(0.1, 0.1, every=2)
    optimizer = MomentumDescent(schedules.ScheduledRate(schedule), 0.9, 0.01)
    wanted = by_hand(START, GRADIENTS, [0.1, 0.1, 0.01, 0.01], 0.9, 0.01)
    np.testing.assert_allclose(descended(optimizer, START, GRADIENTS), wanted, 1e-6)


def test_keras_with_the_same_rate_throughout():
    ours = descended(MomentumDescent(0.1, 0.9), START, GRADIENTS)
    theirs = descended(keras.optimizers.SGD(0.1, 0.9), START, GRADIENTS)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_it_is_made_again_from_its_configuration():
    optimizer = MomentumDescent(0.2, 0.8, 1e-3)
    config = optimizer.get_config()
    again = MomentumDescent.from_config(config)
    assert again.get_config() == config
    assert (again.momentum, again.decay) == (0.8, 1e-3)


@pytest.mark.parametrize(
    ("options", "text"),
    [({"momentum": 1.0}, "`momentum`"), ({"decay": -1.0}, "`decay`")],
)
def test_bad_settings_are_refused(options, text):
    with pytest.raises(InputError, match=text):
        MomentumDescent(0.1, **options)
