"""alpha-CROWN (arXiv:2011.13824): slopes searched for the tightest bounds."""

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
from robust_tf.propagation.slopes import SmoothLines
from robust_tf.regions import Region

_MODES = ("output", "joint", "each")
# By this share of their widths, known bounds are widened in a joint search: where they
# are what its start gives, rounding would decide whether slopes have a gradient.
_WIDENED = 1e-3


@dataclasses.dataclass(frozen=True)
class Slopes:
    """Slopes that a search found; any value is valid, so they can be re-used.

    Attributes:
        rows: lower slopes of `Neurons` for the rows over the logits, `[batch, rows,
            neurons]`.
        by_edge: the same for the lower and the upper ends of intermediate bounds, two
            `[batch, neurons before the edge]` (or with an axis of the edge's own
            neurons in between); empty where those are CROWN's own.
        shares: of `SmoothLines` for the rows over the logits, `[batch, rows, lines]`.
        shares_by_edge: for intermediate bounds, two `[batch, lines before the edge]`.
    """

    rows: tf.Tensor
    by_edge: dict[int, tuple[tf.Tensor, tf.Tensor]]
    shares: tf.Tensor
    shares_by_edge: dict[int, tuple[tf.Tensor, tf.Tensor]]

    def choices(self, graph: BoundGraph, rounding=None) -> Choices:
        """Returns the choices for backward passes of the rows over the logits.

        Args:
            graph: the classifier.
            rounding: of the pass.
        """
        return _Free.of(graph).choices(self.rows, self.shares, rounding)

    def __tf_flatten__(self):  # Lets tf.function carry it.
        return (), (self.rows, self.by_edge, self.shares, self.shares_by_edge)

    @classmethod
    def __tf_unflatten__(cls, metadata, components):
        return cls(*components)


