"""Images in memory once: room for them, and tensors that share it."""

import math

import numpy as np
import psutil
import tensorflow as tf

from robust_tf.errors import InputError

_ALIGNMENT = 64  # Bytes; the kernels of TensorFlow end the process at any other place.


def empty_images(name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an array for the images of a data set, its content arbitrary.

    It begins where `host_tensor` can share it.

    Args:
        name: of the set, for messages.
        shape: `[n, height, width, channels]`.
        dtype: of the pixels.

    Raises:
        InputError: where less memory is available than the array takes. Without this
            check the system would grant it, and end the process while it is filled.
    """
    needed = math.prod(shape) * np.dtype(dtype).itemsize
    available = psutil.virtual_memory().available
    if needed > available:
        raise InputError(
            f"Data sets are held in memory, and {shape[0]:,} images of '{name}' take "
            f"{needed / 1e9:.1f} GB. Received: a machine with {available / 1e9:.1f} GB "
            "available. End what else holds memory, or use a larger machine."
        )
    buffer = np.empty(needed + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + needed].view(dtype).reshape(shape)


def host_tensor(array: np.ndarray) -> tf.Tensor:
    """Returns the array as a tensor on the host: not to fill an accelerator.

    The two share their memory where the array is contiguous, aligned, and lies in
    memory that could be written; else the tensor is a copy.
    """
    view = array.view()
    is_aligned = view.flags.c_contiguous and view.ctypes.data % _ALIGNMENT == 0
    try:
        # NumPy hands out no read-only memory. TensorFlow writes to no tensor.
        view.flags.writeable = True
    except ValueError:
        is_aligned = False
    if is_aligned:
        return tf.experimental.dlpack.from_dlpack(view.__dlpack__())
    with tf.device("CPU:0"):
        return tf.constant(array)
