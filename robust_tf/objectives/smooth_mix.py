"""SmoothMix (arXiv:2111.09277): images mixed with adversarial ones, labels with none.

Its loss is that of `smoothed.NoisyCrossEntropy`, and `SmoothMix` by a weight eta times
the ramp: `terms.FollowsRadius(0.0, eta)`. Gradients flow through the targets.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from robust_tf.attacks.lengths import length
from robust_tf.attacks.lengths import shortened
from robust_tf.attacks.smoothadv import ascent
from robust_tf.errors import InputError
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.objectives.noise import NoisyForward
from robust_tf.objectives.noise import divergences

# Keeps the shares apart from what else is drawn by the batch's seed.
_STREAM = 0x6D6978
_LARGEST_SHARE = 0.5
_NO_DIRECTION = 1e-8  # Added to lengths of gradients, as published.


@dataclasses.dataclass(frozen=True)
class MixPGD:
    """Steps of one length along the gradient, each clipped to [0, 1], within no ball.

    They increase `-log` of the label's mean probability over the noisy copies. The last
    point is `NoisyForward.ends`. The noise is added to the images themselves, or to
    where the first step leads, projected to the current radius: the target radius
    should be `step_size`, and its ramp the warm-up.

    Attributes:
        step_size: in the L2 norm, alpha of the paper, above 0.
        steps: T of the paper, at least 1.
        mix_step: after how many steps the noise is added, 0 or 1; below `steps`.

    Raises:
        InputError: for values out of range.
    """

    step_size: float = 1.0
    steps: int = 4
    mix_step: int = 0

    def __post_init__(self):
        if not 0.0 < self.step_size < float("inf"):
            raise InputError(
                "`step_size` must be a finite number above 0. Received: "
                f"{self.step_size}"
            )
        if not isinstance(self.steps, int) or self.steps < 1:
            raise InputError(
                "`steps` must be a whole number of at least 1. Received: "
                f"{self.steps!r}"
            )
        if self.mix_step not in (0, 1) or self.mix_step >= self.steps:
            raise InputError(
                "`mix_step` must be 0 or 1, and below `steps`. Received: "
                f"{self.mix_step!r} of {self.steps} steps"
            )

    def __call__(self, logits_fn: Callable, images, noises, labels, radius, seed):
        """Returns where the noise is added and the last points, without gradients.

        Args:
            logits_fn: `[n, *shape]` to `[n, classes]`.
            images: in [0, 1], `[batch, *shape]`.
            noises: `[batch, copies, *shape]`.
            labels: class indices, `[batch]`.
            radius: L2, a scalar, of the first step where the noise is added there.
            seed: of no use; nothing is drawn.
        """
        del seed

        def step(number, points):
            gradient, _ = ascent(logits_fn, points, noises, labels)
            direction = gradient / (length(gradient) + _NO_DIRECTION)
            moved = points + self.step_size * direction
            return number + 1, tf.clip_by_value(moved, 0.0, 1.0)

        number, points = step(tf.constant(0), images)
        first = _projected(points, images, radius) if self.mix_step else images
        _, ends = tf.while_loop(
            lambda number, _: number < self.steps, step, (number, points)
        )
        return tf.stop_gradient(first), tf.stop_gradient(ends)


@dataclasses.dataclass(frozen=True)
class SmoothMix:
    """`mean_j KL(target || p_j)` at mixed images, `[batch]`; needs `MixPGD`.

    The images are `(1 - a) x + a x'`, x what the noise is added to and x' the attack's
    end, with the noise of x. The target is `(1 - a) p + a / classes`, p the mean
    prediction at x. 0 for examples whose p does not favour the label. Both sides are
    training batches of their own, x first.
    """

    name: str = "mix_loss"

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        noisy = forward.noisy
        mean = tf.reduce_mean(noisy.probabilities, 1)
        share = mixing_shares(noisy)
        mixed = _mixed(noisy.centers, noisy.ends, share)
        target = _mixed(mean, 1.0 / mean.shape[-1], share)
        logits = noisy.logits_of(mixed[:, None] + noisy.noises)
        loss = tf.reduce_mean(divergences(target, logits), -1)
        is_right = tf.argmax(mean, -1, noisy.labels.dtype) == noisy.labels
        return tf.where(is_right, loss, tf.zeros_like(loss))


def mixing_shares(noisy: NoisyForward) -> tf.Tensor:
    """Returns the share of the attack's end in each example, below 1/2, `[batch]`."""
    images = noisy.images
    return tf.random.stateless_uniform(
        tf.shape(images)[:1],
        tf.random.experimental.stateless_fold_in(noisy.seed, _STREAM),
        maxval=tf.cast(_LARGEST_SHARE, images.dtype),
        dtype=images.dtype,
        alg="philox",
    )


def _mixed(first, second, share):
    """`(1 - share) first + share second`, the share `[batch]`."""
    share = tf.reshape(share, [-1] + [1] * (first.shape.rank - 1))
    return (1.0 - share) * first + share * second


def _projected(points, images, radius):
    """To the ball around the images, and into [0, 1]."""
    shift = shortened(points - images, tf.cast(radius, images.dtype))
    return tf.clip_by_value(images + shift, 0.0, 1.0)
