"""Moving points within a region: projections, random points, steepest steps."""

import numpy as np
import tensorflow as tf

from robust_tf.bounds import flatten_from
from robust_tf.errors import InputError
from robust_tf.regions import LpBall
from robust_tf.regions import Region

# One algorithm on all devices. (Within XLA it draws other numbers all the same.)
_ALGORITHM = "philox"


def center_of(region: Region) -> tf.Tensor:
    """Returns the centre of a ball, or the midpoint of a box, `[batch, *shape]`."""
    if isinstance(region, LpBall):
        return region.x
    _require_box(region)
    return _clip(region.box.center, region)


def project(points: tf.Tensor, region: Region) -> tf.Tensor:
    """Returns points of `region` near the given ones, `[batch, *shape]`.

    The Euclidean projection onto boxes and onto L2 and L1 balls that no valid range
    cuts. A ball that a range cuts: the projection onto the ball, clipped to the range;
    that lies in both sets but need not be the nearest such point. For other p the
    point is pulled straight towards the centre.

    As floats, the result lies in `region.box` exactly, and its distance from the
    centre, computed exactly, exceeds the radius by at most a factor of 1 + 1e-12.

    Args:
        points: `[batch, *shape]`, finite, in the type of `region`.
        region: where they must lie.
    """
    if isinstance(region, LpBall) and not region.is_box:
        points = _into_ball(points, region)
    else:
        _require_box(region)
    # The box holds the centre x, so clipping to it moves each coordinate that it moves
    # towards that of x and not past it: no |z_i - x_i| grows, and the point stays in
    # the ball.
    return _clip(points, region)


def random_points(region: Region, seed: tf.Tensor) -> tf.Tensor:
    """Returns one random point for each example, `[batch, *shape]`.

    Uniform in boxes and in whole L2 and L1 balls; a ball that a range cuts has its
    uniform points clipped to the range. For other p: a Gaussian direction, scaled.

    Args:
        region: where the points lie.
        seed: two integers, `[2]`; the same seed gives the same points,
            those under XLA differ from those outside it.
    """
    if not isinstance(region, LpBall) or region.is_box:
        _require_box(region)
        box = region.box
        fraction = _uniform(tf.shape(box.lower), seed, region.dtype)
        return _clip(box.lower + fraction * (box.upper - box.lower), region)
    seeds = tf.random.split(seed, 3, alg=_ALGORITHM)
    noise = _noise(tf.shape(region.x), region.norm, seeds, region.dtype)
    flat = flatten_from(noise, 1)
    lengths = _lengths(flat, region.norm)
    # The volume within a fraction t of the radius grows as t^dimension.
    share = _uniform(tf.shape(lengths), seeds[2], region.dtype) ** (1 / flat.shape[1])
    sizes = share * _aligned(region.radius, 2)
    offsets = flat * tf.math.divide_no_nan(sizes, lengths)
    return project(region.x + _shaped_like(offsets, region.x), region)


def steepest_step(
    gradient: tf.Tensor, norm: float, size: tf.Tensor, room: tf.Tensor | None = None
) -> tf.Tensor:
    """Returns the s with `||s||_norm <= size` of greatest `<gradient, s>`.

    Linf: the sign. L2: the normalised gradient; other p between: its Hölder dual. L1:
    the coordinate of largest slope alone, as far as its room goes, then the next one,
    until `size` is spent; so it is as sparse as the room allows, where
    arXiv:1904.13000 (SLIDE) fixes a percentile. A gradient of zero gives a zero step.

    Args:
        gradient: `[batch, *shape]`; entries that are not finite count as zero.
        norm: p, at least 1.
        size: a scalar, `[batch]`, or, for Linf, `[batch, *shape]`.
        room: `[batch, *shape]`, how far each coordinate can go in the direction of its
            slope; without room it takes no part. None: without limit.
    """
    size = tf.convert_to_tensor(size, dtype_hint=gradient.dtype)
    size = tf.cast(size, gradient.dtype)
    gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
    if room is not None:
        gradient = tf.where(room > 0.0, gradient, 0.0)
    if np.isinf(norm):
        return tf.sign(gradient) * _aligned(size, gradient.shape.rank)
    flat, sizes = flatten_from(gradient, 1), _aligned(size, 2)
    if norm == 1.0:
        limits = None if room is None else flatten_from(room, 1)
        return _shaped_like(tf.sign(flat) * _spend(flat, sizes, limits), gradient)
    # Scaled first: squares of small slopes would vanish.
    largest = tf.reduce_max(tf.abs(flat), -1, keepdims=True)
    flat = tf.math.divide_no_nan(flat, largest)
    if norm != 2.0:
        flat = tf.sign(flat) * tf.abs(flat) ** (1.0 / (norm - 1.0))
    step = sizes * tf.math.divide_no_nan(flat, _lengths(flat, norm))
    return _shaped_like(step, gradient)


def ascend(
    points: tf.Tensor, gradient: tf.Tensor, region: Region, relative_size: tf.Tensor
) -> tf.Tensor:
    """Returns points of `region` one projected steepest step on, `[batch, *shape]`.

    Args:
        points: points of `region`, `[batch, *shape]`.
        gradient: slopes of what shall grow, the same shape.
        region: a ball, or a box (stepped in as in an Linf ball, with half widths).
        relative_size: scalar, the step's length in units of the radius (half widths).
    """
    if not isinstance(region, LpBall):
        _require_box(region)
        step = steepest_step(gradient, np.inf, relative_size * region.box.radius)
        return project(points + step, region)
    room = None
    if region.valid_range is not None and not region.is_box:
        # Of the range, not of the box around the ball: at a vertex of an L1 ball the
        # best coordinate must go on being the best.
        low, high = (tf.constant(end, points.dtype) for end in region.valid_range)
        room = tf.where(gradient > 0.0, high - points, points - low)
    size = relative_size * region.radius
    return project(points + steepest_step(gradient, region.norm, size, room), region)


