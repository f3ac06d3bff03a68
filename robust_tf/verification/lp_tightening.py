"""Intermediate bounds of small networks, tightened by linear programs."""

import time
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.regions import Region
from robust_tf.verification.encoding import Encoding
from robust_tf.verification.lp_bounds import BackwardPass
from robust_tf.verification.lp_bounds import lower_slopes
from robust_tf.verification.lp_bounds import plain_pass
from robust_tf.verification.lp_layers import phases
from robust_tf.verification.lp_program import SolverOptions
from robust_tf.verification.lp_program import Status

# Neurons whose programs are solved before one backward pass takes them all.
_TOGETHER = 32


def tighten_bounds(
    graph: BoundGraph,
    region: Region,
    bounds: Mapping[int, IntervalBound],
    time_limit_s: float | None = None,
    backward_pass: BackwardPass | None = None,
) -> dict[int, IntervalBound]:
    """Tightens what unstable neurons read, layer by layer, both ends of each.

    Each end is a linear program over the layers before, with the bounds just found.
    It stays valid because no end is taken from the solver: its multipliers become the
    lower slopes of a backward pass, which bounds the neuron for any slopes in
    `[leak, 1]`, and the better of that bound and the old one is kept. A program that
    did not end leaves the old one.

    Args:
        graph: the classifier.
        region: one example, `[1, *shape]`, float64; a box, an Linf or an L1 ball.
        bounds: valid intervals of all edges, `[1, *shape]`, by number.
        time_limit_s: wall-clock seconds; what was found until then is returned.
        backward_pass: computes bounds, such as one that accounts for its rounding; by
            default in float64.

    Returns:
        All bounds, of which those that affine layers hand to activations or poolings
        are tighter. Others follow by the interval rules: `crown_bounds(known=...)`.

    Raises:
        InputError: as `Encoding`.
    """
    deadline = time.monotonic() + (np.inf if time_limit_s is None else time_limit_s)
    backward_pass = backward_pass or plain_pass(graph, region)
    tightened = dict(bounds)
    for edge in _open_edges(graph):
        index = _unstable(tightened[edge])
        if not len(index) or time.monotonic() >= deadline:
            continue
        layer = _Layer(graph, region, tightened, edge, deadline, backward_pass)
        for start in range(0, len(index), _TOGETHER):
            layer.tighten(index[start : start + _TOGETHER])
        tightened[edge] = layer.interval()
    return tightened


def _open_edges(graph) -> list[int]:
    """Edges from an affine layer to one that is not, but for the first affine map."""
    read = {e for node in graph.nodes if not node.layer.is_affine for e in node.inputs}
    producers = {edge: graph.producer(edge) for edge in sorted(read - {0})}
    return [
        edge
        for edge, node in producers.items()
        if node.layer.is_affine and set(node.inputs) != {0}
    ]


def _unstable(interval) -> np.ndarray:
    low, high = (np.ravel(np.asarray(end)) for end in (interval.lower, interval.upper))
    return np.flatnonzero(phases(low, high, np.zeros(len(low), int)) == 0)


class _Layer:
    """The neurons of one edge."""

    def __init__(self, graph, region, bounds, edge, deadline, backward_pass):
        self._bounds, self._edge, self._deadline = bounds, edge, deadline
        self._shape, self._pass = graph.shapes[edge], backward_pass
        self._encoding = Encoding(graph, region, bounds, is_relaxed=True, edge=edge)
        ends = (bounds[edge].lower, bounds[edge].upper)
        self._low, self._high = (np.array(end, "float64").ravel() for end in ends)

    def tighten(self, index):
        """Takes both ends of some neurons into account, `[count]`."""
        values = self._encoding.neurons(self._edge, index)
        rows, slopes = [], []
        for i, objective in enumerate(values.matrix.toarray()):
            for sign in (1.0, -1.0):
                found = self._solve(sign * objective)
                if found is not None:
                    rows.append((index[i], sign))
                    slopes.append(lower_slopes(self._encoding, found))
        if rows:
            self._keep(rows, slopes)

    def _solve(self, objective):
        left = self._deadline - time.monotonic()
        if left <= 0.0:
            return None
        options = SolverOptions(time_limit_s=left if np.isfinite(left) else None)
        found = self._encoding.program.minimize_relaxed(objective, options)
        return found if found.status is Status.OPTIMAL else None

    def _keep(self, rows, slopes):
        index, signs = (np.array(part) for part in zip(*rows, strict=True))
        units = np.zeros((len(rows), len(self._low)))
        units[np.arange(len(rows)), index] = signs
        units = tf.constant(units.reshape(1, len(rows), *self._shape))
        stacked = {
            name: tf.constant(np.stack([one[name] for one in slopes])[None])
            for name in slopes[0]
        }
        choices = Choices(lower_slopes=stacked)
        lower = self._pass(units, self._edge, self._bounds, choices).numpy()[0]
        for i, sign, end in zip(index, signs, lower, strict=True):
            if sign > 0.0:
                self._low[i] = max(self._low[i], min(end, self._high[i]))
            else:
                self._high[i] = min(self._high[i], max(-end, self._low[i]))

    def interval(self) -> IntervalBound:
        """The bounds found, `[1, *shape]`."""
        ends = (self._low, self._high)
        shape = (1, *self._shape)
        return IntervalBound(*(tf.constant(end.reshape(shape)) for end in ends))
