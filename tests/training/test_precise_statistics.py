"""Statistics over a whole set equal NumPy's, and leave everything else alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf.graph import BoundGraph
from robust_tf.objectives import terms
from robust_tf.training.distribution import strategy_for
from robust_tf.training.precise_statistics import PopulationStatistics
from robust_tf.training.precise_statistics import PreciseStatistics
from tests.training import small

PAIR = ("CPU:0", "CPU:1")


def _images(size=16):
    return small.batches(size).map(lambda images, _: images)


def _population(classifier, images, layer="conv"):
    """Mean and unbiased variance of a layer's output over all images, in float64."""
    values = np.asarray(classifier.get_layer(layer)(images), "float64")
    values = values.reshape(-1, values.shape[-1])
    return values.mean(0), values.var(0, ddof=1)


def _statistics(classifier):
    norm = classifier.get_layer("norm")
    return np.asarray(norm.moving_mean), np.asarray(norm.moving_variance)


def _trained(classifier, **options):
    model = small.certified_model(classifier, terms.robust(None), **options)
    small.fit(model, small.batches())
    return model


# Activations and the variables are float32; NumPy's and the sums over batches float64.
@pytest.mark.parametrize("devices", [(), PAIR])
def test_they_are_those_of_the_whole_set(devices):
    with strategy_for(devices).scope():
        model = _trained(small.cnn(normalized=True))
        statistics = PopulationStatistics(model.graph, _images())
    images, _ = small.images_and_labels()
    wanted = _population(model.classifier, images)
    moving = _statistics(model.classifier)
    statistics()
    for value, right, before in zip(
        _statistics(model.classifier), wanted, moving, strict=True
    ):
        np.testing.assert_allclose(value, right, rtol=1e-5, atol=1e-6)
        assert np.abs(before - right).max() > 0.01


def test_batches_of_another_mean_add_its_variance():
    """0 and 1 in one batch, 10 and 11 in the other: 1/4 within, 25 between."""
    inputs = keras.Input((1,))
    norm = layers.BatchNormalization()
    graph = BoundGraph.from_model(keras.Model(inputs, norm(inputs)))
    values = np.array([[0.0], [1.0], [10.0], [11.0]], "float32")
    batches = tf.data.Dataset.from_tensor_slices(values).batch(2, drop_remainder=True)
    PopulationStatistics(graph, batches)()
    np.testing.assert_allclose(norm.moving_mean, [5.5], rtol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, [25.25 * 4 / 3], rtol=1e-6)


def test_deeper_layers_see_normalized_batches():
    """By hand: the second layer's input is normalised by each batch's own moments."""
    inputs = keras.Input((2,))
    first, second = (layers.BatchNormalization(epsilon=0.0) for _ in range(2))
    tensor = layers.ReLU()(first(inputs))
    graph = BoundGraph.from_model(keras.Model(inputs, second(tensor)))
    values = np.random.default_rng(0).normal(3.0, 2.0, (6, 4, 2)).astype("float32")
    PopulationStatistics(graph, tf.data.Dataset.from_tensor_slices(values))()
    values = values.astype("float64")
    scaled = (values - values.mean(1, keepdims=True)) / values.std(1, keepdims=True)
    after = np.maximum(scaled, 0.0).reshape(-1, 2)
    np.testing.assert_allclose(second.moving_mean, after.mean(0), rtol=1e-5)
    np.testing.assert_allclose(second.moving_variance, after.var(0, ddof=1), rtol=1e-5)


def test_nothing_else_changes_and_it_repeats():
    model = _trained(small.cnn(normalized=True, dropout=0.5))
    statistics = PopulationStatistics(model.graph, _images())
    before = small.weights(model.classifier)
    statistics()
    once = small.weights(model.classifier)
    statistics()
    changed = [
        variable.name
        for variable, old, new in zip(
            model.classifier.variables, before, once, strict=True
        )
        if not np.array_equal(old, new)
    ]
    assert changed == ["moving_mean", "moving_variance"]
    for value, other in zip(small.weights(model.classifier), once, strict=True):
        np.testing.assert_array_equal(value, other)


def test_a_frozen_layer_keeps_its_statistics():
    model = _trained(small.cnn(normalized=True))
    model.classifier.get_layer("norm").trainable = False
    before = _statistics(model.classifier)
    PopulationStatistics(model.graph, _images())()
    np.testing.assert_array_equal(_statistics(model.classifier), before)


def test_without_the_layer_no_batch_is_read():
    def refuse(_):
        raise AssertionError("A batch was read.")

    images = _images().map(lambda batch: tf.py_function(refuse, [batch], tf.float32))
    images = images.map(lambda batch: tf.ensure_shape(batch, (16, *small.SHAPE)))
    PopulationStatistics(BoundGraph.from_model(small.cnn()), images)()


def test_batches_must_be_of_one_size():
    batches = tf.data.Dataset.from_tensor_slices(np.zeros((3, 1))).batch(2)
    with pytest.raises(rt.InputError, match=r"one size.*shape=\(None, 1\)"):
        PopulationStatistics(BoundGraph.from_model(small.cnn()), batches)


def test_validation_sees_them_from_the_first_epoch_on():
    """Each epoch's logs are those of weights with statistics of their own."""
    images, _ = small.images_and_labels()
    data, seen = small.batches(), []

    class Recorder(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            del logs
            classifier = self.model.classifier
            wanted, value = _population(classifier, images), _statistics(classifier)
            seen.append(np.allclose(wanted, value, rtol=1e-5, atol=1e-6))

    model = small.certified_model(small.cnn(normalized=True), terms.robust(None))
    precise = PreciseStatistics(PopulationStatistics(model.graph, _images()), 1)
    callbacks = [precise, Recorder()]
    small.fit(model, data, epochs=3, validation_data=data, callbacks=callbacks)
    assert seen == [False, True, True]
