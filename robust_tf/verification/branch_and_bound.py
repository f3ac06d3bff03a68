"""Branch and bound over the signs of neurons (arXiv:2103.06624)."""

import dataclasses

import numpy as np
import tensorflow as tf

from robust_tf.attacks.pgd import PGD
from robust_tf.errors import InputError
from robust_tf.propagation.ascent import Ascent
from robust_tf.verification.branching import Branching
from robust_tf.verification.domain_bounds import DomainBounds
from robust_tf.verification.domains import Domains
from robust_tf.verification.leaves import Leaves
from robust_tf.verification.pool import DomainPool
from robust_tf.verification.rounds import in_rounds
from robust_tf.verification.stages import Stage
from robust_tf.verification.stages import attack_from
from robust_tf.verification.subproblems import Subproblems
from robust_tf.verification.task import Task

_ATTACK = PGD(steps=20, restarts=1)
_PATIENCE_ROUNDS = 5
_GROWTH_EVERY, _LEAST_DEPTH, _MOST_ITERATIONS = 10, 4, 100


@dataclasses.dataclass(frozen=True)
class BranchAndBound(Stage):
    """Splits neurons until every part of the region is decided.

    Complete for piecewise linear activations; intermediate bounds are those of the
    root. A domain is dropped for a proof alone, in float64; a search that ran out of
    room or of neurons to split leaves the example UNKNOWN.

    Attributes:
        batch_size: domains that are split in a round.
        ascent: of slopes and multipliers, for each batch.
        slope_rate: of its first step.
        multiplier_rate: of its first step.
        branching: which neuron is split.
        max_domains: open ones at most; None: as memory allows.
        memory_budget_mb: for open domains in memory, in MiB.
        disk_budget_mb: for those that find no room there, in the folder for temporary
            files; 0: none.
        is_depth_first: take the newest domains first, not the hardest.
        attack: on the points where relaxations are least; None for those alone.
        attack_every: rounds from one attack to the next.
        attack_rounds: rounds after which no more attacks are made.
        early_terminate: gives up where bounds grow too slowly for the deadline
            (arXiv:2104.06718).
        grows: more iterations of the search where these gain more than splits do in
            the same time.

    Raises:
        InputError: for values out of range.
    """

    batch_size: int = 128
    ascent: Ascent = Ascent(iterations=20)  # noqa: RUF009
    slope_rate: float = 0.1
    multiplier_rate: float = 0.05
    branching: Branching = Branching()  # noqa: RUF009
    max_domains: int | None = None
    memory_budget_mb: float = 2048.0
    disk_budget_mb: float = 16384.0
    is_depth_first: bool = False
    attack: PGD | None = _ATTACK
    attack_every: int = 10
    attack_rounds: int | None = None
    early_terminate: bool = False
    grows: bool = False
    name = "bab"
    is_batched = False

    def __post_init__(self):
        rules = {
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "slope_rate": (self.slope_rate > 0.0, "above 0"),
            "multiplier_rate": (self.multiplier_rate > 0.0, "above 0"),
            "attack_every": (self.attack_every >= 1, "at least 1"),
        }
        for name, (is_met, rule) in rules.items():
            if not is_met:
                raise InputError(
                    f"`{name}` must be {rule}. Received: {getattr(self, name)!r}"
                )
        self.pool()  # Checks the budgets.

    def pool(self) -> DomainPool:
        """Returns an empty pool for open domains."""
        return DomainPool(
            self.memory_budget_mb,
            self.max_domains,
            self.is_depth_first,
            self.disk_budget_mb,
        )

    def applies(self, task):
        return task.prover.neurons.total > 0

    def run(self, task, indices):
        for index in indices:
            search = self.ascent, self.slope_rate, self.multiplier_rate, self.branching
            subproblems = task.prover.once(
                (Subproblems, *search),
                lambda search=search: Subproblems(task.prover, *search),
            )
            _Search(self, task, index, subproblems).run()


