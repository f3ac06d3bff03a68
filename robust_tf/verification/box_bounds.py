"""CROWN in float64 over many boxes of inputs, each with signs of some neurons."""

import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.bounds import LinearForm
from robust_tf.bounds import flatten_from
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation.backward import backward_interval
from robust_tf.propagation.crown import searched_edges
from robust_tf.propagation.interval import interval_margins
from robust_tf.propagation.slopes import Neurons
from robust_tf.regions import Box
from robust_tf.rounding import difference_below
from robust_tf.rounding import largest_magnitude
from robust_tf.verification.branching import on_activations
from robust_tf.verification.compiled import Compiled
from robust_tf.verification.exclusion import ClauseForms
from robust_tf.verification.exclusion import Forms
from robust_tf.verification.prover import DECIDING

# Coefficients on one edge, of all boxes that go at once, in bytes; more leave caches.
_LARGEST_TENSOR = 2**23
# The same of one box with rows for all neurons of an edge; wider edges are not split.
_LARGEST_ROWS = 2**26
# Each box keeps the signs of so many at most.
_MOST_NEURONS = 4096
# Neurons of earlier layers go first: all lines behind them become tighter.
_EARLIER = 2.0
# What rows count for a neuron that the weights of a clause leave out.
_LEAST_WEIGHT = 1e-3


