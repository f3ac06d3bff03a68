"""Maxima: the lines are exact where one entry always wins, and tight else."""

import numpy as np
import pytest
import tensorflow as tf

from robust_tf import layers
from robust_tf.bounds import IntervalBound


def box(lower, upper):
    """A 2 by 2 image of one channel from four entries."""
    ends = (
        tf.reshape(tf.constant(end, tf.float64), [1, 2, 2, 1]) for end in (lower, upper)
    )
    return IntervalBound(*ends)


def pulled(lower, upper, sign):
    rows = tf.fill([1, 1, 1, 1, 1], tf.constant(sign, tf.float64))
    (coefficients,), constant = layers.MaxPooling2D(
        dtype="float64"
    ).propagate_linear_backward(rows, box(lower, upper))
    return coefficients.numpy().ravel(), constant.numpy().item()


def test_one_entry_always_wins():
    for sign in (1.0, -1.0):
        coefficients, constant = pulled([0, 3, 1, -1], [1, 4, 3, 0], sign)
        np.testing.assert_array_equal(coefficients, [0.0, sign, 0.0, 0.0])
        assert constant == 0.0


def test_greatest_lower_end_from_below():
    coefficients, constant = pulled([0, 1, 2, -1], [5, 6, 3, 0], 1.0)
    np.testing.assert_array_equal(coefficients, [0.0, 0.0, 1.0, 0.0])
    assert constant == 0.0


def test_chord_against_the_rest_from_above():
    # Over [1, 5] the entry that can be greatest meets a rest of at most 3: the line
    # through (1, 3) and (5, 5).
    coefficients, constant = pulled([1, 0, 2, -1], [5, 3, 2.5, 0], -1.0)
    np.testing.assert_allclose(coefficients, [-0.5, 0.0, 0.0, 0.0])
    assert constant == pytest.approx(-2.5)


@pytest.mark.parametrize("ends", [(1.0, 1.0), (-1.0, 2.0)], ids=["points", "intervals"])
def test_ties(ends):
    low, high = ends
    for sign in (1.0, -1.0):
        coefficients, constant = pulled([low] * 4, [high] * 4, sign)
        random = np.random.default_rng(0)
        points = random.uniform(low, high, (1000, 4))
        slack = sign * points.max(1) - points @ coefficients - constant
        assert slack.min() >= -1e-12


def test_average_counts_entries_inside_alone():
    layer = layers.AveragePooling2D(2, padding="same", dtype="float64")
    image = tf.reshape(tf.range(9, dtype=tf.float64), [1, 3, 3, 1])
    rows = tf.reshape(tf.eye(4, dtype=tf.float64), [1, 4, 2, 2, 1])
    (coefficients,), _ = layer.propagate_linear_backward(
        rows, IntervalBound(image, image)
    )
    # Bottom right sees one entry, top right two, top left four.
    np.testing.assert_array_equal(coefficients[0, 3, :, :, 0], np.diag([0.0, 0.0, 1.0]))
    assert coefficients[0, 1, 0, 2, 0] == 0.5
    assert coefficients[0, 0, 1, 1, 0] == 0.25
