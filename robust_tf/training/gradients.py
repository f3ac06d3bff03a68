"""Gradient arithmetic that holds on one replica and on many."""

import tensorflow as tf


def clip_across_replicas(gradients, max_norm: float):
    """Clips the norm of the whole batch's gradient, not of each replica's share.

    Keras clips before it sums over replicas. This sums, clips once, and returns
    shares that sum to the clipped gradient again inside `optimizer.apply`.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        clipped, _ = tf.clip_by_global_norm(gradients, max_norm)
        return clipped
    known = [gradient for gradient in gradients if gradient is not None]
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, known)
    clipped, _ = tf.clip_by_global_norm(total, max_norm)
    shares = iter([gradient / context.num_replicas_in_sync for gradient in clipped])
    return [None if gradient is None else next(shares) for gradient in gradients]
