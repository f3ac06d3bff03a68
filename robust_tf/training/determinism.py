"""What makes a run repeat bit for bit on one machine, beside its seeds."""

import tensorflow as tf


def sum_in_fixed_order() -> None:
    """Has TensorFlow add gradients up in one order, in all of the process.

    Its memory optimizer rewrites sums of three terms or more, so that terms are added
    as they become ready: the last bit then differs from run to run, also where
    `tf.config.experimental.enable_op_determinism` was called. It cannot be switched
    off by itself. Where XLA clusters operations it is off; so it is asked for where
    there is no GPU, as CPUs are left out of that unless `TF_XLA_FLAGS` says otherwise.
    With a GPU, all rewriting of graphs is switched off.
    """
    if tf.config.list_physical_devices("GPU"):
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    else:
        tf.config.optimizer.set_jit("autoclustering")
