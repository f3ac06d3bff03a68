"""What affine forms exclude of a box, against its points."""

import numpy as np
import pytest
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.verification.exclusion import ClauseForms
from robust_tf.verification.exclusion import Forms

CLAUSES = (0, 1, 0, 0)
COUNT = 60


def forms(coefficients, constants):
    return Forms(
        tf.constant(coefficients, tf.float64), tf.constant(constants, tf.float64)
    )


def no_forms(batch, size):
    return forms(np.zeros([batch, 0, size]), np.zeros([batch, 0]))


def unit_box(batch, size):
    ones = tf.ones([batch, size], tf.float64)
    return IntervalBound(-ones, ones)


@pytest.fixture(scope="module")
def cases():
    """Random rows and cuts in boxes that lie off the middle; and points of these."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(COUNT, 4, 3)), rng.normal(size=(COUNT, 4))
    cuts = rng.normal(size=(COUNT, 2, 3)), 0.3 * rng.normal(size=(COUNT, 2))
    low = rng.uniform(-2.0, 0.0, size=(COUNT, 3))
    high = low + rng.uniform(0.1, 2.0, size=(COUNT, 3))
    points = low[:, None] + rng.uniform(size=(COUNT, 4000, 3)) * (high - low)[:, None]
    return rows, cuts, (low, high), points


def values_at(points, coefficients, constants):
    return np.einsum("bri,bpi->bpr", coefficients, points) + constants[:, None]


def bounded(cases, has_cuts=True):
    rows, cuts, (low, high), _ = cases
    box = IntervalBound(tf.constant(low), tf.constant(high))
    cuts = forms(*cuts) if has_cuts else no_forms(COUNT, 3)
    return ClauseForms(forms(*rows), cuts, box, CLAUSES)


def clause_margins(cases):
    """Of each clause at each point; and whether the cuts let the point be."""
    rows, cuts, _, points = cases
    values = values_at(points, *rows)
    is_left = (values_at(points, *cuts) <= 0.0).all(-1)
    margins = np.stack([values[..., [0, 2, 3]].max(-1), values[..., 1]], -1)
    return margins, is_left


@pytest.mark.parametrize("has_cuts", [True, False])
def test_margins_hold_where_cuts_do(cases, has_cuts):
    found = bounded(cases, has_cuts).margins.numpy()
    margins, is_left = clause_margins(cases)
    if not has_cuts:
        is_left = np.ones_like(is_left)
    least = np.where(is_left[..., None], margins, np.inf).min(1)
    assert (found <= least).all()
    assert np.isfinite(found).all()


def test_cuts_and_other_rows_help(cases):
    rows, _, (low, high), _ = cases
    center, radius = (low + high) / 2.0, (high - low) / 2.0
    alone = np.einsum("bri,bi->br", rows[0], center) + rows[1]
    alone -= np.einsum("bri,bi->br", np.abs(rows[0]), radius)
    alone = np.stack([alone[:, [0, 2, 3]].max(-1), alone[:, 1]], -1)
    without, with_cuts = (bounded(cases, has).margins.numpy() for has in (False, True))
    assert (without >= alone - 1e-9).all()
    assert (without > alone + 0.1)[:, 0].mean() > 0.2
    np.testing.assert_allclose(without[:, 1], alone[:, 1], atol=1e-9)
    assert ((with_cuts > 0.0) & ~(without > 0.0)).any(0).all()


def test_rows_that_are_never_low_together():
    # x + 0.1 and -x + 0.1: each reaches -0.9, but their mean is 0.1.
    rows = forms([[[1.0], [-1.0]]], [[0.1, 0.1]])
    together = ClauseForms(rows, no_forms(1, 1), unit_box(1, 1), (0, 0))
    np.testing.assert_allclose(together.margins, [[0.1]], atol=1e-6)
    apart = ClauseForms(rows, no_forms(1, 1), unit_box(1, 1), (0, 1))
    np.testing.assert_allclose(apart.margins, [[-0.9, -0.9]], atol=1e-9)


def test_cuts_alone_exclude_but_bound_nothing():
    # No point has x <= -0.5 and -x <= -0.5.
    cuts = forms([[[1.0], [-1.0]]], [[0.5, 0.5]])
    row = forms([[[0.0]]], [[-7.0]])
    assert ClauseForms(row, cuts, unit_box(1, 1), (0,)).margins.numpy() > 0.0
    # Here x = 0 is left: the row's own margin counts, whatever cuts would give.
    cuts = forms([[[1.0], [-1.0]]], [[-1e-3, -1e-3]])
    margins = ClauseForms(row, cuts, unit_box(1, 1), (0,)).margins
    np.testing.assert_allclose(margins, [[-7.0]], atol=1e-6)


def test_bounds_are_rounded_down():
    # In exact arithmetic the least value is 0: nothing may be proved of it.
    rows = forms([[[1e8, 1e-8], [-1e8, 1e-8]]], [[1e-8, 1e-8]])
    found = ClauseForms(rows, no_forms(1, 2), unit_box(1, 2), (0, 0))
    assert float(found.margins[0, 0]) <= 0.0


def test_what_is_no_number_proves_nothing():
    rows = forms([[[np.nan], [1.0]], [[1.0], [0.0]]], [[1.0, -2.0], [-np.inf, -1.0]])
    found = ClauseForms(rows, no_forms(2, 1), unit_box(2, 1), (0, 0))
    assert not (found.margins.numpy() > 0.0).any()
    box = found.clipped(found.margins, 0.0)
    assert (box.lower.numpy() >= -1.0).all()
    assert (box.upper.numpy() <= 1.0).all()


@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_clipped_boxes_hold_all_unsafe_points(cases, margin):
    found = bounded(cases)
    box = found.clipped(found.margins, margin)
    lower, upper = box.lower.numpy()[:, None], box.upper.numpy()[:, None]
    margins, is_left = clause_margins(cases)
    _, _, (low, high), points = cases
    is_open = ~(found.margins.numpy() > 0.0)
    is_wanted = (margins <= margin) & is_left[..., None] & is_open[:, None]
    is_inside = ((points >= lower) & (points <= upper)).all(-1)
    assert is_inside[is_wanted.any(-1)].all()
    assert is_wanted.any(-1).sum() > 1000
    assert (lower <= upper).all()
    shares = ((upper - lower)[:, 0] / (high - low)).prod(-1)
    assert (shares[is_open.any(-1)] < 0.9).mean() > 0.2


def test_boxes_of_which_nothing_is_left_stay_whole():
    # x <= 0.3 and x >= 0.5 in the first; x <= 0.5 and x >= 0.3 in the second.
    cuts = forms([[[1.0], [-1.0]]] * 2, [[-0.3, 0.5], [-0.5, 0.3]])
    box = cuts.clipped(unit_box(2, 1), 0.0)
    np.testing.assert_allclose(box.lower, [[-1.0], [0.3]])
    np.testing.assert_allclose(box.upper, [[1.0], [0.5]])


def test_weights_and_least_points(cases):
    found = bounded(cases)
    rows, _, (low, high), _ = cases
    clause = tf.argmin(found.margins, -1, tf.int32)
    weights = found.weights_of_rows(clause).numpy()
    np.testing.assert_allclose(weights.sum(-1)[weights.sum(-1) > 1e-3], 1.0, atol=1e-9)
    is_first = (clause.numpy() == 0)[:, None]
    is_member = np.where(
        is_first, [[True, False, True, True]], [[False, True] * 1 + [False] * 2]
    )
    assert (weights[~is_member] == 0.0).all()
    points = found.least_points(clause).numpy()
    assert (
        (points == low)
        | (points == high)
        | np.isclose(points, low)
        | np.isclose(points, high)
    ).all()
    # Of a single row it is the corner where that is least.
    one = np.flatnonzero(clause.numpy() == 1)
    corner = np.where(rows[0][one, 1] > 0.0, low[one], high[one])
    alone = bounded(cases, has_cuts=False).least_points(clause).numpy()
    np.testing.assert_allclose(alone[one], corner)
