"""Which strategy a run uses."""

import functools

import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.training.cluster import count_workers


def strategy_for(devices=()) -> tf.distribute.Strategy:
    """Returns a strategy for the devices, or for the workers that `TF_CONFIG` names.

    With several workers, one over all their devices: it has to be asked for before
    TensorFlow computes anything.

    Args:
        devices: of `local_strategy_for`; none with several workers.

    Raises:
        InputError: as `local_strategy_for`, and for devices beside several workers, or
            a `TF_CONFIG` that names no workers.
    """
    if count_workers() > 1:
        if devices:
            raise InputError(
                "Several workers use all their devices. Received: devices "
                f"{list(devices)} beside a `TF_CONFIG` of {count_workers()} workers. "
                "Leave them out, and set CUDA_VISIBLE_DEVICES for each."
            )
        return _of_workers()
    return local_strategy_for(devices)


def local_strategy_for(devices=()) -> tf.distribute.Strategy:
    """Returns a strategy for devices of this process, whatever `TF_CONFIG` says.

    It mirrors what runs on all GPUs where there are several and no devices are named.

    Args:
        devices: names such as "GPU:0"; one "TPU:NAME" for a TPU of that name ("TPU:"
            for the local one); none for the default.

    Raises:
        InputError: for a device that does not exist, or is named twice.
    """
    if len(devices) == 1 and devices[0].startswith("TPU:"):
        return _of_tpu(devices[0].removeprefix("TPU:"))
    gpus = tf.config.list_logical_devices("GPU")
    if not devices and len(gpus) > 1:
        return _strategy(tuple(f"GPU:{number}" for number in range(len(gpus))))
    known = {
        f"{device.device_type}:{device.name.split(':')[-1]}"
        for device in tf.config.list_logical_devices()
    }
    missing = sorted(set(devices) - known)
    if missing:
        raise InputError(
            f"There is no device {missing}. This machine has {sorted(known)}."
        )
    if len(set(devices)) < len(devices):
        raise InputError(f"Devices must differ. Received: {list(devices)}")
    return _strategy(tuple(devices))


@functools.cache
def _of_workers():
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise InputError(
            "The strategy of several workers must be made before TensorFlow computes. "
            f"Received: {error}. Call `strategy_for()` first."
        ) from error


@functools.cache
def _of_tpu(name):
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        raise InputError(
            f"There is no TPU '{name}' to connect to. Received: {error}"
        ) from error
    return tf.distribute.TPUStrategy(resolver)


@functools.cache  # A second mirrored strategy reuses the first one's collective keys.
def _strategy(devices):
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy(list(devices))
    if devices:
        return tf.distribute.OneDeviceStrategy(devices[0])
    return tf.distribute.get_strategy()
