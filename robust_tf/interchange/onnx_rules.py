"""What each layer becomes in an ONNX file."""

import numpy as np

from robust_tf import layers
from robust_tf.errors import InputError
from robust_tf.interchange import arrangement
from robust_tf.interchange.onnx_nodes import Nodes
from robust_tf.interchange.onnx_nodes import Tensor
from robust_tf.layers.convolution import pad_before
from robust_tf.layers.convolution import pad_total


def rule_for(layer):
    """Returns the function that writes a layer: from nodes, layer and what it reads."""
    for kind in type(layer).__mro__:
        if kind in _RULES:
            return _RULES[kind]
    raise InputError(
        f"Layer '{layer.name}' ({type(layer).__name__}) cannot be written as ONNX. "
        f"Layers that can: {', '.join(sorted(kind.__name__ for kind in _RULES))}"
    )


def _dense(nodes: Nodes, layer, tensor: Tensor) -> Tensor:
    kernel, bias = np.asarray(layer.kernel), _bias(layer)
    features, units = kernel.shape
    if tensor.order.size == features:
        held = np.empty_like(kernel)
        held[tensor.order.reshape(-1)] = kernel
        flat = nodes.arranged(tensor, (features,), tensor.order, layer.name)
        name = nodes.add("Gemm", layer.name, [flat.name, held.T, bias], transB=1)
        order = arrangement.in_place((*tensor.order.shape[:-1], units))
        return Tensor(name, (units,), order)
    order = arrangement.in_place(tensor.order.shape)
    tensor = nodes.arranged(tensor, order.shape, order, layer.name)
    name = nodes.add("MatMul", layer.name, [tensor.name, kernel])
    name = nodes.add("Add", f"{layer.name}_bias", [name, bias])
    order = arrangement.in_place((*order.shape[:-1], units))
    return Tensor(name, order.shape, order)


def _convolution(nodes, layer, tensor):
    return _convolve(nodes, layer, tensor, np.asarray(layer.kernel), layer.groups)


def _depthwise(nodes, layer, tensor):
    kernel = np.asarray(layer.kernel)
    height, width, channels, multiplier = kernel.shape
    # One group for each channel, of `depth_multiplier` filters.
    kernel = kernel.reshape(height, width, 1, channels * multiplier)
    return _convolve(nodes, layer, tensor, kernel, channels)


def _convolve(nodes, layer, tensor, kernel, groups):
    """A convolution of one or two spatial axes."""
    spatial = layer.kernel.shape[: len(layer.strides)]
    tensor = nodes.image(tensor, layer.name)
    axes = range(len(spatial))
    taps = kernel.transpose(len(axes) + 1, len(axes), *axes)
    extent = [(spatial[i] - 1) * layer.dilation_rate[i] + 1 for i in axes]
    if layer.padding == "causal":
        pads = [(extent[0] - 1, 0)]
    else:
        pads = _pads(tensor.shape[1:], extent, layer.strides, layer.padding)
    name = nodes.add(
        "Conv",
        layer.name,
        [tensor.name, taps, _bias(layer)],
        kernel_shape=list(spatial),
        strides=list(layer.strides),
        dilations=list(layer.dilation_rate),
        group=groups,
        pads=_as_onnx(pads),
    )
    return _image(name, layer)


def _pool(op, **attributes):
    def rule(nodes, layer, tensor):
        tensor = nodes.image(tensor, layer.name)
        pool, strides = tuple(layer.pool_size), tuple(layer.strides)
        pads = getattr(layer, "pads", None)
        if pads is None:
            pads = _pads(tensor.shape[1:], pool, strides, layer.padding)
        name = nodes.add(
            op,
            layer.name,
            [tensor.name],
            kernel_shape=list(pool),
            strides=list(strides),
            pads=_as_onnx(pads),
            **attributes,
        )
        return _image(name, layer)

    return rule


def _global_pool(op):
    def rule(nodes, layer, tensor):
        tensor = nodes.image(tensor, layer.name)
        name = nodes.add(op, layer.name, [tensor.name])
        order = arrangement.in_place(layer.output.shape[1:])
        return Tensor(name, (tensor.shape[0], 1, 1), order)

    return rule


def _zero_padding(nodes, layer, tensor):
    tensor = nodes.image(tensor, layer.name)
    pads = [(0, 0), (0, 0), *layer.padding]
    widths = np.asarray(_as_onnx(pads), "int64")
    return _image(nodes.add("Pad", layer.name, [tensor.name, widths]), layer)


def _batch_normalization(nodes, layer, tensor):
    """As such where channels come first, else as constants."""
    channels = tensor.order.shape[-1]
    numbers = np.arange(channels)
    held = arrangement.scatter(
        np.broadcast_to(numbers, tensor.order.shape), tensor.order
    ).reshape(tensor.shape)
    if held.shape[0] != channels or (numbers != held.T).any():
        return _affine(nodes, layer, tensor)
    one, zero = np.ones(channels), np.zeros(channels)
    statistics = [
        np.asarray(layer.gamma) if layer.scale else one,
        np.asarray(layer.beta) if layer.center else zero,
        np.asarray(layer.moving_mean),
        np.asarray(layer.moving_variance),
    ]
    name = nodes.add(
        "BatchNormalization",
        layer.name,
        [tensor.name, *statistics],
        epsilon=float(layer.epsilon),
    )
    return Tensor(name, tensor.shape, tensor.order)


