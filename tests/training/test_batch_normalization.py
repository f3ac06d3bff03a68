"""Batch statistics in training: once per step, of the clean batch, with gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf.graph import BoundGraph
from robust_tf.objectives import terms
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.training.distribution import strategy_for
from tests.training import small

EPSILON = 1e-3  # Keras's default.


def _moments(values):
    """Mean, biased and unbiased variance by channel."""
    values = np.asarray(values, "float64").reshape(-1, np.shape(values)[-1])
    return values.mean(0), values.var(0), values.var(0, ddof=1)


@pytest.mark.parametrize(
    "objective", [terms.natural(), terms.robust(None), terms.robust()]
)
def test_moving_statistics_move_once_a_step(objective):
    images, _ = small.images_and_labels(48)
    model = small.certified_model(small.cnn(normalized=True), objective)
    norm = model.classifier.get_layer("norm")
    mean, _, unbiased = _moments(model.classifier.get_layer("conv")(images))
    small.fit(model, small.batches(size=48))
    np.testing.assert_allclose(norm.moving_mean, 0.1 * mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        norm.moving_variance, 0.9 + 0.1 * unbiased, rtol=1e-5, atol=1e-7
    )


def test_an_attacked_batch_moves_them_second():
    images, _ = small.images_and_labels(48)
    objective = small.adversarial(lambda _, region, *__: 0.5 * region.x)
    model = small.certified_model(small.cnn(normalized=True), objective)
    norm, conv = (model.classifier.get_layer(name) for name in ("norm", "conv"))
    clean, attacked = (_moments(conv(part * images))[0] for part in (1.0, 0.5))
    small.fit(model, small.batches(size=48))
    np.testing.assert_allclose(
        norm.moving_mean, 0.9 * 0.1 * clean + 0.1 * attacked, rtol=1e-5, atol=1e-7
    )


def test_validation_moves_nothing():
    model = small.certified_model(small.cnn(normalized=True), terms.robust(None))
    before = small.weights(model.classifier)
    model.evaluate(small.batches(), verbose=0)
    for value, other in zip(small.weights(model.classifier), before, strict=True):
        np.testing.assert_array_equal(value, other)


def test_as_keras_does_but_for_the_moving_variance():
    values = np.random.default_rng(0).normal(3.0, 2.0, (4, 3, 3, 2)).astype("float32")
    options = {"momentum": 0.75, "gamma_initializer": "random_normal"}
    plain = keras.layers.BatchNormalization(**options)
    plain.build(values.shape)
    ours = layers.BatchNormalization(**options)
    ours.build(values.shape)
    ours.set_weights(plain.get_weights())
    for training in (True, False):
        np.testing.assert_allclose(
            ours(values, training=training), plain(values, training=training), atol=1e-5
        )
        if training:
            _, biased, unbiased = _moments(values)
            np.testing.assert_allclose(ours.moving_mean, plain.moving_mean, rtol=1e-5)
            np.testing.assert_allclose(
                ours.moving_variance, 0.75 + 0.25 * unbiased, rtol=1e-5
            )
            np.testing.assert_allclose(
                plain.moving_variance, 0.75 + 0.25 * biased, rtol=1e-5
            )
            ours.set_weights(plain.get_weights())


def _forward(classifier, images, labels, radius, training=True):
    return CertifiedForward(
        graph=BoundGraph.from_model(classifier),
        images=images,
        labels=labels,
        region=rt.LpBall(images, radius),
        ramp=tf.constant(0.5, images.dtype),
        seed=tf.constant([0, 0]),
        training=training,
    )


def test_bounds_use_the_clean_moments():
    """By hand: `(z - mean) / sqrt(variance + epsilon)` with the batch's own two."""
    images = np.random.default_rng(1).uniform(0.2, 0.8, (5, 3)).astype("float32")
    inputs = keras.Input((3,))
    norm = layers.BatchNormalization(name="norm")
    classifier = keras.Model(inputs, norm(inputs))
    forward = _forward(
        classifier, tf.constant(images), tf.constant([0, 1, 2, 0, 1]), 0.1
    )
    mean, variance, _ = _moments(images)
    deviation = np.sqrt(variance + EPSILON)
    bound = forward.intervals[1]
    np.testing.assert_allclose(
        bound.lower, (images - 0.1 - mean) / deviation, rtol=1e-4
    )
    np.testing.assert_allclose(
        bound.upper, (images + 0.1 - mean) / deviation, rtol=1e-4
    )
    np.testing.assert_allclose(forward.logits, (images - mean) / deviation, atol=1e-5)


