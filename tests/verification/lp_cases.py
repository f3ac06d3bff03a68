"""Small networks, and oracles that know nothing of how programs are encoded."""

import itertools

import keras
import numpy as np
import tensorflow as tf
from scipy import optimize

import robust_tf as rt
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation.backward import backward_interval
from robust_tf.propagation.crown import crown_bounds
from robust_tf.propagation.crown import crown_margins
from robust_tf.propagation.interval import interval_bounds

# Seed and sizes, radius; IBP, CROWN-IBP, CROWN, linear relaxation, exact.
FROZEN = {
    "one": (1, (3, 8, 8, 3), 0.4)
    + (-0.722916, -0.699688, -0.669865, -0.482484, -0.20111621),
    "two": (2, (4, 10, 10, 3), 0.4)
    + (-3.343951, -2.282565, -2.176292, -1.488295, -0.14260984),
    "three": (3, (4, 10, 10, 10, 4), 0.25)
    + (-4.813190, -3.078506, -2.895268, -1.322425, -0.04836941),
    "four": (4, (5, 12, 12, 3), 0.3)
    + (-6.407649, -3.427779, -3.057373, -2.806838, -1.46851515),
    "five": (5, (6, 20, 5), 0.5)
    + (-4.704364, -3.975339, -3.975339, -2.620446, -1.56827984),
}
FLOAT64 = {"dtype": "float64"}


def frozen(name):
    """Graph, region and bounds of a frozen network."""
    seed, sizes, radius = FROZEN[name][:3]
    rng = np.random.default_rng(seed)
    inputs = tensor = keras.Input(sizes[:1], **FLOAT64)
    for i, (fan_in, units) in enumerate(itertools.pairwise(sizes)):
        if i:
            tensor = keras.layers.ReLU(**FLOAT64)(tensor)
        kernel = rng.normal(size=(units, fan_in)) * np.sqrt(2 / fan_in)
        tensor = dense(kernel.T, rng.normal(size=units) * 0.1)(tensor)
    center = rng.normal(size=sizes[:1]) * 0.3
    graph = converted(inputs, tensor)
    region = rt.Box(center[None] - radius, center[None] + radius)
    return graph, region, plain_crown(graph, region)


def plain_crown(graph, region):
    """CROWN's bounds, intersected with those of IBP alone."""
    bounds = dict(interval_bounds(graph, region, Choices()))
    for node in graph.nodes:
        if node.layer.is_affine and node.output != graph.output:
            own = backward_interval(graph, node.output, region, bounds, Choices())
            bounds[node.output] = bounds[node.output].intersect(own)
    return bounds


def crown(graph, region):
    return crown_bounds(graph, region, (Choices(),))


def dense(kernel, bias):
    """A layer with these weights, `[in, out]` and `[out]`."""
    return keras.layers.Dense(
        np.shape(kernel)[1],
        kernel_initializer=keras.initializers.Constant(kernel),
        bias_initializer=keras.initializers.Constant(bias),
        **FLOAT64,
    )


def random_dense(rng, fan_in, units):
    kernel = rng.normal(size=(fan_in, units)) * np.sqrt(2 / fan_in)
    return dense(kernel, rng.normal(size=units) * 0.1)


def random_conv(rng, size, channels, filters, strides, padding="valid"):
    kernel = rng.normal(size=(size, size, channels, filters))
    return keras.layers.Conv2D(
        filters,
        size,
        strides,
        padding,
        kernel_initializer=keras.initializers.Constant(
            kernel * np.sqrt(2 / (size**2 * channels))
        ),
        bias_initializer=keras.initializers.Constant(rng.normal(size=filters) * 0.1),
        **FLOAT64,
    )


def converted(inputs, outputs) -> BoundGraph:
    return BoundGraph.from_model(rt.convert(keras.Model(inputs, outputs)))


def relu(leak=0.0):
    if leak:
        return keras.layers.LeakyReLU(negative_slope=leak, **FLOAT64)
    return keras.layers.ReLU(**FLOAT64)


def conv_net(seed=11):
    """6x6x1; a convolution 3x3 with 2 filters and stride 2, and two dense layers."""
    rng = np.random.default_rng(seed)
    inputs = keras.Input((6, 6, 1), **FLOAT64)
    tensor = relu()(random_conv(rng, 3, 1, 2, 2, "same")(inputs))
    tensor = keras.layers.Flatten(**FLOAT64)(tensor)
    tensor = relu()(random_dense(rng, 18, 6)(tensor))
    return converted(inputs, random_dense(rng, 6, 3)(tensor))


