"""What is known of a batch of examples while they are verified."""

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from robust_tf.regions import Region
from robust_tf.specifications import UnsafeSet
from robust_tf.verification.prover import Prover
from robust_tf.verification.replay import Replay
from robust_tf.verification.result import Claim
from robust_tf.verification.result import ContradictionError
from robust_tf.verification.result import Verdict
from robust_tf.verification.result import VerificationResult


class Clock:
    """Seconds of work on each example, and the deadlines.

    What is done for several examples at once counts in equal shares.

    Args:
        count: how many examples.
        timeout_s: for each of them.
        now: returns the time in seconds.
    """

    def __init__(self, count: int, timeout_s: float, now: Callable = time.monotonic):
        self._timeout_s, self._now = timeout_s, now
        self.seconds = np.zeros(count)
        self.stages: list[dict[str, float]] = [{} for _ in range(count)]
        self._running, self._begun, self._name = None, 0.0, None

    def start(self, indices, name: str) -> None:
        """Begins to count work on some examples for a stage."""
        self._running, self._begun, self._name = list(indices), self._now(), name

    def stop(self) -> None:
        """Ends it."""
        if self._running is None:
            return
        share = (self._now() - self._begun) / max(len(self._running), 1)
        for index in self._running:
            self.seconds[index] += share
            stage = self.stages[index]
            stage[self._name] = stage.get(self._name, 0.0) + share
        self._running = None

    def remaining(self, index: int) -> float:
        """Seconds until the deadline of an example; below 0 after it."""
        spent = self.seconds[index]
        if self._running is not None and index in self._running:
            spent += (self._now() - self._begun) / len(self._running)
        return self._timeout_s - spent


