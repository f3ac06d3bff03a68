"""Functions compiled once for batches of any size."""

from collections.abc import Callable

import tensorflow as tf


class Compiled:
    """A function of nested tensors as a graph, traced once for each structure.

    Args:
        function: of `shared`, whose tensors keep their shapes, and of further arguments
            whose tensors have a batch axis of any size; a scalar has none.
    """

    def __init__(self, function: Callable):
        self._function = function
        self._traces = {}

    def __call__(self, shared, *batched):
        """Returns what the function does; tensors, in any structure."""
        flat, key = [], []
        for tensor in tf.nest.flatten(shared):
            flat.append(tf.convert_to_tensor(tensor))
            key.append((flat[-1].dtype, tuple(flat[-1].shape)))
        for tensor in tf.nest.flatten(batched):
            flat.append(tf.convert_to_tensor(tensor))
            shape = flat[-1].shape
            sizes = (None, *shape[1:]) if shape.rank else ()
            key.append((flat[-1].dtype, sizes))
        structure = (shared, batched)
        key = (_skeleton(structure), *key)
        if key not in self._traces:
            # Without the tensors themselves, which would stay in memory.
            structure = tf.nest.map_structure(lambda _: 0, structure)
            self._traces[key] = self._trace(structure, key[1:])
        return self._traces[key](*flat)

    def _trace(self, structure, specs):
        signature = [tf.TensorSpec(shape, dtype) for dtype, shape in specs]

        @tf.function(autograph=False, input_signature=signature)
        def run(*flat):
            shared, batched = tf.nest.pack_sequence_as(structure, list(flat))
            return self._function(shared, *batched)

        return run.get_concrete_function()


def _skeleton(value):
    """What tells a structure from others: kinds, keys, and what is no tensor."""
    if hasattr(value, "__tf_flatten__"):
        metadata, parts = value.__tf_flatten__()
        return type(value).__name__, metadata, _skeleton(parts)
    if isinstance(value, dict):
        return tuple((name, _skeleton(value[name])) for name in sorted(value))
    if isinstance(value, list | tuple):
        return tuple(_skeleton(part) for part in value)
    return "tensor"
