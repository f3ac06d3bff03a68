"""Certifies the examples of a data set by randomized smoothing, and can go on."""

import contextlib
import pathlib
import time
from collections.abc import Callable
from collections.abc import Iterator

import rich.console
import rich.progress
import tensorflow as tf
from absl import logging

from robust_tf.errors import InputError
from robust_tf.experiments import certification_records as records
from robust_tf.experiments import certification_warnings
from robust_tf.experiments import command_line
from robust_tf.experiments.certification_settings import Sampling
from robust_tf.experiments.certification_settings import checked_values
from robust_tf.experiments.certification_summary import summarize
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Examples
from robust_tf.experiments.settings import is_whole
from robust_tf.experiments.verification_models import load_classifier
from robust_tf.interchange import radius_logs
from robust_tf.smoothing import SmoothedClassifier
from robust_tf.training.determinism import sum_in_fixed_order
from robust_tf.training.distribution import strategy_for


def certify_dataset(
    workdir,
    *,
    model: str,
    data: Data,
    sigma: float,
    examples: Examples = Examples(),  # noqa: B008
    skip: int = 1,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    seed: int = 0,
    sampling: Sampling = Sampling(),  # noqa: B008
) -> dict:
    """Certifies examples in the order of their indices (arXiv:1902.02918).

    As soon as one is certified, its row is added to `certification.tsv` and its counts
    to `certification_counts.jsonl`; the same call goes on after the last of them. At
    the end `certification.mat` and `certification_summary.json` are written.

    Args:
        workdir: made if it is missing; holds all that is written.
        model: path of a `.keras` file, a run folder or an `.onnx` file.
        data: which images.
        sigma: standard deviation of the noise, in pixels in [0, 1], of whatever kind
            `sampling` says. It is added before any normalisation, and nothing is
            clipped.
        examples: which of the images; its batch size is not used.
        skip: takes every so many of them: `start`, `start + skip`, and so on.
        n0: samples of the selection of the candidate.
        n: samples of the estimation, at most.
        alpha: probability of a wrong certificate, for each example.
        seed: of the noise, which depends on it and on an image's index alone.
        sampling: which samples are drawn, and how.

    Returns:
        The content of `certification_summary.json`, of all records in the folder.

    Raises:
        InputError: for files that are missing or do not fit, samples too few ever to
            certify, and a folder with records of something else.
    """
    values = checked_values(sigma, n0, n, alpha, seed) | sampling.values
    classifier = load_classifier(model)
    images = data.load(examples.split)
    classifier.check_fit(images)
    indices = _indices(images, examples, skip, sampling.max_examples)
    setting = records.Setting(
        model=classifier.name,
        dataset=images.name,
        split=examples.split,
        start=examples.start,
        skip=skip,
        values=values,
        model_digest=classifier.digest,
        data_digest=images.digest,
    )
    warnings = certification_warnings.of(classifier, images, values)
    for warning in warnings:
        logging.warning("%s", warning)
    if not tf.config.list_physical_devices("GPU"):
        sum_in_fixed_order()  # On GPUs it takes away the choice of layouts, too.
    run = _Run(classifier, images, values, sampling)
    folder = records.Folder.open(pathlib.Path(workdir), setting)
    with _progress(classifier.name, len(indices), folder) as advance:
        for index in indices[len(folder.rows) :]:
            folder.append(*run.certify(int(index)))
            advance()
    facts = {"warnings": warnings, "arithmetic": run.arithmetic}
    return _finish(folder, run.reach, facts)


