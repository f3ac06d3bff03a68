"""Attacks on smoothed classifiers in the L2 norm (SmoothAdv, arXiv:1906.04584).

They move an image whose noisy copies a classifier sees, with the noise held fixed.
"""

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf

from robust_tf.attacks.lengths import length
from robust_tf.attacks.lengths import shortened
from robust_tf.errors import InputError

_LEVELS = 255.0
_RATE, _LAST_RATE = 1.0, 0.01  # Of DDN's cosine schedule.


@dataclasses.dataclass(frozen=True)
class SmoothPGD:
    """Steps of length `2 * radius / steps` along the gradient, from the image itself.

    It increases `-log` of the label's mean probability over the noisy copies. After
    each step the point is clipped to [0, 1], then projected to the ball: in that order,
    as published, so a point may leave [0, 1] by rounding alone.

    Attributes:
        steps: at least 1.
        needs_gradient: False estimates the direction by `-mean_j(p_j noise_j)`, p_j
            being the label's probability of copy j, without gradients; with few copies
            it says little.

    Raises:
        InputError: for a number of steps below 1.
    """

    steps: int = 10
    needs_gradient: bool = True

    def __post_init__(self):
        _check_steps(self.steps)

    def __call__(self, logits_fn: Callable, images, noises, labels, radius, seed):
        """Returns the points found, without gradient, `[batch, *shape]`.

        Args:
            logits_fn: `[n, *shape]` to `[n, classes]`.
            images: in [0, 1], `[batch, *shape]`.
            noises: `[batch, copies, *shape]`.
            labels: class indices, `[batch]`.
            radius: L2, a scalar.
            seed: `[2]` integers, for directions where the gradient is 0.
        """
        radius = tf.cast(radius, images.dtype)
        step_size = 2.0 * radius / self.steps

        def step(number, shift):
            if self.needs_gradient:
                direction = ascent(logits_fn, images + shift, noises, labels)[0]
            else:
                direction = _estimate(logits_fn, images + shift, noises, labels)
            shift += _scaled(step_size, direction, seed, number)
            shift = tf.clip_by_value(images + shift, 0.0, 1.0) - images
            return number + 1, shortened(shift, radius)

        _, shift = tf.while_loop(
            lambda number, _: number < self.steps,
            step,
            (tf.constant(0), tf.zeros_like(images)),
        )
        return tf.stop_gradient(images + shift)


@dataclasses.dataclass(frozen=True)
class SmoothDDN:
    """Decoupled direction and norm on noisy copies (arXiv:1811.09600).

    A search for the least L2 perturbation that makes the majority of the
    copies (ties: the smallest class) predict another class. The norm shrinks by
    `1 - gamma` where that is so, and grows by `1 + gamma` where not; points are rounded
    to the 256 levels of a pixel. What is found is cut to the radius. Where nothing is
    found the image is returned as it is, and so it is where it is misclassified itself.

    Attributes:
        steps: at least 1.
        gamma: in (0, 1).
        first_norm: of the first perturbation; None: the radius (as in training).

    Raises:
        InputError: for values out of range.
    """

    steps: int = 10
    gamma: float = 0.05
    first_norm: float | None = None

    def __post_init__(self):
        _check_steps(self.steps)
        if not 0.0 < self.gamma < 1.0:
            raise InputError(f"`gamma` must lie in (0, 1). Received: {self.gamma}")
        if self.first_norm is not None and not 0.0 < self.first_norm < math.inf:
            raise InputError(
                "`first_norm` must be a finite number above 0, or None. Received: "
                f"{self.first_norm}"
            )

    def __call__(self, logits_fn: Callable, images, noises, labels, radius, seed):
        """Returns the points found, without gradient; as `SmoothPGD`."""
        radius = tf.cast(radius, images.dtype)
        farthest = length(tf.maximum(images, 1.0 - images))
        start = radius if self.first_norm is None else self.first_norm
        norm = tf.ones_like(farthest) * tf.cast(start, images.dtype)

        def step(number, shift, norm, best, best_norm):
            points = images + shift
            direction, logits = ascent(logits_fn, points, noises, labels)
            is_adversarial = _majority(logits) != labels
            is_adversarial = tf.reshape(is_adversarial, tf.shape(norm))
            is_better = is_adversarial & (length(shift) < best_norm)
            best_norm = tf.where(is_better, length(shift), best_norm)
            best = tf.where(is_better, shift, best)
            rate = self._rate(number, images.dtype)
            shift += _scaled(rate, direction, seed, number)
            factor = tf.where(is_adversarial, 1.0 - self.gamma, 1.0 + self.gamma)
            norm = tf.minimum(norm * tf.cast(factor, norm.dtype), farthest)
            shift *= tf.math.divide_no_nan(norm, length(shift))
            levels = tf.round((images + shift) * _LEVELS) / _LEVELS
            shift = tf.clip_by_value(levels, 0.0, 1.0) - images
            return number + 1, shift, norm, best, best_norm

        zero = tf.zeros_like(images)
        *_, best, _ = tf.while_loop(
            lambda number, *_: number < self.steps,
            step,
            (tf.constant(0), zero, norm, zero, farthest),
        )
        best = tf.round(shortened(best, radius) * _LEVELS) / _LEVELS
        return tf.stop_gradient(images + best)

    def _rate(self, number, dtype):
        """Half a cosine from near `_RATE` to `_LAST_RATE`."""
        done = tf.cast(number + 1, dtype) / self.steps
        return _LAST_RATE + 0.5 * (_RATE - _LAST_RATE) * (1.0 + tf.cos(math.pi * done))


