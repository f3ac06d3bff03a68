"""Bounds of one example's domains, all from the intervals of its root."""

import dataclasses

import numpy as np
import tensorflow as tf

from robust_tf.verification.clause_rows import RowsOfClauses
from robust_tf.verification.domains import Domains
from robust_tf.verification.stages import intervals
from robust_tf.verification.subproblems import Subproblems
from robust_tf.verification.task import Task

# A bound that gains less than this does not tell neurons apart.
_LEAST_GAIN = 1e-4


class DomainBounds:
    """Brings domains, whose arrays are over unstable neurons, to their bounds and back.

    Args:
        task: of the example.
        index: its place in the task.
        subproblems: the bounds, of the task's classifier.

    Attributes:
        root: region, intervals and charges, float64.
        unsafe: of the example, float64.
        unstable: numbers of the neurons whose sign was open at first.
    """

    def __init__(self, task: Task, index: int, subproblems: Subproblems):
        self._task, self._index, self._subproblems = task, index, subproblems
        self._neurons = task.prover.neurons
        self.unsafe = task.unsafe([index])
        self._rows = RowsOfClauses(self.unsafe)
        self.root = task.region([index]), *intervals(task, [index])
        interval = self._neurons.interval(self.root[1])
        is_unstable = (interval.lower < 0.0) & (interval.upper > 0.0)
        self.unstable = np.flatnonzero(is_unstable.numpy()[0])

    @property
    def region(self):
        """Of the example, float64."""
        return self.root[0]

    def roots(self) -> Domains:
        """Returns a domain for each open clause, without any split."""
        clauses = self._task.open_clauses(self._index)
        # Hard clauses first: of the lowest bounds.
        lower = self._task.lower[self._index][clauses]
        count, unstable = len(clauses), len(self.unstable)
        return Domains(
            lower=np.where(np.isfinite(lower), lower, -1e30),
            clause=clauses,
            signs=np.zeros([count, unstable], np.int8),
            slopes=self._first_slopes()[clauses],
            multipliers=np.zeros([count, self._rows.width, unstable]),
            candidates=np.zeros([count, 0], np.int32),
            scores=np.zeros([count, 0], np.float32),
        )

    def searched(self, domains: Domains, iterations: int) -> Domains:
        """Returns the domains with better slopes and multipliers."""
        slopes, multipliers = self._subproblems.search(
            self.root,
            *self._rows.of(domains.clause),
            self._whole(domains.signs),
            self._whole(domains.slopes),
            self._whole(domains.multipliers),
            iterations,
        )
        return dataclasses.replace(
            domains,
            slopes=slopes.numpy()[..., self.unstable],
            multipliers=multipliers.numpy()[..., self.unstable],
        )

    def decided(self, domains: Domains) -> tuple[Domains, np.ndarray, np.ndarray]:
        """Returns the domains with sound margins and new candidates.

        With them where relaxations are least, `[domains, *shape]`, and their margins by
        these slopes alone.
        """
        margins, points, candidates, scores = self._subproblems.decide(
            self.root,
            *self._rows.of(domains.clause),
            self._whole(domains.signs),
            self._whole(domains.slopes),
            self._whole(domains.multipliers),
        )
        margins = margins.numpy().max(-1)
        decided = dataclasses.replace(
            domains,
            lower=np.fmax(domains.lower, margins),
            candidates=self._compressed(candidates.numpy()),
            scores=scores.numpy(),
        )
        return decided, points.numpy(), margins

    def gains(self, parents: Domains) -> np.ndarray:
        """Returns candidates' worth: what the worse half gains, by one quick pass."""
        count = parents.candidates.shape[1]
        expanded = parents.take(np.repeat(np.arange(len(parents)), count))
        halves = expanded.split(parents.candidates.reshape(-1))
        margins = self._subproblems.quick_margins(
            self.root,
            *self._rows.of(halves.clause),
            self._whole(halves.signs),
            self._whole(halves.slopes),
        )
        margins = margins.numpy().max(-1)
        worse = margins.reshape(2, len(parents), count).min(0)
        gains = worse - parents.lower[:, None]
        # Without a gain, the greatest score decides.
        gains = np.where(gains > _LEAST_GAIN, gains, 1e-9 * parents.scores)
        return np.where(parents.scores > 0.0, gains, -np.inf)

    def _first_slopes(self) -> np.ndarray:
        """Slopes by clause, `[clauses, rows, unstable neurons]`."""
        kept = self._task.kept("slopes", [self._index])
        if kept is None:
            start = self._neurons.adaptive(self.root[1])[:, None]
            kept = tf.tile(start, [1, self.unsafe.rows.shape[1], 1])
        return self._rows.by_clause(kept.numpy()[0][:, self.unstable])

    def _whole(self, values) -> np.ndarray:
        """Values of unstable neurons, among zeros for all others."""
        whole = np.zeros([*values.shape[:-1], self._neurons.total], np.float32)
        whole[..., self.unstable] = values
        return whole

    def _compressed(self, candidates) -> np.ndarray:
        """Numbers among unstable neurons; what is none of them has no score."""
        place = np.searchsorted(self.unstable, candidates)
        return np.minimum(place, len(self.unstable) - 1).astype(np.int32)
