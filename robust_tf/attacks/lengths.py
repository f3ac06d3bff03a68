"""L2 lengths of what attacks add to images."""

import tensorflow as tf

_INSIDE = 1e-7  # Keeps a projection inside; as published (arXiv:1906.04584).


def length(values: tf.Tensor, batch_axes: int = 1) -> tf.Tensor:
    """Returns L2 norms over all but the first axes, which are kept with size 1."""
    axes = list(range(batch_axes, values.shape.rank))
    return tf.sqrt(tf.reduce_sum(tf.square(values), axes, keepdims=True))


def shortened(shift: tf.Tensor, radius: tf.Tensor, batch_axes: int = 1) -> tf.Tensor:
    """Returns shifts cut to a length of `radius`, and a rounding error less."""
    size = length(shift, batch_axes)
    return shift * tf.where(size > radius, radius / (size + _INSIDE), 1.0)
