"""CROWN-IBP (arXiv:1906.06316) and CROWN (arXiv:1811.00866)."""

from collections.abc import Mapping

import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation.backward import DEFAULT_MEMORY_BUDGET_MB
from robust_tf.propagation.backward import backward_interval
from robust_tf.propagation.backward import minimum
from robust_tf.propagation.interval import interval_bounds
from robust_tf.regions import Region


def crown_margins(
    graph: BoundGraph,
    region: Region,
    bounds: dict[int, IntervalBound],
    rows: tf.Tensor,
    choices: Choices,
) -> tf.Tensor:
    """Returns lower bounds of rows over the logits, by one backward pass.

    With intervals from IBP this is CROWN-IBP, with those of `crown_bounds` CROWN.

    Args:
        graph: the classifier.
        region: the input set.
        bounds: intervals of all edges.
        rows: `[batch or 1, rows, classes]`.
        choices: what the rules ask for.

    Returns:
        `[batch, rows]`.
    """
    reached, offset = graph.propagate_backward(rows, graph.output, bounds, choices)
    return minimum(reached, offset, region, bounds)


def crown_bounds(
    graph: BoundGraph,
    region: Region,
    choices: tuple[Choices, ...],
    intersect: bool = True,
    memory_budget_mb: float = DEFAULT_MEMORY_BUDGET_MB,
    known: Mapping[int, IntervalBound] | None = None,
    by_edge: Mapping[int, tuple[Choices, Choices]] | None = None,
    unstable_only: bool = False,
    largest_batch: int | None = None,
) -> dict[int, IntervalBound]:
    """Returns the bound on every edge, keyed by edge number.

    Each edge that a relaxed layer reads, and that an affine layer wrote, is bounded
    by a backward pass of its own; all others by the interval rule from those.

    Args:
        graph: the classifier.
        region: the input set.
        choices: one set of choices, or several, whose bounds are intersected.
        intersect: whether bounds are intersected with those of the interval rule.
        memory_budget_mb: for the coefficients of one chunk of rows, in MiB.
        known: valid bounds of some edges, to intersect with.
        by_edge: choices for the lower and for the upper ends of single edges, instead.
        unstable_only: neurons of vectors whose sign is known by the interval rule, or
            by `known`, get no backward pass, where only ReLUs read them; cheaper where
            those are many, and a little looser behind them.
        largest_batch: of `backward_interval`.
    """
    known, by_edge = known or {}, by_edge or {}
    bounds = interval_bounds(graph, region, choices[0], memory_budget_mb)
    affine, searched = graph.affine_edges(), searched_edges(graph)
    for node in graph.nodes:
        edge = node.output
        if edge in affine and not region.is_box:
            continue  # Already exact over the ball.
        interval = graph.interval_after(node, bounds, choices[0])
        within = None
        if unstable_only and all(
            reader.layer.has_lower_slope for reader in graph.consumers(edge)
        ):
            within = interval.intersect(known[edge]) if edge in known else interval
        if edge in searched:
            backward = [
                backward_interval(
                    graph,
                    edge,
                    region,
                    bounds,
                    one,
                    memory_budget_mb,
                    within,
                    largest_batch,
                )
                for one in ((by_edge[edge],) if edge in by_edge else choices)
            ]
            candidates = [interval, *backward] if intersect else backward
            interval = candidates[0]
            for other in candidates[1:]:
                interval = interval.intersect(other)
        if edge in known:
            interval = interval.intersect(known[edge])
        bounds[edge] = interval
    return bounds


def searched_edges(graph: BoundGraph) -> list[int]:
    """Returns the edges that get backward passes of their own, ascending.

    From an affine layer to one whose rule reads bounds; without those that are one
    affine map of the input's box, for which the interval rule is exact.
    """
    affine = graph.affine_edges()
    relaxed = {
        edge for node in graph.nodes if not node.layer.is_affine for edge in node.inputs
    }
    return [
        edge
        for edge in sorted(relaxed - {0})
        if graph.producer(edge).layer.is_affine
        and not (edge in affine and set(graph.producer(edge).inputs) == {0})
    ]
