"""The stage that hands small classifiers to a solver as mixed-integer programs."""

import dataclasses

import numpy as np

from robust_tf.errors import InputError
from robust_tf.verification.lp_layers import is_encodable_graph
from robust_tf.verification.lp_program import SolverOptions
from robust_tf.verification.lp_program import Status
from robust_tf.verification.lp_tightening import tighten_bounds
from robust_tf.verification.milp import find_unsafe
from robust_tf.verification.milp import minimal_margin
from robust_tf.verification.result import Claim
from robust_tf.verification.stages import Stage
from robust_tf.verification.stages import intervals


@dataclasses.dataclass(frozen=True)
class Milp(Stage):
    """Mixed-integer programs (arXiv:1711.07356).

    What it proves rests on the solver's word, within its tolerances: the results carry
    `Claim.TOLERANCE`.

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
        graph, region = task.prover.graph, task.region([index])
        if self.tightening_s:
            tighter = tighten_bounds(
                graph,
                region,
                bounds,
                min(self.tightening_s, task.clock.remaining(index)),
            )
            bounds = bounds | {
                edge: bounds[edge].intersect(one) for edge, one in tighter.items()
            }
        for clause in task.open_clauses(index):
            found = self._solved(task, index, clause, graph, region, bounds)
            if found.point is not None:
                task.suspect(index, found.point, self.name)
            if task.results[index] is not None:
                return
            if found.is_excluded:
                margins = np.full(task.lower.shape[1], np.nan)
                margins[clause] = _proved(found)
                task.prove_clauses(index, margins, self.name, Claim.TOLERANCE)
            elif found.status is Status.LIMIT:
                task.is_late[index] = True
                return
            else:
                task.reasons[index] = f"milp: {found.status}, within its tolerance of 0"

    def _solved(self, task, index, clause, graph, region, bounds):
        unsafe = task.unsafe([index])
        members = np.flatnonzero(np.asarray(unsafe.clauses) == clause)
        rows = unsafe.rows.numpy()[0, members]
        ends = unsafe.thresholds.numpy()[0, members]
        options = SolverOptions(time_limit_s=max(task.clock.remaining(index), 0.01))
        if len(members) == 1:
            return minimal_margin(
                graph, region, bounds, rows[0], float(ends[0]), options
            )
        return find_unsafe(graph, region, bounds, rows, ends, options)


def _proved(found) -> float:
    """The margin, by the solver's word; of an infeasible program, its tolerance."""
    bound = found.dual_bound
    return bound if np.isfinite(bound) and bound > 0.0 else max(found.tolerance, 1e-300)
