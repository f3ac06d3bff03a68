"""Small linear programs, many at once, by an interior-point method.

Mehrotra's prediction and correction (doi:10.1137/0802028), a fixed number of steps.
"""

import dataclasses

import numpy as np
import tensorflow as tf

_STEPS = 10
# How much of the way to the border a step goes.
_SHARE = 0.99
# Keeps the matrices of Newton's method positive definite.
_RIDGE = 1e-9
_TINY = 1e-30
# Mean product of slacks and multipliers at which an example is done.
_CONVERGED = 1e-10


def weights_of_greatest(slopes: tf.Tensor, heights: tf.Tensor) -> tf.Tensor:
    """Returns weights of affine forms whose weighted sum is great everywhere.

    The multipliers of the program that makes the greatest of the forms, each in its own
    unit, as small as can be over `[-1, 1]` in each variable: good to some 8 digits.

    Args:
        slopes: `[batch, forms, variables]`.
        heights: of the forms at 0, `[batch, forms]`.

    Returns:
        `[batch, forms]`, at least 0, of the sum 1; all 0 where nothing was found.
    """
    unit = tf.abs(heights) + tf.reduce_sum(tf.abs(slopes), -1) + _TINY
    program = _Program.of(slopes / unit[..., None], heights / unit)
    weights = program.multipliers()[:, : tf.shape(heights)[1]] / unit
    total = tf.reduce_sum(weights, 1, keepdims=True)
    is_found = (total > 0.0) & (total < np.inf)
    weights /= tf.where(is_found, total, 1.0)
    return tf.where(is_found & (weights > 0.0), weights, 0.0)


@dataclasses.dataclass(frozen=True)
class _Program:
    """Minimise the last variable where `matrix @ variables <= ends`.

    Attributes:
        matrix: `[batch, constraints, variables]`.
        ends: `[batch, constraints]`.
        forms: how many constraints, the first ones, bound the last variable.
    """

    matrix: tf.Tensor
    ends: tf.Tensor
    forms: tf.Tensor

    @classmethod
    def of(cls, slopes, heights) -> "_Program":
        """Each form at most the last variable, all others between -1 and 1."""
        batch, inputs = tf.shape(slopes)[0], slopes.shape[2]
        one = tf.eye(inputs, inputs + 1, [batch], dtype=slopes.dtype)
        above = -tf.ones_like(heights)[..., None]
        matrix = tf.concat([tf.concat([slopes, above], 2), one, -one], 1)
        ends = tf.concat([-heights, tf.ones([batch, 2 * inputs], slopes.dtype)], 1)
        return cls(matrix, ends, tf.shape(heights)[1])

    def multipliers(self) -> tf.Tensor:
        """Returns what each constraint is worth, `[batch, constraints]`."""
        variables = self.matrix.shape[2]
        highest = -tf.reduce_min(self.ends[:, : self.forms], 1, keepdims=True)
        # From the middle of the box, and well above all forms.
        last = tf.one_hot([variables - 1], variables, dtype=self.ends.dtype)
        slack = self._slack(at := (highest + 1.0) * last)
        scale = 1.0 / tf.reduce_sum(1.0 / slack[:, : self.forms], 1, keepdims=True)

        def step(index, at, multipliers):
            return index + 1, *self._step(at, multipliers, last)

        loop = (tf.constant(0), at, scale / slack)
        *_, multipliers = tf.while_loop(
            lambda index, *_: index < _STEPS, step, loop, parallel_iterations=1
        )
        return multipliers

    def _slack(self, at):
        return self.ends - tf.linalg.matvec(self.matrix, at)

    def _step(self, at, multipliers, objective):
        """One step: a prediction, then a correction by it."""
        slack = tf.maximum(self._slack(at), _TINY)
        rest = tf.linalg.matvec(self.matrix, multipliers, transpose_a=True)
        newton = _Newton(self.matrix, slack, multipliers, -objective - rest)
        product = multipliers * slack
        moves = newton.towards(-product)
        shares = _shares(slack, multipliers, *moves)
        after = (slack + shares[0] * moves[1]) * (multipliers + shares[1] * moves[2])
        mean = tf.reduce_mean(product, 1, keepdims=True)
        ratio = tf.reduce_mean(after, 1, keepdims=True) / mean
        target = ratio**3 * mean - product - moves[1] * moves[2]
        moves = newton.towards(target)
        shares = _shares(slack, multipliers, *moves)
        # Beyond convergence steps are noise.
        goes_on = mean > _CONVERGED
        return (
            at + tf.where(goes_on, _SHARE * shares[0] * moves[0], 0.0),
            multipliers + tf.where(goes_on, _SHARE * shares[1] * moves[2], 0.0),
        )


class _Newton:
    """Newton's equations at one point, factored once."""

    def __init__(self, matrix, slack, multipliers, residual):
        self._matrix, self._slack, self._residual = matrix, slack, residual
        self._ratio = multipliers / slack
        weighted = matrix * self._ratio[..., None]
        square = tf.linalg.matmul(matrix, weighted, transpose_a=True)
        self._unit = 1.0 / tf.sqrt(tf.linalg.diag_part(square) + _TINY)
        square *= self._unit[:, :, None] * self._unit[:, None]
        eye = tf.eye(matrix.shape[2], dtype=matrix.dtype)
        # What is no number must not reach the factorisation, which would raise.
        is_finite = tf.reduce_all(tf.math.is_finite(square), [1, 2], keepdims=True)
        self._factor = tf.linalg.cholesky(
            tf.where(is_finite, square, eye) + _RIDGE * eye
        )

    def towards(self, target):
        """Moves of variables, slacks and multipliers, for their products' change."""
        share = target / self._slack
        right = self._residual
        right -= tf.linalg.matvec(self._matrix, share, transpose_a=True)
        right = (self._unit * right)[..., None]
        move = self._unit * tf.linalg.cholesky_solve(self._factor, right)[..., 0]
        rise = tf.linalg.matvec(self._matrix, move)
        return move, -rise, share + self._ratio * rise


def _shares(slack, multipliers, _, slack_move, move):
    """How much of each move keeps all slacks and all multipliers at least 0."""
    return _share(slack, slack_move), _share(multipliers, move)


def _share(values, moves):
    falls = moves < 0.0
    steps = tf.where(falls, -values / tf.where(falls, moves, -1.0), 1.0)
    return tf.minimum(tf.reduce_min(steps, 1, keepdims=True), 1.0)
