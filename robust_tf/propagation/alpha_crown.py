"""alpha-CROWN (arXiv:2011.13824): lower slopes searched for the tightest bounds."""

import dataclasses
import functools
import math

import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation.ascent import Ascent
from robust_tf.propagation.ascent import Parameter
from robust_tf.propagation.backward import DEFAULT_MEMORY_BUDGET_MB
from robust_tf.propagation.backward import backward_interval
from robust_tf.propagation.crown import crown_bounds
from robust_tf.propagation.crown import crown_margins
from robust_tf.propagation.crown import searched_edges
from robust_tf.propagation.slopes import Neurons
from robust_tf.regions import Region

_MODES = ("output", "joint", "each")
# By this share of their widths, known bounds are widened in a joint search: where they
# are what its start gives, rounding would decide whether slopes have a gradient.
_WIDENED = 1e-3


@dataclasses.dataclass(frozen=True)
class Slopes:
    """Lower slopes that a search found; any value is valid, so they can be re-used.

    Attributes:
        rows: for the rows over the logits, `[batch, rows, neurons]`.
        by_edge: for the lower and the upper ends of intermediate bounds, two
            `[batch, neurons before the edge]` (or with an axis of the edge's own
            neurons in between); empty where those are CROWN's own.
    """

    rows: tf.Tensor
    by_edge: dict[int, tuple[tf.Tensor, tf.Tensor]]

    def __tf_flatten__(self):  # Lets tf.function carry it.
        return (), (self.rows, self.by_edge)

    @classmethod
    def __tf_unflatten__(cls, metadata, components):
        return cls(*components)


@dataclasses.dataclass(frozen=True)
class AlphaCrown:
    """A search for lower slopes.

    Attributes:
        mode: what is searched. "output": slopes of the rows over the logits, with
            intermediate bounds fixed; its optimum is that of the linear program with
            those bounds. "joint": slopes of the intermediate bounds too, all for the
            final bounds, which can be tighter than that program. "each": slopes of
            each intermediate bound for its own width, layer by layer, then those of
            the output.
        ascent: how long they are searched.
        rate: of the first step, on slopes between 0 and 1.
        memory_budget_mb: for the coefficients of a chunk of rows; and for slopes of
            each intermediate neuron's own. Where those would take more, and in windows,
            the neurons of an edge share them.

    Raises:
        InputError: for an unknown mode, or a rate that is not above 0.
    """

    mode: str = "output"
    ascent: Ascent = Ascent()
    rate: float = 0.1
    memory_budget_mb: float = DEFAULT_MEMORY_BUDGET_MB

    def __post_init__(self):
        if self.mode not in _MODES or not self.rate > 0.0:
            raise InputError(
                f"`mode` must be one of {_MODES}, `rate` above 0. Received: {self}"
            )

    def search(
        self,
        graph: BoundGraph,
        region: Region,
        bounds: dict[int, IntervalBound],
        rows: tf.Tensor,
        thresholds: tf.Tensor | None = None,
        target: float | None = None,
    ) -> tuple[tf.Tensor, dict[int, IntervalBound], Slopes]:
        """Searches slopes for lower bounds of rows over the logits.

        Args:
            graph: the classifier.
            region: the input set.
            bounds: valid intervals of all edges, such as CROWN's.
            rows: `[batch or 1, rows, classes]`.
            thresholds: subtracted from the bounds, `[batch or 1, rows]`.
            target: what bounds need not exceed.

        Returns:
            Lower bounds, `[batch, rows]`; intervals of all edges, at least as tight as
            the given ones; and the slopes.
        """
        by_edge = {}
        if self.mode == "each":
            bounds, by_edge = self._search_each(graph, region, bounds)
        neurons, count = Neurons.of(graph), rows.shape[1]
        batch = region.shape[0] or tf.shape(region.box.lower)[0]

        def margins_of(slopes, bounds):
            choices = neurons.choices(slopes) if neurons.total else Choices()
            margins = crown_margins(graph, region, bounds, rows, choices)
            margins = tf.broadcast_to(margins, [batch, count])
            return margins if thresholds is None else margins - thresholds

        if not neurons.total:
            none = tf.zeros([batch, count, 0], region.dtype)
            return margins_of(none, bounds), bounds, Slopes(none, {})
        start = tf.tile(neurons.adaptive(bounds)[:, None], [1, count, 1])
        parameters = [Parameter(start, self.rate, neurons.project, by_row=True)]
        if self.mode == "joint":
            found = self._search_jointly(
                graph, region, bounds, parameters, margins_of, target
            )
            margins, bounds, slopes = found
            return tf.maximum(margins, margins_of(start, bounds)), bounds, slopes
        margins, (slopes,), _ = self.ascent.maximise(
            lambda values: (margins_of(*values, bounds), []), parameters, target
        )
        return margins, bounds, Slopes(slopes, by_edge)

    def _search_jointly(self, graph, region, bounds, parameters, margins_of, target):
        """Margins, intervals and slopes, all for the margins."""
        edges = []
        for edge in searched_edges(graph):
            found = self._of_edge(graph, edge, bounds, region)
            if found:  # Without neurons before it, nothing is free.
                edges.append(edge)
                parameters = parameters + found
        wider = {edge: _widened(bounds[edge]) for edge in bounds}

        def evaluate(values):
            pairs = _pairs(edges, values[1:])
            inner = intermediate_bounds(
                graph, region, wider, pairs, self.memory_budget_mb
            )
            further = [end for edge in edges for end in _ends(inner[edge])]
            return margins_of(values[0], inner), further

        margins, values, further = self.ascent.maximise(evaluate, parameters, target)
        tighter = dict(zip(edges, _intervals(further), strict=True))
        bounds = _completed(graph, bounds, tighter)
        return margins, bounds, Slopes(values[0], dict(_pairs(edges, values[1:])))

    def _search_each(self, graph, region, bounds):
        """Tighter intervals, and the slopes of each edge."""
        slopes, tighter = {}, {}
        for edge in searched_edges(graph):
            parameters = self._of_edge(graph, edge, bounds, region)
            if not parameters:
                continue

            def evaluate(values, edge=edge, bounds=bounds):
                pair = _choices_of(graph, edge, values)
                found = backward_interval(
                    graph, edge, region, bounds, pair, self.memory_budget_mb
                )
                flat = (
                    tf.reshape(end, [-1, _size(graph, edge)]) for end in _ends(found)
                )
                return tf.concat(list(flat), -1), []

            best, values, _ = self.ascent.maximise(evaluate, parameters)
            slopes[edge] = tuple(values)
            (interval,) = _intervals(tf.split(best, 2, -1))
            shape = [-1, *graph.shapes[edge]]
            tighter[edge] = interval.map(functools.partial(tf.reshape, shape=shape))
            bounds = _completed(graph, bounds, tighter)
        return bounds, slopes

    def _of_edge(self, graph, edge, bounds, region) -> list[Parameter]:
        """The slopes for the lower and for the upper ends of an edge's bounds."""
        neurons = Neurons.of(graph, edge)
        if not neurons.total:
            return []
        start = neurons.adaptive(bounds)
        size, batch = _size(graph, edge), region.shape[0] or 1
        is_dense = len(graph.shapes[edge]) == 1
        bytes_each = size * neurons.total * region.dtype.size * batch
        if is_dense and 16 * bytes_each <= self.memory_budget_mb * 2**20:
            start = tf.tile(start[:, None], [1, size, 1])
        return [Parameter(start, self.rate, neurons.project) for _ in range(2)]


