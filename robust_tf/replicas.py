"""Sums over the replicas of `tf.distribute`."""

import tensorflow as tf


def count_replicas() -> int:
    """How many replicas work on one batch; 1 outside a replica."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def mean_over_replicas(tensor: tf.Tensor) -> tf.Tensor:
    """Returns the mean of the replicas' tensors, through which gradients flow.

    Every replica must call it, in the same order: none inside a conditional branch.
    """
    if count_replicas() == 1:
        return tensor
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, tensor)
