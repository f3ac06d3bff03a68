"""The least perturbation that changes a class, by mixed-integer programs.

The minimal distance of arXiv:1711.07356, over targets one by one. By the word of a
solver, within its tolerances; points must be executed. In L2, programs bound the
distance from below, and cuts are added until the nearest point found meets the bound.
"""

import dataclasses
import time
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation.crown import crown_margins
from robust_tf.regions import Box
from robust_tf.regions import LpBall
from robust_tf.specifications import margin_specification
from robust_tf.verification.encoding import Encoding
from robust_tf.verification.lp_program import SolverOptions
from robust_tf.verification.lp_program import Status
from robust_tf.verification.milp_euclidean import EuclideanColumn
from robust_tf.verification.milp_euclidean import nearest_unsafe

# By which margins must pass 0, relative to what was computed, ...
_TOLERANCE = 1e-5
# ... and by which a solver's distances are taken to be too great.
_DISTANCE_TOLERANCE = 1e-6
# How far below the best point's distance the bound in L2 may end.
_GAP = 2e-6


@dataclasses.dataclass(frozen=True)
class PerturbationResult:
    """The least perturbation of one example.

    Attributes:
        lower_bound: of the distance of every input that another class reaches, in the
            ball's norm and the input's unit; by the word of the solver, lowered by
            1e-6. The ball's radius where there is none inside.
        distance: of `point` from the centre; inf where none was found.
        point: the nearest candidate, `[*shape]`, in the ball and its valid range; the
            label's logit and the target's are equal there up to the solver's
            tolerances, so that the model must be executed.
        target: the class that reaches the label's logit at `point`.
        status: OPTIMAL where every target ended, LIMIT or ERROR where one did not.
        seconds: wall-clock.
        num_cuts: rows that were added for the L2 norm; 0 for other norms.
    """

    lower_bound: float
    distance: float
    point: np.ndarray | None
    target: int | None
    status: Status
    seconds: float
    num_cuts: int = 0


def minimal_perturbation(
    graph: BoundGraph,
    ball: LpBall,
    bounds: Mapping[int, IntervalBound],
    label: int,
    options: SolverOptions | None = None,
    max_cuts: int = 200,
) -> PerturbationResult:
    """Minimizes the distance at which another logit reaches the label's.

    Over the targets in the order of their bounds, each within the least distance so
    far; those that the bounds exclude take no program.

    In L2 each program's solution gives two cuts: there, and at the nearest unsafe point
    of its linear region, which is computed exactly. The bound is one at every stage, so
    that it holds where limits are met too. Classifiers with MaxPooling get the first
    kind alone, and need far more of them.

    Args:
        graph: the classifier.
        ball: centre, valid range and the largest radius, one example `[1, *shape]`,
            float64; norm "inf", 1 or 2.
        bounds: valid intervals of all edges over the ball, `[1, *shape]`, by number.
        label: the class of the example. Where another class reaches its logit already
            the distance is 0.
        options: for the solver; the time limit is for all targets together.
        max_cuts: in L2, for all targets together; a target that needs more ends with
            LIMIT.

    Raises:
        InputError: as `Encoding`, for regions that are no balls and labels out of
            range.
    """
    if not isinstance(ball, LpBall):
        raise InputError(
            "Perturbations are sought in an `LpBall`, whose norm and centre they are "
            f"taken in and from. Received: {type(ball).__name__}"
        )
    options = options or SolverOptions()
    search = _Search(graph, ball, bounds, label, options, max_cuts)
    for target in search.targets():
        search.solve(target)
    return search.result()


