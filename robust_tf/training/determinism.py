"""What makes a run repeat bit for bit on one machine, beside its seeds."""

import tensorflow as tf


def sum_in_fixed_order() -> None:
    """Has TensorFlow add gradients up in one order, in all of the process.

    It rewrites graphs for speed, also where
    `tf.config.experimental.enable_op_determinism` was called: sums of sums become sums
    of many terms, and those add their terms as they become ready or their memory
    free, so that the last bit differs from run to run. The first step is switched off
    by name. The second, of the memory optimizer, cannot be; but it is left out where
    XLA clusters operations. That is asked for where there is no GPU, since it leaves
    CPUs as they are unless `TF_XLA_FLAGS` says otherwise. With a GPU, all rewriting
    is switched off.
    """
    if tf.config.list_physical_devices("GPU"):
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        return
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
    tf.config.optimizer.set_jit("autoclustering")