class BoxBounds:
    """Bounds of boxes, and how to go on where they are not enough; compiled once.

    A split of a neuron leaves those points of a box where the neuron has a given sign:
    its interval ends at 0, and its own linear bounds are forms that exclude points, as
    those of the rows do (`exclusion`).

    Args:
        prover: of the classifier.
        open_share: a neuron is split where at most this share has no known sign.
        clipped_margin: what margins exceed at points that boxes lose.

    Attributes:
        neurons: those that can be split.
    """

    def __init__(self, prover, open_share: float, clipped_margin: float):
        self._prover, self._graph = prover, prover.graph
        self.neurons = _splittable(prover.graph, prover.neurons)
        self._most_open = int(open_share * self.neurons.total)
        self._clipped_margin = clipped_margin
        self._run = Compiled(self._bounded)
        widest = max(map(math.prod, prover.graph.shapes))
        self._at_once = max(1, _LARGEST_TENSOR // (2 * widest**2 * DECIDING.size))

    def run(self, shared, lower, upper, signs) -> list[np.ndarray]:
        """Bounds boxes.

        Args:
            shared: unsafe set and intervals of the whole example, float64.
            lower: ends of the boxes, `[boxes, inputs]`.
            upper: the other ends.
            signs: of split neurons, 0 for others, `[boxes, neurons]`.

        Returns:
            Margins of the clauses, `[boxes, clauses]`; where the hardest clause's form
            is least, `[boxes, inputs]`; both ends of smaller boxes that hold what is
            not excluded; how much a unit of each input matters; and the neuron to
            split, -1 for an input instead, `[boxes]`.
        """
        parts = []
        for start in range(0, len(lower), self._at_once):
            part = slice(start, start + self._at_once)
            arguments = (tf.constant(array[part]) for array in (lower, upper, signs))
            parts.append([found.numpy() for found in self._run(shared, *arguments)])
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

    def _bounded(self, shared, lower, upper, signs):
        unsafe, known = shared
        box = IntervalBound(lower, upper)
        shape = [-1, *self._graph.shapes[0]]
        region = Box.from_interval(box.map(functools.partial(tf.reshape, shape=shape)))
        choices = Choices(rounding=self._prover.rounding())
        choices.rounding.open_input(largest_magnitude(region.box))
        bounds, cuts = self._intervals(region, known, signs, choices)
        # Without any relaxation all boxes would share the coefficients of one.
        rows, trace = tf.repeat(unsafe.rows, tf.shape(lower)[0], 0), {}
        reached, offset = self._graph.propagate_backward(
            rows, self._graph.output, bounds, choices, trace=trace
        )
        coefficients = flatten_from(reached[0], 2)
        constants = difference_below(offset, unsafe.thresholds)
        forms = Forms(coefficients, constants)
        clauses = ClauseForms(forms, cuts, box, unsafe.clauses)
        by_interval = interval_margins(self._graph, region, bounds, rows, choices)
        by_interval = difference_below(by_interval, unsafe.thresholds)
        margins = tf.maximum(clauses.margins, unsafe.clause_margins(by_interval))
        # What keeps the box open: its hardest clause.
        hardest = tf.argmin(margins, -1, tf.int32)
        points = clauses.least_points(hardest)
        smaller = clauses.clipped(margins, self._clipped_margin)
        # Of all rows: in a sum their coefficients may cancel.
        effect = tf.reduce_sum(tf.abs(coefficients), 1)
        weights = _LEAST_WEIGHT + clauses.weights_of_rows(hardest)
        neuron = self._neuron(bounds, trace, weights)
        return margins, points, smaller.lower, smaller.upper, effect, neuron

    def _intervals(self, region, known, signs, choices):
        """Intervals of all edges, and forms that are at most 0 where neurons split."""
        bounds, cuts, searched = {0: region.box}, [], searched_edges(self._graph)
        by_edge = self.neurons.split(signs) if self.neurons.total else {}
        for node in self._graph.nodes:
            edge = node.output
            interval = self._graph.interval_after(node, bounds, choices)
            interval = interval.intersect(known[edge])
            if edge in by_edge:
                interval, found = self._split_neurons(
                    edge, region, bounds, choices, interval, by_edge[edge]
                )
                cuts.append(found)
            elif edge in searched:
                readers = self._graph.consumers(edge)
                is_by_sign = all(node.layer.has_lower_slope for node in readers)
                backward = backward_interval(
                    self._graph,
                    edge,
                    region,
                    bounds,
                    choices,
                    within=interval if is_by_sign else None,
                    largest_batch=self._at_once,
                )
                interval = interval.intersect(backward)
            bounds[edge] = interval
        return bounds, _of_splits(cuts, region)

    def _split_neurons(self, edge, region, bounds, choices, interval, signs):
        """Tightens an edge's interval where signs are open, and ends it at splits.

        Returns:
            The interval; and, of the neurons that got a backward pass, which ones are
            split, `[boxes, some]`, with forms of `-sign * z` of those.
        """
        shape = self._graph.shapes[edge]
        interval = interval.map(functools.partial(flatten_from, axis=1))
        signs = flatten_from(signs, 1)
        is_open = (interval.lower < 0.0) & (interval.upper > 0.0)
        index = _marked(is_open | (signs != 0))
        units = tf.one_hot(index, math.prod(shape), dtype=region.dtype)
        units = tf.concat([units, -units], 1)
        reached, offset = self._graph.propagate_backward(
            tf.reshape(units, [tf.shape(units)[0], -1, *shape]), edge, bounds, choices
        )
        form = LinearForm(reached[0], offset)
        interval = _tightened(interval, index, *tf.split(region.minimum(form), 2, 1))
        zero = tf.zeros([], region.dtype)
        interval = IntervalBound(
            tf.where(signs > 0, tf.maximum(interval.lower, zero), interval.lower),
            tf.where(signs < 0, tf.minimum(interval.upper, zero), interval.upper),
        )
        sign = tf.gather(signs, index, batch_dims=1)
        lines = tf.split(flatten_from(reached[0], 2), 2, 1)
        ends = tf.split(offset, 2, 1)
        cuts = Forms(
            tf.where((sign > 0)[..., None], lines[1], lines[0]),
            tf.where(sign > 0, ends[1], ends[0]),
        )
        reshape = functools.partial(tf.reshape, shape=[-1, *shape])
        return interval.map(reshape), (sign != 0, cuts)

    def _neuron(self, bounds, trace, weights):
        """The neuron whose relaxation costs most; -1 where too many are open."""
        if not self.neurons.total:
            return tf.fill(tf.shape(weights)[:1], -1)
        found = on_activations(self._graph, self.neurons, trace)
        coefficients = tf.linalg.matvec(found, weights, transpose_a=True)
        interval = self.neurons.interval(bounds)
        low, high = tf.minimum(interval.lower, 0.0), tf.maximum(interval.upper, 0.0)
        is_open = (low < 0.0) & (high > 0.0)
        less = tf.minimum(-low, high)
        share = -low / tf.where(is_open, high - low, 1.0)
        # The upper line is off by so much at 0; the lower one at an end.
        cost = (
            tf.nn.relu(-coefficients) * share * high + tf.nn.relu(coefficients) * less
        )
        cost *= self._precedence()
        # Where nothing tells neurons apart, the most unstable one.
        cost += 1e-9 * less / (1.0 + tf.reduce_max(less, -1, keepdims=True))
        cost = tf.where(is_open & (cost > 0.0), cost, -1.0)
        count = tf.reduce_sum(tf.cast(is_open, tf.int32), -1)
        is_chosen = (count <= self._most_open) & (tf.reduce_max(cost, -1) > 0.0)
        return tf.where(is_chosen, tf.argmax(cost, -1, tf.int32), -1)

    def _precedence(self):
        sizes = self.neurons.sizes
        factors = [_EARLIER**-place for place in range(len(sizes))]
        return tf.constant(np.repeat(factors, sizes), DECIDING)


def _splittable(graph: BoundGraph, neurons: Neurons) -> Neurons:
    """Those on vectors that layers wrote, where rows for a whole edge find room."""
    kept, total = [], 0
    for place, (edge, shape) in enumerate(
        zip(neurons.edges, neurons.shapes, strict=True)
    ):
        entries = max(map(math.prod, graph.shapes[: edge + 1]))
        size = 2 * math.prod(shape) * entries * DECIDING.size
        is_small = size <= _LARGEST_ROWS and total + shape[0] <= _MOST_NEURONS
        if edge and len(shape) == 1 and is_small:
            kept.append(place)
            total += shape[0]
    parts = {
        field.name: tuple(getattr(neurons, field.name)[place] for place in kept)
        for field in dataclasses.fields(neurons)
    }
    return Neurons(**parts)


def _marked(mask) -> tf.Tensor:
    """Places of what is marked, `[batch, most]`; others where it is less than most."""
    mask = tf.cast(mask, tf.int32)
    return tf.math.top_k(mask, tf.reduce_max(tf.reduce_sum(mask, -1))).indices


def _tightened(interval, index, lower, negated):
    """An interval with ends of some of its entries."""
    batch = tf.broadcast_to(tf.range(tf.shape(index)[0])[:, None], tf.shape(index))
    places = tf.stack([batch, index], -1)
    return IntervalBound(
        tf.tensor_scatter_nd_max(interval.lower, places, lower),
        tf.tensor_scatter_nd_min(interval.upper, places, -negated),
    )


def _of_splits(cuts, region) -> Forms:
    """Forms of the splits alone, for each box as many as the most split one has."""
    if not cuts:
        batch, size = tf.shape(region.box.lower)[0], math.prod(region.shape[1:])
        empty = tf.zeros([batch, 0], region.dtype)
        return Forms(tf.zeros([batch, 0, size], region.dtype), empty)
    is_split = tf.concat([mask for mask, _ in cuts], 1)
    forms = functools.reduce(Forms.joined, (forms for _, forms in cuts))
    gather = functools.partial(tf.gather, indices=_marked(is_split), batch_dims=1)
    return forms.where(is_split).map(gather)
