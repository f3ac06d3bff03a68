"""Losses of trained classifiers, from adversarial to certified (arXiv:2305.13991)."""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from collections.abc import Sequence

import keras
import numpy as np

from robust_tf import data as datasets
from robust_tf.errors import InputError
from robust_tf.experiments import evaluate
from robust_tf.experiments.settings import Bounds
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Examples
from robust_tf.files import write_json
from robust_tf.objectives import survey
from robust_tf.objectives.forward import Adversary
from robust_tf.objectives.survey import Outcomes
from robust_tf.regions import Threat
from robust_tf.verification.accuracy import LEAST_MARGIN

RECORD = "losses.json"
COEFFICIENTS = (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_WHOLE, _SINGLE = "of the whole set", "of each example"


@dataclasses.dataclass(frozen=True)
class Selected:
    """The training loss that is held against the loss of verified margins.

    Attributes:
        method: one of `objectives.survey.METHODS`.
        coefficient: of the method, in [0, 1].

    Raises:
        InputError: for another method, or a coefficient out of range.
    """

    method: str
    coefficient: float

    def __post_init__(self):
        if self.method not in survey.METHODS:
            raise InputError(
                f"`method` must be one of {survey.METHODS}. Received: {self.method!r}"
            )
        _check_coefficients("coefficient", [self.coefficient])


def losses(
    workdir,
    *,
    models: Sequence[str],
    data: Data,
    threat: Threat,
    attack: Callable,
    adversary: Adversary | None = None,
    examples: Examples = Examples(),  # noqa: B008
    bounds: Bounds = Bounds(),  # noqa: B008
    coefficients: Sequence[float] = COEFFICIENTS,
    selected: Selected | None = None,
    verifier: Callable | None = None,
    seed: int = 0,
) -> dict:
    """Averages losses over a split, and writes `losses.json` into `workdir`.

    Args:
        workdir: made if it is missing; None writes nothing.
        models: paths of `.keras` files or run folders; plain Keras models are
            converted.
        data: which images; they come in the order of the files, and not augmented.
        threat: perturbations.
        attack: the test attack, such as `attacks.pgd.PGD`.
        adversary: the attack of CC-IBP, MTL-IBP, Exp-IBP and SABR, and its radius over
            that of the bounds; None for the test attack.
        examples: which of the images.
        bounds: `relaxation` and `memory_budget_mb` of CROWN; its methods are not used.
        coefficients: of all methods, each in [0, 1].
        selected: for tuning statistics; None for none.
        verifier: bounds margins for these: `(model, region, labels, margins)`, the last
            the best of IBP and CROWN, to `[batch, classes - 1]`; it has a `name`. None
            for that best itself, which records call "crown".
        seed: of the attacks.

    Returns:
        `{"models": [one record each]}`; losses are in nats, accuracies fractions. Of
        the tuning statistics, differences are training loss less verified loss, and
        `whole_split` is over all examples, the rest over those chosen.

    Raises:
        InputError: for files that are missing or are no classifiers of these images,
            or coefficients out of range.
    """
    coefficients = _check_coefficients("coefficients", coefficients)
    images, loaded = evaluate.load_all(models, data, examples)
    measurement = _Measurement(
        images, threat, attack, adversary or Adversary(attack), bounds, seed
    )
    records = []
    for path, model in loaded:
        begun = time.perf_counter()
        shares = _shares(coefficients, selected, threat)
        outcomes = measurement.outcomes(path, model, examples, shares)
        record = {
            "name": str(path),
            "architecture": model.name,
            **measurement.description(examples),
            "examples": len(outcomes.labels),
            "clean_accuracy": outcomes.is_clean().mean(),
            "losses": _averages(outcomes),
            "coefficients": list(coefficients),
            "by_method": _by_method(outcomes, coefficients),
            "exp_ibp_means": _WHOLE,
        }
        if selected is not None:
            tuning = _Tuning(measurement, selected, verifier)
            record["tuning"] = tuning.statistics(path, model, examples, outcomes)
        record["seconds"] = round(time.perf_counter() - begun, 3)
        records.append(record | evaluate.digests(path, images))
    result = {"models": records}
    if workdir is not None:
        workdir = pathlib.Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / RECORD, result)
    return result


