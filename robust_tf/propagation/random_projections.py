"""Bounds of the convex adversarial polytope with estimated norms (arXiv:1805.12514).

Where both lines of each relaxed neuron have one slope, every edge is an affine map of
the input and of one noise for each of those neurons: `z = c + sum_s G_s e_s`, with the
input's `e` in its ball and the others' in `[-1, 1]`. The radius of a neuron's bounds is
a sum of dual norms of rows of the `G_s`. A few random vectors that are pushed through
the network estimate those norms, instead of one row for each input and neuron.

What comes out are estimates: they hold for most neurons, not for all, and prove
nothing.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.bounds import flatten_from
from robust_tf.bounds import leading_sizes
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.graph import Node
from robust_tf.propagation.crown import searched_edges
from robust_tf.propagation.interval import interval_bounds
from robust_tf.regions import Region
from robust_tf.regions import dual_norm


def estimated_bounds(
    graph: BoundGraph,
    region: Region,
    choices: Choices,
    projections: int,
    seed: tf.Tensor,
) -> dict[int, IntervalBound]:
    """Estimates the bound on every edge, keyed by edge number; proves nothing.

    Norms over the input and over the neurons of an activation are estimated where there
    are more of those than projections, and are exact else: by the median of Cauchy
    projections for `||.||_1`, by the mean square of normal ones for `||.||_2`
    (arXiv:1805.12514, section 3.2). Edges that get no backward pass in "crown" get the
    interval rule. Published, a layer counts its unstable neurons in the whole batch, so
    that results depend on the batch, and boxes cut to the range of pixels take two
    estimates for one.

    Args:
        graph: a classifier whose activations are (leaky) ReLUs, without MaxPooling.
        region: the input set: a box, or a ball in Linf or L2. The valid range cuts
            boxes alone.
        choices: statistics of BatchNormalization; lower slopes are the chords'.
        projections: random vectors for each norm, at least 1.
        seed: `[2]` integers.

    Raises:
        InputError: for other layers, balls in other norms, or no projections.
    """
    _check(graph, region, projections)
    choices = dataclasses.replace(choices, relaxation="same-slope")
    noises = _Noises(projections, seed)
    bounds = interval_bounds(graph, region, choices)
    searched, affine = set(searched_edges(graph)), graph.affine_edges()
    forms = {0: noises.around(region)}
    for node in graph.nodes:
        edge, inputs = node.output, [forms[source] for source in node.inputs]
        if node.layer.is_affine:
            forms[edge] = _behind_affine(graph, node, inputs, choices)
        else:
            (source,) = node.inputs
            lines = node.layer.relax(bounds[source], **choices.for_backward(node.layer))
            forms[edge] = noises.behind_activation(edge, inputs[0], lines)
        if edge in affine and not region.is_box:
            continue  # Already exact over the ball.
        if edge in searched:
            bounds[edge] = forms[edge].interval()
        else:
            bounds[edge] = graph.interval_after(node, bounds, choices)
    return bounds


@dataclasses.dataclass(frozen=True)
class EstimatedBound:
    """Estimates of the ends of an interval, `[batch, rows]`; they prove nothing.

    Not an `IntervalBound`, so that nothing takes them for bounds.

    Attributes:
        lower: estimated minima.
        upper: estimated maxima.
    """

    lower: tf.Tensor
    upper: tf.Tensor


def check_projections(projections: int) -> None:
    """Says what is wrong with a number of random vectors."""
    is_count = isinstance(projections, int) and not isinstance(projections, bool)
    if not is_count or projections < 1:
        raise InputError(
            "`projections` must be an integer of at least 1, published 50, or None for "
            f"exact norms. Received: {projections!r}"
        )


def lower_median(values: tf.Tensor) -> tf.Tensor:
    """Returns the median of the first axis but one; of an even number, the lower one.

    Args:
        values: `[..., count, size]`.

    Returns:
        `[..., size]`.
    """
    count = values.shape[-2]
    last = tf.linalg.matrix_transpose(values)
    # From the greatest down: the entry of index (count - 1) // 2 from the least up.
    return tf.math.top_k(last, count - (count - 1) // 2).values[..., -1]


def mean_square_length(values: tf.Tensor) -> tf.Tensor:
    """Returns the root of the mean square over the first axis but one.

    Args:
        values: `[..., count, size]`.

    Returns:
        `[..., size]`.
    """
    total = dual_norm(tf.linalg.matrix_transpose(values), 2.0)
    return total / math.sqrt(values.shape[-2])


@dataclasses.dataclass(frozen=True)
class _Noise:
    """The images of one noise on an edge, or of random vectors in its place.

    Attributes:
        images: `[batch, count, *shape]`.
        length: from `[batch, count, size]` to the dual norm of each entry's row of
            `G_s`, `[batch, size]`.
    """

    images: tf.Tensor
    length: Callable

    @property
    def radius(self) -> tf.Tensor:
        """How far the noise moves each neuron, `[batch, size]`."""
        return self.length(flatten_from(self.images, 2))

    def map(self, function: Callable) -> "_Noise":
        """Applies a linear map to the images."""
        return _Noise(function(self.images), self.length)


@dataclasses.dataclass(frozen=True)
class _AffineForm:
    """The values on an edge: the centre, `[batch, *shape]`, and noises by their edge.

    Missing noises do not reach the edge.
    """

    center: tf.Tensor
    noises: dict[int, _Noise]

    def interval(self) -> IntervalBound:
        """What all noises together reach."""
        radius = tf.add_n([noise.radius for noise in self.noises.values()])
        return IntervalBound.from_center(
            self.center, tf.reshape(radius, tf.shape(self.center))
        )

    def images_of(self, number: int, count: int) -> tf.Tensor:
        """The images of a noise, `[batch, count, *shape]`; 0 where it is missing."""
        if number in self.noises:
            return self.noises[number].images
        return tf.repeat(tf.zeros_like(self.center)[:, None], count, axis=1)


@dataclasses.dataclass(frozen=True)
class _Noises:
    """Makes noises where they begin.

    Attributes:
        count: random vectors for each.
        seed: `[2]` integers.
    """

    count: int
    seed: tf.Tensor

    def around(self, region: Region) -> _AffineForm:
        """The input, whose noise is the region's; its random vectors all share."""
        box = region.box
        if region.is_box:
            noise = self._begin(0, box.radius, np.inf, is_shared=True)
            return _AffineForm(box.center, {0: noise})
        rank = region.x.shape.rank
        radius = tf.reshape(region.radius, [-1] + [1] * (rank - 1))
        reach = radius * tf.ones_like(region.x)
        return _AffineForm(region.x, {0: self._begin(0, reach, region.norm, True)})

    def behind_activation(self, edge: int, form: _AffineForm, lines) -> _AffineForm:
        """Scales all noises by the slopes, and adds that of the neurons themselves."""
        slope, half = lines.upper_slope, lines.upper_intercept / 2.0
        noises = {
            number: noise.map(lambda images: images * slope[:, None])
            for number, noise in form.noises.items()
        }
        noises[edge] = self._begin(edge, half, np.inf, is_shared=False)
        return _AffineForm(form.center * slope + half, noises)

    def _begin(self, number, reach, norm, is_shared):
        """A noise of that norm, as far as `reach`, `[batch, *shape]`, in each entry."""
        shape, dtype = tuple(reach.shape[1:]), reach.dtype
        size = math.prod(shape)
        if size <= self.count:
            units = tf.reshape(tf.eye(size, dtype=dtype), [1, size, *shape])
            return _Noise(units * reach[:, None], _exact_length(norm))
        seed = tf.random.experimental.stateless_fold_in(self.seed, number)
        (batch,) = (1,) if is_shared else leading_sizes(reach, 1)
        sizes = [batch, self.count, *shape]
        if np.isinf(norm):
            share = tf.random.stateless_uniform(sizes, seed, dtype=dtype)
            vectors, length = tf.tan(math.pi * (share - 0.5)), _median_length
        else:
            vectors = tf.random.stateless_normal(sizes, seed, dtype=dtype)
            length = mean_square_length
        return _Noise(vectors * reach[:, None], length)