class _Search:
    """The search on one example."""

    def __init__(self, options: BranchAndBound, task: Task, index: int, subproblems):
        self._options, self._task, self._index = options, task, index
        self._bounds = DomainBounds(task, index, subproblems)
        self._pool = options.pool()
        self._leaves = Leaves(task, index, self._bounds)
        # Least margins of what is proved, by clause.
        self._proved = np.full([self._bounds.unsafe.num_clauses], np.inf)
        self._batch_size = options.batch_size
        self._iterations = _Iterations(options.ascent.iterations)
        self._round, self._gain, self._worst = 0, 0.0, -np.inf

    def run(self):
        self._enter(self._decided(self._bounds.roots()))
        in_rounds(self._task, self._index, self._step, self._goes_on)
        if self._task.results[self._index] is None:
            self._conclude()

    def _goes_on(self, remaining, last) -> bool:
        return len(self._pool) > 0 and not self._is_hopeless(remaining, last)

    def _step(self):
        """Splits a batch of domains, and bounds the halves."""
        options = self._options
        parents = self._pool.pop(self._batch_size)
        try:
            children = parents.split_all(self._chosen(parents))
            found = self._bounded(children)
        except tf.errors.ResourceExhaustedError:
            if self._batch_size == 1:
                raise
            self._pool.push(parents)
            self._batch_size //= 2
            return
        gains = found.lower - np.tile(parents.lower, len(found) // len(parents))
        self._enter(found)
        self._round += 1
        if options.grows and self._round % _GROWTH_EVERY == 0:
            self._grow(found, float(np.mean(np.maximum(gains, 0.0))))

    def _chosen(self, parents) -> np.ndarray:
        """Neurons to split, `[parents, count]`; several where there are few parents."""
        worth = parents.scores
        if self._options.branching.is_filtered:
            worth = self._bounds.gains(parents)
        order = np.argsort(-worth, -1, kind="stable")
        ranked = np.take_along_axis(parents.candidates, order, -1)
        scores = np.take_along_axis(parents.scores, order, -1)
        depth = self._depth(parents)
        distinct = (
            [
                list(dict.fromkeys(row[score > 0.0].tolist()))[:depth]
                for row, score in zip(ranked, scores, strict=True)
            ]
            if depth > 1
            else [[]]
        )
        depth = min(map(len, distinct))
        return np.asarray(distinct) if depth > 1 else ranked[:, :1]

    def _depth(self, parents) -> int:
        least = 0.1 * self._options.batch_size
        return max(1, int(np.log2(max(least / max(len(parents), 1), 1.0))))

    def _grow(self, domains, gain):
        """Tries on one deep, open domain whether more iterations would pay."""
        depth = np.abs(domains.signs).sum(-1)
        deep = np.flatnonzero((depth >= _LEAST_DEPTH) & ~(domains.lower > 0.0))
        if not deep.size:
            return
        one = domains.take(deep[np.argmin(domains.lower[deep])][None])
        more = self._iterations.now + self._iterations.increment
        now, then = (
            float(self._bounded(one, count).lower[0])
            for count in (self._iterations.now, more)
        )
        if gain * self._iterations.increment / self._iterations.now < then - now:
            self._iterations.grow()

    def _bounded(self, children, iterations=None) -> Domains:
        """Searches slopes and multipliers, then decides."""
        count = iterations or self._iterations.now
        return self._decided(self._bounds.searched(children, count))

    def _decided(self, domains) -> Domains:
        """Sound margins, new candidates; and a look at the least points."""
        self._task.domains[self._index] += len(domains)
        domains, points, margins = self._bounds.decided(domains)
        self._try(points, margins)
        return domains

    def _enter(self, domains):
        """Drops what is proved, keeps the rest; leaves are solved."""
        if self._task.results[self._index] is not None:
            return
        is_proved = domains.lower > 0.0
        np.minimum.at(self._proved, domains.clause[is_proved], domains.lower[is_proved])
        rest = domains.take(~is_proved)
        is_leaf = ~(rest.scores > 0.0).any(-1)
        self._pool.push(rest.take(~is_leaf))
        for leaf in np.flatnonzero(is_leaf):
            clause = rest.clause[leaf]
            bound = self._leaves.solve(clause, rest.signs[leaf])
            self._proved[clause] = min(
                self._proved[clause], max(bound, rest.lower[leaf])
            )
            if self._task.results[self._index] is not None:
                return

    def _try(self, points, margins):
        """Runs the points where relaxations are least; now and then, attacks."""
        task, index = self._task, self._index
        if task.try_points(index, points, self.name):
            return
        options = self._options
        is_due = self._round % options.attack_every == 0
        is_over = (
            options.attack_rounds is not None and self._round >= options.attack_rounds
        )
        if options.attack is None or not is_due or is_over:
            return
        hardest = points[np.argsort(margins)[:10]]
        attack_from(
            task,
            index,
            options.attack,
            self._bounds.region,
            hardest,
            self._round,
            self.name,
        )

    @property
    def name(self):
        """Of the stage, for results."""
        return self._options.name

    def _conclude(self):
        """Enters bounds of all clauses: of what is proved, open and lost."""
        task, index = self._task, self._index
        bounds = self._proved.copy()
        if len(self._pool):
            np.minimum.at(bounds, self._pool.clause, self._pool.lower)
        if self._pool.dropped:
            bounds = np.minimum(bounds, task.lower[index])
            task.reasons[index] = "memory: domains found no room"
        elif self._leaves.reason and not len(self._pool):
            task.reasons[index] = self._leaves.reason
        bounds[np.isinf(bounds) & (bounds > 0.0)] = np.nan  # Not looked at.
        task.prove_clauses(index, bounds, self.name)

    def _is_hopeless(self, remaining, last) -> bool:
        """Whether bounds grow too slowly to end in time."""
        worst = float(self._pool.lower.min())
        gain = worst - self._worst if np.isfinite(self._worst) else 0.0
        self._gain = 0.5 * self._gain + 0.5 * max(gain, 0.0)
        self._worst = worst
        if not self._options.early_terminate or self._round < _PATIENCE_ROUNDS:
            return False
        rounds = -worst / max(self._gain, 1e-12)
        rounds += len(self._pool) / self._options.batch_size
        if rounds > remaining / max(last, 1e-6):
            self._task.reasons[self._index] = "early termination"
            return True
        return False


@dataclasses.dataclass
class _Iterations:
    """How many iterations a search has, and by how many it may grow."""

    now: int
    increment: int = 5

    def grow(self):
        self.now = min(self.now + self.increment, _MOST_ITERATIONS)
        self.increment *= 2
