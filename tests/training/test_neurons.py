"""Shares of neurons against counts over intermediate bounds in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import data as datasets
from robust_tf import layers
from robust_tf import schedules
from robust_tf.bounds import IntervalBound
from robust_tf.data import ImageDataset
from robust_tf.objectives import terms
from robust_tf.regions import Threat
from robust_tf.training.distribution import strategy_for
from robust_tf.training.neurons import STATES
from robust_tf.training.neurons import NeuronShares
from robust_tf.training.neurons import states_of
from tests.training import small

COUNT = 21  # Fills no whole number of batches of 8.
FACTOR = 1.5


def _logs(classifier, devices=()):
    """The keys after 1 of the ramp's 2 epochs, and the trained classifier."""
    images, labels = small.images_and_labels()
    dataset = ImageDataset("small", images, labels, small.CLASSES, "train")
    shares = NeuronShares(datasets.evaluation_batches(dataset, 8, count=COUNT))
    with strategy_for(devices).scope():
        model = small.certified_model(
            classifier(),
            terms.robust(None),
            threat=Threat(0.1),
            ramp=schedules.LinearRamp(length=6),
            radius_factor=FACTOR,
        )
    history = small.fit(model, small.batches(), callbacks=[shares])
    kept = {key: value for key, (value,) in history.items() if "/" in key}
    return kept, model.classifier


def _brute_force(classifier):
    """Counted one by one, from the bounds of the layers that the ReLUs read."""
    images, _ = small.images_and_labels()
    region = rt.LpBall(images[:COUNT], 0.5 * 0.1 * FACTOR)
    _, edges = rt.compute_bounds(classifier, region, "ibp", intermediate=True)
    names = {id(layer.output): layer.name for layer in classifier.layers}
    relus = [layer for layer in classifier.layers if isinstance(layer, layers.ReLU)]
    wanted = {}
    for number, relu in enumerate(relus, 1):
        bound = edges[names[id(relu.input)]]
        lower, upper = np.ravel(bound.lower), np.ravel(bound.upper)
        counts = {"active": 0, "inactive": 0, "unstable": 0}
        for low, high in zip(lower, upper, strict=True):
            is_crossed = low < 0.0 < high
            sign = "inactive" if high <= 0.0 else "active"
            counts["unstable" if is_crossed else sign] += 1
        for state, count in counts.items():
            wanted[f"{state}/{number}"] = count / len(lower)
    return wanted


def test_shares_are_those_of_the_intermediate_bounds():
    logs, classifier = _logs(lambda: small.cnn(normalized=True))
    assert logs == pytest.approx(_brute_force(classifier), abs=1e-12)
    assert sorted(logs) == sorted(
        f"{state}/{number}" for state in STATES for number in (1, 2)
    )
    for number in (1, 2):
        total = sum(logs[f"{state}/{number}"] for state in STATES)
        assert total == pytest.approx(1.0, abs=1e-12)
    assert logs["unstable/2"] > 0.1


def test_two_replicas():
    logs, classifier = _logs(lambda: small.cnn(normalized=True), ("CPU:0", "CPU:1"))
    assert logs == pytest.approx(_brute_force(classifier), abs=1e-12)


def test_without_a_relu_there_are_no_shares():
    def smooth():
        inputs = keras.Input(small.SHAPE)
        tensor = layers.Sigmoid()(layers.Dense(4)(layers.Flatten()(inputs)))
        return keras.Model(inputs, layers.Dense(small.CLASSES)(tensor))

    assert _logs(smooth)[0] == {}


def test_states_at_the_borders():
    """Zero width at 0 is inactive; a lower end of 0 is active; NaN is nothing."""
    lower = tf.constant([[0.0, 0.0, -1.0, -1.0, 1.0, float("nan")]])
    upper = tf.constant([[0.0, 1.0, 0.0, 1.0, 2.0, float("nan")]])
    active, inactive, unstable = states_of(IntervalBound(lower, upper))
    np.testing.assert_array_equal(active, [[0, 1, 0, 0, 1, 0]])
    np.testing.assert_array_equal(inactive, [[1, 0, 1, 0, 0, 0]])
    np.testing.assert_array_equal(unstable, [[0, 0, 0, 1, 0, 0]])
