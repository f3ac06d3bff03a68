"""Decides whether a network satisfies a property in VNN-LIB."""

import dataclasses
import os
import time
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np
from absl import logging

from robust_tf.errors import InputError
from robust_tf.experiments.verification_models import Classifier
from robust_tf.experiments.verification_models import load_classifier
from robust_tf.interchange.vnnlib import Part
from robust_tf.interchange.vnnlib import Property
from robust_tf.interchange.vnnlib import read_property
from robust_tf.interchange.witness import Standing
from robust_tf.interchange.witness import Witness
from robust_tf.interchange.witness import check_witness
from robust_tf.layers.convert import convert
from robust_tf.regions import Box
from robust_tf.verification.plan import Plan
from robust_tf.verification.result import Verdict
from robust_tf.verification.result import VerificationResult
from robust_tf.verification.verify import Verifier

# A property of several parts is first tried with this share of an even share of time.
_SHORT = 0.25


@dataclasses.dataclass(frozen=True)
class Answer:
    """Whether any input satisfies a property, which describes what is unsafe.

    Attributes:
        result: "sat", "unsat", "unknown" or "timeout".
        inputs: of the counterexample, flat in the order of X; None unless "sat".
        outputs: of the network at it, flat, as the network itself computes them.
        seconds: from the reading of the files to the answer.
        parts: verdict of each part; None for what was not tried.
    """

    result: str
    inputs: np.ndarray | None = None
    outputs: np.ndarray | None = None
    seconds: float = 0.0
    parts: tuple[str | None, ...] = ()


def verify_property(
    *,
    model: str | os.PathLike,
    property_file: str | os.PathLike,
    plan: Plan = Plan(),  # noqa: B008
    timeout_s: float = 60.0,
    seed: int = 0,
) -> Answer:
    """Decides a property; each of its boxes is decided by itself.

    "unsat" is answered if every part is verified, "sat" as soon as one is falsified.
    Several parts are first tried in short, then those still open with even shares of
    the time that is left.

    Args:
        model: path of an `.onnx` file, a `.keras` file or a run folder. Of a Keras
            model X is the input, flattened in C order of its shape.
        property_file: path of a `.vnnlib` file (also `.vnnlib.gz`).
        plan: which methods, in which order.
        timeout_s: seconds for the whole; an answer that comes later is "timeout".
        seed: of attacks.

    Raises:
        InputError: for files that cannot be read or do not fit together.
        ContradictionError: where a proof and a point contradict each other.
    """
    if not timeout_s > 0.0:
        raise InputError(
            f"`--timeout` must be a number of seconds above 0. Received: {timeout_s}"
        )
    deadline = _Deadline(timeout_s)
    prop = read_property(property_file)
    network = _Network.load(model, prop)
    verifier = Verifier(network.classifier.model, plan)
    search = _Search(verifier, network, prop, deadline, seed)
    search.run()
    result, seconds = search.result, deadline.elapsed
    if seconds > timeout_s:
        logging.warning("'%s' came after %.3g seconds: too late.", result, seconds)
        result = "timeout"
    point = search.witness if result == "sat" else None
    verdicts = tuple(None if v is None else v.value for v in search.verdicts)
    if point is None:
        return Answer(result, seconds=seconds, parts=verdicts)
    return Answer(result, *point, seconds=seconds, parts=verdicts)


class _Deadline:
    """Seconds since it was made."""

    def __init__(self, timeout_s: float):
        self._timeout_s, self._begun = timeout_s, time.monotonic()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._begun

    @property
    def remaining(self) -> float:
        return self._timeout_s - self.elapsed


@dataclasses.dataclass(frozen=True)
class _Network:
    """A classifier as a function of flat inputs, in the order of X."""

    classifier: Classifier
    to_model: Callable[[np.ndarray], np.ndarray]
    to_flat: Callable[[np.ndarray], np.ndarray]
    run: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def load(cls, path, prop: Property) -> "_Network":
        """Reads a network that fits the property."""
        classifier = load_classifier(path, _hull(prop))
        network, model = classifier.network, classifier.model
        if network is not None:
            network.check_property(prop)
            run = network.session.run
            return cls(classifier, network.to_model, network.to_flat, run)
        shape = tuple(model.inputs[0].shape[1:])
        sizes = int(np.prod(shape)), model.outputs[0].shape[-1]
        prop.check_sizes(*sizes, classifier.name)

        def to_model(flat):
            return flat.reshape(*flat.shape[:-1], *shape)

        def run(flat):
            inputs = to_model(np.asarray(flat)).astype(model.inputs[0].dtype)
            return np.asarray(model(inputs, training=False))

        _check_softmax(classifier, prop)
        return cls(classifier, to_model, np.ravel, run)