@pytest.mark.parametrize("objective", [terms.robust(None), terms.robust(0.2)])
def test_gradients_flow_through_the_moments(objective):
    """Against central differences, in float64."""
    classifier = small.cnn(normalized=True, dtype="float64")
    images, labels = small.images_and_labels(6)
    images = tf.constant(images.astype("float64"))

    def loss():
        losses, _ = objective(_forward(classifier, images, tf.constant(labels), 0.03))
        return tf.reduce_mean(losses)

    kernel = classifier.get_layer("conv").kernel
    with tf.GradientTape() as tape:
        value = loss()
    gradient = tape.gradient(value, kernel.value).numpy()
    start, step = np.asarray(kernel), 1e-6
    for index in ((0, 0, 0, 0), (1, 2, 0, 1), (2, 1, 0, 2)):
        ends = []
        for sign in (1.0, -1.0):
            moved = start.copy()
            moved[index] += sign * step
            kernel.assign(moved)
            ends.append(float(loss()))
        kernel.assign(start)
        slope = (ends[0] - ends[1]) / (2 * step)
        assert gradient[index] == pytest.approx(slope, rel=1e-4, abs=1e-7)
        assert abs(slope) > 1e-4


def test_a_frozen_layer_keeps_its_statistics():
    classifier = small.cnn(normalized=True)
    norm = classifier.get_layer("norm")
    norm.trainable = False
    norm.moving_mean.assign([0.1, 0.2, 0.3])
    before = small.weights(norm)
    model = small.certified_model(classifier, terms.robust())
    small.fit(model, small.batches(), epochs=1)
    for value, other in zip(small.weights(norm), before, strict=True):
        np.testing.assert_array_equal(value, other)


def test_a_converted_model_trains_with_its_statistics():
    keras.utils.set_random_seed(0)
    plain = keras.Sequential(
        [
            keras.Input(small.SHAPE),
            keras.layers.Conv2D(3, 3, strides=2),
            keras.layers.BatchNormalization(momentum=0.5),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(small.CLASSES),
        ]
    )
    images, _ = small.images_and_labels(48)
    plain(images, training=True)
    classifier = rt.convert(plain)
    np.testing.assert_allclose(classifier(images), plain(images), atol=1e-5)
    model = small.certified_model(
        classifier, terms.robust_natural(), optimizer=keras.optimizers.Adam(0.01)
    )
    losses = small.fit(model, small.batches(), epochs=8)["loss"]
    assert losses[-1] < 0.9 * losses[0]
    validated = model.evaluate(small.batches(), verbose=0, return_dict=True)
    assert validated["loss"] < losses[0]


def test_moments_of_two_replicas_do_not_cancel():
    """Deviations of 0.1 about a mean of 1000, in float32."""
    values = 1000.0 + 0.1 * np.random.default_rng(0).normal(size=(16, 2))
    values = values.astype("float32")
    strategy = strategy_for(("CPU:0", "CPU:1"))
    layer = layers.BatchNormalization()
    halves = tf.stack(np.split(values, 2))

    @tf.function
    def measure():
        def part():
            index = tf.distribute.get_replica_context().replica_id_in_sync_group
            moments = layer.moments(halves[index])
            return moments.mean, moments.variance

        return strategy.run(part)

    mean, variance = (strategy.experimental_local_results(x)[1] for x in measure())
    wanted_mean, wanted_variance, _ = _moments(values)
    np.testing.assert_allclose(mean, wanted_mean, rtol=1e-6)
    np.testing.assert_allclose(variance, wanted_variance, rtol=1e-2)
