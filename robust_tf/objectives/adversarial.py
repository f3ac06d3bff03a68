"""Adversarial training that looks at the clean images too: MART and ARoW.

Both attack each image, and weigh the divergence of the two predictions by how little
probability the label has. They prove nothing.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from robust_tf.attacks.projections import center_of
from robust_tf.errors import InputError
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.regions import Region


@dataclasses.dataclass(frozen=True)
class _Weighted:
    """A loss with a divergence of that weight."""

    weight: float

    def __post_init__(self):
        if not 0.0 <= self.weight < float("inf"):
            raise InputError(
                f"`weight` must be finite and at least 0. Received: {self.weight}"
            )


@dataclasses.dataclass(frozen=True)
class Mart(_Weighted):
    """Misclassification-aware adversarial training, `[batch]`.

    With predictions p at the image and q at the attacked one (Wang et al., ICLR
    2020): `-log q_y - log(1 - max_{k != y} q_k) + weight KL(p || q) (1 - p_y)`.
    The authors' implementation puts 1.0001 for the 1 in the second logarithm; here it
    is computed from the other classes, and finite without.

    Attributes:
        weight: lambda of the paper, at least 0.
    """

    weight: float = 5.0
    name: str = "mart_loss"

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        attacked = forward.adversarial_logits
        is_own = _one_hot(forward.labels, attacked)
        unsure = 1.0 - tf.reduce_sum(is_own * tf.nn.softmax(forward.logits), -1)
        apart = divergence(forward.logits, attacked)
        return boosted_cross_entropy(attacked, forward.labels) + (
            self.weight * unsure * apart
        )


@dataclasses.dataclass(frozen=True)
class Arow(_Weighted):
    """Anti-robust weighted regularization (ARoW, arXiv:2206.03353), `[batch]`.

    With predictions p at the image and q at the attacked one: the cross-entropy of p
    with smoothed labels, `+ weight KL(p || q) (1 - q_y)`.

    Attributes:
        weight: twice the lambda of the paper, at least 0.
        smoothing: share of the label's probability that all classes have in equal
            parts, in [0, 1).
    """

    weight: float = 7.0
    smoothing: float = 0.2
    name: str = "arow_loss"

    def __post_init__(self):
        super().__post_init__()
        if not 0.0 <= self.smoothing < 1.0:
            raise InputError(f"`smoothing` must lie in [0, 1). Received: {self}")

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        clean, attacked = forward.logits, forward.adversarial_logits
        is_own = _one_hot(forward.labels, attacked)
        smoothed = (1.0 - self.smoothing) * is_own + self.smoothing / clean.shape[-1]
        losses = -tf.reduce_sum(smoothed * tf.nn.log_softmax(clean), -1)
        unsure = 1.0 - tf.reduce_sum(is_own * tf.nn.softmax(attacked), -1)
        return losses + self.weight * unsure * divergence(clean, attacked)


@dataclasses.dataclass(frozen=True)
class DivergenceAttack:
    """An attack on predictions instead of labels: it increases `KL(p || q)`.

    p is the prediction at the centre of the region, q that at the point (as in
    arXiv:1901.08573 and arXiv:2206.03353). The slope at the centre is 0: start
    elsewhere.

    Attributes:
        attack: such as `attacks.pgd.PGD`, from a random start. It sees two classes with
            logits `-KL` and 0, and label 0.
    """

    attack: Callable

    def __call__(
        self, logits_fn: Callable, region: Region, labels: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Returns the points that `attack` found, `[batch, *shape]`."""
        clean = tf.stop_gradient(logits_fn(center_of(region)))

        def two_classes(points):
            apart = divergence(clean, logits_fn(points))
            return tf.stack([-apart, tf.zeros_like(apart)], -1)

        return self.attack(two_classes, region, tf.zeros_like(labels), seed)


def divergence(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Returns `KL(p || q)` of the predictions of two sets of logits, `[batch]`.

    Args:
        first: logits of p, `[batch, classes]`.
        second: logits of q, `[batch, classes]`.
    """
    difference = tf.nn.log_softmax(first) - tf.nn.log_softmax(second)
    return tf.reduce_sum(tf.nn.softmax(first) * difference, -1)


def boosted_cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns `-log q_y - log(1 - max_{k != y} q_k)`, `[batch]` (of MART).

    Args:
        logits: `[batch, classes]`, of the predictions q.
        labels: class indices y, `[batch]`.
    """
    logs = tf.nn.log_softmax(logits)
    is_own = _one_hot(labels, logits) > 0.0
    rival = tf.argmax(tf.where(is_own, logs.dtype.min, logs), -1)
    is_rival = _one_hot(rival, logits) > 0.0
    # The other classes' share; `1 - q_k` would cancel where q_k is near 1.
    rest = tf.reduce_logsumexp(tf.where(is_rival, logs.dtype.min, logs), -1)
    own = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return own - rest


def _one_hot(classes, logits):
    return tf.one_hot(classes, logits.shape[-1], dtype=logits.dtype)
