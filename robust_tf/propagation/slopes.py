"""Neurons whose lower slope is free, on one flat axis."""

import dataclasses
import math

import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.bounds import flatten_from
from robust_tf.bounds import leading_sizes
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
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
        leading = leading_sizes(flat, flat.shape.rank - 1)
        parts = tf.split(flat, self.sizes, -1)
        return {
            edge: tf.reshape(part, [*leading, *shape])
            for edge, shape, part in zip(self.edges, self.shapes, parts, strict=True)
        }

    def join(self, by_edge: dict[int, tf.Tensor], axis: int = 1) -> tf.Tensor:
        """Returns values by edge, whose shape begins at `axis`, as `[..., total]`."""
        parts = [flatten_from(by_edge[edge], axis) for edge in self.edges]
        return tf.concat(parts, -1)

    def interval(self, bounds: dict[int, IntervalBound]) -> IntervalBound:
        """Returns the bounds of all neurons, `[batch, total]`."""
        return IntervalBound(
            self.join({edge: bounds[edge].lower for edge in self.edges}),
            self.join({edge: bounds[edge].upper for edge in self.edges}),
        )

    def least(self, dtype) -> tf.Tensor:
        """Returns the least valid slopes, `[total]`."""
        parts = [
            tf.fill([size], tf.constant(leak, dtype))
            for size, leak in zip(self.sizes, self.leaks, strict=True)
        ]
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
