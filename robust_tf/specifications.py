"""Linear functions of the logits that must be proved positive."""

import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.regions import as_tensor
from robust_tf.regions import is_eager


def margin_specification(labels, num_classes: int, dtype=tf.float32) -> tf.Tensor:
    """Returns the rows `e_label - e_j` for all other classes j, ascending.

    Args:
        labels: integer class indices, `[batch]`.
        num_classes: number of classes K, at least 2.
        dtype: type of the rows.

    Returns:
        `[batch, K - 1, K]`; an example is robust where every row is positive.

    Raises:
        InputError: for labels of wrong rank or type, or (eagerly) out of range.
    """
    labels = checked_labels(labels, num_classes)
    slots = tf.range(num_classes - 1, dtype=labels.dtype)
    # Slot j stands for class j below the label, and for class j + 1 from it on.
    others = slots + tf.cast(slots >= labels[:, None], labels.dtype)
    own = tf.one_hot(labels, num_classes, dtype=dtype)
    return own[:, None] - tf.one_hot(others, num_classes, dtype=dtype)


def checked_labels(labels, num_classes: int) -> tf.Tensor:
    """Returns labels as an integer tensor `[batch]`, or says what is wrong."""
    if num_classes < 2:
        raise InputError(f"There must be at least 2 classes. Received: {num_classes}")
    labels = as_tensor(labels, "labels")
    if not labels.dtype.is_integer or labels.shape.rank != 1:
        raise InputError(
            "Labels must be integer class indices of shape [batch]. Received: "
            f"{labels.dtype.name} of shape {labels.shape}. Take the argmax of one-hot "
            "labels."
        )
    if is_eager(labels) and labels.shape[0]:
        values = labels.numpy()
        if values.min() < 0 or values.max() >= num_classes:
            wrong = values[(values < 0) | (values >= num_classes)][0]
            raise InputError(
                f"Labels must lie in 0..{num_classes - 1} for {num_classes} classes. "
                f"Received: {wrong}"
            )
    return tf.cast(labels, tf.int32)
