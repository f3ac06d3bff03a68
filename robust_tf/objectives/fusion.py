"""CROWN-IBP with the loss as a part of the network (arXiv:2002.12920, section 3.4)."""

import dataclasses

import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.objectives.forward import CertifiedForward

_LEAST_WIDTH = 1e-8
_LEAST_SLOPE = 1e-8


@dataclasses.dataclass(frozen=True)
class FusedCrownIbpCrossEntropy:
    """An upper bound of the worst cross-entropy by one backward row, `[batch]`.

    With `d_j = z_j - z_label` between l_j and u_j, and `M = max_j u_j`, the sum
    `g = sum_j exp(d_j - M)` is bounded from above by IBP, `sum_j exp(u_j - M)`, and
    by CROWN-IBP, whose chords of the exponentials make one linear row of the logits.
    `log g + M` of their mixture is the loss; the weight of CROWN-IBP follows the
    radius from 1 to `final_beta`. A row instead of `classes - 1`, and looser.
    """

    final_beta: float = 0.0
    name: str = "certified_loss"

    def __post_init__(self):
        if not 0.0 <= self.final_beta <= 1.0:
            raise InputError(
                f"`final_beta` must lie in [0, 1]. Received: {self.final_beta}"
            )

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        upper = -forward.interval_margins  # The label's own difference is 0.
        shift = tf.stop_gradient(tf.maximum(tf.reduce_max(upper, -1), 0.0))
        own = tf.exp(-shift)
        total = forward.blend(
            own + tf.reduce_sum(tf.exp(upper - shift[:, None]), -1),
            lambda: own + _fused(forward, upper, shift),
            self.final_beta,
        )
        return tf.math.log(total) + shift

    def margins(self, forward: CertifiedForward) -> tf.Tensor:
        """Lower bounds of the margins by IBP, `[batch, classes - 1]`."""
        return forward.interval_margins


def _fused(forward, upper, shift):
    """CROWN-IBP's upper bound of `sum_j exp(d_j - shift)` over the other classes."""
    lower = forward.interval_lower_differences()
    low, high = tf.exp(lower - shift[:, None]), tf.exp(upper - shift[:, None])
    slope = (high - low) / tf.maximum(upper - lower, _LEAST_WIDTH)
    slope = tf.maximum(slope, _LEAST_SLOPE)
    row = tf.reduce_sum(slope[:, :, None] * forward.rows, 1, keepdims=True)
    linear = -forward.crown_ibp_bounds(row)[:, 0]
    return tf.reduce_sum(low - slope * lower, -1) + linear
