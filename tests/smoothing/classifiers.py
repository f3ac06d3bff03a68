"""Classifiers of two classes whose smoothed forms are known exactly."""

import tensorflow as tf

from robust_tf.smoothing import BaseClassifier


def linear(margin, dimensions=2):
    """Class 1 at and around (0.5, ...), at distance `margin` from the other class."""
    weights = tf.ones([dimensions, 1]) / dimensions**0.5
    return _of_score(
        lambda x: tf.matmul(x - 0.5, weights)[:, 0] + margin, (dimensions,)
    )


def along_first_pixel(dimensions=1):
    """Class 1 where the first pixel is above 0."""
    return _of_score(lambda x: x[:, 0], (dimensions,))


def slab(half_width):
    """Class 1 where the first pixel is so near 0.5."""
    return _of_score(lambda x: half_width - tf.abs(x[:, 0] - 0.5), (1,))


def ball(radius, dimensions):
    """Class 1 in a ball around (0.5, ...)."""
    return _of_score(lambda x: radius - tf.norm(x - 0.5, axis=-1), (dimensions,))


def _of_score(score, shape):
    def logits(x):
        values = score(x)
        return tf.stack([tf.zeros_like(values), values], -1)

    return BaseClassifier(logits, shape, 2)
