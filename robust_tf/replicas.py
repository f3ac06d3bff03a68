"""Work and sums over the replicas of `tf.distribute`."""

import functools
from collections.abc import Callable
from collections.abc import Sequence

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


def run_on_replicas(
    strategy: tf.distribute.Strategy, function: Callable, shares: Sequence[tuple]
) -> list:
    """Runs a function once on each replica of this process, with its own arguments.

    Args:
        strategy: whose replicas, all of this process.
        function: a `tf.function` of tensors, which returns a structure of them.
        shares: arguments for each replica, in their order; shapes may differ.

    Returns:
        What the function returned for each share.
    """
    dealt = [
        strategy.experimental_distribute_values_from_function(
            functools.partial(_of_replica, values)
        )
        for values in zip(*shares, strict=True)
    ]
    found = strategy.run(function, dealt)
    values = [
        strategy.experimental_local_results(one) for one in tf.nest.flatten(found)
    ]
    return [
        tf.nest.pack_sequence_as(found, [one[place] for one in values])
        for place in range(len(shares))
    ]


def _of_replica(values, context):
    return tf.convert_to_tensor(values[context.replica_id_in_sync_group])
