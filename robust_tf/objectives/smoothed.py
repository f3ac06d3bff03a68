"""Objective terms for classifiers that will be smoothed; one loss per example each."""

import dataclasses

import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.objectives.forward import CertifiedForward

# Added to, or the least of, probabilities before a logarithm, as published.
_MACER_LEAST, _LEAST = 1e-10, 1e-20


@dataclasses.dataclass(frozen=True)
class NoisyCrossEntropy:
    """Mean cross-entropy over the noisy copies (arXiv:1902.02918, 1906.04584)."""

    name: str = "noisy_loss"

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        return tf.reduce_mean(forward.noisy.losses, -1)


@dataclasses.dataclass(frozen=True)
class SmoothedCrossEntropy:
    """`-log` of the label's mean probability over the copies (arXiv:2001.02378)."""

    name: str = "smoothed_loss"

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        mean = tf.reduce_mean(forward.noisy.probabilities, 1)
        own = tf.gather(mean, forward.labels, axis=-1, batch_dims=1)
        return -tf.math.log(own + _MACER_LEAST)


@dataclasses.dataclass(frozen=True)
class CertifiedRadiusHinge:
    """`sigma / 2 * (gamma - xi)` where that is active (arXiv:2001.02378, eq. 9).

    `xi` is the difference of the normal quantiles of the two greatest mean
    probabilities, at inverse temperature beta. The loss is 0 for examples whose
    greatest class is not the label, and for those with `|xi| > gamma` or an infinite
    quantile; gradients flow through both probabilities.

    Attributes:
        gamma: of the hinge, above 0.
        beta: inverse temperature of the softmax, above 0.

    Raises:
        InputError: for values that are not above 0.
    """

    gamma: float = 8.0
    beta: float = 16.0
    name: str = "radius_loss"

    def __post_init__(self):
        _check_above_zero(gamma=self.gamma, beta=self.beta)

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        noisy = forward.noisy
        mean = tf.reduce_mean(tf.nn.softmax(self.beta * noisy.logits), 1)
        (first, second), order = _two_greatest(mean)
        # Quantiles of 0 and 1 are infinite: their gradients must not be NaN either.
        is_inner = (second > 0.0) & (first < 1.0)
        first, second = (
            tf.math.ndtri(tf.where(is_inner, value, 0.5)) for value in (first, second)
        )
        margin = first - second
        is_kept = is_inner & (order[:, 0] == noisy.labels) & (margin <= self.gamma)
        loss = 0.5 * noisy.noise.sigma * (self.gamma - margin)
        return tf.where(is_kept, loss, tf.zeros_like(loss))


@dataclasses.dataclass(frozen=True)
class Stability:
    """`H(p, q)`, p the prediction at the image and q at noisy copies, `[batch]`.

    Stability training (arXiv:1809.03113), with `StandardCrossEntropy` beside it. The
    mean over the copies; the gradient flows through both.
    """

    name: str = "stability_loss"

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        clean = tf.nn.softmax(forward.logits)[:, None]
        logs = tf.nn.log_softmax(forward.noisy.logits)
        return -tf.reduce_mean(tf.reduce_sum(clean * logs, -1), -1)


@dataclasses.dataclass(frozen=True)
class Consistency:
    """`weight * mean_j KL(p || p_j) + entropy_weight * H(p)` (arXiv:2006.04062).

    p is the mean of the predictions p_j on noisy copies; the gradient flows through it.
    `NoisyCrossEntropy` belongs beside it.

    Attributes:
        weight: lambda of the paper, at least 0.
        entropy_weight: eta of the paper, at least 0.

    Raises:
        InputError: for negative weights.
    """

    weight: float = 10.0
    entropy_weight: float = 0.5
    name: str = "consistency_loss"

    def __post_init__(self):
        for name in ("weight", "entropy_weight"):
            value = getattr(self, name)
            if not 0.0 <= value < float("inf"):
                raise InputError(
                    f"`{name}` must be finite and at least 0. Received: {value}"
                )

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        logits = forward.noisy.logits
        mean = tf.reduce_mean(forward.noisy.probabilities, 1)
        logs = tf.math.log(tf.maximum(mean, _LEAST))
        apart = logs[:, None] - tf.nn.log_softmax(logits)
        apart = tf.reduce_mean(tf.reduce_sum(mean[:, None] * apart, -1), -1)
        entropy = -tf.reduce_sum(mean * logs, -1)
        return self.weight * apart + self.entropy_weight * entropy


def _two_greatest(values):
    """The two greatest of `[batch, classes]`, as `[batch]` each, and their places."""
    values, places = tf.math.top_k(values, 2)
    return tf.unstack(values, axis=-1), places


def _check_above_zero(**values):
    for name, value in values.items():
        if not 0.0 < value < float("inf"):
            raise InputError(
                f"`{name}` must be a finite number above 0. Received: {value}"
            )
