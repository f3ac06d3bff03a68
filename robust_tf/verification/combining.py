"""Clauses of several rows: combinations of rows that no point can make unsafe.

All rows of a clause are at most 0 at an unsafe point, and so is each sum of them with
weights of at least 0. A clause is excluded where the linear lower bound of one such sum
is above 0, although each row by itself may be negative somewhere.
"""

import numpy as np
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.bounds import contract
from robust_tf.rounding import largest_magnitude

_STEPS = 30
_RATE = 1.0


def clause_forms(
    coefficients: tf.Tensor, margins: tf.Tensor, box: IntervalBound, clauses
) -> tuple[tf.Tensor, tf.Tensor]:
    """Combines linear lower bounds of rows, clause by clause.

    Weights are searched by exponentiated gradients on the simplex; any are valid, and
    the best that are met are kept.

    Args:
        coefficients: of the rows' margins over the inputs, `[batch, rows, *shape]`.
        margins: lower bounds' constants, `[batch, rows]`.
        box: of the inputs, `[batch, *shape]`.
        clauses: the clause of each row.

    Returns:
        Lower bounds of the best combination in each clause, `[batch, clauses]`, rounded
        down; and its coefficients, `[batch, clauses, *shape]`.
    """
    clauses = np.asarray(clauses)
    bounds, forms = [], []
    for clause in range(clauses.max() + 1):
        members = np.flatnonzero(clauses == clause)
        rows = tf.gather(coefficients, members, axis=1)
        constants = tf.gather(margins, members, axis=1)
        bound, form = _combined(rows, constants, box)
        bounds.append(bound)
        forms.append(form)
    return tf.stack(bounds, 1), tf.stack(forms, 1)


def _combined(rows, constants, box):
    count = rows.shape[1]
    if count == 1:
        return _least(rows, constants, box, tf.ones_like(constants)), rows[:, 0]
    scale = contract(tf.abs(rows), box.radius) + 1e-12
    unit = tf.reduce_max(scale, 1, keepdims=True)
    weights = tf.fill(tf.shape(constants), tf.constant(1.0 / count, rows.dtype))
    # First the rows by themselves.
    alone = [
        tf.one_hot(tf.fill(tf.shape(constants)[:1], i), count, dtype=rows.dtype)
        for i in range(count)
    ]
    best = tf.fill(tf.shape(constants)[:1], tf.constant(-np.inf, rows.dtype))
    kept = weights
    for candidate in alone:
        best, kept = _better(rows, constants, box, candidate, best, kept)

    def step(index, weights, best, kept):
        best, kept = _better(rows, constants, box, weights, best, kept)
        point = box.center - tf.sign(_weighted(rows, weights)) * box.radius
        values = contract(rows, point) + constants
        rate = _RATE / tf.sqrt(tf.cast(index + 1, rows.dtype))
        weights = weights * tf.exp(rate * tf.clip_by_value(values / unit, -5.0, 5.0))
        weights /= tf.reduce_sum(weights, 1, keepdims=True)
        return index + 1, weights, best, kept

    loop = (tf.constant(0), weights, best, kept)
    _, _, best, kept = tf.while_loop(lambda index, *_: index < _STEPS, step, loop)
    return best, _weighted(rows, kept)


def _better(rows, constants, box, weights, best, kept):
    bound = _least(rows, constants, box, weights)
    is_better = bound > best
    return (
        tf.where(is_better, bound, best),
        tf.where(is_better[:, None], weights, kept),
    )


def _least(rows, constants, box, weights):
    """The least value of a weighted sum over the box, rounded down, `[batch]`."""
    form = _weighted(rows, weights)[:, None]
    value = contract(form, box.center) - contract(tf.abs(form), box.radius)
    value = value[:, 0] + tf.reduce_sum(weights * constants, 1)
    size = contract(tf.abs(rows), largest_magnitude(box)) + tf.abs(constants)
    count = rows.shape[2:].num_elements() + 2 * rows.shape[1] + 16
    unit = float(np.finfo(rows.dtype.as_numpy_dtype).eps)
    return value - 2.0 * count * unit * tf.reduce_sum(weights * size, 1)


def _weighted(rows, weights):
    shape = [-1, rows.shape[1]] + [1] * (rows.shape.rank - 2)
    return tf.reduce_sum(rows * tf.reshape(weights, shape), 1)
