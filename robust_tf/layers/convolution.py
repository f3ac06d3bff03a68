"""Convolutions: both rules are exact."""

import functools

import keras
import numpy as np
import tensorflow as tf

from robust_tf.bounds import leading_sizes
from robust_tf.layers.base import KernelLayer
from robust_tf.layers.base import weight

# A dense matrix from window to window does this many times the work of the transposed
# convolution before the latter, slow on small windows, is preferred.
_MATRIX_OVERHEAD = 8.0
# Up to so many input channels oneDNN's transposed convolution is three times slower on
# CPUs than TensorFlow's own, which explicit padding selects.
_FEW_CHANNELS = 4


class _Convolution(KernelLayer):
    """What 2-D convolutions share; a subclass says how its kernel is applied."""

    is_shared = True

    def propagate_linear_backward(self, coefficients, inputs):
        padding = self.padding.upper()
        pulled = self._pull_back(coefficients, inputs.shape[1:], padding)
        return (pulled,), self._constant(coefficients)

    def window_before(self, window, input_shape):
        pads = [
            pad_before(size, kernel, stride, self.padding)
            for size, kernel, stride in zip(
                input_shape[:2], self._extent, self.strides, strict=True
            )
        ]
        return (window.before(self._extent, self.strides, pads),)

    def propagate_window_backward(self, coefficients, view, inputs):
        before = view.window.before(self._extent, self.strides, (0, 0))
        shape = (*before.size, inputs.shape[-1])
        pulled = self._pull_back_window(coefficients, shape)
        # The padding needs no care: coefficients are 0 there.
        return (pulled,), self._constant(coefficients)

    @property
    def _extent(self) -> tuple[int, int]:
        """Height and width that the dilated kernel spans."""
        sizes = zip(self.kernel_size, self.dilation_rate, strict=True)
        return tuple((size - 1) * rate + 1 for size, rate in sizes)

    def _pull_back(self, coefficients, input_shape, padding):
        """The adjoint, `[batch, rows, *output_shape]` to `[..., *input_shape]`."""
        kernel = weight(self.kernel, coefficients.dtype)
        merged = tf.reshape(coefficients, [-1, *coefficients.shape[2:]])
        pulled = self._adjoint(merged, kernel, input_shape, padding)
        return tf.reshape(pulled, [*leading_sizes(coefficients, 2), *input_shape])

    def _pull_back_window(self, coefficients, input_shape):
        entries = input_shape[0] * input_shape[1]
        if entries > _MATRIX_OVERHEAD * np.prod(self._extent):
            return self._pull_back(coefficients, input_shape, "VALID")
        size = coefficients.shape[2:].num_elements()
        unit = tf.eye(size, dtype=coefficients.dtype)
        unit = tf.reshape(unit, [1, size, *coefficients.shape[2:]])
        matrix = self._pull_back(unit, input_shape, "VALID")
        flat = tf.matmul(
            tf.reshape(coefficients, [-1, size]), tf.reshape(matrix, [size, -1])
        )
        return tf.reshape(flat, [*leading_sizes(coefficients, 2), *input_shape])


