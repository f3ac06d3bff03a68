"""Layers that scale and shift: both rules are exact."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.errors import InputError
from robust_tf.layers.base import ElementwiseLayer
from robust_tf.layers.base import Relaxation
from robust_tf.layers.base import weight
from robust_tf.replicas import count_replicas
from robust_tf.replicas import mean_over_replicas


@dataclasses.dataclass(frozen=True)
class Moments:
    """Mean and biased variance of a batch, `[channels]` each."""

    mean: tf.Tensor
    variance: tf.Tensor


class _ScaleAndShift(ElementwiseLayer):
    """`scale * z + shift`; a subclass states both, `[*shape]` or broadcast to it."""

    is_affine = True

    def propagate_interval(self, inputs: IntervalBound, **choices) -> IntervalBound:
        scale, shift = self._scale_and_shift(inputs.dtype, **choices)
        return IntervalBound.from_center(
            inputs.center * scale + shift, inputs.radius * tf.abs(scale)
        )

    def relax(self, inputs, **choices):
        scale, shift = self._scale_and_shift(inputs.dtype, **choices)
        shape = inputs.shape[1:]
        return Relaxation(
            tf.broadcast_to(scale, shape)[None], tf.broadcast_to(shift, shape)[None]
        )


@keras.saving.register_keras_serializable(package="robust_tf")
class BatchNormalization(_ScaleAndShift, keras.layers.BatchNormalization):
    """`gamma (z - mean) / sqrt(variance + epsilon) + beta` over the last axis.

    Rules take `moments`, the statistics of the clean batch, in training, and use the
    moving ones without it; gradients flow through them (arXiv:2103.17268, section 4).
    The moving variance follows the unbiased one, as in the published systems; the
    statistics of all replicas are averaged.
    """

    has_moments = True

    def build(self, input_shape):
        super().build(input_shape)
        if self.axis not in (-1, len(input_shape) - 1):
            raise InputError(
                f"Layer '{self.name}' (BatchNormalization) has bound rules for the "
                f"last axis only. Received: axis={self.axis}"
            )

    def moments(self, inputs: tf.Tensor) -> Moments:
        """Returns the statistics of a batch, over all replicas."""
        axes = list(range(inputs.shape.rank - 1))
        mean, variance = tf.nn.moments(inputs, axes)
        if count_replicas() == 1:
            return Moments(mean, variance)
        total_mean = mean_over_replicas(mean)
        # Not `E[z^2] - E[z]^2`: that cancels where the mean is large.
        about_it = variance + tf.square(mean - total_mean)
        return Moments(total_mean, mean_over_replicas(about_it))

    def normalize(self, inputs: tf.Tensor, moments: Moments | None = None) -> tf.Tensor:
        """Returns the layer's output for the given statistics (default: moving)."""
        scale, shift = self._scale_and_shift(inputs.dtype, moments)
        return inputs * scale + shift

    def update_moving(self, moments: Moments, inputs: tf.Tensor):
        """Moves the moving statistics towards those of the batch of `inputs`."""
        count = count_replicas() * tf.size(inputs) // inputs.shape[-1]
        count = tf.cast(count, moments.variance.dtype)
        unbiased = moments.variance * count / tf.maximum(count - 1.0, 1.0)
        targets = ((self.moving_mean, moments.mean), (self.moving_variance, unbiased))
        for variable, value in targets:
            value = tf.cast(value, variable.dtype)
            variable.assign(self.momentum * variable + (1.0 - self.momentum) * value)

    def call(self, inputs, training=None, mask=None):
        if mask is not None:
            raise NotImplementedError(
                f"Layer '{self.name}' (BatchNormalization) takes no mask."
            )
        if not (training and self.trainable):
            return self.normalize(inputs)
        moments = self.moments(inputs)
        self.update_moving(moments, inputs)
        return self.normalize(inputs, moments)

    def _scale_and_shift(self, dtype, moments=None):
        if moments is None:
            moments = Moments(
                weight(self.moving_mean, dtype), weight(self.moving_variance, dtype)
            )
        mean, variance = tf.cast(moments.mean, dtype), tf.cast(moments.variance, dtype)
        scale = tf.math.rsqrt(variance + tf.constant(self.epsilon, dtype))
        if self.scale:
            scale *= weight(self.gamma, dtype)
        shift = -mean * scale
        if self.center:
            shift += weight(self.beta, dtype)
        return scale, shift


@keras.saving.register_keras_serializable(package="robust_tf")
class Normalization(_ScaleAndShift, keras.layers.Normalization):
    """`(z - mean) / sqrt(variance)`, or its inverse with `invert=True`."""

    def _scale_and_shift(self, dtype):
        deviation = np.maximum(
            np.sqrt(np.asarray(self.variance, "float64")), keras.backend.epsilon()
        )
        mean = np.asarray(self.mean, "float64")
        # Keras keeps a batch axis of 1 in front of both.
        deviation, mean = (
            value[0] if value.ndim > 1 else value for value in (deviation, mean)
        )
        if self.invert:
            return tf.constant(deviation, dtype), tf.constant(mean, dtype)
        return tf.constant(1.0 / deviation, dtype), tf.constant(
            -mean / deviation, dtype
        )


@keras.saving.register_keras_serializable(package="robust_tf")
class Rescaling(_ScaleAndShift, keras.layers.Rescaling):
    """`scale * z + offset`; both are numbers, or one for each channel."""

    def _scale_and_shift(self, dtype):
        # First in the type in which the layer itself holds them.
        scale, offset = (
            keras.ops.cast(value, self.compute_dtype)
            for value in (self.scale, self.offset)
        )
        return tf.cast(scale, dtype), tf.cast(offset, dtype)