@dataclasses.dataclass(frozen=True)
class AlphaCrown:
    """A search for lower slopes of ReLUs, and of both lines of smooth activations.

    Attributes:
        mode: what is searched. "output": slopes of the rows over the logits, with
            intermediate bounds fixed; its optimum is that of the linear program with
            those bounds. "joint": slopes of the intermediate bounds too, all for the
            final bounds, which can be tighter than that program. "each": slopes of
            each intermediate bound for its own width, layer by layer, then those of
            the output.
        ascent: how long they are searched.
        rate: of the first step, on slopes (or shares, `SmoothLines`) between 0 and 1.
        memory_budget_mb: for the coefficients of a chunk of rows; and for slopes of
            each intermediate neuron's own. Where those would take more, and in windows,
            the neurons of an edge share them; they always share lines of smooth
            activations.

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
        by_edge, shares_by_edge = {}, {}
        if self.mode == "each":
            found = self._search_each(graph, region, bounds)
            bounds, by_edge, shares_by_edge = found
        free, count = _Free.of(graph), rows.shape[1]
        batch = region.shape[0] or tf.shape(region.box.lower)[0]

        def margins_of(values, bounds):
            choices = free.choices(*values)
            margins = crown_margins(graph, region, bounds, rows, choices)
            margins = tf.broadcast_to(margins, [batch, count])
            return margins if thresholds is None else margins - thresholds

        start = [
            tf.tile(values[:, None], [1, count, 1]) for values in free.start(bounds)
        ]
        if not free.total:
            slopes = Slopes(start[0], {}, start[1], {})
            return margins_of(start, bounds), bounds, slopes
        parameters = [
            Parameter(values, self.rate, project, by_row=True)
            for values, project in zip(start, free.projections, strict=True)
        ]
        if self.mode == "joint":
            found = self._search_jointly(
                graph, region, bounds, parameters, margins_of, target
            )
            margins, bounds, slopes = found
            return tf.maximum(margins, margins_of(start, bounds)), bounds, slopes
        margins, (slopes, shares), _ = self.ascent.maximise(
            lambda values: (margins_of(values, bounds), []), parameters, target
        )
        return margins, bounds, Slopes(slopes, by_edge, shares, shares_by_edge)

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
            slopes, shares = _by_edge(edges, values[2:])
            inner = intermediate_bounds(
                graph, region, wider, slopes, self.memory_budget_mb, shares=shares
            )
            further = [end for edge in edges for end in _ends(inner[edge])]
            return margins_of(values[:2], inner), further

        margins, values, further = self.ascent.maximise(evaluate, parameters, target)
        tighter = dict(zip(edges, _intervals(further), strict=True))
        bounds = _completed(graph, bounds, tighter)
        by_edge, shares_by_edge = _by_edge(edges, values[2:])
        return margins, bounds, Slopes(values[0], by_edge, values[1], shares_by_edge)

    def _search_each(self, graph, region, bounds):
        """Tighter intervals; slopes and shares by edge."""
        edges, searched, tighter = [], [], {}
        for edge in searched_edges(graph):
            parameters = self._of_edge(graph, edge, bounds, region)
            if not parameters:
                continue

            def evaluate(values, edge=edge, bounds=bounds):
                pair = _pair_of(_Free.of(graph, edge), *_by_end(values))
                found = backward_interval(
                    graph, edge, region, bounds, pair, self.memory_budget_mb
                )
                flat = (
                    tf.reshape(end, [-1, _size(graph, edge)]) for end in _ends(found)
                )
                return tf.concat(list(flat), -1), []

            best, values, _ = self.ascent.maximise(evaluate, parameters)
            edges.append(edge)
            searched += values
            (interval,) = _intervals(tf.split(best, 2, -1))
            shape = [-1, *graph.shapes[edge]]
            tighter[edge] = interval.map(functools.partial(tf.reshape, shape=shape))
            bounds = _completed(graph, bounds, tighter)
        return bounds, *_by_edge(edges, searched)

    def _of_edge(self, graph, edge, bounds, region) -> list[Parameter]:
        """Slopes for the lower and for the upper ends of its bounds; then shares."""
        free = _Free.of(graph, edge)
        if not free.total:
            return []
        slopes, shares = free.start(bounds)
        size, batch = _size(graph, edge), region.shape[0] or 1
        is_dense = len(graph.shapes[edge]) == 1
        bytes_each = size * free.neurons.total * region.dtype.size * batch
        if is_dense and 16 * bytes_each <= self.memory_budget_mb * 2**20:
            slopes = tf.tile(slopes[:, None], [1, size, 1])
        return [
            Parameter(start, self.rate, project)
            for start, project in zip((slopes, shares), free.projections, strict=True)
            for _ in range(2)
        ]


def intermediate_bounds(
    graph: BoundGraph,
    region: Region,
    bounds: dict[int, IntervalBound],
    slopes: dict[int, tuple[tf.Tensor, tf.Tensor]],
    memory_budget_mb: float = DEFAULT_MEMORY_BUDGET_MB,
    rounding=None,
    shares: dict[int, tuple[tf.Tensor, tf.Tensor]] | None = None,
) -> dict[int, IntervalBound]:
    """Returns CROWN's intervals of all edges by given slopes, none wider than known.

    Args:
        graph: the classifier.
        region: the input set.
        bounds: valid intervals of all edges.
        slopes: as `Slopes.by_edge`.
        memory_budget_mb: for the coefficients of one chunk of rows, in MiB.
        rounding: of the pass.
        shares: as `Slopes.shares_by_edge`, of the same edges; without them smooth
            activations have their own lines.
    """
    by_edge = {}
    for edge, pair in slopes.items():
        of_lines = (None, None) if shares is None else shares[edge]
        by_edge[edge] = _pair_of(_Free.of(graph, edge), pair, of_lines, rounding)
    return crown_bounds(
        graph,
        region,
        (Choices(rounding=rounding),),
        memory_budget_mb=memory_budget_mb,
        known=bounds,
        by_edge=by_edge,
    )


@dataclasses.dataclass(frozen=True)
class _Free:
    """All that is free in a classifier, or in its part before an edge."""

    neurons: Neurons
    lines: SmoothLines

    @classmethod
    def of(cls, graph, before=None):
        return cls(Neurons.of(graph, before), SmoothLines.of(graph, before))

    @property
    def total(self) -> int:
        return self.neurons.total + self.lines.total

    @property
    def projections(self):
        return self.neurons.project, self.lines.project

    def start(self, bounds):
        """CROWN's own slopes and shares, `[batch, neurons]` and `[batch, lines]`."""
        return self.neurons.adaptive(bounds), self.lines.own(bounds)

    def choices(self, slopes, shares, rounding=None) -> Choices:
        choices = self.neurons.choices(slopes, rounding=rounding)
        if shares is None:
            return choices
        return dataclasses.replace(choices, shares=self.lines.by_layer(shares))


def _pair_of(free, slopes, shares, rounding=None) -> tuple[Choices, Choices]:
    """For the lower and the upper ends of an edge's bounds."""
    lower, upper = (
        free.choices(*one, rounding) for one in zip(slopes, shares, strict=True)
    )
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


def _by_edge(edges, values):
    """What `_of_edge` made edge after edge: slopes by edge, and shares by edge."""
    slopes, shares = {}, {}
    for place, edge in enumerate(edges):
        slopes[edge], shares[edge] = _by_end(values[4 * place : 4 * place + 4])
    return slopes, shares


def _by_end(values):
    """Slopes for both ends, and shares."""
    return tuple(values[:2]), tuple(values[2:])


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
