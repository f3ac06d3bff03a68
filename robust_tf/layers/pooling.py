"""Pooling: averages are affine, maxima are relaxed."""

import keras
import numpy as np
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.bounds import contract
from robust_tf.bounds import leading_sizes
from robust_tf.layers.base import BoundLayer
from robust_tf.layers.base import no_constant
from robust_tf.layers.base import split_signs
from robust_tf.layers.convolution import pad_before
from robust_tf.layers.windows import Window
from robust_tf.layers.windows import WindowView


class _Pooling(BoundLayer):
    """What sliding windows share."""

    def _view(self, input_shape, positions) -> WindowView:
        image, strides = tuple(input_shape[:2]), _pair(self.strides)
        starts = [
            -pad_before(image[i], self._pool[i], strides[i], self.padding)
            for i in range(2)
        ]
        window = Window(self._pool, strides, tuple(starts))
        return WindowView(window, tuple(positions), image, 1)

    @property
    def _pool(self):
        return _pair(self.pool_size)

    def _pool_by(self, operation, values):
        strides, padding = _pair(self.strides), self.padding.upper()
        return operation(values, self._pool, strides, padding)


@keras.saving.register_keras_serializable(package="robust_tf")
class AveragePooling2D(_Pooling, keras.layers.AveragePooling2D):
    """Means of windows, of those entries alone that lie in the image. Exact."""

    is_affine = True

    def terms(self, input_shapes):
        del input_shapes
        return int(np.prod(self._pool))

    def propagate_interval(self, inputs: IntervalBound) -> IntervalBound:
        return IntervalBound.from_center(
            self._pool_by(tf.nn.avg_pool2d, inputs.center),
            self._pool_by(tf.nn.avg_pool2d, inputs.radius),
        )

    def propagate_linear_backward(self, coefficients, inputs):
        shape = inputs.shape[1:]
        view = self._view(shape, coefficients.shape[2:4])
        # Entries of each window that lie in the image, `[height, width, 1]`.
        counts = view.inside().sum((1, 2, 3)).reshape(*view.positions, 1)
        counts = tf.constant(counts, coefficients.dtype)
        shares = (coefficients / counts)[:, :, :, :, None, None, :]
        parts = tf.broadcast_to(
            shares, _windows_shape(coefficients, self._pool, coefficients.shape[-1])
        )
        return (_fold(parts, view, shape),), no_constant(coefficients)


class _Maximum(BoundLayer):
    """The maximum of groups of entries.

    Below, the entry with the greatest lower end stands for its group. Above, with j
    the entry of the greatest upper end and m the greatest upper end of the others,
    the maximum is at most `max(z_j, m)`, and that at most its chord over
    `[l_j, u_j]`; so where one entry always wins, both lines are exact.
    """

    def terms(self, input_shapes):
        del input_shapes
        return 0

    def _relax(self, lower, upper):
        """Lines for groups on axis -2, `[..., entries, channels]`.

        Returns the lower line's choice, the upper line's slopes, both of that shape,
        and the upper line's intercept, without that axis.
        """
        entries = lower.shape[-2]
        places = tf.range(entries)[:, None]  # The axis on which groups lie.
        choice = tf.argmax(lower, -2, tf.int32)[..., None, :] == places
        is_winner = tf.argmax(upper, -2, tf.int32)[..., None, :] == places
        choice, winner = (tf.cast(one, lower.dtype) for one in (choice, is_winner))
        high = tf.reduce_max(upper, -2)
        finite = tf.where(is_winner, lower, 0.0)  # Padding is infinite.
        low = tf.reduce_sum(finite, -2)
        lowest = tf.constant(lower.dtype.min, lower.dtype)
        others = tf.reduce_max(tf.where(is_winner, lowest, upper), -2)
        may_lose = others > low
        width = tf.where(may_lose, high - low, 1.0)
        slope = tf.where(may_lose, (high - others) / width, 1.0)
        intercept = tf.where(may_lose, others - slope * low, 0.0)
        return choice, winner * tf.expand_dims(slope, -2), intercept


@keras.saving.register_keras_serializable(package="robust_tf")
class MaxPooling2D(_Maximum, _Pooling, keras.layers.MaxPooling2D):
    """Maxima of windows, `[batch, height, width, channels]`."""

    def propagate_interval(self, inputs: IntervalBound) -> IntervalBound:
        return IntervalBound(
            self._pool_by(tf.nn.max_pool2d, inputs.lower),
            self._pool_by(tf.nn.max_pool2d, inputs.upper),
        )

    def propagate_linear_backward(self, coefficients, inputs):
        shape = inputs.shape[1:]
        view = self._view(shape, coefficients.shape[2:4])
        lower, upper = (_groups(view, ends) for ends in (inputs.lower, inputs.upper))
        choice, slope, intercept = self._relax(lower, upper)
        positive, negative = split_signs(coefficients)
        parts = (
            positive[..., None, :] * choice[:, None]
            + negative[..., None, :] * slope[:, None]
        )
        parts = tf.reshape(parts, _windows_shape(parts, self._pool, shape[-1]))
        pulled = _fold(parts, view, shape)
        return (pulled,), contract(negative, intercept)


