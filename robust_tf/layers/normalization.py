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

    def __tf_flatten__(self):  # Lets tf.nest carry it.
        return (), (self.mean, self.variance)

    @classmethod
    def __tf_unflatten__(cls, metadata, components):
        return cls(*components)


class _ScaleAndShift(ElementwiseLayer):
    """`scale * z + shift`; a subclass states both, `[*shape]` or broadcast to it."""

    is_affine = True

    def propagate_interval(self, inputs: IntervalBound, **choices) -> IntervalBound:
        scale, shift = self.scale_and_shift(inputs.dtype, **choices)
        return IntervalBound.from_center(
            inputs.center * scale + shift, inputs.radius * tf.abs(scale)
        )

    def relax(self, inputs, **choices):
        scale, shift = self.scale_and_shift(inputs.dtype, **choices)
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
        scale, shift = self.scale_and_shift(inputs.dtype, moments)
        return inputs * scale + shift

    def normalize_batch(self, inputs: tf.Tensor) -> tuple[tf.Tensor, Moments]:
        """Returns the output by the batch's own statistics, and those."""
        is_fused = inputs.dtype == tf.float32 and inputs.shape.rank == 4
        if not is_fused or count_replicas() > 1:
            moments = self.moments(inputs)
            return self.normalize(inputs, moments), moments
        channels = inputs.shape[-1:]
        gamma = weight(self.gamma, inputs.dtype) if self.scale else tf.ones(channels)
        beta = weight(self.beta, inputs.dtype) if self.center else tf.zeros(channels)
        outputs, *moments = _normalize_fused(inputs, gamma, beta, float(self.epsilon))
        return outputs, Moments(*moments)

    def magnitude(self, *inputs):
        (reach,) = inputs
        scale, _ = self.scale_and_shift(reach.dtype)
        mean = weight(self.moving_mean, reach.dtype)
        # The shift is a difference, whose parts may be far greater than itself.
        total = (reach + tf.abs(mean)) * tf.abs(scale)
        return total + tf.abs(weight(self.beta, reach.dtype)) if self.center else total

    def terms(self, input_shapes) -> int:
        del input_shapes
        return 8  # An execution computes scale and shift in its own type.

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
        outputs, moments = self.normalize_batch(inputs)
        self.update_moving(moments, inputs)
        return outputs

    def scale_and_shift(self, dtype, moments=None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what the layer multiplies by and adds, `[channels]` each."""
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


def _normalize_fused(inputs, gamma, beta, epsilon):
    """Output, mean and biased variance, `[channels]`, in few passes over the batch.

    TensorFlow's operation takes no gradient for the statistics that it returns: that
    of mean and variance at each entry z, `1 / n` and `2 (z - mean) / n`, is added.
    """

    @tf.custom_gradient
    def normalize(inputs, gamma, beta):
        outputs, mean, unbiased, *reserved = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon
        )
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], inputs.dtype)
        variance = unbiased * ((count - 1.0) / count)

        def gradient(of_outputs, of_mean, of_variance):
            by_inputs, by_gamma, by_beta, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=of_outputs,
                x=inputs,
                scale=gamma,
                reserve_space_1=reserved[0],
                reserve_space_2=reserved[1],
                reserve_space_3=reserved[2],
                epsilon=epsilon,
            )
            slope = 2.0 * of_variance / count
            by_statistics = inputs * slope + (of_mean / count - mean * slope)
            return by_inputs + by_statistics, by_gamma, by_beta

        return (outputs, mean, variance), gradient

    return normalize(inputs, gamma, beta)


@keras.saving.register_keras_serializable(package="robust_tf")
class Normalization(_ScaleAndShift, keras.layers.Normalization):
    """`(z - mean) / sqrt(variance)`, or its inverse with `invert=True`."""

    def scale_and_shift(self, dtype):
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

    def scale_and_shift(self, dtype):
        # First in the type in which the layer itself holds them.
        scale, offset = (
            keras.ops.cast(value, self.compute_dtype)
            for value in (self.scale, self.offset)
        )
        return tf.cast(scale, dtype), tf.cast(offset, dtype)