class Task:
    """A batch of examples under verification.

    Args:
        prover: the bounds.
        replay: runs points again.
        region: float64, of all examples.
        unsafe: float64, rows with a batch axis.
        clock: of the examples.
        seed: of all that is random.

    Attributes:
        lower: best proved margins of the clauses, `[batch, clauses]`.
        upper: least margin seen at a point, `[batch]`.
        results: what is decided; None where nothing is yet.
        reasons: why stages gave up.
        is_late: stages gave up for want of time.
    """

    def __init__(
        self,
        prover: Prover,
        replay: Replay,
        region: Region,
        unsafe: UnsafeSet,
        clock: Clock,
        seed: int = 0,
    ):
        self.prover, self.replay, self.clock, self.seed = prover, replay, clock, seed
        self._region, self._unsafe = region, unsafe
        count = unsafe.rows.shape[0]
        self.lower = np.full([count, unsafe.num_clauses], -np.inf)
        self.upper = np.full([count], np.inf)
        # Least margins of the clauses at points of the region, in exact arithmetic.
        self._seen = np.full(self.lower.shape, np.inf)
        self.predictions: list[int | None] = [None] * count
        self.results: list[VerificationResult | None] = [None] * count
        self.reasons: list[str | None] = [None] * count
        self.is_late = [False] * count
        self._claims: list[Claim] = [prover.claim] * count
        self.domains = [0] * count
        self._suspects: list[np.ndarray | None] = [None] * count
        self._kept = {}

    @property
    def open(self) -> list[int]:
        """Examples that are not decided."""
        return [i for i, result in enumerate(self.results) if result is None]

    def region(self, indices) -> Region:
        """The regions of some examples."""
        return select(self._region, indices, len(self.results))

    def unsafe(self, indices) -> UnsafeSet:
        """The unsafe sets of some examples."""
        return select(self._unsafe, indices, len(self.results))

    def keep(self, name: str, indices, values) -> None:
        """Keeps tensors of some examples for later stages, instead of older ones."""
        self._kept[name] = (list(indices), values)

    def kept(self, name: str, indices):
        """Returns what was kept, for some of those examples; None where nothing was."""
        known, values = self._kept.get(name, ([], None))
        if not set(indices) <= set(known):
            return None
        if list(indices) == known:
            return values
        return select(values, [known.index(index) for index in indices], len(known))

    def open_clauses(self, index: int) -> np.ndarray:
        """Clauses of an example that are not excluded yet."""
        return np.flatnonzero(~(self.lower[index] > 0.0))

    def prove(self, indices, margins, method: str) -> None:
        """Enters proved margins of rows, `[examples, rows]`; decides what they show."""
        margins = self._unsafe.clause_margins(tf.convert_to_tensor(margins)).numpy()
        for index, clauses in zip(indices, margins, strict=True):
            self.prove_clauses(index, clauses, method)

    def prove_clauses(
        self, index: int, margins, method: str, claim: Claim | None = None
    ) -> None:
        """Enters proved margins of one example's clauses, `[clauses]`.

        Args:
            index: of the example.
            margins: of what is proved; the example is verified once all are above 0.
            method: what proved them.
            claim: what that rests on; default: what the prover's bounds do.

        Raises:
            ContradictionError: where a point was seen that shows otherwise.
        """
        if claim is not None and np.any(margins > np.maximum(self.lower[index], 0.0)):
            self._claims[index] = claim
        is_better = margins > self.lower[index]  # False for NaN.
        self.lower[index] = np.where(is_better, margins, self.lower[index])
        self._check(index)
        if not self.open_clauses(index).size and self.results[index] is None:
            self._decide(index, Verdict.VERIFIED, method, claim=self._claims[index])

    def suspect(self, index: int, point: np.ndarray, method: str) -> bool:
        """Runs a point again; decides if it is a counterexample.

        Args:
            index: of the example.
            point: near its region, `[*shape]`.
            method: what found it.

        Raises:
            ContradictionError: where what the point shows was proved not to occur.
        """
        region, unsafe = self.region([index]), self.unsafe([index])
        found = self.replay.check(point[None], region, unsafe)
        if not found.is_inside:
            return False
        self.upper[index] = min(self.upper[index], found.executed)
        if found.is_strict:
            self._seen[index] = np.minimum(self._seen[index], found.exact_margins)
            self._check(index, found.executed)
        if found.is_counterexample:
            self._decide(index, Verdict.FALSIFIED, method, counterexample=found.point)
        elif not found.exact > 0.0:
            self._suspects[index] = found.point
        return found.is_counterexample

    def try_points(self, index: int, points: np.ndarray, method: str) -> bool:
        """Runs points, and looks closer at the worst: it may lie outside the region.

        Args:
            index: of the example.
            points: `[points, *shape]`.
            method: what found them.

        Returns:
            Whether it is a counterexample, which decides.
        """
        outputs = tf.cast(self.replay.outputs(points), tf.float64)
        seen = self.unsafe([index]).margin(outputs).numpy()
        worst = int(np.argmin(np.where(np.isnan(seen), -np.inf, seen)))
        is_news = seen[worst] < self.upper[index] or not seen[worst] > 0.0
        return is_news and self.suspect(index, points[worst], method)

    def expire(self, indices) -> None:
        """Turns answers that came after the deadline into TIMEOUT."""
        for index in indices:
            result = self.results[index]
            if result is None or self.clock.remaining(index) >= 0.0:
                continue
            if result.verdict in (Verdict.VERIFIED, Verdict.FALSIFIED):
                self.results[index] = dataclasses.replace(
                    result,
                    verdict=Verdict.TIMEOUT,
                    method=None,
                    claim=None,
                    counterexample=None,
                    reason=f"late: {result.verdict} by {result.method}",
                )

    def fail(self, index: int, verdict: Verdict, reason: str | None) -> None:
        """Enters that an example stays without an answer."""
        point = self._suspects[index]
        if verdict == Verdict.UNKNOWN and point is not None:
            reason = f"numeric: unsafe in float64 alone; {reason}"
        self._decide(index, verdict, None, reason=reason, counterexample=point)

    def _check(self, index, executed=np.inf):
        """What points show must not lie below what was proved of them."""
        claim, proved, seen = self._claims[index], self.lower[index], self._seen[index]
        slack = 1e-3 if claim is Claim.TOLERANCE else 1e-6
        seen = np.where(np.isfinite(seen), seen + slack * (1.0 + np.abs(seen)), seen)
        if claim is Claim.EXECUTED and proved.min() > executed:
            seen = np.where(proved == proved.min(), executed, seen)
        for clause in np.flatnonzero(proved > seen):
            raise ContradictionError(
                f"Example {index}: the margin of clause {clause} was proved to be at "
                f"least {proved[clause]:.9g}; a point of the region gives "
                f"{seen[clause]:.9g} at most. One of the two is wrong; nothing is "
                "reported."
            )

    def _decide(self, index, verdict, method, **evidence):
        self.results[index] = VerificationResult(
            verdict,
            method,
            lower_bound=float(self.lower[index].min()),
            upper_bound=float(self.upper[index]),
            prediction=self.predictions[index],
            domains=self.domains[index],
            **evidence,
        )

    def finished(self) -> list[VerificationResult | None]:
        """Returns all results, with their times; None where there is none yet."""
        return [
            result
            and dataclasses.replace(
                result,
                seconds=float(self.clock.seconds[index]),
                stage_seconds=dict(self.clock.stages[index]),
                domains=self.domains[index],
            )
            for index, result in enumerate(self.results)
        ]


def select(structure, indices, count: int):
    """Returns some examples of a structure of tensors.

    Tensors whose first axis is not `count` long are shared by all examples.
    """

    def part(tensor):
        is_shared = not tensor.shape.rank or tensor.shape[0] != count
        return tensor if is_shared else tf.gather(tensor, list(indices))

    if list(indices) == list(range(count)):
        return structure
    return tf.nest.map_structure(part, structure)
