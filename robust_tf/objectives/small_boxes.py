"""The small boxes of SABR (arXiv:2210.04871)."""

import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.errors import InputError
from robust_tf.regions import Box
from robust_tf.regions import LpBall


def small_box(ball: LpBall, points: tf.Tensor, share: float) -> Box:
    """Returns boxes of `share` of the radius, moved into the ball (arXiv:2210.04871).

    Args:
        ball: an Linf ball.
        points: in the ball, around which the boxes lie, `[batch, *shape]`.
        share: of the ball's radius, in [0, 1].

    Raises:
        InputError: for balls of other norms.
    """
    if not ball.is_box:
        raise InputError(
            "`box_share` needs perturbations in the Linf norm. Received: norm "
            f"{ball.norm:g}. Leave it at None."
        )
    whole = ball.box
    radius = share * tf.reshape(ball.radius, [-1] + [1] * (points.shape.rank - 1))
    center = tf.minimum(tf.maximum(points, whole.lower + radius), whole.upper - radius)
    # Cut to the ball, not to the valid range alone as published: near the range's upper
    # end, boxes of more than half the radius would leave the ball.
    return Box.from_interval(
        IntervalBound(
            tf.maximum(center - radius, whole.lower),
            tf.minimum(center + radius, whole.upper),
        )
    )
