"""Files of a data set that cannot be read: one error for all the ways to find out."""

import contextlib
import os
import re

import tensorflow as tf

from robust_tf.errors import InputError

_NODE = re.compile(r"{{function_node .*?}} *| *\[Op:.*")  # In TensorFlow's messages.
_RAISED = re.compile(rf"{InputError.__name__}: (.*?)\n+Traceback ", re.DOTALL)


@contextlib.contextmanager
def explained(name: str, folder: str | os.PathLike):
    """Turns whatever a damaged folder raises into an error that names the folder.

    Args:
        name: of the set.
        folder: of one version of it.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = _NODE.sub("", str(error)).strip().split("\n")[0][:300].rstrip(".")
        raise InputError(
            f"Data set '{name}' in {folder} cannot be read; its files are damaged or "
            f"incomplete. Received: {type(error).__name__}: {reason}. Delete the "
            "folder and prepare the set anew."
        ) from error


def input_error_within(error: tf.errors.OpError) -> InputError | None:
    """Returns the `InputError` that a pipeline met while it read, or None.

    What Python raises within a `tf.data` pipeline arrives as an error of TensorFlow
    that holds its text.
    """
    found = _RAISED.search(error.message)
    return None if found is None else InputError(found[1])
