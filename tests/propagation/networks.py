"""Small random networks with every kind of layer, and points of their input sets."""

import keras
import numpy as np
import tensorflow as tf

import robust_tf as rt

kl = keras.layers


def randomize(model, seed, scale=1.0):
    """Random weights, scaled by the inputs of each neuron, so that signals last."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        shape = tuple(variable.shape)
        values = random.normal(size=shape)
        if "kernel" in variable.path:
            fan = np.prod(shape[:-1]) if len(shape) > 1 else 1
            values *= scale * np.sqrt(2.0 / fan)
        elif "variance" in variable.path:
            values = 0.3 + np.abs(values)
        elif "gamma" not in variable.path:
            values *= 0.3
        variable.assign(values)
    return model


def mlp(dtype="float32"):
    inputs = tensor = keras.Input((6,), dtype=dtype)
    for width, activation in ((8, "relu"), (7, "leaky_relu"), (6, "relu")):
        tensor = kl.Dense(width, activation, dtype=dtype)(tensor)
    return keras.Model(inputs, kl.Dense(3, dtype=dtype)(tensor))


def smooth(dtype="float32"):
    inputs = tensor = keras.Input((5,), dtype=dtype)
    for activation in ("sigmoid", "softplus", "tanh", kl.ELU(2.0, dtype=dtype)):
        tensor = kl.Dense(4, activation, dtype=dtype)(tensor)
    return keras.Model(inputs, kl.Dense(3, dtype=dtype)(tensor))


def convolutions(dtype="float32"):
    """Strides, groups, dilation, depthwise, all kinds of pooling."""
    inputs = keras.Input((7, 5, 1), dtype=dtype)
    tensor = kl.Rescaling(2.0, -0.5, dtype=dtype)(inputs)
    tensor = kl.Conv2D(2, 3, padding="same", activation="relu", dtype=dtype)(tensor)
    tensor = kl.MaxPooling2D(2, padding="same", dtype=dtype)(tensor)
    tensor = kl.Conv2D(2, 2, groups=2, activation="tanh", dtype=dtype)(tensor)
    tensor = kl.ZeroPadding2D(((1, 0), (0, 2)), dtype=dtype)(tensor)
    tensor = kl.DepthwiseConv2D(3, depth_multiplier=2, dtype=dtype)(tensor)
    tensor = kl.LeakyReLU(0.2, dtype=dtype)(tensor)
    tensor = kl.AveragePooling2D(2, 1, padding="same", dtype=dtype)(tensor)
    tensor = kl.Conv2D(3, 2, activation="relu", dtype=dtype)(tensor)
    return keras.Model(inputs, kl.GlobalMaxPooling2D(dtype=dtype)(tensor))


def sequence(dtype="float32"):
    inputs = keras.Input((8, 2), dtype=dtype)
    tensor = kl.Conv1D(4, 3, padding="causal", activation="relu", dtype=dtype)(inputs)
    tensor = kl.Conv1D(4, 2, dilation_rate=2, activation="softplus", dtype=dtype)(
        tensor
    )
    tensor = kl.Conv1D(3, 3, strides=2, padding="same", dtype=dtype)(tensor)
    tensor = kl.Permute((2, 1), dtype=dtype)(tensor)
    tensor = kl.Dense(3, "relu", dtype=dtype)(tensor)
    tensor = kl.Reshape((-1,), dtype=dtype)(tensor)
    return keras.Model(inputs, kl.Dense(3, dtype=dtype)(tensor))


def residual(dtype="float32"):
    """Strided blocks, batch normalisation, merges of every kind."""
    inputs = keras.Input((6, 6, 2), dtype=dtype)

    def normalized(tensor, filters, kernel, strides=1):
        tensor = kl.Conv2D(
            filters, kernel, strides, "same", use_bias=False, dtype=dtype
        )(tensor)
        return kl.BatchNormalization(dtype=dtype)(tensor)

    tensor = kl.ReLU(dtype=dtype)(normalized(inputs, 3, 3))
    main = kl.ReLU(dtype=dtype)(normalized(tensor, 4, 3, 2))
    main = normalized(main, 4, 3)
    total = kl.Add(dtype=dtype)([main, normalized(tensor, 4, 1, 2)])
    total = kl.ReLU(dtype=dtype)(total)
    again = kl.Conv2D(4, 3, padding="same", dtype=dtype)(total)
    again = kl.Subtract(dtype=dtype)([total, again])
    again = kl.Concatenate(dtype=dtype)([kl.ReLU(dtype=dtype)(again), main])
    again = kl.Average(dtype=dtype)([again, kl.Conv2D(8, 1, dtype=dtype)(total)])
    pooled = kl.GlobalAveragePooling2D(dtype=dtype)(again)
    return keras.Model(inputs, kl.Dense(3, dtype=dtype)(pooled))


def patches(dtype="float32"):
    """Two convolutions whose neurons see little of the image."""
    inputs = keras.Input((8, 7, 1), dtype=dtype)
    tensor = kl.Conv2D(2, 3, padding="same", activation="relu", dtype=dtype)(inputs)
    tensor = kl.Conv2D(3, 3, 2, "same", activation="leaky_relu", dtype=dtype)(tensor)
    tensor = kl.Flatten(dtype=dtype)(tensor)
    return keras.Model(inputs, kl.Dense(3, dtype=dtype)(tensor))


ALL = {
    "mlp": mlp,
    "smooth": smooth,
    "convolutions": convolutions,
    "sequence": sequence,
    "residual": residual,
    "patches": patches,
}


def converted(name, seed=0, dtype="float32", scale=1.0):
    return rt.convert(randomize(ALL[name](dtype), seed, scale))


def centers(model, count=3, seed=1, dtype="float32"):
    """Inputs in [0, 1], some of them at its ends."""
    random = np.random.default_rng(seed)
    values = random.uniform(-0.2, 1.2, (count, *model.inputs[0].shape[1:]))
    return np.clip(values, 0.0, 1.0).astype(dtype)


def points_in(region, count, seed=2):
    """Points of a ball or box, most of them on its surface, `[count, batch, ...]`."""
    random = np.random.default_rng(seed)
    lower, upper = region.box.lower.numpy(), region.box.upper.numpy()
    shape = (count, *lower.shape)
    if region.is_box:
        kinds = [
            np.where(random.random(shape) < 0.5, lower, upper),
            lower + random.random(shape) * (upper - lower),
        ]
        return np.where(random.random((count, *[1] * lower.ndim)) < 0.7, *kinds)
    steps = random.normal(size=shape)
    sparse = random.random((count, *[1] * lower.ndim)) < 0.5
    steps *= np.where(sparse, random.random(shape) < 0.2, 1.0)
    return project(region, region.x.numpy() + 10.0 * steps)


def project(region, points):
    """Points moved into the set: scaled towards the centre, then clipped."""
    if region.is_box:
        return np.clip(points, region.box.lower.numpy(), region.box.upper.numpy())
    center = region.x.numpy().astype("float64")
    steps = points - center
    axes = tuple(range(2, steps.ndim))
    size = (abs(steps) ** region.norm).sum(axes, keepdims=True) ** (1 / region.norm)
    radius = np.broadcast_to(region.radius.numpy(), center.shape[:1])
    radius = radius.reshape(-1, *[1] * (center.ndim - 1)).astype("float64")
    # Clipping to a range that holds the centre shortens steps.
    moved = center + steps * np.minimum(1.0, radius / np.maximum(size, 1e-30))
    if region.valid_range:
        moved = np.clip(moved, *region.valid_range)
    return moved


def attack(model, region, rows, seed=3, steps=12):
    """Points that gradient steps push towards low values of each row."""
    points = points_in(region, rows.shape[1], seed).astype(region.dtype.as_numpy_dtype)
    count, batch, *shape = points.shape
    # Row r of every example is attacked from start r.
    goal = tf.transpose(tf.broadcast_to(rows, [batch, *rows.shape[1:]]), [1, 0, 2])
    reach = np.maximum(region.box.radius.numpy(), 1e-3)
    for step in range(steps):
        tensor = tf.constant(points.reshape(-1, *shape))
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            outputs = tf.reshape(model(tensor), [count, batch, -1])
            total = tf.reduce_sum(outputs * tf.cast(goal, outputs.dtype))
        gradient = tape.gradient(total, tensor).numpy().reshape(points.shape)
        scale = abs(gradient).max(tuple(range(2, gradient.ndim)), keepdims=True)
        direction = np.sign(gradient) if region.is_box else gradient / (scale + 1e-30)
        moved = points - reach * direction * (1.0 - step / steps)
        points = project(region, moved).astype(points.dtype)
    return points
