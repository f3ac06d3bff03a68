"""The area of ReLU relaxations against sums over single neurons."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf.attacks.pgd import PGD
from robust_tf.bounds import IntervalBound
from robust_tf.graph import BoundGraph
from robust_tf.objectives import terms
from robust_tf.objectives.forward import Adversary
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.objectives.relaxation_area import ReluRelaxationArea
from robust_tf.objectives.relaxation_area import relaxation_area
from robust_tf.training.distribution import strategy_for
from tests.training import small


def forward_of(model, radius):
    images, labels = small.images_and_labels(4)
    images = tf.constant(images, tf.float64)
    return CertifiedForward(
        graph=BoundGraph.from_model(model),
        images=images,
        labels=tf.constant(labels),
        region=rt.LpBall(images, radius),
        ramp=tf.constant(1.0, tf.float64),
        seed=tf.constant([0, 0]),
        training=True,
    )


def brute_force(bounds, example):
    """Twice the triangle between chord, 0 and z, neuron by neuron."""
    areas = []
    for lower, upper in bounds:
        area = 0.0
        for low, high in zip(
            lower[example].ravel(), upper[example].ravel(), strict=True
        ):
            if low < 0.0 < high:
                height = -low * high / (high - low)  # Of the chord at 0.
                area += 2.0 * (height * (high - low) / 2.0)
        areas.append(area)
    return sum(areas) / len(areas)


@pytest.mark.parametrize("with_logits", [True, False])
def test_brute_force(with_logits):
    model = small.cnn(normalized=True, dtype="float64")
    forward = forward_of(model, 0.05)
    read = ["norm", "dense"]  # What the two ReLUs read.
    edges = [
        n.output for n in forward.graph.nodes if n.layer.name[:5] in ("norm", "dense")
    ]
    assert len(edges) == 3  # And the logits.
    edges = edges if with_logits else edges[: len(read)]
    bounds = [
        (forward.intervals[edge].lower.numpy(), forward.intervals[edge].upper.numpy())
        for edge in edges
    ]
    actual = ReluRelaxationArea(with_logits)(forward)
    wanted = [brute_force(bounds, example) for example in range(4)]
    np.testing.assert_allclose(actual, wanted, rtol=1e-12)
    assert min(wanted) > 0.01


def test_by_hand():
    bound = IntervalBound(
        tf.constant([[-1.0, -2.0], [-3.0, 0.5]]), tf.constant([[2.0, -1.0], [0.5, 1.0]])
    )
    other = IntervalBound(tf.constant([[-4.0], [0.0]]), tf.constant([[0.5], [1.0]]))
    np.testing.assert_allclose(relaxation_area([bound]), [2.0, 1.5])
    np.testing.assert_allclose(relaxation_area([bound, other]), [2.0, 0.75])


def test_no_width_no_area():
    forward = forward_of(small.cnn(normalized=True, dtype="float64"), 0.0)
    np.testing.assert_allclose(ReluRelaxationArea()(forward), np.zeros(4), atol=1e-15)


def test_models_without_relus():
    inputs = keras.Input(small.SHAPE, dtype="float64")
    outputs = layers.Dense(4, dtype="float64")(layers.Flatten(dtype="float64")(inputs))
    with pytest.raises(rt.InputError, match="model with ReLU layers"):
        ReluRelaxationArea()(forward_of(keras.Model(inputs, outputs), 0.1))


def objective(weight):
    return terms.WeightedSum(
        (terms.AdversarialCrossEntropy(), ReluRelaxationArea()),
        (1.0, weight),
        adversary=Adversary(PGD(steps=2, random_start=False)),
    )


@functools.cache
def run(weight, devices=()):
    with strategy_for(devices).scope():
        model = small.certified_model(
            small.cnn(normalized=True), objective(weight), radius_factor=2.1
        )
    history = small.fit(model, small.batches(), epochs=2)
    return history, small.weights(model.classifier)


def test_training_shrinks_the_area():
    alone, _ = run(0.0)
    weighted, _ = run(1e-2)
    areas = weighted["relaxation_area_loss"]
    assert areas[-1] < areas[0]
    assert areas[-1] < 0.9 * alone["relaxation_area_loss"][-1]
    assert weighted["loss"][-1] < weighted["loss"][0]
    assert weighted["epsilon"][-1] == pytest.approx(2.1 * 0.05)


def test_two_replicas():
    history, weights = run(1e-2, ("CPU:0", "CPU:1"))
    wanted_history, wanted = run(1e-2)
    for key, values in wanted_history.items():
        np.testing.assert_allclose(history[key], values, rtol=1e-5, atol=1e-6)
    for value, wanted_value in zip(weights, wanted, strict=True):
        np.testing.assert_allclose(value, wanted_value, rtol=0, atol=1e-5)
