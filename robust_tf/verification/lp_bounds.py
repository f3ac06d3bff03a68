"""Linear relaxations, solved; and the backward passes that their solutions stand for.

Multipliers of a linear program are slopes and multipliers of a backward pass: with
`gamma` on `h >= z` and `mu` on `h >= leak * z`, the lower slope is their mean of 1 and
`leak`; a split's multiplier is its own (arXiv:2103.06624, section 3.2). So a pass
repeats the solver's bound, up to rounding, and holds whatever the solver did.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation.backward import minimum
from robust_tf.regions import Region
from robust_tf.verification.encoding import Encoding
from robust_tf.verification.lp_layers import phases
from robust_tf.verification.lp_program import Solution
from robust_tf.verification.lp_program import SolverOptions
from robust_tf.verification.lp_program import Status

# Times what would just do if the solver were exact.
_SCALES = (2.0, 2.0**4, 2.0**8, 2.0**16)

# `(rows, edge, bounds, choices)` to lower bounds: `[1, rows, *shape]` to `[1, rows]`.
BackwardPass = Callable[[tf.Tensor, int, Mapping, Choices], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class LpBound:
    """A bound of one row's margin over a region and its splits.

    Attributes:
        status: how the solver ended. INFEASIBLE, where it took the splits for
            contradictory, and OPTIMAL are its word; only `bound` is a proof.
        value: the optimum, by its word; inf for INFEASIBLE, NaN for all else.
        bound: what the backward pass gives with `choices`. At most `value` up to
            rounding; equal to it where nothing but affine layers and activations is
            relaxed. Above the threshold wherever the multipliers of contradictory
            splits show that there is no such point.
        point: where the relaxation is least, `[*shape]`, in the region; None without
            an optimum.
        choices: slopes by layer name, `[1, *shape]`, and multipliers by edge,
            `[1, 1, *shape]`, for a pass over `bounds`.
        bounds: intervals of all edges, with the splits' signs.
    """

    status: Status
    value: float
    bound: float
    point: np.ndarray | None
    choices: Choices
    bounds: dict[int, IntervalBound]


def lp_bound(
    graph: BoundGraph,
    region: Region,
    bounds: Mapping[int, IntervalBound],
    row,
    threshold: float = 0.0,
    splits: Mapping[int, np.ndarray] | None = None,
    options: SolverOptions | None = None,
    backward_pass: BackwardPass | None = None,
) -> LpBound:
    """Bounds `<row, y> - threshold` by the linear relaxation with these splits.

    Contradictory splits are refuted by their own multipliers, of the program that
    breaks them by as little as possible: scaled up, they lift the bound above 0.

    Args:
        graph: the classifier.
        region: one example, `[1, *shape]`, float64; a box, an Linf or an L1 ball.
        bounds: valid intervals of all edges, `[1, *shape]`, by number; with or without
            the signs of the splits.
        row: over the outputs, `[outputs]`.
        threshold: outputs are unsafe where `<row, y>` does not pass it.
        splits: as for `Encoding`.
        options: for the solver.
        backward_pass: computes bounds, such as one that accounts for its rounding; by
            default in float64.

    Raises:
        InputError: as `Encoding`.
    """
    encoding = Encoding(graph, region, bounds, is_relaxed=True, splits=splits)
    query = _Query(encoding, row, threshold, backward_pass or plain_pass(graph, region))
    return query.solved(options or SolverOptions())


def leaf_bound(
    graph: BoundGraph,
    region: Region,
    bounds: Mapping[int, IntervalBound],
    row,
    threshold: float = 0.0,
    splits: Mapping[int, np.ndarray] | None = None,
    options: SolverOptions | None = None,
    backward_pass: BackwardPass | None = None,
) -> LpBound:
    """Bounds a row where every neuron is stable or split: a program over inputs alone.

    There the relaxation is exact, and `point` a candidate that the model must be
    executed at.

    Args:
        graph: as for `lp_bound`, like all else.
        region: as for `lp_bound`.
        bounds: as for `lp_bound`.
        row: as for `lp_bound`.
        threshold: as for `lp_bound`.
        splits: as for `lp_bound`.
        options: as for `lp_bound`.
        backward_pass: as for `lp_bound`.

    Raises:
        InputError: as `lp_bound`, and where a neuron or a maximum is undecided.
    """
    encoding = Encoding(graph, region, bounds, is_relaxed=True, splits=splits)
    if encoding.unstable:
        counts = {name: len(index) for name, index in encoding.unstable.items()}
        raise InputError(
            "Every neuron of a leaf is stable or split. Received: undecided neurons by "
            f"layer, {counts}. Use `lp_bound`."
        )
    query = _Query(encoding, row, threshold, backward_pass or plain_pass(graph, region))
    return query.solved(options or SolverOptions())


class _Query:
    """One row over one encoding."""

    def __init__(self, encoding: Encoding, row, threshold, backward_pass):
        self._encoding, self._threshold = encoding, threshold
        self._row, self._pass = np.asarray(row, "float64"), backward_pass
        self.bounds = split_bounds(encoding)

    def solved(self, options) -> LpBound:
        """The relaxation's optimum, or what contradictory splits give."""
        encoding, edge = self._encoding, self._encoding.graph.output
        margin = encoding.rows(edge, self._row[None])
        objective = margin.matrix.toarray()[0]
        found = encoding.program.minimize_relaxed(objective, options)
        if found.status is Status.INFEASIBLE and encoding.splits:
            return self._refuted(options)
        bound, choices = self._bound(found)
        is_optimal = found.status is Status.OPTIMAL
        value = found.value + margin.constant[0] - self._threshold
        return LpBound(
            status=found.status,
            value=float(value) if is_optimal else np.nan,
            bound=bound,
            point=encoding.point(found.columns) if is_optimal else None,
            choices=choices,
            bounds=self.bounds,
        )

    def _bound(self, found: Solution, scale=1.0):
        """The bound of a solution's multipliers, and the choices that give it."""
        encoding = self._encoding
        multipliers = {}
        for edge, values in split_multipliers(encoding, found).items():
            multipliers[edge] = tf.constant(scale * values[None, None])
        slopes = lower_slopes(encoding, found)
        slopes = {name: tf.constant(slope[None]) for name, slope in slopes.items()}
        choices = Choices(lower_slopes=slopes, multipliers=multipliers)
        rows = tf.constant(self._row[None, None])
        lower = self._pass(rows, encoding.graph.output, self.bounds, choices)
        return float(tf.reshape(lower, [])) - self._threshold, choices

    def _refuted(self, options) -> LpBound:
        """The bound that contradictory splits give."""
        one = self._encoding
        elastic = Encoding(
            one.graph,
            one.region,
            one.bounds,
            is_relaxed=True,
            splits={e: s.reshape(one.graph.shapes[e]) for e, s in one.splits.items()},
            is_elastic=True,
        )
        objective = np.zeros(elastic.program.num_columns)
        objective[elastic.elastic] = 1.0
        found = elastic.program.minimize_relaxed(objective, options)
        bound, choices = self._bound(found, 0.0)
        if found.status is Status.OPTIMAL and found.value > 0.0:
            enough = max(-bound, 0.0) / found.value
            for factor in _SCALES:
                if bound > 0.0:
                    break
                bound, choices = self._bound(found, factor * enough + 1.0)
        return LpBound(
            Status.INFEASIBLE, np.inf, bound, None, choices, dict(self.bounds)
        )


