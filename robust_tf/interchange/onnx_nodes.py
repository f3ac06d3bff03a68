"""The nodes of an ONNX file that is being written."""

import dataclasses

import numpy as np

from robust_tf.interchange import arrangement


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of the file, and how it holds one of Keras.

    Attributes:
        name: in the file.
        shape: in the file, without the batch axis.
        order: of the shape that Keras has without the batch axis; the place of each
            entry in the flattened tensor of the file.
    """

    name: str
    shape: tuple[int, ...]
    order: np.ndarray


class Nodes:
    """Nodes and constants, in the order in which they are added.

    Args:
        onnx: the package.

    Attributes:
        protos: the nodes.
        constants: weights, as tensors of the file.
    """

    def __init__(self, onnx):
        self._onnx = onnx
        self.protos, self.constants = [], []
        self._names = {"input", "output"}

    def add(self, op: str, name: str, reads, output=None, **attributes) -> str:
        """Adds a node, and returns the name of what it writes.

        Args:
            op: the operator.
            name: of the node, made unique.
            reads: names of tensors, and arrays, which are written as constants.
            output: name of what it writes; by default that of the node.
            **attributes: of the node.
        """
        name = self._unique(name)
        reads = [
            one if isinstance(one, str) else self._constant(name, one) for one in reads
        ]
        output = output or name
        node = self._onnx.helper.make_node(op, reads, [output], name, **attributes)
        self.protos.append(node)
        return output

    def elementwise(self, op: str, layer, tensor: Tensor, **attributes) -> Tensor:
        """Adds a node that treats each entry by itself."""
        name = self.add(op, layer.name, [tensor.name], **attributes)
        return dataclasses.replace(tensor, name=name)

    def affine(self, name: str, tensor: Tensor, scale, shift) -> Tensor:
        """Adds `scale * tensor + shift`, for constants that broadcast in Keras."""
        for op, value, neutral in (("Mul", scale, 1.0), ("Add", shift, 0.0)):
            value = np.broadcast_to(np.asarray(value), tensor.order.shape)
            held = arrangement.scatter(value, tensor.order).reshape(tensor.shape)
            if (held != neutral).any():
                held = _shortened(held.astype("float32"))
                tensor = dataclasses.replace(
                    tensor, name=self.add(op, name, [tensor.name, held])
                )
        return tensor

    def view(self, tensor: Tensor, change, name: str) -> Tensor:
        """Returns the tensor after a reshape or transpose of Keras, without a node."""
        order = change(tensor.order)
        if arrangement.factor(order.reshape(-1)) is None:  # No single transpose.
            held = arrangement.in_place(tensor.order.shape)
            tensor = self.arranged(tensor, held.shape, held, name)
            order = change(held)
        return dataclasses.replace(tensor, order=order)

    def arranged(self, tensor: Tensor, shape, order, name: str) -> Tensor:
        """Returns the tensor in another arrangement, with the nodes that it needs."""
        places = arrangement.between(tensor.order, order)
        if np.array_equal(places, np.arange(places.size)):
            return Tensor(self._reshaped(tensor, shape, name), tuple(shape), order)
        factors = arrangement.factor(places)
        if factors is None:  # By way of Keras's own order, a single transpose each.
            middle = arrangement.in_place(tensor.order.shape)
            tensor = self.arranged(tensor, middle.shape, middle, name)
            return self.arranged(tensor, shape, order, name)
        sizes, axes = factors
        moved = self.add(
            "Transpose",
            f"{name}_transpose",
            [self._reshaped(tensor, sizes, name)],
            perm=[0, *(axis + 1 for axis in axes)],
        )
        moved = Tensor(moved, tuple(sizes[axis] for axis in axes), order)
        return Tensor(self._reshaped(moved, shape, name), tuple(shape), order)

    def image(self, tensor: Tensor, name: str) -> Tensor:
        """Returns `[*spatial, channels]` of Keras as `[channels, *spatial]`."""
        *spatial, channels = tensor.order.shape
        order = arrangement.channels_first(tensor.order.shape)
        return self.arranged(tensor, (channels, *spatial), order, name)

    def _reshaped(self, tensor, shape, name) -> str:
        shape = tuple(shape)
        if tensor.shape == shape:
            return tensor.name
        if len(shape) == 1:
            return self.add("Flatten", f"{name}_flatten", [tensor.name])
        sizes = np.asarray([-1, *shape], "int64")  # The batch may be free.
        return self.add("Reshape", f"{name}_reshape", [tensor.name, sizes])

    def _constant(self, name, value) -> str:
        value = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
        if value.dtype != np.int64:
            value = value.astype("float32")
        name = self._unique(f"{name}.constant")
        self.constants.append(self._onnx.numpy_helper.from_array(value, name))
        return name

    def _unique(self, name) -> str:
        count, candidate = 1, name
        while candidate in self._names:
            count += 1
            candidate = f"{name}_{count}"
        self._names.add(candidate)
        return candidate


def _shortened(values):
    """Fewer numbers that broadcast to the same: one, or one for each channel."""
    first = values.reshape(-1)[0]
    if (values == first).all():
        return np.asarray(first)
    channels = values.reshape(len(values), -1)[:, :1]
    if values.ndim > 1 and (values.reshape(len(values), -1) == channels).all():
        return channels.reshape(-1, *[1] * (values.ndim - 1))
    return values
