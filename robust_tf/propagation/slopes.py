"""What is free in the lines around activations, on flat axes."""

import dataclasses
import math

import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.bounds import flatten_from
from robust_tf.bounds import leading_sizes
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.layers.activations import Smooth
from robust_tf.rounding import Rounding


@dataclasses.dataclass(frozen=True)
class Neurons:
    """The neurons before piecewise linear activations, edge after edge.

    Attributes:
        edges: inputs of those activations, ascending.
        shapes: of the edges.
        readers: names of the activations that read each edge.
        leaks: least valid lower slope on each edge.
    """

    edges: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    readers: tuple[tuple[str, ...], ...]
    leaks: tuple[float, ...]

    @classmethod
    def of(cls, graph: BoundGraph, before: int | None = None) -> "Neurons":
        """Returns the neurons of a classifier, or of its part before an edge."""
        edges = {}
        for node in graph.nodes:
            is_before = before is None or node.output <= before
            if node.layer.has_lower_slope and is_before:
                edges.setdefault(node.inputs[0], []).append(node.layer)
        order = sorted(edges)
        return cls(
            tuple(order),
            tuple(graph.shapes[edge] for edge in order),
            tuple(tuple(layer.name for layer in edges[edge]) for edge in order),
            tuple(max(layer.least_slope for layer in edges[edge]) for edge in order),
        )

    @property
    def sizes(self) -> list[int]:
        """How many neurons each edge has."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def total(self) -> int:
        """How many neurons there are."""
        return sum(self.sizes)

    def split(self, flat: tf.Tensor) -> dict[int, tf.Tensor]:
        """Returns `[..., total]` as `[..., *shape]` by edge."""
        parts = _split(flat, self.shapes)
        return dict(zip(self.edges, parts, strict=True))

    def join(self, by_edge: dict[int, tf.Tensor], axis: int = 1) -> tf.Tensor:
        """Returns values by edge, whose shape begins at `axis`, as `[..., total]`."""
        parts = [flatten_from(by_edge[edge], axis) for edge in self.edges]
        return tf.concat(parts, -1)

    def interval(self, bounds: dict[int, IntervalBound]) -> IntervalBound:
        """Returns the bounds of all neurons, `[batch, total]`."""
        if not self.edges:
            return bounds[0].map(lambda end: flatten_from(end, 1)[:, :0])
        return IntervalBound(
            self.join({edge: bounds[edge].lower for edge in self.edges}),
            self.join({edge: bounds[edge].upper for edge in self.edges}),
        )

    def least(self, dtype) -> tf.Tensor:
        """Returns the least valid slopes, `[total]`."""
        parts = [tf.zeros([0], dtype)]  # Without any neurons.
        for size, leak in zip(self.sizes, self.leaks, strict=True):
            parts.append(tf.fill([size], tf.constant(leak, dtype)))
        return tf.concat(parts, 0)

    def adaptive(self, bounds: dict[int, IntervalBound]) -> tf.Tensor:
        """Returns slopes of 1 where `u > -l`, else the least, `[batch, total]`."""
        interval = self.interval(bounds)
        least = self.least(interval.dtype)
        return tf.where(interval.upper > -interval.lower, tf.ones_like(least), least)

    def project(self, slopes: tf.Tensor) -> tf.Tensor:
        """Brings slopes, `[..., total]`, into their range."""
        return tf.clip_by_value(slopes, self.least(slopes.dtype), 1.0)

    def choices(
        self,
        slopes: tf.Tensor,
        multipliers: tf.Tensor | None = None,
        rounding: Rounding | None = None,
    ) -> Choices:
        """Returns the choices for backward passes with these slopes.

        Args:
            slopes: `[batch, total]`, or `[batch, rows, total]`.
            multipliers: signed, of constraints on neurons, `[batch, rows, total]`.
            rounding: of the pass.
        """
        by_edge = self.split(slopes)
        by_layer = {
            name: by_edge[edge]
            for edge, names in zip(self.edges, self.readers, strict=True)
            for name in names
        }
        signed = {} if multipliers is None else self.split(multipliers)
        return Choices(lower_slopes=by_layer, multipliers=signed, rounding=rounding)


@dataclasses.dataclass(frozen=True)
class SmoothLines:
    """The lines around smooth activations, by `Smooth.shares`, on one flat axis.

    Attributes:
        layers: the activations.
        edges: inputs of those.
        shapes: of the edges; the flat axis has each twice, lower lines first.
    """

    layers: tuple[Smooth, ...]
    edges: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, graph: BoundGraph, before: int | None = None) -> "SmoothLines":
        """Returns the lines of a classifier, or of its part before an edge."""
        nodes = [
            node
            for node in graph.nodes
            if isinstance(node.layer, Smooth)
            and (before is None or node.output <= before)
        ]
        edges = tuple(node.inputs[0] for node in nodes)
        return cls(
            tuple(node.layer for node in nodes),
            edges,
            tuple(graph.shapes[edge] for edge in edges),
        )

    @property
    def total(self) -> int:
        """How many lines there are."""
        return 2 * sum(math.prod(shape) for shape in self.shapes)

    def own(self, bounds: dict[int, IntervalBound]) -> tf.Tensor:
        """Returns the shares of the layers' own lines, `[batch, total]`."""
        parts = [flatten_from(bounds[0].lower, 1)[:, :0]]  # Without any lines.
        for layer, edge in zip(self.layers, self.edges, strict=True):
            parts += [flatten_from(share, 1) for share in layer.shares(bounds[edge])]
        return tf.concat(parts, -1)

    def project(self, shares: tf.Tensor) -> tf.Tensor:
        """Brings shares, `[..., total]`, into their range."""
        return tf.clip_by_value(shares, 0.0, 1.0)

    def by_layer(self, flat: tf.Tensor) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """Returns `[..., total]` as `Choices.shares`."""
        parts = _split(flat, [shape for shape in self.shapes for _ in range(2)])
        pairs = zip(parts[::2], parts[1::2], strict=True)
        names = (layer.name for layer in self.layers)
        return dict(zip(names, pairs, strict=True))


def _split(flat, shapes):
    """`[..., total]` as a list of `[..., *shape]`."""
    if not shapes:
        return []
    leading = leading_sizes(flat, flat.shape.rank - 1)
    parts = tf.split(flat, [math.prod(shape) for shape in shapes], -1)
    return [
        tf.reshape(part, [*leading, *shape])
        for shape, part in zip(shapes, parts, strict=True)
    ]
