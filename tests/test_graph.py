"""The rest of a classifier, from a cut on."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from tests.training import small


@pytest.fixture
def residual():
    """Input 0, dense 1, relu 2, dense 3 around which 2 leads, sum 4, logits 5."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,), dtype="float64")
    tensor = layers.ReLU(dtype="float64")(layers.Dense(4, dtype="float64")(inputs))
    branch = layers.Dense(4, dtype="float64")(tensor)
    tensor = layers.Add(dtype="float64")([tensor, branch])
    return keras.Model(inputs, layers.Dense(3, dtype="float64")(tensor))


def test_cuts_and_what_follows_them(residual):
    graph = BoundGraph.from_model(residual)
    assert [graph.is_cut(edge) for edge in range(6)] == [1, 1, 1, 0, 1, 1]
    points = tf.random.stateless_normal((7, 5), (0, 0), dtype=tf.float64)
    wanted = residual(points)
    values = points
    for edge, layer in ((0, None), (1, 1), (2, 2)):
        values = values if layer is None else residual.layers[layer](values)
        actual = graph.forward_from(edge, values, Choices())
        np.testing.assert_allclose(actual, wanted, atol=1e-12)
    assert graph.forward_from(5, wanted, Choices()) is wanted
    with pytest.raises(rt.InputError, match=r"Edge 3 .*\[0, 1, 2, 4, 5\]"):
        graph.forward_from(3, values, Choices())


def test_statistics_are_those_of_the_bounds():
    model = small.cnn(normalized=True, dtype="float64")
    graph = BoundGraph.from_model(model)
    images = tf.constant(small.images_and_labels(8)[0], tf.float64)
    at_rest = graph.forward(images)[0]
    _, moments = graph.forward(images, training=True)
    before = small.weights(model)
    actual = graph.forward_from(0, images, Choices(moments=moments))
    box = rt.LpBall(images, 0.0).box
    bound = graph.propagate_interval(box, Choices(moments=moments))[graph.output]
    np.testing.assert_allclose(actual, bound.center, atol=1e-12)
    assert float(tf.reduce_max(abs(actual - at_rest))) > 0.01
    for value, wanted in zip(small.weights(model), before, strict=True):
        np.testing.assert_array_equal(value, wanted)
