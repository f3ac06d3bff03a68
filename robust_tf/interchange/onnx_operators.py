"""Operators of ONNX that act on entries, products and shapes, in terms of Keras."""

import dataclasses
import math

import keras
import numpy as np

from robust_tf.interchange import arrangement
from robust_tf.interchange.onnx_build import Builder
from robust_tf.interchange.onnx_build import Value
from robust_tf.interchange.onnx_graph import Call

_FLOAT, _DOUBLE = 1, 11  # Of ONNX's types.


def _same(build: Builder, call: Call) -> Value:
    """What does nothing at inference."""
    del build
    return call.operand(0)


def _cast(build, call):
    del build
    if call.attributes.get("to") not in (_FLOAT, _DOUBLE):
        raise call.error(
            f"casts to type {call.attributes.get('to')}",
            "Only casts between float32 and float64 keep a network piecewise linear.",
        )
    return call.operand(0)


def _relu(build, call):
    return build.elementwise(keras.layers.ReLU, call, call.operand(0))


def _leaky_relu(build, call):
    slope = call.attributes.get("alpha", 0.01)
    if not 0.0 <= slope <= 1.0:
        raise call.error(f"alpha={slope}", "Only slopes from 0 to 1 are supported.")
    return build.elementwise(
        keras.layers.LeakyReLU, call, call.operand(0), negative_slope=slope
    )


def _elu(build, call):
    alpha = call.attributes.get("alpha", 1.0)
    if alpha < 0.0:
        raise call.error(f"alpha={alpha}", "Only 0 and above is supported.")
    return build.elementwise(keras.layers.ELU, call, call.operand(0), alpha=alpha)


def _activation(name):
    def operator(build, call):
        return build.elementwise(
            keras.layers.Activation, call, call.operand(0), activation=name
        )

    return operator


def _clip(build, call):
    """`high - relu(high - low - relu(z - low))`, in parts where an end is open."""
    value = call.operand(0)
    low, high = (
        float(np.asarray(end).reshape(())) if end is not None else default
        for end, default in (
            (call.setting("min", 1), -math.inf),
            (call.setting("max", 2), math.inf),
        )
    )
    if not low < high:
        raise call.error(f"limits {low:g} and {high:g}", "Give the lower one first.")
    # Exporters write the greatest numbers for open ends.
    widest = float(np.finfo("float32").max)
    has_low, has_high = low > -widest, high < widest
    offset = low if has_low else 0.0
    if has_low:
        value = build.affine(call, value, 1.0, -low)
        value = build.elementwise(keras.layers.ReLU, call, value)
    if not has_high:
        return build.affine(call, value, 1.0, offset)
    value = build.affine(call, value, -1.0, high - offset)
    value = build.elementwise(keras.layers.ReLU, call, value)
    return build.affine(call, value, -1.0, high)


def _softmax(build, call):
    value = call.operand(0)
    axis = call.attributes.get("axis", -1)
    sizes = {value.shape[axis] if -len(value.shape) <= axis < len(value.shape) else 0}
    if sizes != {value.order.size}:
        raise call.error(
            f"over axis {axis} of {list(value.shape)}",
            "Only one over all outputs of the network is supported.",
        )
    flat = arrangement.in_place(value.shape)
    tensor = build.arranged(value, (flat.size,), flat, call.name)
    tensor, _ = build.call(keras.layers.Softmax, call, tensor)
    return Value(tensor, flat, is_softmax=True)


def _sum(sign):
    """Addition and subtraction, of two values or of a value and a constant."""

    def operator(build, call):
        left, right = call.operand(0), call.operand(1)
        if isinstance(right, np.ndarray):
            return build.affine(call, left, 1.0, sign * right.astype("float64"))
        if isinstance(left, np.ndarray):
            return build.affine(call, right, sign, left)
        return _merge(build, call, left, right, sign)

    return operator