def residual_net(seed=12):
    rng = np.random.default_rng(seed)
    inputs = keras.Input((4,), **FLOAT64)
    first = random_dense(rng, 4, 6)(inputs)
    branch = relu()(random_dense(rng, 6, 6)(relu()(first)))
    total = keras.layers.Add(**FLOAT64)([random_dense(rng, 6, 6)(branch), first])
    return converted(inputs, random_dense(rng, 6, 3)(relu()(total)))


def pooling_net(seed=13, is_global=False):
    rng = np.random.default_rng(seed)
    inputs = keras.Input((5, 5, 1), **FLOAT64)
    tensor = relu()(random_conv(rng, 2, 1, 2, 1)(inputs))
    if is_global:
        tensor = keras.layers.GlobalMaxPooling2D(**FLOAT64)(tensor)
        return converted(inputs, random_dense(rng, 2, 3)(tensor))
    pool = keras.layers.MaxPooling2D(3, 2, "same", **FLOAT64)
    tensor = keras.layers.Flatten(**FLOAT64)(pool(tensor))
    return converted(inputs, random_dense(rng, 8, 3)(tensor))


def leaky_net(seed=14, leak=0.25, sizes=(3, 7, 7, 3)):
    rng = np.random.default_rng(seed)
    inputs = tensor = keras.Input(sizes[:1], **FLOAT64)
    for i, (fan_in, units) in enumerate(itertools.pairwise(sizes)):
        tensor = relu(leak)(tensor) if i else tensor
        tensor = random_dense(rng, fan_in, units)(tensor)
    return converted(inputs, tensor)


def box_around(graph, radius, seed=5):
    center = np.random.default_rng(seed).normal(size=(1, *graph.shapes[0])) * 0.3
    return rt.Box(center - radius, center + radius)


def row_over(graph, first=0, second=1):
    """The row `y_first - y_second`."""
    row = np.zeros(graph.shapes[graph.output])
    row[first], row[second] = 1.0, -1.0
    return row


def samples(region, count=20_000, seed=6):
    """Points of a box, a third of them at corners, `[count, *shape]`."""
    rng = np.random.default_rng(seed)
    low, high = region.box.lower.numpy(), region.box.upper.numpy()
    shares = rng.uniform(size=(count, *low.shape[1:]))
    shares[::3] = np.round(shares[::3])
    return low + shares * (high - low)


def values_on(graph, points):
    """What every edge holds at points, by number."""
    values = {0: tf.constant(points)}
    for node in graph.nodes:
        tensors = [values[edge] for edge in node.inputs]
        values[node.output] = node.layer(tensors if len(tensors) > 1 else tensors[0])
    return values


def margins_at(graph, points, row):
    """`<row, y>` at points, `[count]`."""
    return values_on(graph, points)[graph.output].numpy() @ row


def margin_at(graph, point, row) -> float:
    return float(margins_at(graph, point[None], row)[0])


def crown_margin(graph, region, bounds, row) -> float:
    rows = tf.constant(row[None, None])
    return float(crown_margins(graph, region, bounds, rows, Choices())[0, 0])


def enumerated(graph, region, row, leak=0.0, splits=None):
    """The least margin of a network with one hidden layer, pattern by pattern.

    One linear program over the inputs for each of the `2^h` sign patterns, from the
    weights alone; inf where the splits leave no point.
    """
    kernels = [node.layer.get_weights() for node in graph.nodes if node.layer.weights]
    (first, bias), (second, shift) = kernels
    low, high = region.box.lower.numpy()[0], region.box.upper.numpy()[0]
    best = np.inf
    for pattern in itertools.product((1.0, -1.0), repeat=len(bias)):
        signs = np.array(pattern)
        if splits is not None and np.any(signs * splits < 0):
            continue
        slopes = np.where(signs > 0, 1.0, leak)
        objective = first @ (slopes * (second @ row))
        constant = (slopes * bias) @ second @ row + shift @ row
        found = optimize.linprog(
            objective,
            A_ub=-(signs[:, None] * first.T),
            b_ub=signs * bias,
            bounds=np.stack([low, high], -1),
        )
        if found.status == 0:
            best = min(best, found.fun + constant)
    return best