class _Search:
    """The targets of one example, one after the other."""

    def __init__(self, graph, ball, bounds, label, options, max_cuts):
        self._graph, self._ball, self._bounds = graph, ball, bounds
        self._options, self._start = options, time.monotonic()
        self._max_cuts, self._center = max_cuts, ball.x.numpy()[0]
        (classes,) = graph.shapes[graph.output]
        labels = tf.constant([label], tf.int32)
        self._rows = margin_specification(labels, classes, tf.float64)
        self._classes = [one for one in range(classes) if one != label]
        self._radius = float(tf.reshape(ball.radius, []))
        self._region = Box.from_interval(ball.box) if ball.norm == 2.0 else ball
        self._encoding = Encoding(graph, self._region, bounds)
        self._length = None
        if ball.norm == 2.0:
            self._length = EuclideanColumn(self._encoding, self._center, self._radius)
            self._objective = self._length.objective
        else:
            self._objective = self._encoding.add_distance()
        self._margins = self._encoding.rows(graph.output, self._rows[0].numpy())
        self._encoding.note(self._margins)
        self._lower = self._distance = self._radius
        self._point = self._target = None
        self._status = Status.OPTIMAL

    def targets(self) -> list[int]:
        """Slots of the rows that bounds leave open, the least bound first."""
        lower = crown_margins(
            self._graph, self._ball, self._bounds, self._rows, Choices()
        )
        lower = lower.numpy()[0]
        return [slot for slot in np.argsort(lower) if lower[slot] <= self._slack]

    @property
    def _slack(self):
        return _TOLERANCE * max(1.0, self._encoding.scale)

    def solve(self, slot):
        """Takes one target into account."""
        status, bound = self._bounded(slot)
        if status is Status.INFEASIBLE:
            # Not even with the tolerance on the adversary's side, it should be.
            found = self._nearest(slot, self._slack)
            status, bound = found.status, max(bound, found.dual_bound)
            if status is Status.INFEASIBLE:
                self._lower = min(self._lower, self._distance)
                return
        if status not in (Status.OPTIMAL, Status.LIMIT):
            self._status, self._lower = Status.ERROR, 0.0
            return
        if status is Status.LIMIT and self._status is Status.OPTIMAL:
            self._status = Status.LIMIT
        self._lower = min(self._lower, bound)

    def _bounded(self, slot):
        """Status and lower bound of the last program; in L2 after all cuts."""
        bound = -np.inf
        while True:
            found = self._nearest(slot, 0.0)
            # What an earlier program says, with fewer cuts, holds all the same.
            status, bound = found.status, max(bound, found.dual_bound)
            if found.columns is None:
                return status, bound
            point = self._encoding.point(found.columns)
            self._keep(slot, point)
            is_met = self._length is None or self._distance - bound <= _GAP
            if is_met or status is not Status.OPTIMAL:
                return status, bound
            if self._length.num_cuts >= self._max_cuts:
                return Status.LIMIT, bound
            self._cut(slot, point)
            if self._distance - bound <= _GAP:
                return status, bound

    def _cut(self, slot, point):
        self._length.cut(point)
        row = self._rows[0, slot].numpy()
        arguments = (self._graph, self._region, self._bounds, row, point, self._center)
        nearest = nearest_unsafe(*arguments)
        if nearest is not None:
            self._keep(slot, nearest)
            self._length.cut(nearest)

    def _nearest(self, slot, slack):
        program = self._encoding.program.copy()
        margin = self._margins.take([slot])
        program.add_rows("margin", margin.matrix, slack - margin.constant)
        distance = np.atleast_2d(self._objective)
        program.add_rows("nearer", distance, [self._distance + _DISTANCE_TOLERANCE])
        return program.minimize(self._objective, self._remaining())

    def _remaining(self) -> SolverOptions:
        if self._options.time_limit_s is None:
            return self._options
        left = self._options.time_limit_s - (time.monotonic() - self._start)
        return dataclasses.replace(self._options, time_limit_s=max(left, 0.0))

    def _keep(self, slot, point):
        distance = self._distance_of(point)
        if self._length is not None and distance > self._radius:
            return
        if self._point is None or distance < self._distance:
            self._distance, self._point = distance, point
            self._target = self._classes[slot]

    def _distance_of(self, point):
        if self._length is not None:
            return self._length.distance(point)
        away = np.abs(point - self._center)
        return float(away.max() if self._ball.is_box else away.sum())

    def result(self) -> PerturbationResult:
        """What all targets together say."""
        lower = self._lower
        if lower < self._radius:
            lower = max(lower - _DISTANCE_TOLERANCE, 0.0)
        return PerturbationResult(
            lower_bound=lower,
            distance=np.inf if self._point is None else self._distance,
            point=self._point,
            target=self._target,
            status=self._status,
            seconds=time.monotonic() - self._start,
            num_cuts=0 if self._length is None else self._length.num_cuts,
        )