@keras.saving.register_keras_serializable(package="robust_tf")
class Conv2D(_Convolution, keras.layers.Conv2D):
    """A convolution, `[batch, height, width, channels]`, with any groups.

    Interval: centre `c * W + b`, radius `r * |W|` (arXiv:1810.12715). Backward: the
    transposed convolution to the exact input size, so that entries which no stride
    reaches get 0, plus `<coefficients, b>`.
    """

    def _apply(self, inputs, kernel):
        if self.groups == 1:
            return convolve(
                inputs, kernel, self.strides, self.padding, self.dilation_rate
            )
        parts = zip(
            tf.split(inputs, self.groups, -1),
            tf.split(kernel, self.groups, -1),
            strict=True,
        )
        outputs = [
            convolve(part, taps, self.strides, self.padding, self.dilation_rate)
            for part, taps in parts
        ]
        return tf.concat(outputs, -1)

    def _adjoint(self, outputs, kernel, input_shape, padding):
        kernel = spread(kernel, self.dilation_rate)
        *image, channels = input_shape
        shape = [tf.shape(outputs)[0], *image, channels // self.groups]
        transpose = tf.nn.conv2d_transpose
        if channels <= _FEW_CHANNELS:
            explicit = self._explicit(image, padding)
            transpose = functools.partial(_transpose_to_few, explicit)
        parts = zip(
            tf.split(outputs, self.groups, -1),
            tf.split(kernel, self.groups, -1),
            strict=True,
        )
        pulled = [
            transpose(part, taps, shape, self.strides, padding) for part, taps in parts
        ]
        return pulled[0] if self.groups == 1 else tf.concat(pulled, -1)

    def _explicit(self, image, padding) -> list:
        """The padding as counts of zeros, which selects another kernel on CPUs."""
        pads = [[0, 0]]
        axes = zip(image, self._extent, self.strides, strict=True)
        for size, extent, stride in axes:
            before = pad_before(size, extent, stride, padding.lower())
            total = pad_total(size, extent, stride, padding.lower())
            pads.append([before, total - before])
        return [*pads, [0, 0]]


@keras.saving.register_keras_serializable(package="robust_tf")
class DepthwiseConv2D(_Convolution, keras.layers.DepthwiseConv2D):
    """A convolution of each channel by itself, `depth_multiplier` outputs each."""

    def _apply(self, inputs, kernel):
        return tf.nn.depthwise_conv2d(
            inputs,
            spread(kernel, self.dilation_rate),
            [1, *self.strides, 1],
            self.padding.upper(),
        )

    def _scaled(self, kernel, scale):
        return kernel * tf.reshape(scale, kernel.shape[2:])

    def _adjoint(self, outputs, kernel, input_shape, padding):
        kernel = spread(kernel, self.dilation_rate)
        return tf.nn.depthwise_conv2d_backprop_input(
            [tf.shape(outputs)[0], *input_shape],
            kernel,
            outputs,
            [1, *self.strides, 1],
            padding,
        )


@keras.saving.register_keras_serializable(package="robust_tf")
class Conv1D(KernelLayer, keras.layers.Conv1D):
    """A convolution along time, `[batch, steps, channels]`, as one of height 1."""

    is_shared = True

    def propagate_linear_backward(self, coefficients, inputs):
        kernel = spread(
            weight(self.kernel, coefficients.dtype)[None], (1, *self.dilation_rate)
        )
        before, after = self._pads(inputs.shape[1])
        steps, channels = inputs.shape[1:]
        merged = tf.reshape(coefficients, [-1, 1, *coefficients.shape[2:]])
        shape = [
            tf.shape(merged)[0],
            1,
            before + steps + after,
            channels // self.groups,
        ]
        parts = zip(
            tf.split(merged, self.groups, -1),
            tf.split(kernel, self.groups, -1),
            strict=True,
        )
        pulled = [
            tf.nn.conv2d_transpose(part, taps, shape, (1, *self.strides), "VALID")
            for part, taps in parts
        ]
        pulled = tf.concat(pulled, -1)[:, :, before : before + steps]
        rows = coefficients.shape[1] or tf.shape(coefficients)[1]
        pulled = tf.reshape(pulled, [-1, rows, steps, channels])
        return (pulled,), self._constant(coefficients)

    def _apply(self, inputs, kernel):
        padded = tf.pad(inputs, [[0, 0], self._pads(inputs.shape[1]), [0, 0]])
        parts = zip(
            tf.split(padded[:, None], self.groups, -1),
            tf.split(kernel[None], self.groups, -1),
            strict=True,
        )
        outputs = [
            convolve(part, taps, (1, *self.strides), "valid", (1, *self.dilation_rate))
            for part, taps in parts
        ]
        return tf.concat(outputs, -1)[:, 0]

    def _pads(self, steps: int) -> tuple[int, int]:
        """Zeros before and after `steps`, as Keras pads them."""
        (kernel,), (rate,), (stride,) = (
            self.kernel_size,
            self.dilation_rate,
            self.strides,
        )
        extent = (kernel - 1) * rate + 1
        if self.padding == "causal":
            return extent - 1, 0
        before = pad_before(steps, extent, stride, self.padding)
        return before, pad_total(steps, extent, stride, self.padding) - before


def _transpose_to_few(explicit, outputs, kernel, shape, strides, padding):
    """`conv2d_transpose` to few channels: explicit padding selects a faster kernel.

    Its gradients go by `padding`, for which the ordinary kernels are the faster ones.
    """

    @tf.custom_gradient
    def transpose(outputs, kernel):
        def gradient(upstream):
            by_kernel = tf.raw_ops.Conv2DBackpropFilter(
                input=upstream,
                filter_sizes=kernel.shape,
                out_backprop=outputs,
                strides=[1, *strides, 1],
                padding=padding,
            )
            return tf.nn.conv2d(upstream, kernel, strides, padding), by_kernel

        pulled = tf.nn.conv2d_transpose(outputs, kernel, shape, strides, explicit)
        return pulled, gradient

    return transpose(outputs, kernel)


def convolve(inputs, kernel, strides, padding, dilations) -> tf.Tensor:
    """A convolution without groups, in any floating type."""
    if inputs.dtype == tf.float64:  # CPUs lack the gradient of dilated kernels.
        kernel, dilations = spread(kernel, dilations), (1, 1)
    return tf.nn.conv2d(inputs, kernel, strides, padding.upper(), dilations=dilations)


def spread(kernel: tf.Tensor, dilations) -> tf.Tensor:
    """Writes a dilated kernel out with zeros between its taps."""
    for axis, rate in enumerate(dilations):
        if rate > 1:
            size = kernel.shape[axis]
            parts = tf.expand_dims(kernel, axis + 1)
            pads = [[0, 0]] * parts.shape.rank
            pads[axis + 1] = [0, rate - 1]
            shape = list(kernel.shape)
            shape[axis] = size * rate
            kernel = tf.reshape(tf.pad(parts, pads), shape)
            kernel = tf.gather(kernel, np.arange((size - 1) * rate + 1), axis=axis)
    return kernel


def pad_total(size: int, extent: int, stride: int, padding: str) -> int:
    """Zeros that TensorFlow adds along one axis."""
    if padding == "valid":
        return 0
    outputs = -(-size // stride)
    return max((outputs - 1) * stride + extent - size, 0)


def pad_before(size: int, extent: int, stride: int, padding: str) -> int:
    """Zeros that TensorFlow adds at the beginning of one axis."""
    return pad_total(size, extent, stride, padding) // 2