@dataclasses.dataclass(frozen=True)
class _Measurement:
    """What all models are measured by."""

    images: datasets.LabelledImages
    threat: Threat
    attack: Callable
    adversary: Adversary
    bounds: Bounds
    seed: int

    def batches(self, examples: Examples):
        return datasets.evaluation_batches(
            self.images, examples.batch_size, examples.start, examples.count
        )

    def outcomes(
        self, label, model: keras.Model, examples: Examples, shares, with_crown=True
    ) -> Outcomes:
        batches = self.batches(examples)  # Refuses indices out of range.
        total = len(examples.indices_in(self.images))
        with evaluate.progress_bar(str(label), total) as progress:
            return survey.survey(
                model,
                batches,
                self.threat,
                attack=self.attack,
                adversary=self.adversary,
                coefficients=shares,
                with_crown=with_crown,
                relaxation=self.bounds.relaxation,
                memory_budget_mb=self.bounds.memory_budget_mb,
                seed=self.seed,
                progress=progress,
            )

    def description(self, examples: Examples) -> dict:
        return {
            "dataset": self.images.name,
            "split": examples.split,
            "start": examples.start,
            "epsilon": self.threat.epsilon,
            "norm": str(self.threat.norm),
            "attack_eps_factor": self.adversary.radius_factor,
            "attack": repr(self.attack),
            "training_attack": repr(self.adversary.attack),
            "relaxation": self.bounds.relaxation,
            "seed": self.seed,
        }


@dataclasses.dataclass(frozen=True)
class _Tuning:
    """How near a training loss comes to that of verified margins."""

    measurement: _Measurement
    selected: Selected
    verifier: Callable | None

    def statistics(self, path, model, examples, outcomes) -> dict:
        """Averages over the split, and what the verified examples say."""
        method, coefficient = self.selected.method, self.selected.coefficient
        margins = self._verified_margins(model, examples, outcomes)
        verified = survey.loss_of_margins(margins)
        training = outcomes.single_losses(method, coefficient)
        difference = training - verified
        is_proved = (margins > LEAST_MARGIN).all(-1) & outcomes.is_clean()
        statistics = self._of_split(path, model, examples, outcomes) | {
            "method": method,
            "coefficient": coefficient,
            "verifier": getattr(self.verifier, "name", "crown"),
            "start": examples.start,
            "examples": len(verified),
            "training_loss": training.mean(),
            "verified_loss": verified.mean(),
            "mean_difference": difference.mean(),
            "rms_difference": np.sqrt(np.square(difference).mean()),
            "verified_accuracy": is_proved.mean(),
        }
        if method == "exp-ibp":
            statistics["exp_ibp_means"] = _SINGLE
        return statistics

    def _of_split(self, path, model, examples, outcomes) -> dict:
        """Averages over all examples of the split, whichever were chosen."""
        if len(outcomes.labels) < len(self.measurement.images):
            whole = dataclasses.replace(examples, start=0, count=None)
            label = f"{path}, whole split"
            outcomes = self.measurement.outcomes(label, model, whole, (), False)
        averages = {
            "examples": len(outcomes.labels),
            "clean_accuracy": outcomes.is_clean().mean(),
            "natural_loss": outcomes.natural_losses().mean(),
            "adversarial_loss": outcomes.adversarial_losses().mean(),
            "ibp_loss": outcomes.interval_losses().mean(),
        }
        return {"whole_split": averages}

    def _verified_margins(self, model, examples, outcomes) -> np.ndarray:
        """Lower bounds of the margins, `[n, classes - 1]`."""
        if self.verifier is None:
            return outcomes.crown_margins
        parts, done = [], 0
        for images, labels, weights in self.measurement.batches(examples):
            count = int((np.asarray(weights) > 0).sum())
            images, labels = images[:count], labels[:count]
            known = outcomes.crown_margins[done : done + count]
            region = self.measurement.threat.region(images)
            parts.append(np.asarray(self.verifier(model, region, labels, known)))
            done += count
        return np.concatenate(parts)


def _averages(outcomes) -> dict[str, float]:
    """Of the losses without a coefficient, in nats, from best case to worst."""
    return {
        "natural": outcomes.natural_losses().mean(),
        "adversarial": outcomes.adversarial_losses().mean(),
        "crown": survey.loss_of_margins(outcomes.crown_margins).mean(),
        "ibp": outcomes.interval_losses().mean(),
    }


def _by_method(outcomes, coefficients) -> dict[str, list[float]]:
    """Average losses in nats, one for each coefficient."""
    methods = [name for name in survey.METHODS if name != survey.SABR or outcomes.sabr]
    return {
        method: [outcomes.losses(method, value).mean() for value in coefficients]
        for method in methods
    }


def _shares(coefficients, selected, threat) -> tuple[float, ...]:
    """The coefficients of SABR, which has boxes in the Linf norm alone."""
    is_selected = selected is not None and selected.method == survey.SABR
    if not is_selected and float(threat.norm) != float("inf"):
        return ()
    more = (selected.coefficient,) if is_selected else ()
    return tuple(dict.fromkeys((*coefficients, *more)))


def _check_coefficients(name, values) -> tuple[float, ...]:
    """The coefficients, ascending and each once."""
    if not values or not all(0.0 <= value <= 1.0 for value in values):
        raise InputError(
            f"`--{name}` must lie in [0, 1], at least one. Received: {list(values)}"
        )
    return tuple(sorted({float(value) for value in values}))