def _affine(nodes, layer, tensor):
    return nodes.affine(layer.name, tensor, *layer.scale_and_shift("float64"))


def _elementwise(op):
    def rule(nodes, layer, tensor):
        return nodes.elementwise(op, layer, tensor)

    return rule


def _relu(nodes, layer, tensor):
    slope = float(layer.negative_slope)
    if not slope and not isinstance(layer, layers.LeakyReLU):
        return nodes.elementwise("Relu", layer, tensor)
    return nodes.elementwise("LeakyRelu", layer, tensor, alpha=slope)


def _elu(nodes, layer, tensor):
    return nodes.elementwise("Elu", layer, tensor, alpha=float(layer.alpha))


def _same(nodes, layer, tensor):
    del nodes, layer
    return tensor


def _reshape(nodes, layer, tensor):
    shape = layer.output.shape[1:]
    return nodes.view(tensor, lambda order: order.reshape(shape), layer.name)


def _permute(nodes, layer, tensor):
    axes = [axis - 1 for axis in layer.dims]
    return nodes.view(tensor, lambda order: order.transpose(axes), layer.name)


def _merge(op):
    def rule(nodes, layer, first, *others):
        total = first
        for other in others:
            other = nodes.arranged(other, first.shape, first.order, layer.name)
            name = nodes.add(op, layer.name, [total.name, other.name])
            total = Tensor(name, first.shape, first.order)
        return total

    return rule


def _average(nodes, layer, *tensors):
    total = _merge("Add")(nodes, layer, *tensors)
    return nodes.affine(f"{layer.name}_share", total, 1.0 / len(tensors), 0.0)


def _concatenate(nodes, layer, *tensors):
    rank = tensors[0].order.ndim
    axis = layer.axis % (rank + 1)
    if rank == 3:
        arranged = [nodes.image(tensor, layer.name) for tensor in tensors]
        axis = {1: 2, 2: 3, 3: 1}[axis]
    else:
        orders = [arrangement.in_place(tensor.order.shape) for tensor in tensors]
        arranged = [
            nodes.arranged(tensor, order.shape, order, layer.name)
            for tensor, order in zip(tensors, orders, strict=True)
        ]
    name = nodes.add("Concat", layer.name, [one.name for one in arranged], axis=axis)
    shape = tuple(layer.output.shape[1:])
    return _image(name, layer) if rank == 3 else _plain(name, shape)


def _image(name, layer) -> Tensor:
    """What is written of a layer whose output has channels last in Keras."""
    *spatial, channels = layer.output.shape[1:]
    order = arrangement.channels_first((*spatial, channels))
    return Tensor(name, (channels, *spatial), order)


def _plain(name, shape) -> Tensor:
    return Tensor(name, shape, arrangement.in_place(shape))


def _bias(layer):
    """The bias, or zeros."""
    if layer.use_bias:
        return np.asarray(layer.bias)
    return np.zeros(layer.output.shape[-1])


def _pads(size, extent, strides, padding) -> list[tuple[int, int]]:
    """(before, after) on each axis."""
    pads = []
    for axis in zip(size, extent, strides, strict=True):
        before = pad_before(*axis, padding)
        pads.append((before, pad_total(*axis, padding) - before))
    return pads


def _as_onnx(pads) -> list[int]:
    """All that is before, then all that is after."""
    return [before for before, _ in pads] + [after for _, after in pads]


_RULES = {
    layers.Add: _merge("Add"),
    layers.Average: _average,
    layers.AveragePooling2D: _pool("AveragePool", count_include_pad=0),
    layers.BatchNormalization: _batch_normalization,
    layers.Concatenate: _concatenate,
    layers.Conv1D: _convolution,
    layers.Conv2D: _convolution,
    layers.Dense: _dense,
    layers.DepthwiseConv2D: _depthwise,
    layers.Dropout: _same,
    layers.ELU: _elu,
    layers.ElementwiseAffine: _affine,
    layers.Flatten: _reshape,
    layers.GlobalAveragePooling2D: _global_pool("GlobalAveragePool"),
    layers.GlobalMaxPooling2D: _global_pool("GlobalMaxPool"),
    layers.LeakyReLU: _relu,
    layers.MaxPooling2D: _pool("MaxPool"),
    layers.Normalization: _affine,
    layers.PaddedMaxPooling2D: _pool("MaxPool"),
    layers.Permute: _permute,
    layers.ReLU: _relu,
    layers.Rescaling: _affine,
    layers.Reshape: _reshape,
    layers.Sigmoid: _elementwise("Sigmoid"),
    layers.Softplus: _elementwise("Softplus"),
    layers.Subtract: _merge("Sub"),
    layers.Tanh: _elementwise("Tanh"),
    layers.ZeroPadding2D: _zero_padding,
}
