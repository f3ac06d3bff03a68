"""The stage that hands small classifiers to a solver as mixed-integer programs."""

import dataclasses

import numpy as np

from robust_tf.errors import InputError
from robust_tf.verification.lp_layers import is_encodable_graph
from robust_tf.verification.lp_program import SolverOptions
from robust_tf.verification.lp_program import Status
from robust_tf.verification.lp_tightening import tighten_bounds
from robust_tf.verification.milp import find_unsafe
from robust_tf.verification.result import Claim
from robust_tf.verification.stages import Stage
from robust_tf.verification.stages import intervals


@dataclasses.dataclass(frozen=True)
class Milp(Stage):
    """Mixed-integer programs (arXiv:1711.07356).

    Asks for an unsafe point of each clause, and for no more: a clause is excluded where
    there is none, and the margin that is entered for it is the solver's tolerance, not
    the least one (`milp.minimal_margin` gives that, in more time). What it proves rests
    on the solver's word, within its tolerances: the results carry `Claim.TOLERANCE`.

    Attributes:
        max_unstable: examples with more unstable neurons are left open.
        tightening_s: seconds for tighter intermediate bounds by linear programs first;
            0: none.

    Raises:
        InputError: for values out of range.
    """

    max_unstable: int = 50
    tightening_s: float = 0.0
    name = "milp"
    is_batched = False

    def __post_init__(self):
        if self.max_unstable < 0 or self.tightening_s < 0.0:
            raise InputError(
                "`max_unstable` and `tightening_s` must be at least 0. Received: "
                f"{self}"
            )

    def applies(self, task):
        return is_encodable_graph(task.prover.graph) and task.region([0]).is_box

    def run(self, task, indices):
        for index in indices:
            self._decide(task, index)

    def _decide(self, task, index):
        bounds, _ = intervals(task, [index])
        interval = task.prover.neurons.interval(bounds)
        unstable = (interval.lower < 0.0) & (interval.upper > 0.0)
        count = int(unstable.numpy().sum())
        if count > self.max_unstable:
            task.reasons[index] = f"milp: {count} unstable neurons"
            return
        bounds = self._tightened(task, index, bounds)
        for clause in task.open_clauses(index):
            found = self._solved(task, index, clause, bounds)
            if found.is_excluded:
                margins = np.full(task.lower.shape[1], np.nan)
                margins[clause] = found.tolerance
                task.prove_clauses(index, margins, self.name, Claim.TOLERANCE)
            elif found.point is not None:
                self._try(task, index, clause, bounds, found)
            self._explain(task, index, found)
            if task.results[index] is not None or task.is_late[index]:
                return

    def _tightened(self, task, index, bounds):
        if not self.tightening_s:
            return bounds
        seconds = min(self.tightening_s, task.clock.remaining(index))
        arguments = (task.prover.graph, task.region([index]), bounds, seconds)
        tighter = tighten_bounds(*arguments)
        return bounds | {
            edge: bounds[edge].intersect(one) for edge, one in tighter.items()
        }

    def _try(self, task, index, clause, bounds, found):
        """Runs a point again; where it is safe, one that is unsafe by the tolerance.

        The adversary was given the tolerance, and solvers stop where rows just hold.
        """
        if task.suspect(index, found.point, self.name):
            return
        clear = self._solved(task, index, clause, bounds, 2.0 * found.tolerance)
        if clear.point is not None:
            task.suspect(index, clear.point, self.name)
        self._explain(task, index, clear)

    def _explain(self, task, index, found):
        if found.status is Status.LIMIT:
            task.is_late[index] = True
        elif not found.is_excluded:
            task.reasons[index] = f"milp: {found.status}, within its tolerance of 0"

    def _solved(self, task, index, clause, bounds, beyond=0.0):
        """Whether all rows of a clause can be unsafe, by so much."""
        unsafe = task.unsafe([index])
        members = np.flatnonzero(np.asarray(unsafe.clauses) == clause)
        return find_unsafe(
            task.prover.graph,
            task.region([index]),
            bounds,
            unsafe.rows.numpy()[0, members],
            unsafe.thresholds.numpy()[0, members] - beyond,
            SolverOptions(time_limit_s=max(task.clock.remaining(index), 0.01)),
        )
