"""Weights of affine forms against a solver of linear programs."""

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

from robust_tf.verification.interior_point import weights_of_greatest


def least_of_greatest(slopes, heights):
    """The exact answer: where the greatest form, in its own unit, is least."""
    unit = np.abs(heights) + np.abs(slopes).sum(-1)
    count, variables = slopes.shape
    found = scipy.optimize.linprog(
        np.eye(variables + 1)[-1],
        np.hstack([slopes / unit[:, None], -np.ones([count, 1])]),
        -heights / unit,
        bounds=[(-1.0, 1.0)] * variables + [(None, None)],
    )
    return found.fun


@pytest.mark.parametrize(("forms", "variables"), [(1, 3), (4, 1), (6, 5), (30, 5)])
def test_against_a_solver(forms, variables):
    rng = np.random.default_rng(forms)
    slopes = rng.normal(size=(40, forms, variables))
    heights = 0.5 * rng.normal(size=(40, forms))
    slopes[:10] *= 1e-4  # Nearly constant, and of very different sizes.
    heights[10:20] *= 1e-4
    slopes[20:30, 0] *= 1e6
    heights[20:30, 0] *= 1e6
    weights = weights_of_greatest(tf.constant(slopes), tf.constant(heights)).numpy()
    assert (weights >= 0.0).all()
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-12)
    for weight, slope, height in zip(weights, slopes, heights, strict=True):
        unit = np.abs(height) + np.abs(slope).sum(-1)
        value = weight @ height - np.abs(weight @ slope).sum()
        # Weights are for the forms as they are; the unit's share makes them one.
        value /= (weight * unit).sum()
        assert value == pytest.approx(least_of_greatest(slope, height), abs=1e-6)


def test_what_is_no_number_stays_alone():
    slopes, heights = np.ones([4, 2, 2]), np.array([[0.5, -0.5]] * 4)
    slopes[0, 0, 0], heights[1, 1], heights[2, 0] = np.nan, np.inf, -np.inf
    weights = weights_of_greatest(tf.constant(slopes), tf.constant(heights)).numpy()
    assert np.isfinite(weights).all()
    assert (weights[:3].sum(-1) <= 1.0 + 1e-12).all()
    np.testing.assert_allclose(weights[3].sum(), 1.0)


def test_forms_that_are_zero():
    weights = weights_of_greatest(
        tf.zeros([3, 2, 2], tf.float64), tf.zeros([3, 2], tf.float64)
    )
    assert np.isfinite(weights.numpy()).all()


def test_no_examples():
    slopes, heights = tf.zeros([0, 2, 2], tf.float64), tf.zeros([0, 2], tf.float64)
    assert weights_of_greatest(slopes, heights).shape == (0, 2)
