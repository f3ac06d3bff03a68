"""Accuracies counted on a linear classifier, where everything is known."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf.attacks.pgd import PGD
from robust_tf.regions import Threat
from robust_tf.verification.accuracy import Accuracy
from robust_tf.verification.accuracy import measure


@pytest.fixture(name="model")
def fixture_model():
    """`z_1 - z_0 = x - 0.5`: the radius of x is |x - 0.5|."""
    inputs = keras.Input((1,))
    dense = layers.Dense(2)
    model = keras.Model(inputs, dense(inputs))
    dense.set_weights([np.array([[0.0, 1.0]]), np.array([0.0, -0.5])])
    return model


def batches(images, labels, weights=None):
    weights = np.ones(len(images)) if weights is None else weights
    return [
        (
            tf.constant(np.reshape(images, (-1, 1)), tf.float32),
            tf.constant(labels),
            tf.constant(weights),
        )
    ]


def test_counts(model):
    found = measure(
        model,
        batches([0.9, 0.65, 0.55, 0.2, 0.1], [1, 1, 1, 1, 0]),
        Threat(0.1),
        methods=("ibp", "crown-ibp", "crown"),
        attack=PGD(steps=5),
    )
    np.testing.assert_array_equal(found.clean, [1, 1, 1, 0, 1])
    np.testing.assert_array_equal(found.attacked, [1, 1, 0, 0, 1])
    for proved in found.certified.values():
        np.testing.assert_array_equal(proved, [1, 1, 0, 0, 1])
    summary = found.summary()
    assert summary["clean_accuracy"] == 0.8
    assert summary["pgd_accuracy"] == summary["certified_accuracy"] == 0.6
    assert summary["certified_by"] == {"ibp": 0.6, "crown-ibp": 0.6, "crown": 0.6}


def test_padding_does_not_count(model):
    found = measure(
        model, batches([0.9, 0.1], [1, 1], [1.0, 0.0]), Threat(0.1), methods=("ibp",)
    )
    assert found.summary()["examples"] == 1
    assert found.summary()["clean_accuracy"] == 1.0
    assert found.attacked is None


def test_a_margin_of_zero_proves_nothing(model):
    found = measure(model, batches([0.75], [1]), Threat(0.25), methods=("crown",))
    assert found.clean.all()
    assert not found.certified_by_any.any()


def test_a_contradiction_stops_the_run(model):
    def liar(logits_fn, region, labels, seed):
        del logits_fn, region, seed  # Leaves the region.
        return tf.cast(1 - labels, tf.float32)[:, None]

    with pytest.raises(RuntimeError, match="proved robust by ibp"):
        measure(model, batches([0.9], [1]), Threat(0.1), methods=("ibp",), attack=liar)


def test_nothing_to_measure(model):
    with pytest.raises(rt.InputError, match="no examples"):
        measure(model, [], Threat(0.1))


def test_without_certificates():
    known = Accuracy(np.array([True, False]), None, {})
    assert known.summary() == {"examples": 2, "clean_accuracy": 0.5}
    assert not known.certified_by_any.any()
