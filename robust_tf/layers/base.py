"""The rules that every certifiable layer states."""

import dataclasses
import math

import keras
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.bounds import contract
from robust_tf.errors import InputError
from robust_tf.layers.windows import Window


class BoundLayer:
    """Mixed into a Keras layer, named first among its bases.

    Rules read weights and arguments, and keep nothing on the layer. They compute in
    the type of the bounds or coefficients that they are given.

    Attributes:
        is_affine: the layer is `z -> M z + t`, so its backward rule is exact and reads
            no bounds, only shapes.
        has_lower_slope: the backward rule takes `relaxation` and `lower_slope`.
        has_moments: the rules take `moments`, the statistics of a batch.

    Raises:
        InputError: for settings that no rule covers: an activation inside the layer,
            channels first.
    """

    is_affine = False
    has_lower_slope = False
    has_moments = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        activation = getattr(self, "activation", None)
        if activation not in (None, keras.activations.linear):
            raise InputError(
                f"Layer '{self.name}' ({type(self).__name__}) has bound rules without "
                f"an activation only. Received: activation={activation}. Add it as a "
                "layer of its own."
            )
        if getattr(self, "data_format", None) == "channels_first":
            raise InputError(
                f"Layer '{self.name}' ({type(self).__name__}) has bound rules for "
                "channels last only. Received: data_format='channels_first'"
            )

    def propagate_interval(self, *inputs: IntervalBound) -> IntervalBound:
        """Bounds the layer's output from bounds on its inputs."""
        raise NotImplementedError(missing_rule(self, "propagate_interval"))

    def propagate_linear_backward(self, coefficients, *inputs: IntervalBound):
        """Pulls linear lower bounds on the output back to the inputs.

        Args:
            coefficients: `[batch or 1, rows, *output_shape]`; each row is a linear
                function of the output `f(z)`, to be bounded from below.
            *inputs: bounds on each input, `[batch, *input_shape]`.

        Returns:
            One `[batch or 1, rows, *input_shape]` tensor per input, in a tuple, and
            a constant `[batch or 1, rows]`, such that for every `z` in `inputs`
            `<coefficients, f(z)> >= sum_i <returned_i, z_i> + constant`.
        """
        raise NotImplementedError(missing_rule(self, "propagate_linear_backward"))

    def magnitude(self, *inputs: tf.Tensor) -> tf.Tensor:
        """Bounds the sum of the magnitudes of all terms that make up an output.

        What rounding costs is a share of it (`robust_tf.rounding`).

        Args:
            *inputs: bounds on the magnitude of each input, `[batch, *input_shape]`.

        Returns:
            `[batch, *output_shape]`.
        """
        symmetric = (
            IntervalBound.from_center(tf.zeros_like(reach), reach) for reach in inputs
        )
        image = self.propagate_interval(*symmetric)
        return tf.maximum(tf.abs(image.lower), tf.abs(image.upper))

    def terms(self, input_shapes) -> int:
        """Returns how many products one output sums up; 0 where nothing is rounded.

        Args:
            input_shapes: of all inputs, without the batch axis.
        """
        return sum(shape.num_elements() for shape in input_shapes)

    def function_error(self, dtype) -> float:
        """Returns the relative error that library functions of the layer may have."""
        del dtype
        return 0.0

    def window_before(self, window: Window, *input_shapes) -> tuple[Window, ...] | None:
        """Says which window of each input a window of the output depends on.

        None where the layer has no patch form (`propagate_window_backward`). Shapes
        are (height, width, channels).
        """
        del window, input_shapes

    def propagate_window_backward(self, coefficients, view, *inputs: IntervalBound):
        """Pulls coefficients on windows of the output back to windows of the inputs.

        Like `propagate_linear_backward`, with the positions of the windows folded
        into the batch axis (the patches of arXiv:2002.12920).

        Args:
            coefficients: `[batch * positions or 1, rows, height, width, channels]`,
                0 outside the image already, save for element-wise layers, which
                clear that part by themselves.
            view: the windows of the output, to gather them from whole images.
            *inputs: bounds on each whole input, `[batch, *input_shape]`.

        Returns:
            As `propagate_linear_backward`, on the windows of each input that
            `window_before` names; what lies outside the image there is arbitrary.
        """
        raise NotImplementedError(missing_rule(self, "propagate_window_backward"))


