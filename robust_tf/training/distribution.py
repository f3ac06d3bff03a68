"""Which strategy a run uses."""

import functools

import tensorflow as tf

from robust_tf.errors import InputError


def strategy_for(devices=()) -> tf.distribute.Strategy:
    """Returns a strategy for the devices: mirrored, one device's, or the default.

    Args:
        devices: names such as "GPU:0"; none for the default strategy.

    Raises:
        InputError: for a device that does not exist, or is named twice.
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
    if len(set(devices)) < len(devices):
        raise InputError(f"Devices must differ. Received: {list(devices)}")
    return _strategy(tuple(devices))


@functools.cache  # A second mirrored strategy reuses the first one's collective keys.
def _strategy(devices):
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy(list(devices))
    if devices:
        return tf.distribute.OneDeviceStrategy(devices[0])
    return tf.distribute.get_strategy()