class _Run:
    """What all examples are certified by."""

    def __init__(self, classifier, images, values, sampling):
        self._classifier, self._images = classifier, images
        self._values, self._sampling = values, sampling
        self._smoothed = SmoothedClassifier(
            classifier.model,
            noise=sampling.noise_of(values["sigma"]),
            strategy=strategy_for(sampling.devices) if sampling.devices else None,
            block_size=sampling.block_size,
        )
        environment = command_line.environment(())
        self._code_version = (
            environment["commit"] or environment["versions"]["robust_tf"]
        )

    @property
    def arithmetic(self) -> dict:
        """In which numbers the classifier runs: the certificates are of it so."""
        is_cut = tf.config.experimental.tensor_float_32_execution_enabled()
        devices = list(self._sampling.devices)
        dtype = self._smoothed.base.dtype
        return {"dtype": dtype, "tensor_float_32": is_cut, "devices": devices}

    @property
    def reach(self) -> dict:
        """The greatest radius that all n samples, agreeing, would certify; its norm."""
        n, alpha = self._values["n"], self._values["alpha"]
        norm = self._sampling.norm_of_radii
        return {
            "norm": str(norm),
            "is_converted": self._smoothed.noise.is_converted(norm),
            "largest_radius": self._smoothed.largest_radius(n, alpha, norm),
        }

    def certify(self, index: int) -> tuple[radius_logs.Row, dict]:
        """Certifies an example, and returns its row and its record."""
        begun = time.perf_counter()
        label = int(self._images.labels[index])
        hard, soft = self._certificates(index, label)
        seconds = time.perf_counter() - begun
        prediction, radius = int(hard.prediction[0]), float(hard.radius[0])
        record = {
            "idx": index,
            "label": label,
            "prediction": prediction,
            "radius": radius,
            "candidate": int(hard.candidate[0]),
            "selection_counts": hard.selection_counts[0],
            "counts": hard.counts[0],
            "samples": int(hard.samples[0]),
            "lower": float(hard.lower[0]),
            "is_skipped": bool(hard.is_skipped[0]),
            **({} if soft is None else {"soft": _soft_record(soft)}),
            "seconds": round(seconds, 6),
            "code_version": self._code_version,
        }
        return radius_logs.Row(index, label, prediction, radius, seconds), record

    def _certificates(self, index, label):
        """Certificates of the vote; and of the mean output, or None."""
        image = self._classifier.inputs(self._images, [index]).astype("float32")
        names = ("n0", "n", "alpha", "seed")
        shared = {name: self._values[name] for name in names}
        shared |= {"batch_size": self._sampling.batch_size, "indices": [index]}
        shared["norm"] = self._sampling.norm_of_radii
        mode = self._values["mode"]
        if mode == "soft":
            soft = self._smoothed.certify_soft(
                image, **shared, temperature=self._sampling.temperature
            )
            return soft.hard, soft
        hard = self._smoothed.certify(
            image,
            **shared,
            labels=None if mode == "full" else [label],
            mode=mode,
            radii=self._sampling.radii or None,
            tolerance=self._sampling.tolerance,
        )
        return hard, None


def _soft_record(soft) -> dict:
    return {
        "prediction": int(soft.prediction[0]),
        "radius": float(soft.radius[0]),
        "candidate": int(soft.candidate[0]),
        "lower": float(soft.lower[0]),
    }


def _finish(folder, reach, facts) -> dict:
    """Writes what all records say together, and returns it."""
    hard = radius_logs.log_of(folder.rows, folder.path(records.TABLE))
    logs = {"hard": hard}
    if "soft" in folder.records[0]:
        rows = [
            radius_logs.Row(
                record["idx"],
                record["label"],
                record["soft"]["prediction"],
                record["soft"]["radius"],
                record["seconds"],
            )
            for record in folder.records
        ]
        logs["soft"] = radius_logs.log_of(rows, folder.path(records.COUNTS))
    radius_logs.write_matlab(folder.path(records.MATLAB), **logs)
    summary = summarize(folder.setting, folder.records, reach) | facts
    folder.write(records.SUMMARY, summary)
    return summary


def _indices(images, examples, skip, most) -> range:
    """The indices of the examples, in their order."""
    if not is_whole(skip, 1):
        raise InputError(
            f"`--skip` must be a whole number of at least 1. Received: {skip!r}"
        )
    found = examples.indices_in(images)[::skip]
    return found if most is None else found[:most]


@contextlib.contextmanager
def _progress(label, total, folder) -> Iterator[Callable[[], None]]:
    """Shows a bar and the results so far on the standard error."""
    with rich.progress.Progress(
        *rich.progress.Progress.get_default_columns(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[results]}"),
        console=rich.console.Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(label, total=total, results="")

        found = {"examples": 0, "correct": 0, "radius": 0.0}

        def advance():
            for row in folder.rows[found["examples"] :]:
                found["examples"] += 1
                found["correct"] += row.is_correct
                found["radius"] += row.radius * row.is_correct
            average = found["radius"] / max(found["examples"], 1)
            shown = f"{found['correct']} certified, ACR {average:.3f}"
            bar.update(task, completed=found["examples"], results=shown)

        advance()
        yield advance
