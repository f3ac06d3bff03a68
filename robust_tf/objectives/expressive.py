"""Losses between an adversarial and a certified one (arXiv:2305.13991).

Each is adversarial training at the coefficient 0, IBP at 1, and between the two for
all others. SABR is `IntervalCrossEntropy` with `Adversary.box_share`.
"""

import dataclasses

import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.objectives.terms import AdversarialCrossEntropy
from robust_tf.objectives.terms import IntervalCrossEntropy
from robust_tf.objectives.terms import margin_cross_entropy
from robust_tf.replicas import mean_over_replicas

# Keeps the gradient of a power finite where the loss has come to 0.
_LEAST_LOSS = 1e-12


@dataclasses.dataclass(frozen=True)
class _Expressive:
    """A loss that `coefficient` moves from adversarial (0) to IBP (1)."""

    coefficient: float

    def __post_init__(self):
        if not 0.0 <= self.coefficient <= 1.0:
            raise InputError(
                f"`coefficient` must lie in [0, 1]. Received: {self.coefficient}"
            )

    def margins(self, forward: CertifiedForward) -> tf.Tensor:
        """Lower bounds of the margins by IBP, `[batch, classes - 1]`."""
        return forward.interval_margins


@dataclasses.dataclass(frozen=True)
class CcIbp(_Expressive):
    """Cross-entropy of a convex combination of margins (CC-IBP, eq. 6), `[batch]`."""

    name: str = "cc_ibp_loss"

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        certified, attacked = forward.interval_margins, forward.adversarial_margins
        return margin_cross_entropy(
            self.coefficient * certified + (1.0 - self.coefficient) * attacked
        )


@dataclasses.dataclass(frozen=True)
class MtlIbp(_Expressive):
    """A convex combination of the two losses (MTL-IBP, eq. 7), `[batch]`."""

    name: str = "mtl_ibp_loss"

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        certified, attacked = _both(forward)
        return self.coefficient * certified + (1.0 - self.coefficient) * attacked


@dataclasses.dataclass(frozen=True)
class ExpIbp(_Expressive):
    """A convex combination of the losses' logarithms (Exp-IBP, eq. 8).

    `certified ** coefficient * adversarial ** (1 - coefficient)`, of the means over the
    whole batch; `[batch]`, equal.
    """

    name: str = "exp_ibp_loss"

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        certified, attacked = (
            mean_over_replicas(tf.reduce_mean(loss)) + _LEAST_LOSS
            for loss in _both(forward)
        )
        loss = certified**self.coefficient * attacked ** (1.0 - self.coefficient)
        return tf.fill(tf.shape(forward.labels), loss)


def _both(forward):
    """The certified and the adversarial loss of each example."""
    return IntervalCrossEntropy()(forward), AdversarialCrossEntropy()(forward)