def ascent(logits_fn: Callable, points, noises, labels):
    """Returns what increases the loss of the smoothed classifier, and its logits.

    That loss is `-log` of the label's mean probability over the copies.

    Args:
        logits_fn: `[n, *shape]` to `[n, classes]`.
        points: `[batch, *shape]`.
        noises: `[batch, copies, *shape]`.
        labels: class indices, `[batch]`.

    Returns:
        The gradient, `[batch, *shape]`, and logits of the copies, `[batch, copies,
        classes]`.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(points)
        logits = _logits(logits_fn, points, noises)
        # The mean over the copies, but for a constant; never the logarithm of 0.
        loss = -tf.reduce_logsumexp(_log_probability(logits, labels), -1)
    return tape.gradient(loss, points), logits


def _estimate(logits_fn, points, noises, labels):
    """A direction without gradients: away from noise that the label likes."""
    logits = _logits(logits_fn, points, noises)
    own = tf.exp(_log_probability(logits, labels))
    own = tf.reshape(own, [*_sizes(noises), *[1] * (points.shape.rank - 1)])
    return -tf.reduce_mean(own * noises, 1)


def _log_probability(logits, labels):
    """Of the label, by copy, `[batch, copies]`."""
    own = tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype)[:, None]
    return tf.reduce_sum(own * tf.nn.log_softmax(logits), -1)


def _logits(logits_fn, points, noises):
    """Of all noisy copies, `[batch, copies, classes]`."""
    copies = points[:, None] + noises
    logits = logits_fn(tf.reshape(copies, [-1, *copies.shape[2:]]))
    return tf.reshape(logits, [*_sizes(noises), logits.shape[-1]])


def _majority(logits):
    """The class that most copies are predicted in; of equals the smallest."""
    votes = tf.one_hot(tf.argmax(logits, -1), logits.shape[-1], dtype=tf.int32)
    return tf.argmax(tf.reduce_sum(votes, 1), -1, tf.int32)


def _scaled(factor, direction, seed, number):
    """Of length `factor`; where there is no direction, so much normal noise."""
    size = length(direction)
    seed = tf.random.experimental.stateless_fold_in(seed, number)
    noise = tf.random.stateless_normal(
        tf.shape(direction), seed, dtype=direction.dtype, alg="philox"
    )
    scaled = tf.math.divide_no_nan(factor * direction, size)
    return tf.where(size > 0.0, scaled, factor * noise)


def _sizes(noises):
    """Batch and copies; of the batch, -1 where it is not known."""
    return [-1 if noises.shape[0] is None else noises.shape[0], noises.shape[1]]


def _check_steps(steps):
    if not isinstance(steps, int) or steps < 1:
        raise InputError(
            f"`steps` must be a whole number of at least 1. Received: {steps!r}"
        )
