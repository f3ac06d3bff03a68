"""Attacks on noise that keep its length (arXiv:2410.06895).

Noise of a high dimension has nearly one length, so what is trained on stays where the
noise is. With `training.reweighting`, the method of that paper, whose point is another:
the average certified radius can be raised by favouring easy images. Certified accuracy
at all radii belongs next to it.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from robust_tf.attacks.lengths import length
from robust_tf.errors import InputError
from robust_tf.objectives.noise import ascent
from robust_tf.objectives.noise import cross_entropies


@dataclasses.dataclass(frozen=True)
class SpherePGD:
    """Steps of length `radius` up the cross-entropy of each copy, each for itself.

    After each step the noise gets its first length back. What is kept is the first
    noise whose copy is misclassified, the one that was drawn included; where there is
    none, the last. Without a gradient a noise stays where it is. For
    `noise.Noise.noise_attack`; the radius is that of the threat (epsilon in the paper).

    Attributes:
        steps: at least 1.

    Raises:
        InputError: for a number of steps below 1.
    """

    steps: int = 3

    def __post_init__(self):
        if not isinstance(self.steps, int) or self.steps < 1:
            raise InputError(
                "`steps` must be a whole number of at least 1. Received: "
                f"{self.steps!r}"
            )

    def __call__(self, logits_fn: Callable, images, noises, labels, radius):
        """Returns the noises found, without gradient, `[batch, copies, *shape]`.

        Args:
            logits_fn: `[n, *shape]` to `[n, classes]`.
            images: `[batch, *shape]`.
            noises: `[batch, copies, *shape]`.
            labels: class indices, `[batch]`.
            radius: L2, of each step; a scalar.
        """
        radius, size = tf.cast(radius, images.dtype), length(noises, batch_axes=2)

        def step(number, moved, is_found):
            direction, logits = ascent(
                logits_fn, images, moved, lambda logits: cross_entropies(labels, logits)
            )
            is_wrong = tf.argmax(logits, -1, labels.dtype) != labels[:, None]
            is_found |= tf.reshape(is_wrong, tf.shape(is_found))
            further = moved + radius * direction
            further *= tf.math.divide_no_nan(size, length(further, batch_axes=2))
            return number + 1, tf.where(is_found, moved, further), is_found

        _, moved, _ = tf.while_loop(
            lambda number, *_: number < self.steps,
            step,
            (tf.constant(0), noises, tf.zeros_like(size, tf.bool)),
        )
        return tf.stop_gradient(moved)