def intermediate_bounds(
    graph: BoundGraph,
    region: Region,
    bounds: dict[int, IntervalBound],
    slopes: dict[int, tuple[tf.Tensor, tf.Tensor]],
    memory_budget_mb: float = DEFAULT_MEMORY_BUDGET_MB,
    rounding=None,
) -> dict[int, IntervalBound]:
    """Returns CROWN's intervals of all edges by given slopes, none wider than known.

    Args:
        graph: the classifier.
        region: the input set.
        bounds: valid intervals of all edges.
        slopes: as `Slopes.by_edge`.
        memory_budget_mb: for the coefficients of one chunk of rows, in MiB.
        rounding: of the pass.
    """
    by_edge = {
        edge: _choices_of(graph, edge, pair, rounding) for edge, pair in slopes.items()
    }
    return crown_bounds(
        graph,
        region,
        (Choices(rounding=rounding),),
        memory_budget_mb=memory_budget_mb,
        known=bounds,
        by_edge=by_edge,
    )


def _choices_of(graph, edge, slopes, rounding=None) -> tuple[Choices, Choices]:
    neurons = Neurons.of(graph, edge)
    lower, upper = (neurons.choices(one, rounding=rounding) for one in slopes)
    return lower, upper


def _completed(graph, bounds, tighter):
    """Bounds of all edges that follow from tighter ones of some."""
    completed = {0: bounds[0]}
    for node in graph.nodes:
        edge = node.output
        interval = graph.interval_after(node, completed, Choices())
        interval = interval.intersect(bounds[edge])
        completed[edge] = interval.intersect(tighter.get(edge, interval))
    return completed


def _widened(bound):
    margin = _WIDENED * (bound.upper - bound.lower)
    return IntervalBound(bound.lower - margin, bound.upper + margin)


def _pairs(edges, values):
    pairs = zip(values[::2], values[1::2], strict=True)
    return dict(zip(edges, pairs, strict=True))


def _ends(bound):
    """Both ends as lower bounds."""
    return bound.lower, -bound.upper


def _intervals(ends):
    return [
        IntervalBound(lower, -negated)
        for lower, negated in zip(ends[::2], ends[1::2], strict=True)
    ]


def _size(graph, edge):
    return math.prod(graph.shapes[edge])