def _merge(build, call, left, right, sign):
    shape = np.broadcast_shapes(left.shape, right.shape)
    if {left.order.size, right.order.size} != {math.prod(shape)}:
        raise call.error(
            f"broadcasts {list(left.shape)} and {list(right.shape)}",
            "Both must have one shape; repeat the smaller one in the network.",
        )
    left, right = (
        dataclasses.replace(one, order=one.order.reshape(shape))
        for one in (left, right)
    )
    tensor = build.arranged(right, left.held_shape, left.order, call.name)
    kind = keras.layers.Add if sign > 0 else keras.layers.Subtract
    output, _ = build.call(kind, call, [left.tensor, tensor])
    return left.after(output)


def _multiply(build, call):
    left, right = call.operand(0), call.operand(1)
    if isinstance(left, np.ndarray):
        left, right = right, left
    if not isinstance(right, np.ndarray):
        raise call.error("multiplies two computed tensors", "Only constants can.")
    return build.affine(call, left, right, 0.0)


def _divide(build, call):
    value, divisor = call.operand(0), call.constant(1, "the divisor")
    if not np.all(divisor):
        raise call.error("divides by 0", "Correct the constant.")
    return build.affine(call, value, 1.0 / divisor.astype("float64"), 0.0)


def _matmul(build, call):
    return _product(build, call, call.operand(0), call.operand(1))


def _product(build, call, left, right):
    """A matrix product with one constant factor."""
    constant = right if isinstance(right, np.ndarray) else left
    if not isinstance(constant, np.ndarray):
        raise call.error("multiplies two computed tensors", "Only constants can.")
    matrix = constant.reshape(constant.shape[-2:])
    if constant.ndim == 1:  # A column on the right, a row on the left.
        matrix = constant[:, None] if constant is right else constant[None]
    if constant is right:
        result = build.dense(call, left, matrix)
        return (
            build.view(result, _drop(-1), call.name) if constant.ndim == 1 else result
        )
    if len(right.shape) == 1:
        result = build.dense(call, right, matrix.T)
        return (
            build.view(result, _drop(-1), call.name) if constant.ndim == 1 else result
        )
    turned = build.view(right, lambda order: order.swapaxes(-1, -2), call.name)
    result = build.dense(call, turned, matrix.T)
    result = build.view(result, lambda order: order.swapaxes(-1, -2), call.name)
    return build.view(result, _drop(-2), call.name) if constant.ndim == 1 else result


def _drop(axis):
    return lambda order: order.squeeze(axis)


def _gemm(build, call):
    """`alpha A B + beta C`, either of A and B constant."""
    alpha, beta = (call.attributes.get(name, 1.0) for name in ("alpha", "beta"))
    factors = []
    for index, name in enumerate(("transA", "transB")):
        factor = call.operand(index)
        if call.attributes.get(name, 0):
            factor = (
                factor.T
                if isinstance(factor, np.ndarray)
                else build.view(factor, np.transpose, call.name)
            )
        if isinstance(factor, np.ndarray):
            factor = alpha * factor
        factors.append(factor)
    result, offset = _product(build, call, *factors), call.operand(2)
    if offset is None:
        return result
    if isinstance(offset, np.ndarray):
        return build.affine(call, result, 1.0, beta * offset.astype("float64"))
    return _merge(build, call, result, build.affine(call, offset, beta, 0.0), 1.0)