class _Global(BoundLayer):
    """Over all positions of an image."""

    @property
    def _axes(self):
        return [1, 2]

    def _expanded(self, coefficients):
        return coefficients if self.keepdims else coefficients[:, :, None, None]


@keras.saving.register_keras_serializable(package="robust_tf")
class GlobalAveragePooling2D(_Global, keras.layers.GlobalAveragePooling2D):
    """The mean over all positions, `[batch, channels]`. Exact."""

    is_affine = True

    def terms(self, input_shapes):
        ((height, width, _),) = input_shapes
        return height * width

    def propagate_interval(self, inputs: IntervalBound) -> IntervalBound:
        return IntervalBound.from_center(
            tf.reduce_mean(inputs.center, self._axes, keepdims=self.keepdims),
            tf.reduce_mean(inputs.radius, self._axes, keepdims=self.keepdims),
        )

    def propagate_linear_backward(self, coefficients, inputs):
        height, width, channels = inputs.shape[1:]
        share = self._expanded(coefficients) / (height * width)
        leading = leading_sizes(coefficients, 2)
        pulled = tf.broadcast_to(share, [*leading, height, width, channels])
        return (pulled,), no_constant(coefficients)


@keras.saving.register_keras_serializable(package="robust_tf")
class GlobalMaxPooling2D(_Maximum, _Global, keras.layers.GlobalMaxPooling2D):
    """The maximum over all positions, `[batch, channels]`."""

    def propagate_interval(self, inputs: IntervalBound) -> IntervalBound:
        return IntervalBound(
            tf.reduce_max(inputs.lower, self._axes, keepdims=self.keepdims),
            tf.reduce_max(inputs.upper, self._axes, keepdims=self.keepdims),
        )

    def propagate_linear_backward(self, coefficients, inputs):
        height, width, channels = inputs.shape[1:]
        lower, upper = (
            tf.reshape(values, [-1, height * width, channels])
            for values in (inputs.lower, inputs.upper)
        )
        choice, slope, intercept = self._relax(lower, upper)
        flat = tf.reshape(coefficients, [*leading_sizes(coefficients, 2), channels])
        positive, negative = split_signs(flat)
        pulled = (
            positive[:, :, None] * choice[:, None]
            + negative[:, :, None] * slope[:, None]
        )
        shape = [*leading_sizes(pulled, 2), height, width, channels]
        return (tf.reshape(pulled, shape),), contract(negative, intercept)


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _windows_shape(tensor, pool, channels):
    return [*leading_sizes(tensor, 4), *pool, channels]


def _groups(view, values):
    """Entries of each window, `[batch, height, width, entries, channels]`.

    Entries of the padding are the lowest number, so they never win.
    """
    entries, channels = int(np.prod(view.window.size)), values.shape[-1]
    shape = [-1, *view.positions, entries, channels]
    groups = tf.reshape(view.gather(values), shape)
    if view.is_inside:
        return groups
    mask = view.inside().reshape(*view.positions, entries, 1)
    return tf.where(mask, groups, tf.constant(values.dtype.min, values.dtype))


def _fold(parts, view, input_shape):
    """Adds windows up at the places that they were taken from.

    Args:
        parts: `[batch, rows, height, width, *window, channels]`.
        view: the windows, and how they lie in the image.
        input_shape: (height, width, channels) of the image.

    Returns:
        `[batch, rows, *input_shape]`.
    """
    window, positions = view.window, view.positions
    *image, channels = input_shape
    leading = leading_sizes(parts, 2)
    spans = [(positions[i] - 1) * window.stride[i] + window.size[i] for i in range(2)]
    total = None
    for row in range(window.size[0]):
        for column in range(window.size[1]):
            part = parts[:, :, :, :, row, column]
            part = _dilate(part, window.stride, positions)
            after = [
                spans[0] - part.shape[2] - row,
                spans[1] - part.shape[3] - column,
            ]
            pads = [[0, 0], [0, 0], [row, after[0]], [column, after[1]], [0, 0]]
            part = tf.pad(part, pads)
            total = part if total is None else total + part
    # The grid of windows may begin before the image and end before or after it.
    pads, begin = [[0, 0], [0, 0]], []
    for i in range(2):
        begin.append(-window.start[i])
        pads.append([0, max(image[i] + begin[i] - spans[i], 0)])
    total = tf.pad(total, [*pads, [0, 0]])
    top, left = begin
    total = total[:, :, top : top + image[0], left : left + image[1]]
    return tf.reshape(total, [*leading, *image, channels])


def _dilate(part, stride, positions):
    """Puts `stride - 1` zeros between neighbours on axes 2 and 3."""
    for i, axis in enumerate((2, 3)):
        if stride[i] > 1:
            shape = leading_sizes(part, 2) + list(part.shape[2:])
            part = tf.expand_dims(part, axis + 1)
            pads = [[0, 0]] * part.shape.rank
            pads[axis + 1] = [0, stride[i] - 1]
            shape[axis] = positions[i] * stride[i]
            part = tf.reshape(tf.pad(part, pads), shape)
            keep = (positions[i] - 1) * stride[i] + 1
            part = part[:, :, :keep] if axis == 2 else part[:, :, :, :keep]
    return part
