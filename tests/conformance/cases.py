"""Every exported layer in many configurations, and what the contract draws for them."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from robust_tf import layers
from robust_tf.bounds import IntervalBound
from robust_tf.layers.normalization import Moments

BATCH = 2
ROWS = 3


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer, and the shapes of its inputs without the batch axis.

    Attributes:
        name: what the case shows.
        make: returns the layer from `dtype` and other options of all Keras layers.
        shapes: one shape for each input.
        prepare: sets the layer's state, where random weights do not serve.
        choices: returns further arguments of the rules, from the layer.
        scale: of the inputs' boxes.
    """

    name: str
    make: Callable[..., keras.layers.Layer]
    shapes: tuple[tuple[int, ...], ...]
    prepare: Callable | None = None
    choices: Callable = lambda _: {}
    scale: float = 1.0

    def __str__(self):
        return self.name

    def build(self, dtype="float32"):
        """The layer with random weights, the same for every type."""
        layer = self.make(dtype=dtype)
        layer.build(shapes_of(self))
        random = np.random.default_rng(7)
        values = [_random_weight(random, variable) for variable in layer.weights]
        if self.prepare:
            self.prepare(layer)
        else:
            layer.set_weights(values)
        return layer

    def call(self, layer, points):
        """The layer's output at points, one tensor for each input."""
        choices = self.choices(layer)
        if "moments" in choices:
            return layer.normalize(points[0], choices["moments"])
        return layer(points if len(points) > 1 else points[0])

    def boxes(self, dtype="float32", width=0.7):
        """Random boxes, `[BATCH, *shape]`; a part of the entries have no width."""
        random = np.random.default_rng(11)
        found = []
        for shape in self.shapes:
            center = self.scale * random.normal(size=(BATCH, *shape))
            radius = width * self.scale * random.random((BATCH, *shape))
            radius *= random.random(radius.shape) < 0.8
            lower, upper = center - radius, center + radius
            found.append(
                IntervalBound(tf.constant(lower, dtype), tf.constant(upper, dtype))
            )
        return found

    def rows(self, output_shape, dtype="float32", batch=BATCH):
        """Random coefficients of both signs, some of them 0."""
        random = np.random.default_rng(13)
        values = random.normal(size=(batch, ROWS, *output_shape))
        values *= random.random(values.shape) < 0.9
        return tf.constant(values, dtype)


def shapes_of(case):
    """The shapes as Keras builds layers from them."""
    shapes = [(None, *shape) for shape in case.shapes]
    return shapes if len(shapes) > 1 else shapes[0]


def points_in(boxes, count=24):
    """Ends, centres, corners and interior points, `[count, BATCH, *shape]` each."""
    random = np.random.default_rng(17)
    found = []
    for box in boxes:
        lower, upper = box.lower.numpy(), box.upper.numpy()
        corners = np.where(random.random((count, *lower.shape)) < 0.5, lower, upper)
        shares = random.random((count, *lower.shape))
        inside = np.clip(lower + shares * (upper - lower), lower, upper)
        ends = np.stack([lower, upper, (lower + upper) / 2])
        found.append(np.concatenate([ends, corners, inside]).astype(lower.dtype))
    return found


def _random_weight(random, variable):
    values = random.normal(size=variable.shape)
    return np.abs(values) + 0.3 if "variance" in variable.path else values


def _adapt(layer):
    random = np.random.default_rng(19)
    layer.adapt(2.0 + 3.0 * random.random((8, 4, 3, 2)).astype("float32"))


def _moments(layer):
    dtype = layer.compute_dtype
    return {
        "moments": Moments(
            tf.constant([0.3, -0.4], dtype), tf.constant([0.5, 2.0], dtype)
        )
    }


def _conv2d(name, shape, *args, **options):
    make = lambda **more: layers.Conv2D(*args, **options, **more)  # noqa: E731
    return Case(f"conv2d_{name}", make, (shape,))


def _depthwise(name, shape, *args, **options):
    make = lambda **more: layers.DepthwiseConv2D(*args, **options, **more)  # noqa: E731
    return Case(f"depthwise_{name}", make, (shape,))


def _conv1d(name, shape, *args, **options):
    make = lambda **more: layers.Conv1D(*args, **options, **more)  # noqa: E731
    return Case(f"conv1d_{name}", make, (shape,))


def _pool(kind, name, shape, *args, **options):
    make = lambda **more: kind(*args, **options, **more)  # noqa: E731
    return Case(f"{kind.__name__.lower()}_{name}", make, (shape,))


def _plain(name, kind, *shapes, scale=1.0, **options):
    make = lambda **more: kind(**options, **more)  # noqa: E731
    return Case(name, make, shapes, scale=scale)


def _merge(kind, count, shape=(3, 2)):
    return _plain(f"{kind.__name__.lower()}_of_{count}", kind, *[shape] * count)


