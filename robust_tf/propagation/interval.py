"""Interval bound propagation (IBP, arXiv:1810.12715)."""

import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation.backward import DEFAULT_MEMORY_BUDGET_MB
from robust_tf.propagation.backward import backward_interval
from robust_tf.propagation.backward import minimum
from robust_tf.regions import Region


def interval_bounds(
    graph: BoundGraph,
    region: Region,
    choices: Choices,
    memory_budget_mb: float = DEFAULT_MEMORY_BUDGET_MB,
) -> dict[int, IntervalBound]:
    """Returns the bound on every edge, `[batch, *shape]`, keyed by edge number.

    Over a ball that is no box, edges that are affine in the input and feed something
    that is not are bounded over the ball itself, by the dual norm of each neuron's
    own coefficients: exact for every p, at the borders of images too.
    """
    known = {}
    if not region.is_box:
        affine = graph.affine_edges()
        shapes = graph.propagate_interval(region.box, choices)
        for edge in sorted(affine - {0}):
            outputs = {node.output for node in graph.consumers(edge)}
            if edge == graph.output or not outputs <= affine:
                known[edge] = backward_interval(
                    graph, edge, region, shapes, choices, memory_budget_mb
                )
    return graph.propagate_interval(region.box, choices, known)


def interval_margins(
    graph: BoundGraph,
    region: Region,
    bounds: dict[int, IntervalBound],
    rows: tf.Tensor,
    choices: Choices,
) -> tf.Tensor:
    """Returns lower bounds of rows over the logits from intervals.

    The last layer, where it is affine, is merged with the rows (elision), which is
    never looser than subtracting separate bounds of the logits.

    Args:
        graph: the classifier.
        region: the input set.
        bounds: intervals of all edges.
        rows: `[batch or 1, rows, classes]`.
        choices: what the rules ask for.

    Returns:
        `[batch, rows]`.
    """
    last = graph.producer(graph.output)
    until = (graph.output,)
    if last is not None and last.layer.is_affine:
        until = last.inputs
    reached, offset = graph.propagate_backward(
        rows, graph.output, bounds, choices, until
    )
    return minimum(reached, offset, region, bounds)
