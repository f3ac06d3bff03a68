"""The objective of fast certified training and of the expressive losses."""

from robust_tf.objectives.forward import Adversary
from robust_tf.objectives.regularizers import BoundTightness
from robust_tf.objectives.regularizers import ReluBalance
from robust_tf.objectives.terms import BeforeRamp
from robust_tf.objectives.terms import FollowsRadius
from robust_tf.objectives.terms import FromRamp
from robust_tf.objectives.terms import L1Penalty
from robust_tf.objectives.terms import StandardCrossEntropy
from robust_tf.objectives.terms import WeightedSum


def certified_training(
    loss,
    method: str,
    *,
    adversary: Adversary | None = None,
    regularizer_weight: float = 0.0,
    tolerance: float = 0.5,
    l1_weight: float = 0.0,
    reported: tuple = (),
) -> WeightedSum:
    """The clean loss while the radius is 0, then `loss`; and what shapes the weights.

    Args:
        loss: the term that is minimised from the first step of the ramp on, such as
            `terms.IntervalCrossEntropy` or `expressive.MtlIbp`.
        method: what the combination is called, in records.
        adversary: attacks each batch, for losses that need it.
        regularizer_weight: of bound tightness and ReLU balance before the ramp; it
            falls to 0 as the radius reaches its target (arXiv:2103.17268, eq. 9).
        tolerance: of both regularizers.
        l1_weight: of the kernels' magnitudes, throughout.
        reported: further terms, for logs alone.
    """
    terms = [(StandardCrossEntropy(), BeforeRamp()), (loss, FromRamp())]
    if regularizer_weight:
        falling = FollowsRadius(regularizer_weight, 0.0)
        terms += [
            (BoundTightness(tolerance), falling),
            (ReluBalance(tolerance), falling),
        ]
    if l1_weight:
        terms.append((L1Penalty(), l1_weight))
    parts, weights = zip(*terms, strict=True)
    return WeightedSum(parts, weights, method, adversary, reported)
