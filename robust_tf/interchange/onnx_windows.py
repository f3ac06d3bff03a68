"""Operators of ONNX that slide windows over images, in terms of Keras."""

import dataclasses
import functools
import math

import keras
import numpy as np

from robust_tf import layers
from robust_tf.interchange.onnx_build import Builder
from robust_tf.interchange.onnx_build import Value
from robust_tf.interchange.onnx_graph import Call
from robust_tf.layers.convolution import pad_before
from robust_tf.layers.convolution import pad_total


@dataclasses.dataclass(frozen=True)
class _Windows:
    """How windows lie in an image; all fields are (height, width).

    Attributes:
        size: of the image.
        kernel: entries of a window.
        strides: from one window to the next.
        dilations: from one entry of a window to the next.
        pads: (before, after) on each axis.
        rounds_up: part of a window at the end counts as one.
    """

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    rounds_up: bool = False

    @property
    def extent(self) -> tuple[int, ...]:
        """Height and width that a dilated window spans."""
        pairs = zip(self.kernel, self.dilations, strict=True)
        return tuple((kernel - 1) * rate + 1 for kernel, rate in pairs)

    @property
    def padding(self) -> str | None:
        """What Keras calls these pads, None where it has no word for them."""
        if not any(map(sum, self.pads)):
            return "valid"
        return "same" if self.pads == self.same() else None

    def same(self) -> tuple[tuple[int, int], ...]:
        """The pads of `padding="same"`."""
        pads = []
        for axis in zip(self.size, self.extent, self.strides, strict=True):
            before = pad_before(*axis, "same")
            pads.append((before, pad_total(*axis, "same") - before))
        return tuple(pads)

    def rounded_down(self) -> "_Windows":
        """The same windows with as much padding as the last one needs."""
        if not self.rounds_up:
            return self
        pads = []
        for axis, (before, after) in enumerate(self.pads):
            size, extent = self.size[axis], self.extent[axis]
            stride = self.strides[axis]
            steps = -(-(before + size + after - extent) // stride)
            if steps * stride >= before + size:  # Would begin in the padding.
                steps -= 1
            pads.append((before, max(steps * stride + extent - size - before, after)))
        return dataclasses.replace(self, pads=tuple(pads), rounds_up=False)


def _windows(call: Call, size, kernel) -> _Windows:
    """Reads the attributes of a convolution or pooling of one or two axes."""
    axes = len(kernel)

    def setting(name):
        values = tuple(call.attributes.get(name, (1,) * axes))
        return (1,) * (2 - axes) + values

    pads = tuple(call.attributes.get("pads", (0,) * 2 * axes))
    if min(pads) < 0:
        raise call.error(f"pads={list(pads)}", "Negative pads are not supported.")
    pairs = ((0, 0),) * (2 - axes) + tuple(zip(pads[:axes], pads[axes:], strict=True))
    windows = _Windows(
        tuple(size),
        (1,) * (2 - axes) + tuple(kernel),
        setting("strides"),
        setting("dilations"),
        pairs,
        bool(call.attributes.get("ceil_mode", 0)),
    )
    mode = call.attributes.get("auto_pad", "NOTSET")
    if mode == "VALID":
        return dataclasses.replace(windows, pads=((0, 0), (0, 0)))
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        pads = windows.same()
        if mode == "SAME_LOWER":
            pads = tuple((after, before) for before, after in pads)
        return dataclasses.replace(windows, pads=pads, rounds_up=False)
    return windows


def _on_images(operator):
    """Lets an operator on `[1, C, H, W]` take `[1, C, steps]` as height 1."""

    @functools.wraps(operator)
    def on_either(build: Builder, call: Call, *arguments) -> Value:
        value = call.operand(0)
        if not isinstance(value, Value) or len(value.shape) != 3:
            return operator(build, call, *arguments)
        value = build.view(value, lambda order: order[:, :, None], call.name)
        call = dataclasses.replace(call, operands=(value, *call.operands[1:]))
        result = operator(build, call, *arguments)
        return build.view(result, lambda order: order[:, :, 0], call.name)

    return on_either


def _padded(build, call, tensor, windows):
    """The tensor with zeros around it, and the padding that is left to do."""
    if windows.padding is not None:
        return tensor, windows.padding
    return _with_zeros(build, call, tensor, windows), "valid"


def _with_zeros(build, call, tensor, windows):
    call = dataclasses.replace(call, name=f"{call.name}_pad")
    output, _ = build.call(
        keras.layers.ZeroPadding2D, call, tensor, padding=windows.pads
    )
    return output


@_on_images
def _conv(build, call):
    kernel, bias = call.constant(1, "the kernel"), call.constant(2, "the bias")
    value = call.operand(0)
    image = build.image(value, call)
    windows = _windows(call, image.shape[1:3], kernel.shape[2:])
    if max(windows.dilations) > 1 and max(windows.strides) > 1:
        raise call.error(
            f"strides {list(windows.strides)} and dilations {list(windows.dilations)}",
            "Only one of the two may be above 1.",
        )
    groups = call.attributes.get("group", 1)
    if image.shape[-1] != groups * kernel.shape[1]:
        raise call.error(
            f"{image.shape[-1]} channels for a kernel of shape {list(kernel.shape)} in "
            f"{groups} group(s)",
            "The file contradicts itself; export the network again.",
        )
    tensor, padding = _padded(build, call, image, windows)
    return _convolve(build, call, tensor, windows, padding, kernel, bias)


def _convolve(build, call, tensor, windows, padding, kernel, bias) -> Value:
    """Calls the convolution: depthwise where each channel is a group, and Keras can."""
    filters, groups = kernel.shape[0], call.attributes.get("group", 1)
    taps = kernel.reshape(*kernel.shape[:2], *windows.kernel).transpose(2, 3, 1, 0)
    options = {
        "kernel_size": windows.kernel,
        "strides": windows.strides,
        "padding": padding,
        "dilation_rate": windows.dilations,
    }
    if groups > 1 and kernel.shape[1] == 1 and len(set(windows.strides)) == 1:
        kind, options["depth_multiplier"] = (
            keras.layers.DepthwiseConv2D,
            filters // groups,
        )
        taps = taps.reshape(*windows.kernel, groups, filters // groups)
    else:
        kind = keras.layers.Conv2D
        options |= {"filters": filters, "groups": groups}
    output, layer = build.call(kind, call, tensor, **options)
    layer.set_weights([taps, np.zeros(filters) if bias is None else bias])
    return build.from_image(output, layer)


def _pool_windows(call, image):
    windows = _windows(call, image.shape[1:3], call.attributes["kernel_shape"])
    if max(windows.dilations) > 1:
        raise call.error(
            f"dilations {list(windows.dilations)}", "Only pooling without is supported."
        )
    return windows


@_on_images
def _max_pool(build, call):
    image = build.image(call.operand(0), call)
    windows = _pool_windows(call, image).rounded_down()
    options = {"pool_size": windows.kernel, "strides": windows.strides}
    if windows.padding is None:
        kind, options["pads"] = layers.PaddedMaxPooling2D, windows.pads
    else:
        kind, options["padding"] = keras.layers.MaxPooling2D, windows.padding
    output, _ = build.call(kind, call, image, **options)
    return build.from_image(output)


@_on_images
def _average_pool(build, call):
    """Counts of entries differ at the border where those of the padding do not count.

    An average over zeros as well, times what it divides by too often, is the same map.
    """
    image = build.image(call.operand(0), call)
    windows = _pool_windows(call, image)
    counts_padding = bool(call.attributes.get("count_include_pad", 0))
    complete = windows.rounded_down()
    if counts_padding and complete.pads != windows.pads:
        raise call.error(
            "ceil_mode=1 with count_include_pad=1", "Runtimes differ in what it means."
        )
    windows = complete
    if windows.padding == "valid" or (windows.padding == "same" and not counts_padding):
        tensor, padding = image, windows.padding
    else:
        tensor, padding = _with_zeros(build, call, image, windows), "valid"
    output, _ = build.call(
        keras.layers.AveragePooling2D,
        call,
        tensor,
        windows.kernel,
        windows.strides,
        padding,
    )
    result = build.from_image(output)
    if counts_padding or tensor is image:
        return result
    return build.affine(call, result, _corrections(windows, result.shape[2:]), 0.0)


def _corrections(windows, positions):
    """Entries of each window over those of them that lie in the image, `[H, W]`."""
    inside = []
    for axis in range(2):
        starts = np.arange(positions[axis]) * windows.strides[axis]
        starts = starts - windows.pads[axis][0]
        ends = np.minimum(starts + windows.kernel[axis], windows.size[axis])
        inside.append(ends - np.maximum(starts, 0))
    return math.prod(windows.kernel) / np.outer(*inside)


def _global_pool(kind):
    @_on_images
    def operator(build, call):
        image = build.image(call.operand(0), call)
        output, _ = build.call(kind, call, image)
        channels = image.shape[-1]
        return Value(output, np.arange(channels).reshape(1, channels, 1, 1))

    return operator


def _pad(build, call):
    mode = call.attributes.get("mode", "constant")
    filling = call.setting("value", 2)
    if mode != "constant" or (filling is not None and np.any(filling)):
        raise call.error(
            f"mode '{mode}', value {filling}", "Only zeros can be put around an image."
        )
    shape = call.operand(0).shape
    given = np.asarray(call.setting("pads", 1)).reshape(2, -1)
    axes, pads = call.constant(3, "`axes`"), np.zeros([2, len(shape)], int)
    pads[:, slice(None) if axes is None else axes.reshape(-1)] = given
    if not pads.any():
        return call.operand(0)
    if len(shape) not in (3, 4) or pads[:, :2].any() or pads.min() < 0:
        raise call.error(
            f"pads {pads.tolist()} (before and after) of {list(shape)}",
            "Only height and width of an image can be padded, and not cropped.",
        )
    padding = [(int(before), int(after)) for before, after in pads.T[2:]]
    return _zeros_around(build, call, ((0, 0), *padding)[-2:])


@_on_images
def _zeros_around(build, call, padding):
    image = build.image(call.operand(0), call)
    output, _ = build.call(keras.layers.ZeroPadding2D, call, image, padding=padding)
    return build.from_image(output)


OPERATORS = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "GlobalAveragePool": _global_pool(keras.layers.GlobalAveragePooling2D),
    "GlobalMaxPool": _global_pool(keras.layers.GlobalMaxPooling2D),
    "MaxPool": _max_pool,
    "Pad": _pad,
}
