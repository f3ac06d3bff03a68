"""Which strategy a run uses."""

import tensorflow as tf

from robust_tf.errors import InputError


def strategy_for(devices=()) -> tf.distribute.Strategy:
    """Returns a mirrored strategy for two devices or more, else the default.

    Args:
        devices: names such as "GPU:0".

    Raises:
        InputError: for a device that does not exist.
    """
    known = {
        f"{device.device_type}:{device.name.split(':')[-1]}"
        for device in tf.config.list_logical_devices()
    }
    missing = sorted(set(devices) - known)
    if missing:
        raise InputError(
            f"There is no device {missing}. This machine has {sorted(known)}."
        )
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy(list(devices))
    return tf.distribute.get_strategy()