@dataclasses.dataclass(frozen=True)
class Relaxation:
    """Lines that hold an element-wise function between them on `[lower, upper]`.

    Slopes and intercepts are `[batch or 1, *shape]`; an intercept may be None for 0,
    `upper_*` may be None where the function is the lower line itself. Slopes may also
    be `[batch, rows, *shape]`, one for each row.
    """

    lower_slope: tf.Tensor
    lower_intercept: tf.Tensor | None
    upper_slope: tf.Tensor | None = None
    upper_intercept: tf.Tensor | None = None

    def map(self, function) -> "Relaxation":
        """Applies a map that gathers entries, and puts 0 where there are none."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return Relaxation(*(None if v is None else function(v) for v in values))

    def pull_back(self, coefficients: tf.Tensor):
        """Returns the pulled coefficients and the constant of each row."""
        if self.upper_slope is None:
            constant = _constant(coefficients, self.lower_intercept)
            return coefficients * _per_row(self.lower_slope, coefficients), constant
        positive, negative = split_signs(coefficients)
        constant = _constant(positive, self.lower_intercept)
        constant += _constant(negative, self.upper_intercept)
        if self.upper_slope is self.lower_slope:
            return coefficients * _per_row(self.lower_slope, coefficients), constant
        lower = positive * _per_row(self.lower_slope, coefficients)
        return lower + negative * _per_row(self.upper_slope, coefficients), constant


class ElementwiseLayer(BoundLayer):
    """A layer that treats every entry by itself; it states one `relax`."""

    def relax(self, inputs: IntervalBound, **choices) -> Relaxation:
        """Returns lines around the function on `inputs`."""
        raise NotImplementedError(missing_rule(self, "relax"))

    def propagate_linear_backward(self, coefficients, *inputs, **choices):
        pulled, constant = self.relax(*inputs, **choices).pull_back(coefficients)
        return (pulled,), constant

    def magnitude(self, *inputs):
        total = super().magnitude(*inputs)
        # The lines of a relaxation are sums of slopes times inputs and intercepts.
        return total if self.is_affine else total + sum(inputs)

    def terms(self, input_shapes) -> int:
        del input_shapes
        return 1

    def window_before(self, window, *input_shapes):
        return (window,) if len(input_shapes[0]) == 3 else None

    def propagate_window_backward(self, coefficients, view, *inputs, **choices):
        # Lines are 0 in the padding, and so is what they make of coefficients there.
        lines = self.relax(*inputs, **choices).map(view.gather)
        pulled, constant = lines.pull_back(coefficients)
        return (pulled,), constant


class KernelLayer(BoundLayer):
    """`A(z, kernel) + bias`, linear in both; a subclass states `_apply`, which is A.

    Interval: centre `A(c, W) + b`, radius `A(r, |W|)` (arXiv:1810.12715).

    Attributes:
        is_shared: the kernel is used at many places, so a scale of the outputs costs
            less on the kernel than on them.
    """

    is_affine = True
    is_shared = False

    def propagate_interval(self, inputs: IntervalBound) -> IntervalBound:
        return self.bound_with(inputs, *self._weights(inputs.dtype))

    def terms(self, input_shapes) -> int:
        del input_shapes
        return math.prod(self.kernel.shape[:-1]) + 1

    def folded(self, scale: tf.Tensor, shift: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns kernel and bias of this layer and `scale * z + shift` after it.

        Args:
            scale: of the outputs' last axis, `[channels]`; the type of the result.
            shift: the same shape and type.
        """
        kernel, bias = self._weights(scale.dtype)
        if bias is not None:
            shift = bias * scale + shift
        return self._scaled(kernel, scale), shift

    def apply_with(self, inputs: tf.Tensor, kernel, bias) -> tf.Tensor:
        """Returns the layer's output for other weights; a bias of None adds nothing."""
        outputs = self._apply(inputs, kernel)
        return outputs if bias is None else outputs + bias

    def bound_with(self, inputs: IntervalBound, kernel, bias) -> IntervalBound:
        """Bounds the layer's output for other weights."""
        center = self.apply_with(inputs.center, kernel, bias)
        radius = self._apply(inputs.radius, tf.abs(kernel))
        return IntervalBound.from_center(center, radius)

    def _weights(self, dtype):
        bias = weight(self.bias, dtype) if self.use_bias else None
        return weight(self.kernel, dtype), bias

    def _scaled(self, kernel, scale):
        """The kernel that makes each output `scale` times as great."""
        return kernel * scale

    def _constant(self, coefficients: tf.Tensor) -> tf.Tensor:
        """`<coefficients, bias>`, `[batch or 1, rows]`."""
        if not self.use_bias:
            return no_constant(coefficients)
        values = weight(self.bias, coefficients.dtype)
        # A product with the bias at every place is faster than a sum over places.
        everywhere = tf.broadcast_to(values, coefficients.shape[2:])[None]
        return contract(coefficients, everywhere)


@tf.custom_gradient
def split_signs(coefficients: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the positive and the negative part; their sum is the whole."""
    positive = tf.nn.relu(coefficients)

    def gradient(of_positive, of_negative):  # In one pass instead of three.
        return tf.where(coefficients > 0.0, of_positive, of_negative)

    return (positive, coefficients - positive), gradient


def no_constant(coefficients: tf.Tensor) -> tf.Tensor:
    """Returns the constant of a rule that adds none, `[batch or 1, rows]`."""
    return tf.zeros(tf.shape(coefficients)[:2], coefficients.dtype)


def weight(variable, dtype: tf.DType) -> tf.Tensor:
    """Returns a layer's variable as a tensor of the type that bounds are in."""
    return tf.cast(tf.convert_to_tensor(variable), dtype)


def missing_rule(layer, rule: str) -> str:
    """Says which layer lacks which rule, and what to do."""
    return (
        f"Layer '{layer.name}' ({type(layer).__name__}) has no `{rule}` rule. Use a "
        "layer from `robust_tf.layers`, or define the rule on a subclass of "
        "`robust_tf.layers.BoundLayer`."
    )


def _per_row(slope, coefficients):
    if slope.shape.rank == coefficients.shape.rank:
        return slope
    return tf.expand_dims(slope, 1)


def _constant(coefficients, intercept):
    if intercept is None:
        return no_constant(coefficients)
    return contract(coefficients, intercept)
