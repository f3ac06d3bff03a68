"""Decides examples by a ladder of methods, from cheap to complete."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import tensorflow as tf
from absl import logging

from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.layers.convert import convert
from robust_tf.layers.convert import loaded
from robust_tf.propagation.compute import checked_region
from robust_tf.regions import Region
from robust_tf.specifications import UnsafeSet
from robust_tf.specifications import checked_labels
from robust_tf.verification.plan import Plan
from robust_tf.verification.prover import DECIDING
from robust_tf.verification.prover import Prover
from robust_tf.verification.prover import cast
from robust_tf.verification.replay import Replay
from robust_tf.verification.result import ContradictionError
from robust_tf.verification.result import Verdict
from robust_tf.verification.result import VerificationResult
from robust_tf.verification.task import Clock
from robust_tf.verification.task import Task
from robust_tf.verification.task import select


class Verifier:
    """Decides examples of one classifier; its graphs are compiled once.

    Args:
        model: a classifier; a plain Keras model, or the path of one, is converted, and
            counterexamples are replayed through the model itself.
        plan: which methods, in which order.

    Raises:
        InputError: for what `robust_tf.convert` refuses.
    """

    def __init__(self, model, plan: Plan | None = None):
        self._plan = plan or Plan()
        original = loaded(model)
        converted = convert(original)
        graph = BoundGraph.from_model(converted)
        self._graph = graph
        self._prover = Prover(
            graph,
            self._plan.claim,
            self._plan.memory_budget_mb,
            self._plan.batch_size,
        )
        inputs = original.inputs[0]
        run = tf.function(
            lambda points: original(points, training=False),
            input_signature=[tf.TensorSpec(inputs.shape, inputs.dtype)],
            autograph=False,
        )
        self._replay = Replay(run, graph, original.inputs[0].dtype)

    def verify(
        self,
        region: Region,
        labels=None,
        timeout_s: float = 60.0,
        *,
        unsafe: UnsafeSet | None = None,
        seed: int = 0,
        on_result: Callable[[int, VerificationResult], None] = lambda *_: None,
    ) -> list[VerificationResult]:
        """Decides, for each example, whether its region holds an unsafe input.

        Args:
            region: `[batch, *shape]`; it is taken exactly, in float64.
            labels: integer class indices, `[batch]`: unsafe is what has another class.
            timeout_s: seconds of work for each example.
            unsafe: which outputs must not occur, instead of labels.
            seed: of attacks.
            on_result: called with the place in the batch and the result of each
                example, as soon as it has one.

        Returns:
            One result for each example, in their order.

        Raises:
            InputError: for regions, labels or timeouts that do not fit.
            ContradictionError: where a proof and a point contradict each other.
        """
        region, unsafe = self._checked(region, labels, timeout_s, unsafe)
        count, results = region.shape[0], []
        for start in range(0, count, self._plan.batch_size):
            indices = range(start, min(start + self._plan.batch_size, count))
            part = select((region, unsafe), indices, count)
            clock = Clock(len(indices), timeout_s)
            task = Task(self._prover, self._replay, *part, clock, seed)
            results += self._decided(
                task,
                lambda place, result, start=start: on_result(start + place, result),
            )
        return results

    def _decided(self, task, on_result) -> list[VerificationResult]:
        told = set()

        def tell():
            for index, result in enumerate(task.finished()):
                if result is not None and index not in told:
                    told.add(index)
                    on_result(index, result)

        for stage in self._plan.stages:
            if task.open and stage.applies(task):
                self._run(stage, task, tell)
        for index in task.open:
            is_late = task.is_late[index] or task.clock.remaining(index) <= 0.0
            verdict = Verdict.TIMEOUT if is_late else Verdict.UNKNOWN
            task.fail(index, verdict, task.reasons[index] or "no stage decided it")
        tell()
        return task.finished()

    def _run(self, stage, task, tell):
        """Runs a stage on what is open and in time."""
        due = [index for index in task.open if task.clock.remaining(index) > 0.0]
        groups = [due] if stage.is_batched else [[index] for index in due]
        while groups:
            indices = groups.pop(0)
            if not indices:
                continue
            task.clock.start(indices, stage.name)
            try:
                stage.run(task, indices)
            except (ContradictionError, KeyboardInterrupt):
                raise
            except (tf.errors.ResourceExhaustedError, MemoryError):
                half = len(indices) // 2
                if half:  # They are tried again, by parts.
                    groups[:0] = [indices[:half], indices[half:]]
                else:
                    task.reasons[indices[0]] = f"memory in {stage.name}"
            except Exception as error:  # noqa: BLE001  One example must not end a run.
                logging.exception("Stage '%s' failed.", stage.name)
                for index in set(indices) & set(task.open):
                    reason = f"{stage.name}: {type(error).__name__}: {error}"
                    task.fail(index, Verdict.ERROR, reason[:500])
            finally:
                task.clock.stop()
            task.expire(indices)
            tell()

    def _checked(self, region, labels, timeout_s, unsafe):
        checked_region(self._graph, region)
        if not (isinstance(timeout_s, int | float) and timeout_s > 0.0):
            raise InputError(
                f"`timeout_s` must be a number of seconds above 0. Received: "
                f"{timeout_s!r}"
            )
        (classes,), count = self._graph.shapes[self._graph.output], region.shape[0]
        if (labels is None) == (unsafe is None):
            raise InputError("Give either `labels` or `unsafe`, and not both.")
        if unsafe is None:
            labels = checked_labels(labels, classes)
            if labels.shape[0] != count:
                raise InputError(
                    f"There must be one label for each of the {count} examples. "
                    f"Received: {labels.shape[0]}"
                )
            unsafe = UnsafeSet.misclassified(labels, classes, DECIDING)
        unsafe = unsafe.cast(DECIDING)
        parts, width = (unsafe.rows, unsafe.thresholds), unsafe.rows.shape[2]
        given = {part.shape[0] for part in parts}
        if width != classes or not given <= {1, count}:
            raise InputError(
                f"Unsafe sets must fit {count} examples and {classes} outputs. "
                f"Received: {sorted(given)} examples, {width} outputs"
            )
        rows, thresholds = (
            tf.repeat(part, count // part.shape[0], 0) for part in parts
        )
        region = cast(region, DECIDING)
        return region, dataclasses.replace(unsafe, rows=rows, thresholds=thresholds)


def verify(
    model,
    region: Region,
    labels=None,
    timeout_s: float = 60.0,
    *,
    unsafe: UnsafeSet | None = None,
    plan: Plan | None = None,
    seed: int = 0,
) -> list[VerificationResult]:
    """Decides, for each example, whether its region holds an unsafe input.

    VERIFIED is a proof of the network in real arithmetic, with the rounding of its own
    computation accounted for; every counterexample was run by the model itself.

    Args:
        model: a classifier: a Keras model, or the path of a `.keras` file.
        region: `[batch, *shape]`: an `LpBall` or a `Box`.
        labels: integer class indices, `[batch]`.
        timeout_s: seconds of work for each example.
        unsafe: which outputs must not occur, instead of labels.
        plan: which methods, in which order; default: the whole ladder.
        seed: of attacks.

    Returns:
        One result for each example, in their order.

    Raises:
        InputError: for models, regions, labels or timeouts that do not fit.
        ContradictionError: where a proof and a point contradict each other.
    """
    verifier = Verifier(model, plan)
    return verifier.verify(region, labels, timeout_s, unsafe=unsafe, seed=seed)


def counts(results: Sequence[VerificationResult]) -> dict[str, int]:
    """Returns how many results each verdict has."""
    found = [result.verdict for result in results]
    return {verdict.value: found.count(verdict) for verdict in Verdict}
