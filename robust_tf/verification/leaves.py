"""Domains in which every neuron is decided: linear programs over the inputs."""

import numpy as np
import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.graph import Choices
from robust_tf.propagation.backward import minimum
from robust_tf.regions import Box
from robust_tf.rounding import difference_below
from robust_tf.verification.domain_bounds import DomainBounds
from robust_tf.verification.encoding import Encoding
from robust_tf.verification.lp_affine import Affine
from robust_tf.verification.lp_bounds import lp_bound
from robust_tf.verification.lp_layers import is_encodable_graph
from robust_tf.verification.lp_program import SolverOptions
from robust_tf.verification.lp_program import Status
from robust_tf.verification.prover import DECIDING

# More than a few float64 operations err by, relative to their terms.
_SLACK = 2.0**-50
_LEAST_SECONDS = 0.01
_LONGEST_REASON = 500


class Leaves:
    """Solves leaves of one example.

    Complete where the classifier is piecewise linear with two pieces, and the region a
    box or an L1 ball. Over other balls programs see the box around them; other layers
    stay relaxed.

    Args:
        task: of the example.
        index: its place in the task.
        bounds: of the example's domains.

    Attributes:
        reason: why a leaf stayed open; None where none did.
    """

    def __init__(self, task, index: int, bounds: DomainBounds):
        self._task, self._index, self._root = task, index, bounds.root
        self._graph = task.prover.graph
        self._unsafe, self._unstable = bounds.unsafe, bounds.unstable
        region = bounds.region
        is_encodable = region.is_box or region.norm == 1.0
        self._region = region if is_encodable else Box.from_interval(region.box)
        layers = [node.layer for node in self._graph.nodes if not node.layer.is_affine]
        self._has_programs = is_encodable_graph(self._graph)
        relaxed = [layer.name for layer in layers if not layer.has_lower_slope]
        self._gap = "numeric: a leaf within rounding of 0"
        if relaxed:
            self._gap = f"incomplete: layers that stay relaxed in a leaf, {relaxed}"
        elif not is_encodable:
            self._gap = "incomplete: a leaf over a ball that no linear program takes"
        self.reason = None

    def solve(self, clause: int, signs: np.ndarray) -> float:
        """Returns a proved margin of a clause in a leaf.

        The bound is taken anew from the solver's multipliers. The points where it is
        least are run, and decide the example if one is a counterexample.

        Args:
            clause: its number.
            signs: of the unstable neurons; 0 for those that are decided without.
        """
        members = np.flatnonzero(np.asarray(self._unsafe.clauses) == clause)
        rows = self._unsafe.rows.numpy()[0, members]
        ends = self._unsafe.thresholds.numpy()[0, members]
        best = -np.inf
        try:
            if self._has_programs:
                best = self._clause_bound(rows, ends, self._splits(signs))
        except InputError as error:  # Numbers that a solver does not take.
            self.reason = f"solver: {error}"[:_LONGEST_REASON]
        if not best > 0.0:
            self.reason = self.reason or self._gap
        return best

    @property
    def _is_decided(self) -> bool:
        return self._task.results[self._index] is not None

    def _options(self):
        seconds = self._task.clock.remaining(self._index)
        if np.isinf(seconds):
            return SolverOptions()
        return SolverOptions(time_limit_s=max(seconds, _LEAST_SECONDS))

    def _clause_bound(self, rows, ends, splits) -> float:
        best = -np.inf
        for row, end in zip(rows, ends, strict=True):
            best = max(best, self._row_bound(row, end, splits))
            if best > 0.0 or self._is_decided:
                return best
        if len(ends) == 1:
            return best
        return max(best, self._joint_bound(rows, ends, splits))

    def _row_bound(self, row, end, splits) -> float:
        """A proved margin of one row."""
        found = lp_bound(
            self._graph,
            self._region,
            self._root[1],
            row,
            float(end),
            splits,
            self._options(),
            self._backward_pass,
        )
        if not found.bound > 0.0:
            self._try(found.point)
        if found.status not in (Status.OPTIMAL, Status.INFEASIBLE):
            self.reason = f"solver: {found.status} in a leaf"
        # The threshold was subtracted in one rounded operation.
        return found.bound - _SLACK * (1.0 + abs(found.bound))

    def _joint_bound(self, rows, ends, splits) -> float:
        """A proved margin of a clause, the greatest of its rows' at each point.

        It is at least the mean of theirs, with any weights. Those of the program that
        makes the greatest margin least are the best there are.
        """
        weights, point = self._weights(rows, ends, splits)
        self._try(point)
        if weights is None or not weights.sum() > 0.0 or self._is_decided:
            return -np.inf
        bound = self._row_bound(weights @ rows, weights @ ends, splits)
        # The products were rounded.
        output = self._root[1][self._graph.output]
        reach = np.maximum(np.abs(output.lower.numpy()), np.abs(output.upper.numpy()))
        terms = np.abs(rows) @ reach[0] + np.abs(ends)
        bound -= _SLACK * (len(weights) + 2) * float(weights @ terms)
        bound /= weights.sum()
        return float(bound - _SLACK * (len(weights) + 2) * abs(bound))

    def _weights(self, rows, ends, splits):
        """What each row is worth where the greatest margin is least; and that point."""
        encoding = Encoding(
            self._graph, self._region, self._root[1], is_relaxed=True, splits=splits
        )
        margins = encoding.rows(self._graph.output, rows) + -ends
        reach = margins.magnitude(encoding.program.reach).max()
        columns = encoding.program.add_columns([-reach], [reach], is_free=True)
        greatest = Affine.columns(np.repeat(columns, len(ends)))
        encoding.at_most("clause", margins - greatest)
        objective = np.zeros(encoding.program.num_columns)
        objective[columns] = 1.0
        found = encoding.program.minimize_relaxed(objective, self._options())
        if found.status is not Status.OPTIMAL:
            return None, None
        return found.multipliers["clause"], encoding.point(found.columns)

    def _try(self, point):
        if point is not None and not self._is_decided:
            self._task.suspect(self._index, point, "bab")

    def _splits(self, signs):
        neurons = self._task.prover.neurons
        whole = np.zeros([neurons.total], np.int8)
        whole[self._unstable] = signs
        ends = np.cumsum(neurons.sizes)[:-1]
        parts = np.split(whole, ends)
        return {
            edge: part.reshape(shape)
            for edge, shape, part in zip(
                neurons.edges, neurons.shapes, parts, strict=True
            )
        }

    def _backward_pass(self, rows, edge, bounds, choices: Choices):
        """A pass that accounts for its rounding, with the root's charges."""
        region, _, charges = self._root
        choices = Choices(
            lower_slopes=choices.lower_slopes,
            multipliers=choices.multipliers,
            rounding=self._task.prover.rounding(charges),
        )
        reached, offset = self._graph.propagate_backward(rows, edge, bounds, choices)
        margins = minimum(reached, offset, region, bounds)
        return difference_below(margins, tf.zeros_like(margins, DECIDING))
