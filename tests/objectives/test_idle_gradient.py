"""Passes whose results have weight 0 cost no backward pass."""

import numpy as np
import pytest
import tensorflow as tf

from robust_tf.objectives.idle_gradient import without_idle_gradient


class _Watched:
    """`(weight * x, {"square": weight ** 2})`, counting its backward passes."""

    def __init__(self):
        self.weight = tf.Variable([2.0, 3.0])
        self.passes = tf.Variable(0, trainable=False)

    def __call__(self):
        return self._counted(self.weight * [5.0, 7.0]), {"square": self.weight**2}

    @tf.custom_gradient
    def _counted(self, values):
        def gradient(upstream):
            self.passes.assign_add(1)
            return upstream

        return tf.identity(values), gradient


def _gradient(watched, shares, is_eager=False):
    def run():
        with tf.GradientTape() as tape:
            values, others = without_idle_gradient(watched)
            loss = shares[0] * tf.reduce_sum(values)
            loss += shares[1] * tf.reduce_sum(others["square"])
        return tape.gradient(loss, watched.weight)

    return run() if is_eager else tf.function(run)()


@pytest.mark.parametrize("is_eager", [False, True])
@pytest.mark.parametrize(
    "shares, expected",
    [
        ((1.0, 0.0), [5.0, 7.0]),
        ((0.0, 1.0), [4.0, 6.0]),
        ((1.0, 0.5), [7.0, 10.0]),
        ((0.0, 0.0), [0.0, 0.0]),
    ],
)
def test_gradient_is_that_of_the_function(shares, expected, is_eager):
    actual = _gradient(_Watched(), tf.constant(shares), is_eager)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("share, passes", [(0.0, 0), (1.0, 1)])
def test_an_idle_pass_is_left_out(share, passes):
    watched = _Watched()
    _gradient(watched, tf.constant([share, 0.0]))
    assert watched.passes.numpy() == passes


def test_a_gradient_that_is_no_number_is_passed_on():
    actual = _gradient(_Watched(), tf.constant([np.nan, 0.0]))
    assert np.all(np.isnan(actual))
