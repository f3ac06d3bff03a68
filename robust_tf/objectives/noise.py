"""Noisy copies of a training batch, for classifiers that will be smoothed."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from robust_tf.attacks.lengths import length
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.objectives.computed_once import ComputedOnce

# Keeps the noise apart from what else is drawn by the batch's seed.
_STREAM = 0x6E6F69
_NO_DIRECTION = 1e-8  # Added to lengths of gradients, as published.


@dataclasses.dataclass(frozen=True)
class Noise:
    """Gaussian noise on each image of a batch; never clipped (arXiv:1902.02918).

    Attributes:
        sigma: standard deviation, in pixels in [0, 1].
        copies: how many noisy copies of each image.
        attack: such as `attacks.smoothadv.SmoothPGD`, which moves the image that the
            noise is added to, `(logits_fn, images, noises, labels, radius, seed)` to
            images, or to a pair of them, the second for `NoisyForward.ends`; None for
            no attack. The same noise is in the attack and in the loss.
        noise_attack: such as `sphere_noise.SpherePGD`, which moves the noise of each
            copy, in training alone and where the radius is above 0: `(logits_fn,
            images, noises, labels, radius)` to noises; None for no attack.

    Raises:
        InputError: for values out of range.
    """

    sigma: float
    copies: int = 1
    attack: Callable | None = None
    # Not in the text that tells runs apart: those before it was there know nothing of
    # it. `experiments.run_signature` names it.
    noise_attack: Callable | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self):
        if not 0.0 < self.sigma < float("inf"):
            raise InputError(
                f"`sigma` must be a finite number above 0. Received: {self.sigma}"
            )
        if not isinstance(self.copies, int) or self.copies < 1:
            raise InputError(
                f"`copies` must be a whole number of at least 1. Received: "
                f"{self.copies!r}"
            )


@dataclasses.dataclass(frozen=True)
class NoisyForward:
    """Lazy results on noisy copies, which objective terms share.

    Attributes:
        graph: the classifier.
        noise: which noise.
        images: `[batch, *shape]`, in the valid range.
        labels: class indices, `[batch]`.
        radius: of the attack, in the L2 norm; a scalar.
        seed: `[2]` integers: another in each step and replica.
        training: whether batch statistics are used, and moved.
    """

    graph: BoundGraph
    noise: Noise
    images: tf.Tensor
    labels: tf.Tensor
    radius: tf.Tensor
    seed: tf.Tensor
    training: bool

    @ComputedOnce
    def noises(self) -> tf.Tensor:
        """Of mean 0 and deviation sigma, `[batch, copies, *shape]`."""
        shape = tf.shape(self.images)
        shape = tf.concat([shape[:1], [self.noise.copies], shape[1:]], 0)
        seed = tf.random.experimental.stateless_fold_in(self.seed, _STREAM)
        dtype = self.images.dtype
        drawn = tf.random.stateless_normal(shape, seed, dtype=dtype, alg="philox")
        drawn = self.noise.sigma * drawn
        return tf.ensure_shape(
            drawn, [self.images.shape[0], self.noise.copies, *self.images.shape[1:]]
        )

    @property
    def centers(self) -> tf.Tensor:
        """What the noise is added to: the images, or where the attack moved them."""
        return self._attacked[0]

    @property
    def ends(self) -> tf.Tensor:
        """How far the attack went, where that is beyond `centers` (SmoothMix)."""
        if len(self._attacked) < 2:
            raise InputError(
                "The objective has a term over images that an attack has moved twice, "
                f"and an attack that finds one. Received: {self.noise.attack!r}. Give "
                "the noise another: `Noise(..., attack=MixPGD(...))`."
            )
        return self._attacked[1]

    @ComputedOnce
    def _attacked(self) -> tuple[tf.Tensor, ...]:
        if self.noise.attack is None:
            return (self.images,)
        found = self.noise.attack(
            self.graph.inference(),
            self.images,
            self.noises,
            self.labels,
            self.radius,
            self.seed,
        )
        return found if isinstance(found, tuple) else (found,)

    @ComputedOnce
    def _moved_noises(self) -> tf.Tensor:
        """The noises, or where their attack moved them; without gradient."""
        attack = self.noise.noise_attack
        if attack is None or not self.training:
            return self.noises
        # Here, as what is computed in a branch cannot be shared.
        centers, noises = self.centers, self.noises

        def attacked():
            logits_fn = self.graph.inference()
            return attack(logits_fn, centers, noises, self.labels, self.radius)

        # The gradient stops outside: none of the branches is ever traced for one.
        return tf.stop_gradient(
            tf.cond(self.radius > 0.0, attacked, lambda: tf.identity(noises))
        )

    @ComputedOnce
    def logits(self) -> tf.Tensor:
        """Of all noisy copies, one training batch, `[batch, copies, classes]`."""
        return self.logits_of(self.centers[:, None] + self._moved_noises)

    def logits_of(self, copies: tf.Tensor) -> tf.Tensor:
        """Logits of other copies, `[batch, n, *shape]`, as a training batch."""
        logits, _ = self.graph.forward(merged(copies), self.training)
        return apart(logits, copies)

    @ComputedOnce
    def probabilities(self) -> tf.Tensor:
        """Of each copy, `[batch, copies, classes]`."""
        return tf.nn.softmax(self.logits)

    @ComputedOnce
    def losses(self) -> tf.Tensor:
        """Cross-entropy of each copy, `[batch, copies]`."""
        return cross_entropies(self.labels, self.logits)

    @ComputedOnce
    def is_correct(self) -> tf.Tensor:
        """The share of copies that are predicted right, `[batch]`."""
        predictions = tf.argmax(self.logits, -1, output_type=self.labels.dtype)
        hits = tf.cast(predictions == self.labels[:, None], tf.float32)
        return tf.reduce_mean(hits, -1)


def cross_entropies(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the cross-entropy of each copy, `[batch, copies]`.

    Args:
        labels: class indices, `[batch]`.
        logits: `[batch, copies, classes]`.
    """
    labels = tf.repeat(labels[:, None], logits.shape[1], 1)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def divergences(target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns `KL(target || prediction)` of each copy, `[batch, copies]`.

    Args:
        target: probabilities, `[batch, classes]`; 0 is allowed.
        logits: `[batch, copies, classes]`.
    """
    target = tf.expand_dims(target, 1)
    logs = tf.nn.log_softmax(logits)
    return tf.reduce_sum(tf.math.xlogy(target, target) - target * logs, -1)


def ascent(
    logits_fn: Callable,
    images: tf.Tensor,
    noises: tf.Tensor,
    losses_of: Callable[[tf.Tensor], tf.Tensor],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns how to move each noise so that the loss of its copy grows.

    Args:
        logits_fn: `[n, *shape]` to `[n, classes]`.
        images: `[batch, *shape]`.
        noises: `[batch, copies, *shape]`.
        losses_of: logits of the copies, `[batch, copies, classes]`, to losses `[batch,
            copies]`.

    Returns:
        Directions of length 1 (of 0 where the loss is flat), `[batch, copies, *shape]`,
        and the logits.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(noises)
        copies = images[:, None] + noises
        logits = apart(logits_fn(merged(copies)), copies)
        losses = losses_of(logits)
    gradient = tape.gradient(losses, noises)
    return gradient / (length(gradient, batch_axes=2) + _NO_DIRECTION), logits


def merged(copies: tf.Tensor) -> tf.Tensor:
    """Returns `[batch, n, ...]` as `[batch * n, ...]`, copies of an image adjacent."""
    return tf.reshape(copies, [-1, *copies.shape[2:]])


def apart(values: tf.Tensor, copies: tf.Tensor) -> tf.Tensor:
    """Undoes `merged` for values of copies, `[batch * n, ...]` to `[batch, n, ...]`."""
    return tf.reshape(values, [-1, copies.shape[1], *values.shape[1:]])
