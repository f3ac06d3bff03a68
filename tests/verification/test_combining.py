"""Clauses of several rows: what no single row excludes."""

import numpy as np
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.verification.combining import clause_forms


def box(batch, size):
    ones = tf.ones([batch, size], tf.float64)
    return IntervalBound(-ones, ones)


def test_rows_that_are_never_low_together():
    # x + 0.1 and -x + 0.1: each reaches -0.9, but their sum is 0.2.
    rows = tf.constant([[[1.0], [-1.0]]], tf.float64)
    constants = tf.constant([[0.1, 0.1]], tf.float64)
    bounds, forms = clause_forms(rows, constants, box(1, 1), (0, 0))
    np.testing.assert_allclose(bounds, [[0.1]], atol=1e-6)
    np.testing.assert_allclose(forms, [[[0.0]]], atol=1e-6)
    alone, _ = clause_forms(rows, constants, box(1, 1), (0, 1))
    np.testing.assert_allclose(alone, [[-0.9, -0.9]], atol=1e-9)


def test_bounds_hold_and_are_no_worse_than_of_single_rows():
    rng = np.random.default_rng(0)
    rows, constants = rng.normal(size=(50, 4, 3)), rng.normal(size=(50, 4))
    clauses = (0, 0, 0, 1)
    bounds, _ = clause_forms(
        tf.constant(rows), tf.constant(constants), box(50, 3), clauses
    )
    points = rng.uniform(-1.0, 1.0, size=(5000, 3))
    values = np.einsum("bri,pi->bpr", rows, points) + constants[:, None]
    least = np.stack([values[..., :3].max(-1), values[..., 3]], -1).min(1)
    assert (bounds.numpy() <= least).all()
    alone = constants - np.abs(rows).sum(-1)
    single = np.stack([alone[:, :3].max(-1), alone[:, 3]], -1)
    assert (bounds.numpy() >= single - 1e-9).all()
    assert (bounds.numpy()[:, 0] > single[:, 0] + 0.1).mean() > 0.5


def test_bounds_are_rounded_down():
    # In exact arithmetic the least value is 0: nothing may be proved of it.
    rows = tf.constant([[[1e8, 1e-8], [-1e8, 1e-8]]], tf.float64)
    constants = tf.constant([[1e-8, 1e-8]], tf.float64)
    bounds, _ = clause_forms(rows, constants, box(1, 2), (0, 0))
    assert float(bounds[0, 0]) <= 0.0
