"""CROWN's bounds of a convolution on windows, in plain PyTorch.

An output neuron depends on a window of each earlier map only: rows are kept there,
`[batch, positions, channels, window]`, with `unfold` to bring bounds to them.
"""

import math

import torch
from torch.nn import functional

from benchmarks.torch_forms import Chain
from benchmarks.torch_forms import bound_layer_densely
from benchmarks.torch_forms import relax


def bound_layer_on_windows(chain: Chain, index: int, before_relu, box) -> tuple:
    """Returns both bounds of a layer's outputs; dense layers by dense rows."""
    layer = chain.layers[index]
    if not layer.is_convolution:
        return bound_layer_densely(chain, index, before_relu, box)
    window = _Window(layer.kernel_shape[0], layer.stride, 1)
    kernel, bias = chain.weights[index]["kernel"], chain.weights[index]["bias"]
    lower = upper = kernel.flatten(1)[None, None]
    lower_offsets = upper_offsets = bias[None, None]
    for other in reversed(range(index)):
        lower_slope, upper_slope, intercept = (
            window.gather(part) for part in relax(*before_relu[other])
        )
        positive, negative = functional.relu(upper), upper.clamp(max=0)
        upper_offsets = upper_offsets + _rows_dot(positive, intercept)
        upper = positive * upper_slope + negative * lower_slope
        positive, negative = functional.relu(lower), lower.clamp(max=0)
        lower_offsets = lower_offsets + _rows_dot(negative, intercept)
        lower = positive * lower_slope + negative * upper_slope
        matrix, constants = _window_matrix(chain, other, window.size)
        # Rows are 0 on padding, where slopes are 0: no bias is added there.
        lower_offsets = lower_offsets + lower @ constants
        upper_offsets = upper_offsets + upper @ constants
        lower, upper = lower @ matrix, upper @ matrix
        window = window.before(chain.layers[other])
    center = window.gather((box[0] + box[1]) * 0.5)
    radius = window.gather((box[1] - box[0]) * 0.5)
    lower = lower_offsets + _rows_dot(lower, center) - _rows_dot(lower.abs(), radius)
    upper = upper_offsets + _rows_dot(upper, center) + _rows_dot(upper.abs(), radius)
    size = layer.output_shape[0]
    return tuple(end.mT.unflatten(2, (size, size)) for end in (lower, upper))


class _Window:
    """Where the window of each output position lies in an earlier map.

    Args:
        size: of the window's side.
        stride: between windows of neighbouring outputs.
        padding: zeros before the map's first row.
    """

    def __init__(self, size, stride, padding):
        self.size, self.stride, self.padding = size, stride, padding

    def before(self, layer):
        """The window on the inputs of a convolution, from that on its outputs."""
        size = (self.size - 1) * layer.stride + layer.kernel_shape[0]
        padding = self.padding * layer.stride + 1
        return _Window(size, self.stride * layer.stride, padding)

    def gather(self, values):
        """Windows of `[batch, channels, h, w]`: `[batch, positions, 1, window]`."""
        windows = functional.unfold(
            values, self.size, padding=self.padding, stride=self.stride
        )
        return windows.mT.contiguous()[:, :, None]


def _window_matrix(chain, index, size):
    """A convolution's adjoint on one window as a matrix, and its bias there."""
    layer, kernel = chain.layers[index], chain.weights[index]["kernel"]
    shape = (layer.output_shape[-1], size, size)
    identity = torch.eye(math.prod(shape)).view(-1, *shape)
    matrix = functional.conv_transpose2d(identity, kernel, stride=layer.stride)
    return matrix.flatten(1), chain.weights[index]["bias"].repeat_interleave(size**2)


def _rows_dot(rows, values):
    """Sums of `rows * values` over the window, `[batch, positions, channels]`."""
    return (rows @ values.mT)[..., 0]