def _batch_normalization(build, call):
    """Over axis 1: a layer of its own where channels are last, else as constants."""
    value = call.operand(0)
    names = ("scale", "bias", "mean", "variance")
    gamma, beta, mean, variance = (
        call.constant(i, f"the {name}") for i, name in enumerate(names, 1)
    )
    if call.attributes.get("training_mode", 0):
        raise call.error("in training mode", "Export the network for inference.")
    epsilon = float(call.attributes.get("epsilon", 1e-5))
    channels = np.arange(len(gamma)).reshape(-1, *[1] * (len(value.shape) - 2))
    held = arrangement.scatter(np.broadcast_to(channels, value.shape), value.order)
    held = held.reshape(value.held_shape)
    if held.shape[-1] == len(gamma) and (held == np.arange(len(gamma))).all():
        tensor, layer = build.call(
            keras.layers.BatchNormalization, call, value.tensor, epsilon=epsilon
        )
        layer.set_weights([gamma, beta, mean, variance])
        return value.after(tensor)
    scale = gamma.astype("float64") / np.sqrt(variance.astype("float64") + epsilon)
    shift = beta - scale * mean
    return build.affine(
        call, value, scale.reshape(channels.shape), shift.reshape(channels.shape)
    )


def _flatten(build, call):
    value = call.operand(0)
    axis = call.attributes.get("axis", 1) % (len(value.shape) + 1)
    shape = (math.prod(value.shape[:axis]), math.prod(value.shape[axis:]))
    return build.view(value, lambda order: order.reshape(shape), call.name)


def _reshape(build, call):
    value = call.operand(0)
    wanted = call.setting("shape", 1)
    shape = [int(size) for size in np.asarray(wanted).reshape(-1)]
    if not call.attributes.get("allowzero", 0):
        shape = [size or value.shape[i] for i, size in enumerate(shape)]
    try:
        return build.view(value, lambda order: order.reshape(shape), call.name)
    except ValueError as error:
        raise call.error(
            f"{list(value.shape)} cannot become {shape}",
            "Export the network with a batch of one or of free size.",
        ) from error


def _transpose(build, call):
    axes = call.attributes.get("perm")
    return build.view(call.operand(0), lambda order: order.transpose(axes), call.name)


def _squeeze(build, call):
    axes = call.setting("axes", 1)
    axes = None if axes is None else tuple(int(axis) for axis in axes)
    return build.view(call.operand(0), lambda order: order.squeeze(axes), call.name)


def _unsqueeze(build, call):
    axes = tuple(int(axis) for axis in call.setting("axes", 1))
    return build.view(
        call.operand(0), lambda order: np.expand_dims(order, axes), call.name
    )


def _concat(build, call):
    values = call.operands
    for index in range(len(values)):
        if not isinstance(values[index], Value):
            raise call.error(
                f"joins a constant, '{call.reads[index]}'", "Only computed tensors can."
            )
    axis = call.attributes["axis"] % len(values[0].shape)
    shape = list(values[0].shape)
    shape[axis] = sum(value.shape[axis] for value in values)
    if len(shape) == 4 and shape[0] == 1 and axis:
        tensors = [build.image(value, call) for value in values]
        held_axis = {1: 3, 2: 1, 3: 2}[axis]
        order = arrangement.channels_last(shape)
    else:
        first = 1 if axis and shape[0] == 1 else 0  # Keras's batch axis replaces it.
        tensors = [
            build.arranged(
                value,
                value.shape[first:],
                arrangement.in_place(value.shape),
                call.name,
            )
            for value in values
        ]
        held_axis = axis + 1 - first
        order = arrangement.in_place(shape)
    output, _ = build.call(keras.layers.Concatenate, call, tensors, axis=held_axis)
    return Value(output, order)


OPERATORS = {
    "Add": _sum(1.0),
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Div": _divide,
    "Dropout": _same,
    "Elu": _elu,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "Identity": _same,
    "LeakyRelu": _leaky_relu,
    "MatMul": _matmul,
    "Mul": _multiply,
    "Relu": _relu,
    "Reshape": _reshape,
    "Sigmoid": _activation("sigmoid"),
    "Softmax": _softmax,
    "Softplus": _activation("softplus"),
    "Squeeze": _squeeze,
    "Sub": _sum(-1.0),
    "Tanh": _activation("tanh"),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
# Those that move entries, and may follow a softmax.
REARRANGE = ("Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
