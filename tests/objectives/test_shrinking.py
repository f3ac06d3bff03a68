"""Small boxes whose unstable ReLUs keep a share of their upper bounds."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf.attacks import PGD
from robust_tf.bounds import IntervalBound
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.objectives.forward import Adversary
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.objectives.shrinking import ShrinkingChoices
from robust_tf.objectives.taps import Taps
from robust_tf.objectives.taps import edge_before_relus
from tests.training import small

ATTACK = PGD(steps=2, random_start=False)
# Active, inactive, unstable; twice at the edge of being so.
LOWER = [1.0, -3.0, -1.0, 0.0, -2.0]
UPPER = [2.0, -1.0, 3.0, 2.0, 0.0]


@pytest.mark.parametrize("share, upper", [(0.8, 2.4), (0.5, 1.5), (1.0, 3.0)])
def test_unstable_neurons_alone_keep_a_share(share, upper):
    box = IntervalBound(tf.constant([LOWER]), tf.constant([UPPER]))
    image = layers.ReLU().propagate_interval(box, unstable_share=share)
    np.testing.assert_allclose(image.lower, [[1.0, 0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(image.upper, [[2.0, 0.0, upper, 2.0, 0.0]], rtol=1e-6)


def test_through_a_network_by_hand():
    """`relu(x)`, then `-x`: of [-1, 3] the first leaves [0, 2.4]."""
    inputs = keras.Input((1,))
    hidden = layers.Dense(1, use_bias=False, kernel_initializer="ones")(inputs)
    hidden = layers.ReLU()(hidden)
    outputs = layers.Dense(
        1, use_bias=False, kernel_initializer=keras.initializers.Constant(-1.0)
    )(hidden)
    graph = BoundGraph.from_model(keras.Model(inputs, outputs))
    box = IntervalBound(tf.constant([[-1.0]]), tf.constant([[3.0]]))
    bounds = graph.propagate_interval(box, ShrinkingChoices(unstable_share=0.8))
    np.testing.assert_allclose(bounds[graph.output].lower, [[-2.4]], rtol=1e-6)
    np.testing.assert_allclose(bounds[graph.output].upper, [[0.0]], atol=1e-6)


def _passed(training=True, **options):
    images, labels = small.images_and_labels(12)
    return CertifiedForward(
        graph=BoundGraph.from_model(small.cnn(normalized=True)),
        images=tf.constant(images),
        labels=tf.constant(labels),
        region=rt.LpBall(images, 0.1),
        ramp=tf.constant(1.0),
        seed=tf.constant([1, 2], tf.int64),
        training=training,
        adversary=Adversary(ATTACK, box_share=0.5, **options),
    )


@pytest.mark.parametrize("statistics", ["clean", "adversarial"])
def test_margins_in_training_rise_and_those_in_validation_stay(statistics):
    shrunk, plain = (
        _passed(unstable_share=share, statistics=statistics) for share in (0.5, 1.0)
    )
    assert type(plain.choices) is Choices
    difference = shrunk.interval_margins - plain.interval_margins
    assert np.min(difference) >= -1e-6
    assert np.max(difference) > 1e-3
    np.testing.assert_array_equal(
        _passed(False, unstable_share=0.5, statistics=statistics).interval_margins,
        _passed(False, statistics=statistics).interval_margins,
    )


def test_staps_searches_the_shrunk_boxes():
    """Its features are those of the interval pass."""
    seen = []

    def attack(logits_fn, region, labels, seed):
        del logits_fn, labels, seed
        seen.append(region.box)
        return region.box.center

    forward = _passed(unstable_share=0.5)
    Taps(attack)(forward)
    edge = edge_before_relus(forward.graph, 1)
    box = forward.intervals[edge]
    np.testing.assert_array_equal(seen[0].upper[::3], box.upper)
    whole = dataclasses.replace(
        forward, adversary=dataclasses.replace(forward.adversary, unstable_share=1.0)
    )
    assert np.max(whole.intervals[edge].upper - box.upper) > 1e-3


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_shares_out_of_range(share):
    with pytest.raises(rt.InputError, match=r"`unstable_share` must lie in \(0, 1\]"):
        Adversary(ATTACK, box_share=0.5, unstable_share=share)


def test_whole_regions_are_bounded_soundly():
    with pytest.raises(rt.InputError, match="bounds prove nothing.*Set both, or"):
        Adversary(ATTACK, unstable_share=0.8)
