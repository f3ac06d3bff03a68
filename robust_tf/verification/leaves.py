"""Domains in which every neuron is decided: linear programs over the inputs."""

import numpy as np
import tensorflow as tf

from robust_tf.graph import Choices
from robust_tf.propagation.backward import minimum
from robust_tf.rounding import difference_below
from robust_tf.specifications import UnsafeSet
from robust_tf.verification.lp_bounds import leaf_bound
from robust_tf.verification.lp_program import Status
from robust_tf.verification.prover import DECIDING
from robust_tf.verification.result import Claim


class Leaves:
    """Solves leaves of one example.

    Args:
        task: of the example.
        index: its place in the task.
        root: region, intervals and charges, float64.
        unsafe: of the example, float64.
        unstable: numbers of the root's unstable neurons.

    Attributes:
        reason: why a leaf stayed open; None where none did.
    """

    def __init__(self, task, index: int, root, unsafe: UnsafeSet, unstable):
        self._task, self._index, self._root = task, index, root
        self._unsafe, self._unstable = unsafe, unstable
        self.reason = None

    def solve(self, clause: int, signs: np.ndarray) -> tuple[float, Claim | None]:
        """Returns a proved margin of a clause in a leaf, and what it rests on.

        The bound is taken anew from the solver's multipliers. The point where it is
        least is run, and decides the example if it is a counterexample.

        Args:
            clause: its number.
            signs: of the unstable neurons; 0 for those that are decided without.
        """
        best = -np.inf
        for row in np.flatnonzero(np.asarray(self._unsafe.clauses) == clause):
            found = leaf_bound(
                self._task.prover.graph,
                self._root[0],
                self._root[1],
                self._unsafe.rows.numpy()[0, row],
                float(self._unsafe.thresholds.numpy()[0, row]),
                self._splits(signs),
                backward_pass=self._backward_pass,
            )
            # The threshold was subtracted in one rounded operation.
            best = max(best, found.bound - 1e-15 * (1.0 + abs(found.bound)))
            if best > 0.0:
                return best, None
            if found.point is not None and self._task.suspect(
                self._index, found.point, "bab"
            ):
                return best, None
            if found.status not in (Status.OPTIMAL, Status.INFEASIBLE):
                self.reason = f"solver: {found.status} in a leaf"
        self.reason = self.reason or "numeric: a leaf within rounding of 0"
        return best, None

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
        prover = self._task.prover
        choices = Choices(
            lower_slopes=choices.lower_slopes,
            multipliers=choices.multipliers,
            rounding=prover.rounding(charges),
        )
        reached, offset = prover.graph.propagate_backward(rows, edge, bounds, choices)
        margins = minimum(reached, offset, region, bounds)
        return difference_below(margins, tf.zeros_like(margins, DECIDING))