class _Search:
    """Works through the parts; knows what is decided."""

    def __init__(self, verifier, network, prop, deadline, seed):
        self._verifier, self._network, self._prop = verifier, network, prop
        self._deadline, self._seed = deadline, seed
        self.verdicts: list[Verdict | None] = [None] * len(prop.parts)
        self.witness: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def result(self) -> str:
        """The answer for the whole."""
        if self.witness is not None:
            return "sat"
        if all(verdict == Verdict.VERIFIED for verdict in self.verdicts):
            return "unsat"
        is_late = None in self.verdicts or Verdict.TIMEOUT in self.verdicts
        return "timeout" if is_late else "unknown"

    def run(self) -> None:
        """Tries all parts, at first in short if there are several."""
        everything = range(len(self.verdicts))
        if len(everything) > 1:
            self._try(everything, _SHORT)
            self._seed += 1  # For other attacks than before.
        late = (None, Verdict.TIMEOUT)
        self._try([i for i in everything if self.verdicts[i] in late], 1.0)

    def _try(self, numbers: Sequence[int], share: float) -> None:
        for done, number in enumerate(numbers):
            remaining = self._deadline.remaining
            if remaining <= 0.0 or self.witness is not None:
                return
            timeout_s = share * remaining / (len(numbers) - done)
            result = self._decide(self._prop.parts[number], timeout_s)
            self.verdicts[number] = result.verdict
            logging.info("Part %d: %s.", number, result.verdict)
            if result.verdict == Verdict.ERROR:
                logging.warning("Part %d: %s", number, result.reason)
            if result.verdict == Verdict.FALSIFIED:
                self._accept(number, result)

    def _decide(self, part: Part, timeout_s: float) -> VerificationResult:
        ends = (self._network.to_model(end[None]) for end in (part.lower, part.upper))
        (result,) = self._verifier.verify(
            Box(*ends), None, timeout_s, unsafe=part.unsafe, seed=self._seed
        )
        return result

    def _accept(self, number: int, result: VerificationResult) -> None:
        """Takes a counterexample that the network itself confirms."""
        inputs = np.ravel(self._network.to_flat(result.counterexample))
        outputs = self._network.run(inputs[None])[0]
        witness = Witness("sat", inputs.astype("float64"), outputs.astype("float64"))
        check = check_witness(witness, self._prop, self._network.run)
        if check.standing == Standing.INVALID:
            logging.warning(
                "Part %d: a counterexample that the network itself does not confirm "
                "(rows exceed their thresholds by %.3g).",
                number,
                check.row_excess,
            )
            self.verdicts[number] = Verdict.UNKNOWN
            return
        if check.standing == Standing.WITHIN_TOLERANCE:
            logging.warning("The counterexample holds within tolerances only.")
        self.witness = (inputs, outputs)


def _hull(prop: Property) -> tuple[float, float]:
    """The least and the greatest of all inputs; sizes need not fit the network."""
    lower = min((part.lower.min() for part in prop.parts), default=0.0)
    return lower, max((part.upper.max() for part in prop.parts), default=1.0)


def _check_softmax(classifier: Classifier, prop: Property) -> None:
    """Refuses limits of outputs by numbers where these are a softmax's.

    Bounds are on the logits before it, of which only comparisons carry over.
    """
    if prop.compares_outputs_only:
        return
    model = classifier.model
    shape = tuple(model.inputs[0].shape[1:])
    points = np.random.default_rng(0).random([3, *shape]).astype("float32")
    outputs = (one(points, training=False) for one in (model, convert(model)))
    if not np.allclose(*map(np.asarray, outputs), 1e-3, 1e-4):
        raise InputError(
            f"Property '{prop.path}' limits outputs by numbers. Received: model "
            f"'{classifier.name}', which ends in a softmax; bounds are on the logits "
            "before it. Save the model without the softmax, and state the property of "
            "its logits."
        )