def plain_pass(graph: BoundGraph, region: Region) -> BackwardPass:
    """Returns the backward pass in the type of the region, rounded as it comes."""

    def backward_pass(rows, edge, bounds, choices):
        reached, offset = graph.propagate_backward(rows, edge, bounds, choices)
        return minimum(reached, offset, region, bounds)

    return backward_pass


def lower_slopes(encoding: Encoding, found: Solution) -> dict[str, np.ndarray]:
    """Returns the lower slopes that a solution stands for, `[*shape]` by layer name.

    All in `[leak, 1]`. Without multipliers, and where those of both lines are 0: 1
    where `u > -l`, else `leak`.
    """
    slopes = {}
    for node in encoding.graph.nodes:
        name, (edge, *_) = node.layer.name, node.inputs
        if not node.layer.has_lower_slope or name not in encoding.unstable:
            continue
        leak, index = node.layer.least_slope, encoding.unstable[name]
        bound = encoding.bounds[edge]
        low, high = (np.ravel(np.asarray(end)) for end in (bound.lower, bound.upper))
        slope = np.where(high > -low, 1.0, leak)
        if found.multipliers:
            gamma = found.multipliers[name, "identity"]
            total = gamma + found.multipliers[name, "leak"]
            share = np.divide(gamma, total, np.zeros_like(total), where=total > 0.0)
            chosen = np.clip(leak + (1.0 - leak) * share, leak, 1.0)
            slope[index] = np.where(total > 0.0, chosen, slope[index])
        slopes[name] = slope.reshape(encoding.graph.shapes[node.output])
    return slopes


def split_multipliers(encoding: Encoding, found: Solution) -> dict[int, np.ndarray]:
    """Returns signs times multipliers of the splits, `[*shape]` by edge."""
    multipliers = {}
    for edge, signs in encoding.splits.items():
        values = np.zeros(len(signs))
        if ("split", edge) in found.multipliers:
            index = np.flatnonzero(signs)
            values[index] = signs[index] * found.multipliers["split", edge]
        multipliers[edge] = values.reshape(encoding.graph.shapes[edge])
    return multipliers


def split_bounds(encoding: Encoding) -> dict[int, IntervalBound]:
    """Returns the bounds with the signs of an encoding's splits.

    Those of unstable neurons alone: what is stable keeps its piece, as in the program.
    """
    bounds = dict(encoding.bounds)
    for edge, signs in encoding.splits.items():
        low, high = (
            np.asarray(end) for end in (bounds[edge].lower, bounds[edge].upper)
        )
        phase = phases(low.ravel(), high.ravel(), np.zeros_like(signs))
        chosen = np.where(phase == 0, signs, 0).reshape(low.shape)
        low, high = np.where(chosen > 0, 0.0, low), np.where(chosen < 0, 0.0, high)
        bounds[edge] = IntervalBound(tf.constant(low), tf.constant(high))
    return bounds
