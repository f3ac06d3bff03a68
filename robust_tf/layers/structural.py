"""Layers that move, add or drop values: both rules are exact."""

import keras
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.bounds import leading_sizes
from robust_tf.errors import InputError
from robust_tf.layers.base import BoundLayer
from robust_tf.layers.base import no_constant


class _Rearrangement(BoundLayer):
    """Moves entries; a subclass states the move and its inverse."""

    is_affine = True

    def propagate_interval(self, inputs: IntervalBound) -> IntervalBound:
        return inputs.map(self._forward)

    def propagate_linear_backward(self, coefficients, inputs):
        return (self._backward(coefficients, inputs.shape[1:]),), no_constant(
            coefficients
        )

    def terms(self, input_shapes):
        del input_shapes
        return 0

    def _backward(self, coefficients, input_shape):
        """By default: the same entries in the same order."""
        leading = leading_sizes(coefficients, 2)
        return tf.reshape(coefficients, [*leading, *input_shape])


@keras.saving.register_keras_serializable(package="robust_tf")
class Flatten(_Rearrangement, keras.layers.Flatten):
    """`[batch, *shape]` to `[batch, size]`, the last axis fastest."""

    def _forward(self, values):
        return tf.reshape(values, [-1, values.shape[1:].num_elements()])


@keras.saving.register_keras_serializable(package="robust_tf")
class Reshape(_Rearrangement, keras.layers.Reshape):
    """`[batch, *shape]` to `[batch, *target_shape]`, the last axis fastest."""

    def _forward(self, values):
        shape = self.compute_output_shape((None, *values.shape[1:]))
        return tf.reshape(values, [-1, *shape[1:]])


@keras.saving.register_keras_serializable(package="robust_tf")
class Permute(_Rearrangement, keras.layers.Permute):
    """Exchanges axes: output axis i is input axis `dims[i]` (counted from 1)."""

    def _forward(self, values):
        return tf.transpose(values, [0, *self.dims])

    def _backward(self, coefficients, input_shape):
        del input_shape
        inverse = [self.dims.index(axis + 1) for axis in range(len(self.dims))]
        return tf.transpose(coefficients, [0, 1, *(axis + 2 for axis in inverse)])


@keras.saving.register_keras_serializable(package="robust_tf")
class ZeroPadding2D(_Rearrangement, keras.layers.ZeroPadding2D):
    """Adds zeros around an image, `[batch, height, width, channels]`."""

    def _forward(self, values):
        return tf.pad(values, [[0, 0], *self.padding, [0, 0]])

    def _backward(self, coefficients, input_shape):
        (top, _), (left, _) = self.padding
        height, width, _ = input_shape
        return coefficients[:, :, top : top + height, left : left + width]

    def window_before(self, window, input_shape):
        del input_shape
        (top, _), (left, _) = self.padding
        return (window.before((1, 1), (1, 1), (top, left)),)

    def propagate_window_backward(self, coefficients, view, inputs):
        del view, inputs
        return (coefficients,), no_constant(coefficients)


@keras.saving.register_keras_serializable(package="robust_tf")
class Dropout(_Rearrangement, keras.layers.Dropout):
    """The identity: bounds hold for the classifier at inference."""

    def _forward(self, values):
        return values

    def window_before(self, window, input_shape):
        del input_shape
        return (window,)

    def propagate_window_backward(self, coefficients, view, inputs):
        del view, inputs
        return (coefficients,), no_constant(coefficients)


class _Merge(BoundLayer):
    """A weighted sum of inputs of one shape; a subclass states the weights.

    Going backward every input receives its share of the coefficients; the pass adds
    them up again where the branches fork.
    """

    is_affine = True

    def propagate_interval(self, *inputs: IntervalBound) -> IntervalBound:
        _refuse_broadcast(self, inputs)
        weights = self._weights(len(inputs))
        pairs = list(zip(weights, inputs, strict=True))
        return IntervalBound.from_center(
            tf.add_n([w * bound.center for w, bound in pairs]),
            tf.add_n([abs(w) * bound.radius for w, bound in pairs]),
        )

    def propagate_linear_backward(self, coefficients, *inputs):
        pulled = tuple(
            coefficients if w == 1.0 else w * coefficients
            for w in self._weights(len(inputs))
        )
        return pulled, no_constant(coefficients)

    def terms(self, input_shapes):
        return len(input_shapes)

    def window_before(self, window, *input_shapes):
        return (window,) * len(input_shapes)

    def propagate_window_backward(self, coefficients, view, *inputs):
        del view
        return self.propagate_linear_backward(coefficients, *inputs)


@keras.saving.register_keras_serializable(package="robust_tf")
class Add(_Merge, keras.layers.Add):
    """The sum of its inputs, such as a residual block and its skip connection."""

    def _weights(self, count):
        return (1.0,) * count


@keras.saving.register_keras_serializable(package="robust_tf")
class Subtract(_Merge, keras.layers.Subtract):
    """The first input less the second."""

    def _weights(self, count):
        del count
        return (1.0, -1.0)


@keras.saving.register_keras_serializable(package="robust_tf")
class Average(_Merge, keras.layers.Average):
    """The mean of its inputs."""

    def _weights(self, count):
        return (1.0 / count,) * count


@keras.saving.register_keras_serializable(package="robust_tf")
class Concatenate(BoundLayer, keras.layers.Concatenate):
    """Its inputs side by side along one axis; backward, that axis is cut again."""

    is_affine = True

    def propagate_interval(self, *inputs: IntervalBound) -> IntervalBound:
        axis = self._axis(inputs[0].shape.rank)
        return IntervalBound(
            tf.concat([bound.lower for bound in inputs], axis),
            tf.concat([bound.upper for bound in inputs], axis),
        )

    def propagate_linear_backward(self, coefficients, *inputs):
        axis = self._axis(inputs[0].shape.rank)
        sizes = [bound.shape[axis] for bound in inputs]
        parts = tf.split(coefficients, sizes, axis + 1)
        return tuple(parts), no_constant(coefficients)

    def terms(self, input_shapes):
        del input_shapes
        return 0

    def window_before(self, window, *input_shapes):
        if self._axis(1 + len(input_shapes[0])) != 3:
            return None
        return (window,) * len(input_shapes)

    def propagate_window_backward(self, coefficients, view, *inputs):
        del view
        return self.propagate_linear_backward(coefficients, *inputs)

    def _axis(self, rank: int) -> int:
        return self.axis % rank


def _refuse_broadcast(layer, inputs):
    shapes = {tuple(bound.shape[1:]) for bound in inputs}
    if len(shapes) > 1:
        raise InputError(
            f"Layer '{layer.name}' ({type(layer).__name__}) merges inputs of one shape "
            f"only. Received: {sorted(shapes)}. Bring them to one shape first."
        )
