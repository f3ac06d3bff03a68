"""BatchNormalization in fewer passes: in the kernel before it, or as one operation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.layers.normalization import Moments


def _normalized(tensor, name, dtype="float64"):
    keras.utils.set_random_seed(len(name))
    layer = layers.BatchNormalization(name=name, dtype=dtype)
    outputs = layer(tensor)
    for variable in layer.weights:
        variable.assign(keras.random.uniform(variable.shape, 0.5, 1.5))
    return outputs


def _model(dtype="float64"):
    """Foldable twice; once with two readers, once behind a dense layer."""
    options = {"dtype": dtype}
    inputs = keras.Input((6, 6, 2), **options)
    tensor = layers.Conv2D(4, 3, padding="same", use_bias=False, **options)(inputs)
    tensor = layers.ReLU(**options)(_normalized(tensor, "norm", dtype))
    tensor = layers.DepthwiseConv2D(3, depth_multiplier=2, **options)(tensor)
    tensor = layers.ReLU(**options)(_normalized(tensor, "depthwise", dtype))
    twice = layers.Conv2D(4, 1, **options)(tensor)
    tensor = layers.Add(**options)([twice, _normalized(twice, "read_twice", dtype)])
    tensor = layers.Dense(5, **options)(layers.Flatten(**options)(tensor))
    tensor = _normalized(tensor, "behind_dense", dtype)
    return keras.Model(inputs, layers.Dense(3, **options)(tensor))


def _images(count=3):
    return tf.constant(np.random.default_rng(0).uniform(size=(count, 6, 6, 2)))


def test_inference_by_folded_kernels():
    graph = BoundGraph.from_model(_model())
    expected, _ = graph.forward(_images())
    np.testing.assert_allclose(graph.inference()(_images()), expected, rtol=1e-12)


def test_inference_keeps_the_weights_it_was_made_with():
    model = _model()
    logits = BoundGraph.from_model(model).inference()
    expected = logits(_images())
    model.get_layer("norm").gamma.assign([7.0] * 4)
    np.testing.assert_array_equal(logits(_images()), expected)


def _intervals(graph, choices):
    box = rt.LpBall(_images(), 0.1).box
    bounds = graph.propagate_interval(box, choices)
    return [(bound.lower, bound.upper) for _, bound in sorted(bounds.items())]


@pytest.mark.parametrize("has_moments", [False, True])
def test_intervals_by_folded_kernels(has_moments):
    graph = BoundGraph.from_model(_model())
    moments = {}
    if has_moments:
        scale = tf.constant([0.5, 1.0, 2.0, 3.0], tf.float64)
        moments = {"norm": Moments(scale - 1.0, scale)}
    choices = Choices(moments=moments)
    plain = _intervals(graph, choices)  # Eagerly nothing is folded.
    folded = tf.function(lambda: _intervals(graph, choices))()
    for expected, actual in zip(plain, folded, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_folded_intervals_hold():
    graph = BoundGraph.from_model(_model())
    lower, upper = tf.function(lambda: _intervals(graph, Choices()))()[-1]
    generator = np.random.default_rng(1)
    for _ in range(50):
        noise = 0.1 * generator.choice([-1.0, 1.0], size=_images().shape)
        logits, _ = graph.forward(tf.clip_by_value(_images() + noise, 0.0, 1.0))
        assert np.all(logits >= lower - 1e-12)
        assert np.all(logits <= upper + 1e-12)


@pytest.mark.parametrize("scale, center", [(True, True), (False, True), (True, False)])
def test_one_operation_for_a_batch(scale, center):
    layer = layers.BatchNormalization(scale=scale, center=center)
    layer.build((None, 5, 4, 3))
    for variable in layer.trainable_variables:
        variable.assign([0.5, -1.0, 2.0])
    generator = np.random.default_rng(0)
    values = tf.constant(generator.normal(2.0, 3.0, (8, 5, 4, 3)).astype("float32"))
    parts = [values, tf.zeros(3), tf.zeros(3)]
    upstream = [
        tf.constant(generator.normal(size=part.shape), tf.float32) for part in parts
    ]

    def outcome(inputs, normalize):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs, moments = normalize(inputs)
            results = [outputs, moments.mean, moments.variance]
        sources = [inputs, *layer.trainable_variables]
        weights = [tf.cast(part, inputs.dtype) for part in upstream]
        return results + tape.gradient(results, sources, weights)

    def by_moments(inputs):
        moments = layer.moments(inputs)
        return layer.normalize(inputs, moments), moments

    expected = outcome(tf.cast(values, tf.float64), by_moments)
    for ours, exact in zip(
        outcome(values, layer.normalize_batch), expected, strict=True
    ):
        np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-4)


def test_one_operation_for_a_single_place():
    layer = layers.BatchNormalization()
    layer.build((None, 1, 1, 2))
    outputs, moments = layer.normalize_batch(tf.constant([[[[3.0, -5.0]]]]))
    np.testing.assert_allclose(outputs, np.zeros((1, 1, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(moments.variance, [0.0, 0.0], atol=1e-6)
