"""Leaving a backward pass out where nothing flows back."""

from collections.abc import Callable

import tensorflow as tf

from robust_tf.replicas import count_replicas


def without_idle_gradient(function: Callable):
    """Returns `function()`, whose backward pass is left out where it is idle.

    A loss of weight 0 sends zeros back through all that it read. Here the gradient for
    the weights is worked out only where an entry of what comes back is not 0. Replicas
    must not part ways, and work it out always.

    Args:
        function: without arguments, to nested tensors; only variables have gradients,
            no tensors that it finds elsewhere.
    """
    if tf.executing_eagerly() or count_replicas() > 1:
        return function()
    structure = None

    @tf.custom_gradient
    def run():
        nonlocal structure
        with tf.GradientTape() as tape:
            structure = function()
        results = tf.nest.flatten(structure)

        def gradient(*upstream, variables=()):
            def by_variables():
                return tape.gradient(
                    results, variables, upstream, tf.UnconnectedGradients.ZERO
                )

            def zeros():
                return [tf.zeros_like(variable) for variable in variables]

            is_idle = [tf.reduce_all(part == 0.0) for part in upstream]
            return (), tf.cond(tf.reduce_all(is_idle), zeros, by_variables)

        return results, gradient

    results = run()
    return tf.nest.pack_sequence_as(structure, results)