def _clip(points, region):
    box = region.box
    return tf.minimum(tf.maximum(points, box.lower), box.upper)


def _into_ball(points, ball):
    """Moves points into the ball alone; decided in float64, rounded inwards."""
    center = tf.cast(ball.x, tf.float64)
    offset = flatten_from(tf.cast(points, tf.float64) - center, 1)
    radius = _aligned(tf.cast(ball.radius, tf.float64), 2)
    if ball.norm == 1.0:
        offset = _onto_simplex_faces(offset, radius)
    else:
        lengths = _lengths(offset, ball.norm)
        is_outside = lengths > radius
        scale = tf.where(is_outside, radius / tf.where(is_outside, lengths, 1.0), 1.0)
        offset *= scale
    return _rounded_inwards(center, _shaped_like(offset, ball.x), ball.x.dtype)


def _onto_simplex_faces(offset, radius):
    """Projects `[batch, n]` onto the L1 ball (Duchi et al., ICML 2008).

    Magnitudes shrink by t, not below 0, where they then sum to the radius. For sorted
    magnitudes u and each k, `sum_{i<=k} (u_i - t) <= sum_i max(u_i - t, 0) = radius`,
    with equality where k counts what is left; so t is the largest of
    `(u_1 + ... + u_k - radius) / k`, and a negative t means: already inside.
    """
    magnitudes = tf.abs(offset)
    total = tf.cumsum(tf.sort(magnitudes, axis=-1, direction="DESCENDING"), axis=-1)
    count = tf.range(1, offset.shape[-1] + 1, dtype=offset.dtype)
    shrinkage = tf.nn.relu(tf.reduce_max((total - radius) / count, -1, keepdims=True))
    return tf.sign(offset) * tf.nn.relu(magnitudes - shrinkage)


def _rounded_inwards(center, offset, dtype):
    """Rounds `center + offset` to `dtype`, each coordinate towards the centre.

    Rounding to nearest would move thousands of coordinates by half a unit in the last
    place each, which an L1 norm adds up.
    """
    exact = center + offset
    nearest = tf.cast(tf.cast(exact, dtype), exact.dtype)
    unit = tf.abs(nearest) * np.finfo(dtype.as_numpy_dtype).eps  # 1 or 2 in last place.
    inner = tf.cast(tf.cast(exact - tf.sign(offset) * unit, dtype), exact.dtype)
    inner = tf.where(offset > 0.0, tf.maximum(inner, center), tf.minimum(inner, center))
    is_outside = tf.abs(nearest - center) > tf.abs(offset)
    return tf.cast(tf.where(is_outside, inner, nearest), dtype)


def _spend(slopes, size, room):
    """Magnitudes of the L1 step, `[batch, n]`: most valuable coordinates first."""
    limits = tf.broadcast_to(size, tf.shape(slopes))
    if room is not None:
        limits = tf.minimum(limits, room)
    order = tf.argsort(tf.abs(slopes), axis=-1, direction="DESCENDING")
    limits = tf.gather(limits, order, batch_dims=1)
    spent_before = tf.cumsum(limits, axis=-1, exclusive=True)
    taken = tf.minimum(limits, tf.nn.relu(size - spent_before))
    return tf.gather(taken, tf.argsort(order, axis=-1), batch_dims=1)


def _noise(shape, norm, seeds, dtype):
    """Noise whose density falls with the norm: Laplace for L1, Gaussian otherwise."""
    if norm != 1.0:
        return tf.random.stateless_normal(shape, seeds[0], dtype=dtype, alg=_ALGORITHM)
    magnitudes = -tf.math.log1p(-_uniform(shape, seeds[0], dtype))
    is_negative = _uniform(shape, seeds[1], dtype) < 0.5
    return tf.where(is_negative, -magnitudes, magnitudes)


def _uniform(shape, seed, dtype):
    return tf.random.stateless_uniform(shape, seed, dtype=dtype, alg=_ALGORITHM)


def _lengths(flat, norm):
    """Norms over the last axis, which is kept, `[batch, 1]`."""
    magnitudes = tf.abs(flat)
    if norm == 1.0:
        return tf.reduce_sum(magnitudes, -1, keepdims=True)
    if norm == 2.0:
        return tf.sqrt(tf.reduce_sum(tf.square(flat), -1, keepdims=True))
    # Scaled, since high powers of small magnitudes would vanish.
    largest = tf.reduce_max(magnitudes, -1, keepdims=True)
    shares = tf.math.divide_no_nan(magnitudes, largest)
    return largest * tf.reduce_sum(shares**norm, -1, keepdims=True) ** (1.0 / norm)


def _aligned(values, rank):
    """Per-example values `[batch]`, ready to multiply tensors of that rank."""
    if values.shape.rank != 1:
        return values
    return tf.reshape(values, [-1] + [1] * (rank - 1))


def _shaped_like(flat, tensor):
    return tf.ensure_shape(tf.reshape(flat, tf.shape(tensor)), tensor.shape)


def _require_box(region):
    if not region.is_box:
        raise InputError(
            "Attacks know boxes and Lp balls. Received: a region of type "
            f"{type(region).__name__}. Attack an `LpBall` or a `Box` that holds it."
        )