CASES = (
    _plain("dense", layers.Dense, (4,), units=3),
    _plain("dense_rank_3", layers.Dense, (3, 4), units=2),
    _plain("dense_rank_4", layers.Dense, (2, 3, 4), units=2),
    _plain("dense_without_bias", layers.Dense, (4,), units=3, use_bias=False),
    _conv2d("valid", (5, 4, 2), 3, 3),
    _conv2d("valid_without_bias", (5, 4, 2), 3, 2, use_bias=False),
    _conv2d("same_odd_kernel", (4, 5, 2), 3, 3, padding="same"),
    _conv2d("same_even_kernel", (4, 5, 2), 3, (2, 4), padding="same"),
    _conv2d("stride_2_remainder", (6, 7, 2), 3, 3, strides=2),
    _conv2d("stride_2_same_even_size", (6, 6, 1), 2, 3, strides=2, padding="same"),
    _conv2d("stride_2_same_odd_size", (5, 7, 1), 2, 3, strides=2, padding="same"),
    _conv2d("stride_3_small_kernel", (8, 7, 2), 2, 1, strides=3),
    _conv2d("stride_3_same", (8, 7, 2), 2, 2, strides=3, padding="same"),
    _conv2d("strides_differ", (6, 7, 1), 2, (3, 2), strides=(1, 3)),
    _conv2d("dilation_2", (7, 6, 2), 2, (3, 2), dilation_rate=2),
    _conv2d("dilation_2_same", (5, 6, 2), 2, 3, dilation_rate=(2, 1), padding="same"),
    _conv2d("groups_2", (4, 5, 4), 6, 3, groups=2, padding="same"),
    _conv2d("groups_2_dilation_2", (6, 5, 4), 2, 2, groups=2, dilation_rate=2),
    _conv2d("groups_2_stride_2", (6, 5, 4), 4, 3, groups=2, strides=2),
    _depthwise("valid", (5, 4, 2), 3),
    _depthwise(
        "multiplier_2_same", (4, 5, 3), (2, 3), depth_multiplier=2, padding="same"
    ),
    _depthwise("stride_2_remainder", (6, 7, 2), 3, strides=2, use_bias=False),
    _depthwise("stride_2_same", (6, 7, 2), 3, strides=2, padding="same"),
    _depthwise("dilation_2", (7, 6, 2), 2, dilation_rate=2, depth_multiplier=2),
    _conv1d("valid", (6, 2), 3, 3),
    _conv1d("same_even_kernel", (6, 2), 3, 4, padding="same", use_bias=False),
    _conv1d("causal", (6, 2), 3, 3, padding="causal"),
    _conv1d("causal_dilation_2", (7, 2), 3, 3, padding="causal", dilation_rate=2),
    _conv1d("causal_stride_2", (7, 2), 3, 2, padding="causal", strides=2),
    _conv1d("stride_2_remainder", (8, 2), 3, 3, strides=2),
    _conv1d("stride_3_same", (8, 2), 3, 2, strides=3, padding="same"),
    _conv1d("dilation_2_groups_2", (7, 4), 6, 3, dilation_rate=2, groups=2),
    _plain("zero_padding", layers.ZeroPadding2D, (2, 3, 2), padding=((1, 0), (2, 3))),
    _plain("batch_normalization", layers.BatchNormalization, (4,)),
    _plain("batch_normalization_of_images", layers.BatchNormalization, (3, 2, 4)),
    Case(
        "batch_normalization_bare",
        lambda **more: layers.BatchNormalization(scale=False, center=False, **more),
        ((3, 2),),
    ),
    Case(
        "batch_normalization_moments",
        lambda **more: layers.BatchNormalization(**more),
        ((3, 3, 2),),
        choices=_moments,
    ),
    _plain(
        "normalization_given", layers.Normalization, (4, 3, 2), mean=0.5, variance=0.04
    ),
    _plain(
        "normalization_per_channel",
        layers.Normalization,
        (4, 3, 2),
        mean=(0.5, 0.1),
        variance=(0.04, 3.0),
    ),
    Case(
        "normalization_adapted",
        lambda **more: layers.Normalization(**more),
        ((4, 3, 2),),
        prepare=_adapt,
    ),
    Case(
        "normalization_adapted_one_axis",
        lambda **more: layers.Normalization(axis=(1, 3), **more),
        ((4, 3, 2),),
        prepare=_adapt,
    ),
    Case(
        "normalization_adapted_no_axis",
        lambda **more: layers.Normalization(axis=None, **more),
        ((4, 3, 2),),
        prepare=_adapt,
    ),
    _plain(
        "normalization_inverted",
        layers.Normalization,
        (3,),
        mean=(0.5, 0.1, -2.0),
        variance=(0.04, 3.0, 1.0),
        invert=True,
    ),
    Case(
        "rescaling",
        lambda **more: layers.Rescaling(-1.0 / 3.0, 0.25, **more),
        ((2, 3, 2),),
    ),
    Case(
        "rescaling_per_channel",
        lambda **more: layers.Rescaling([2.0, -0.5], [0.0, 1.0], **more),
        ((2, 3, 2),),
    ),
    _plain("elementwise_affine", layers.ElementwiseAffine, (4,)),
    _plain("elementwise_affine_of_images", layers.ElementwiseAffine, (3, 4, 2)),
    _plain("relu", layers.ReLU, (3, 4)),
    _plain("relu_negative_slope", layers.ReLU, (8,), negative_slope=0.25),
    _plain("leaky_relu", layers.LeakyReLU, (3, 2, 2), negative_slope=0.1),
    _plain("leaky_relu_slope_1", layers.LeakyReLU, (8,), negative_slope=1.0),
    _plain("elu_half", layers.ELU, (12,), alpha=0.5),
    _plain("elu_one", layers.ELU, (12,), alpha=1.0),
    _plain("elu_concave_kink", layers.ELU, (12,), alpha=2.0),
    _plain("elu_zero", layers.ELU, (12,), alpha=0.0),
    _plain("sigmoid", layers.Sigmoid, (3, 4), scale=4.0),
    _plain("tanh", layers.Tanh, (3, 4), scale=2.0),
    _plain("softplus", layers.Softplus, (12,), scale=4.0),
    _pool(layers.MaxPooling2D, "default", (4, 6, 2)),
    _pool(layers.MaxPooling2D, "overlapping", (5, 6, 2), 3, strides=1),
    _pool(layers.MaxPooling2D, "remainder", (5, 7, 1), 2),
    _pool(layers.MaxPooling2D, "same", (5, 4, 2), 3, strides=2, padding="same"),
    _pool(layers.MaxPooling2D, "gaps", (7, 7, 1), 2, strides=3),
    _pool(layers.MaxPooling2D, "oblong", (4, 5, 2), (1, 3), strides=(2, 1)),
    _pool(layers.MaxPooling2D, "of_one", (3, 3, 2), 1),
    _pool(layers.PaddedMaxPooling2D, "without_pads", (4, 6, 2)),
    _pool(layers.PaddedMaxPooling2D, "one_sided", (5, 6, 2), 2, pads=((1, 0), (0, 1))),
    _pool(layers.PaddedMaxPooling2D, "overlapping", (6, 6, 2), 3, 2, ((1, 1), (1, 1))),
    _pool(
        layers.PaddedMaxPooling2D,
        "oblong_gaps",
        (4, 7, 1),
        (1, 3),
        strides=(2, 4),
        pads=((0, 0), (2, 1)),
    ),
    _pool(layers.AveragePooling2D, "disjoint", (4, 6, 2), 2),
    _pool(layers.AveragePooling2D, "overlapping", (5, 6, 2), 3, strides=1),
    _pool(layers.AveragePooling2D, "remainder", (5, 7, 1), 2),
    _pool(layers.AveragePooling2D, "same", (5, 4, 2), 3, strides=2, padding="same"),
    _pool(layers.AveragePooling2D, "same_overlapping", (4, 3, 2), 3, 1, padding="same"),
    _pool(
        layers.AveragePooling2D, "gaps_same", (7, 6, 1), 2, strides=3, padding="same"
    ),
    _plain("global_average", layers.GlobalAveragePooling2D, (3, 2, 2)),
    _plain(
        "global_average_keepdims",
        layers.GlobalAveragePooling2D,
        (3, 2, 2),
        keepdims=True,
    ),
    _plain("global_max", layers.GlobalMaxPooling2D, (3, 2, 2)),
    _plain("global_max_keepdims", layers.GlobalMaxPooling2D, (3, 2, 2), keepdims=True),
    _plain("flatten", layers.Flatten, (3, 2, 2)),
    _plain("reshape", layers.Reshape, (3, 4), target_shape=(2, 3, 2)),
    _plain("reshape_inferred", layers.Reshape, (3, 4), target_shape=(2, -1)),
    _plain("permute", layers.Permute, (2, 3, 4), dims=(3, 1, 2)),
    _plain("dropout", layers.Dropout, (6,), rate=0.5),
    _merge(layers.Add, 2),
    _merge(layers.Add, 3),
    _merge(layers.Subtract, 2),
    _merge(layers.Average, 3),
    _plain("concatenate", layers.Concatenate, (3, 2), (3, 1), (3, 4)),
    _plain("concatenate_axis_1", layers.Concatenate, (3, 2), (1, 2), axis=1),
    _plain(
        "concatenate_axis_minus_2", layers.Concatenate, (2, 3, 2), (2, 1, 2), axis=-2
    ),
)
