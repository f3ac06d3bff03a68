"""Confidence-aware training (CAT-RS, arXiv:2212.09000), in two terms.

Of m noisy copies of an image, K count: K is drawn from the binomial distribution of m
and of the share of copies that are predicted right, and is at least 1. The loss is
`ConfidentCrossEntropy + lambda WorstNoise`; the second needs soft targets.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from robust_tf.attacks.lengths import shortened
from robust_tf.errors import InputError
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.objectives.noise import NoisyForward
from robust_tf.objectives.noise import ascent
from robust_tf.objectives.noise import divergences

# Keeps the draws of K apart from what else is drawn by the batch's seed.
_STREAM = 0x63617452


@dataclasses.dataclass(frozen=True)
class NoisePGD:
    """Steps of length `2 * radius / steps` that move each noise, not the image.

    They increase `KL(target || prediction)` at the copy. After each step the noise is
    projected to the ball around the original one; then its mean is taken off, it is
    divided by its root mean square before that, as published, multiplied by that of the
    original noise, and given the mean of that.

    Attributes:
        steps: at least 1.

    Raises:
        InputError: for a number of steps below 1.
    """

    steps: int = 4

    def __post_init__(self):
        if not isinstance(self.steps, int) or self.steps < 1:
            raise InputError(
                "`steps` must be a whole number of at least 1. Received: "
                f"{self.steps!r}"
            )

    def __call__(self, logits_fn: Callable, images, noises, targets, radius):
        """Returns the noises found, without gradient, `[batch, copies, *shape]`.

        Args:
            logits_fn: `[n, *shape]` to `[n, classes]`.
            images: `[batch, *shape]`.
            noises: `[batch, copies, *shape]`.
            targets: probabilities of the classes, `[batch, classes]`.
            radius: L2, a scalar.
        """
        radius = tf.cast(radius, images.dtype)
        step_size = 2.0 * radius / self.steps
        mean, size = _mean_and_size(noises)

        def step(number, moved):
            direction, _ = ascent(
                logits_fn, images, moved, lambda logits: divergences(targets, logits)
            )
            moved += step_size * direction
            moved = noises + shortened(moved - noises, radius, batch_axes=2)
            moved_mean, moved_size = _mean_and_size(moved)
            return number + 1, mean + (moved - moved_mean) / moved_size * size

        _, moved = tf.while_loop(
            lambda number, _: number < self.steps, step, (tf.constant(0), noises)
        )
        return tf.stop_gradient(moved)


@dataclasses.dataclass(frozen=True)
class ConfidentCrossEntropy:
    """The sum of the K smallest losses of m copies, over m, `[batch]`."""

    name: str = "low_loss"

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        noisy = forward.noisy
        is_kept = tf.range(noisy.noise.copies) < kept_copies(noisy)[:, None]
        losses = tf.sort(noisy.losses, -1)
        return tf.reduce_mean(tf.where(is_kept, losses, tf.zeros_like(losses)), -1)


@dataclasses.dataclass(frozen=True)
class WorstNoise:
    """`max_j KL(target || p_j)` at attacked noises where K is m, else 0, `[batch]`.

    The attacked copies are a training batch of their own, after that of the copies
    themselves; the attack's radius is the current one.

    Attributes:
        attack: such as `NoisePGD`, `(logits_fn, images, noises, targets, radius)` to
            noises.
    """

    attack: Callable = NoisePGD()
    name: str = "high_loss"

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        noisy = forward.noisy
        targets = tf.cast(forward.soft_targets, noisy.logits.dtype)
        noises = self.attack(
            noisy.graph.inference(), noisy.centers, noisy.noises, targets, noisy.radius
        )
        logits = noisy.logits_of(noisy.centers[:, None] + noises)
        loss = tf.reduce_max(divergences(targets, logits), -1)
        is_confident = kept_copies(noisy) == noisy.noise.copies
        return tf.where(is_confident, loss, tf.zeros_like(loss))


def kept_copies(noisy: NoisyForward) -> tf.Tensor:
    """Returns K, `[batch]`; the same whenever it is asked for one batch."""
    copies = noisy.noise.copies
    draws = tf.random.stateless_uniform(
        [tf.shape(noisy.labels)[0], copies],
        tf.random.experimental.stateless_fold_in(noisy.seed, _STREAM),
        alg="philox",
    )
    hits = tf.cast(draws < noisy.is_correct[:, None], tf.int32)
    return tf.maximum(tf.reduce_sum(hits, -1), 1)


def _mean_and_size(noises):
    """Mean and root mean square of each copy, `[batch, copies, 1, ...]`."""
    axes = list(range(2, noises.shape.rank))
    mean = tf.reduce_mean(noises, axes, keepdims=True)
    return mean, tf.sqrt(tf.reduce_mean(tf.square(noises), axes, keepdims=True))
