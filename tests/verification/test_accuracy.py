"""Accuracies counted on a linear classifier, where everything is known."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf.attacks.pgd import PGD
from robust_tf.regions import Threat
from robust_tf.training.distribution import strategy_for
from robust_tf.verification.accuracy import Accuracy
from robust_tf.verification.accuracy import measure
from robust_tf.verification.accuracy import measure_radii

PAIR = ("CPU:0", "CPU:1")
METHODS = ("ibp", "crown-ibp", "crown")


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


def small_cnn():
    keras.utils.set_random_seed(3)
    inputs = keras.Input((6, 6, 1))
    tensor = layers.ReLU()(layers.Conv2D(3, 3, 2, "same")(inputs))
    tensor = layers.BatchNormalization()(tensor)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(tensor)))


@pytest.fixture(name="cnn", scope="module")
def fixture_cnn():
    return small_cnn()


def examples(cnn, count):
    """Random images with the labels that a classifier gives; every sixth is wrong."""
    images = np.random.default_rng(0).uniform(size=(count, 6, 6, 1)).astype("float32")
    labels = np.argmax(cnn(images), -1)
    labels[5::6] = (labels[5::6] + 1) % 3
    return images, labels.astype("int32")


def dealt(images, labels, is_padded):
    """In batches of 8; the last one is smaller, or filled up with its last example."""
    parts = []
    for begin in range(0, len(images), 8):
        places = np.arange(begin, begin + 8 if is_padded else len(images))[:8]
        weights = (places < len(images)).astype("float32")
        places = np.minimum(places, len(images) - 1)
        parts.append((images[places], labels[places], weights))
    return [tuple(map(tf.constant, part)) for part in parts]


def assert_equal(found, wanted):
    np.testing.assert_array_equal(found.clean, wanted.clean)
    np.testing.assert_array_equal(found.attacked, wanted.attacked)
    assert found.certified.keys() == wanted.certified.keys()
    for method, proved in wanted.certified.items():
        np.testing.assert_array_equal(found.certified[method], proved, method)
    assert found.summary() == wanted.summary()


# Batches of 8: two rounds and a half; one round, of unequal batches; half a round.
@pytest.mark.parametrize(
    "count, is_padded", [(37, True), (37, False), (13, False), (1, False)]
)
def test_replicas_find_what_one_device_finds(cnn, count, is_padded):
    images, labels = examples(cnn, count)
    options = {"methods": METHODS, "attack": PGD(steps=3), "seed": 5}
    threat, done = Threat(0.02), []
    given = dealt(images, labels, is_padded)
    wanted = measure(cnn, given, threat, **options)
    found = measure(
        cnn, given, threat, strategy=strategy_for(PAIR), progress=done.append, **options
    )
    assert_equal(found, wanted)
    assert done == [part[2].numpy().sum() for part in given]
    np.testing.assert_array_equal(found.clean, np.argmax(cnn(images), -1) == labels)
    if count == 37:  # There is something to confuse.
        for proved in wanted.certified.values():
            assert 0 < proved.sum() < wanted.attacked.sum() < wanted.clean.sum() < 37


@pytest.mark.parametrize("devices", [("CPU:1",), PAIR])
def test_random_starts_do_not_depend_on_replicas(model, devices):
    """Whether one random point of the ball is wrong is a matter of the seed alone."""
    images = np.linspace(0.35, 0.65, 60, dtype="float32")[:, None]
    given = dealt(images, (images[:, 0] > 0.5).astype("int32"), is_padded=False)
    options = {"methods": (), "attack": PGD(steps=0)}
    wanted, other = (
        measure(model, given, Threat(0.2), seed=seed, **options) for seed in (1, 2)
    )
    found = measure(
        model, given, Threat(0.2), seed=1, strategy=strategy_for(devices), **options
    )
    assert_equal(found, wanted)
    assert not np.array_equal(wanted.attacked, other.attacked)


def test_a_model_made_for_the_replicas(cnn):
    strategy = strategy_for(PAIR)
    with strategy.scope():
        mirrored = small_cnn()
    mirrored.set_weights(cnn.get_weights())
    given = dealt(*examples(cnn, 20), is_padded=False)
    wanted = measure(cnn, given, Threat(0.02), methods=("ibp",))
    for one in (strategy, None):
        found = measure(mirrored, given, Threat(0.02), methods=("ibp",), strategy=one)
        assert_equal(found, wanted)


def test_radii_on_replicas(model):
    given = dealt(np.full((9, 1), 0.7, "float32"), np.ones(9, "int32"), False)
    results = measure_radii(
        model,
        given,
        Threat(0.0),
        [0.1, 0.3],
        methods=("ibp",),
        strategy=strategy_for(PAIR),
    )
    assert [one.certified["ibp"].sum() for one in results] == [9, 0]


def test_nothing_to_measure_on_replicas(model):
    with pytest.raises(rt.InputError, match="no examples"):
        measure(model, [], Threat(0.1), strategy=strategy_for(PAIR))
