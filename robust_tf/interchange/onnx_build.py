"""Values of an ONNX network as tensors of a Keras graph, and steps between them."""

import dataclasses
import math
import re
from collections.abc import Callable

import keras
import numpy as np

from robust_tf import layers
from robust_tf.interchange import arrangement
from robust_tf.interchange.onnx_graph import Call


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor of the network, and how Keras holds one example of it.

    Reshapes and transposes cost nothing: they only change `order`.

    Attributes:
        tensor: of the Keras graph, `[batch, *held_shape]`.
        order: of the shape that the tensor has in the ONNX file, any leading 1
            included; the place of each entry in the flattened example of `tensor`.
        layer: the affine layer that wrote it, if nothing else reads it.
        is_softmax: nothing but a reshape may follow.
    """

    tensor: keras.KerasTensor
    order: np.ndarray
    layer: keras.layers.Layer | None = None
    is_softmax: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the ONNX file."""
        return self.order.shape

    @property
    def held_shape(self) -> tuple[int, ...]:
        """Shape in the Keras graph, without the batch axis."""
        return tuple(self.tensor.shape[1:])

    def after(self, tensor, layer=None) -> "Value":
        """Returns what an element-wise layer makes of the value."""
        return Value(tensor, self.order, layer)


class Builder:
    """Calls Keras layers on values.

    Args:
        dtype: of all layers.
    """

    def __init__(self, dtype: str):
        self.dtype = dtype
        self._names = set()

    def unique(self, name: str) -> str:
        """Returns a name that Keras takes, and that nothing has yet."""
        name = re.sub(r"[^A-Za-z0-9_-]", "_", name).lstrip("_-") or "layer"
        count, candidate = 1, name
        while candidate in self._names:
            count += 1
            candidate = f"{name}_{count}"
        self._names.add(candidate)
        return candidate

    def call(self, layer_class, call: Call, tensors, *arguments, **options):
        """Returns a new layer's output, and the layer, named after the operation."""
        name = self.unique(call.name)
        layer = layer_class(*arguments, **options, name=name, dtype=self.dtype)
        return layer(tensors), layer

    def elementwise(self, layer_class, call: Call, value: Value, **options) -> Value:
        """Returns what a layer that treats each entry by itself makes of a value."""
        tensor, _ = self.call(layer_class, call, value.tensor, **options)
        return value.after(tensor)

    def view(self, value: Value, change: Callable, name: str) -> Value:
        """Returns the value after a reshape or transpose, a function on its order."""
        order = change(value.order)
        if arrangement.factor(order.reshape(-1)) is None:  # No single transpose.
            held = arrangement.in_place(value.shape)
            tensor = self.arranged(value, (held.size,), held, name)
            value = Value(tensor, held, is_softmax=value.is_softmax)
            order = change(held)
        return dataclasses.replace(value, order=order)

    def arranged(self, value: Value, held_shape, order, name: str):
        """Returns the value's tensor in another arrangement.

        Args:
            value: any.
            held_shape: of an example, in Keras.
            order: of the value's own shape.
            name: of the layers that are needed.
        """
        places = arrangement.between(value.order, order)
        if np.array_equal(places, np.arange(places.size)):
            return self._reshaped(value.tensor, held_shape, name)
        factors = arrangement.factor(places)
        if factors is None:  # By way of the file's own order, a single transpose each.
            middle = arrangement.in_place(value.shape)
            tensor = self.arranged(value, (middle.size,), middle, name)
            return self.arranged(Value(tensor, middle), held_shape, order, name)
        sizes, axes = factors
        tensor = self._reshaped(value.tensor, sizes, name)
        dims = tuple(axis + 1 for axis in axes)
        tensor = keras.layers.Permute(
            dims, name=self.unique(f"{name}_permute"), dtype=self.dtype
        )(tensor)
        return self._reshaped(tensor, held_shape, name)

    def image(self, value: Value, call: Call):
        """Returns `[batch, height, width, channels]` of a value `[1, C, H, W]`."""
        if len(value.shape) != 4 or value.shape[0] != 1:
            raise call.error(
                "needs one image, [1, channels, height, width], or one row, [1, "
                f"channels, steps]. Received: {list(value.shape)}",
                "Export the network with a batch of one or of free size.",
            )
        _, channels, height, width = value.shape
        order = arrangement.channels_last(value.shape)
        return self.arranged(value, (height, width, channels), order, call.name)

    def from_image(self, tensor, layer=None) -> Value:
        """Returns the value `[1, C, H, W]` held in `[batch, H, W, C]`."""
        height, width, channels = tensor.shape[1:]
        order = arrangement.channels_last((1, channels, height, width))
        return Value(tensor, order, layer)

    def dense(self, call: Call, value: Value, kernel) -> Value:
        """Returns the product of the last axis with `kernel`, `[features, units]`."""
        if value.shape[-1:] != kernel.shape[:1]:
            raise call.error(
                f"sizes do not fit. Received: {list(value.shape)} times "
                f"{list(kernel.shape)}",
                "The file contradicts itself; export the network again.",
            )
        features, units = kernel.shape
        if value.order.size == features:
            tensor = self._reshaped(value.tensor, (features,), call.name)
            held = np.empty_like(kernel)
            held[value.order.reshape(-1)] = kernel
        else:
            held_shape = value.shape[1:] if value.shape[0] == 1 else value.shape
            order = arrangement.in_place(value.shape)
            tensor, held = self.arranged(value, held_shape, order, call.name), kernel
        output, layer = self.call(keras.layers.Dense, call, tensor, units)
        layer.set_weights([held, np.zeros(units)])
        shape = (*value.shape[:-1], units)
        return Value(output, arrangement.in_place(shape), layer)

    def affine(self, call: Call, value: Value, scale, shift) -> Value:
        """Returns `scale * value + shift` for constants that broadcast to the value.

        Merged into the bias of the layer before where possible, and otherwise as few
        numbers as will do.
        """
        scale, shift = np.asarray(scale, "float64"), np.asarray(shift, "float64")
        shape = np.broadcast_shapes(value.shape, scale.shape, shift.shape)
        if math.prod(shape) != value.order.size:
            raise call.error(
                f"a constant enlarges {list(value.shape)} to {list(shape)}",
                "Only constants that broadcast to the other operand are supported.",
            )
        value = dataclasses.replace(value, order=value.order.reshape(shape))
        scale, shift = (
            arrangement.scatter(np.broadcast_to(one, shape), value.order)
            .reshape(value.held_shape)
            .astype(self.dtype)
            for one in (scale, shift)
        )
        if (scale == 1.0).all() and (shift == 0.0).all():
            return value
        if (scale == 1.0).all() and self._takes_bias(value.layer, shift):
            value.layer.bias.assign(shift.reshape(-1, shift.shape[-1])[0])
            return value
        short = _shortened(scale), _shortened(shift)
        if None not in short:
            return self.elementwise(
                keras.layers.Rescaling, call, value, scale=short[0], offset=short[1]
            )
        tensor, layer = self.call(layers.ElementwiseAffine, call, value.tensor)
        layer.set_weights([scale, shift])
        return value.after(tensor)

    @staticmethod
    def _takes_bias(layer, shift) -> bool:
        """Whether a constant is the same at all places, and the bias still 0."""
        if layer is None or layer.bias.shape[0] != shift.shape[-1]:
            return False
        rows = shift.reshape(-1, shift.shape[-1])
        return bool((rows == rows[0]).all()) and not np.asarray(layer.bias).any()

    def _reshaped(self, tensor, held_shape, name):
        held_shape = tuple(held_shape)
        if tuple(tensor.shape[1:]) == held_shape:
            return tensor
        if len(held_shape) == 1:
            name = self.unique(f"{name}_flatten")
            return keras.layers.Flatten(name=name, dtype=self.dtype)(tensor)
        name = self.unique(f"{name}_reshape")
        return keras.layers.Reshape(held_shape, name=name, dtype=self.dtype)(tensor)


def _shortened(values):
    """A number, or one for each channel of an image, that says the same; or None."""
    first = values.reshape(-1)[0]
    if (values == first).all():
        return float(first)
    if values.ndim == 3 and (values == values[:1, :1]).all():
        return [float(value) for value in values[0, 0]]
    return None