def _exact_length(norm):
    return lambda images: dual_norm(tf.linalg.matrix_transpose(images), norm)


def _median_length(images):
    return lower_median(tf.abs(images))


def _behind_affine(graph, node: Node, inputs, choices) -> _AffineForm:
    """Sends the centre through a layer, and all noises through its linear part."""
    center = _value(graph, node, [form.center for form in inputs], choices)
    origins = [tf.zeros_like(form.center[:1]) for form in inputs]
    constant = _value(graph, node, origins, choices)
    present = {number: one for form in inputs for number, one in form.noises.items()}
    noises = {}
    for number, noise in present.items():
        count = noise.images.shape[1]
        images = [form.images_of(number, count) for form in inputs]
        folded = [tf.reshape(one, [-1, *one.shape[2:]]) for one in images]
        moved = _value(graph, node, folded, choices) - constant
        noises[number] = _Noise(
            tf.reshape(moved, [-1, count, *moved.shape[1:]]), noise.length
        )
    return _AffineForm(center, noises)


def _value(graph, node, values, choices):
    """What one affine layer makes of points, in their type."""
    points = [IntervalBound.from_center(one, tf.zeros_like(one)) for one in values]
    bounds = dict(zip(node.inputs, points, strict=True))
    return graph.interval_after(node, bounds, choices).center


def _check(graph, region, projections):
    check_projections(projections)
    if not region.is_box and region.norm != 2.0:
        raise InputError(
            "Random projections estimate norms over boxes and over balls in Linf and "
            f"L2. Received: a ball of norm {region.norm:g}. Leave `projections` out: "
            "exact norms know every ball."
        )
    for node in graph.nodes:
        if not node.layer.is_affine and not node.layer.has_lower_slope:
            raise InputError(
                "Random projections go through affine layers and (leaky) ReLUs. "
                f"Received: layer '{node.layer.name}' ({type(node.layer).__name__}). "
                "Leave `projections` out: exact norms know every layer."
            )
