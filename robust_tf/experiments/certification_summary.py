"""What the records of certification say together."""

from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from robust_tf.errors import InputError
from robust_tf.experiments.certification_records import Setting
from robust_tf.smoothing import metrics
from robust_tf.smoothing import radius as radii

_RISK = 1e-3  # Of the certified accuracies that hold with high probability.
_CLEAN = (
    "certified accuracy at radius 0: abstentions, and examples whose candidate is not "
    "their label, count as errors"
)


def summarize(setting: Setting, records: Sequence[Mapping]) -> dict:
    """Returns the content of `certification_summary.json`.

    Accuracies are fractions of all examples on record; radii are L2, in pixels in
    [0, 1]. The average certified radius (ACR) counts 0 for a prediction that is wrong
    or missing.

    Args:
        setting: what they are records of.
        records: one for each example; at least one.

    Raises:
        InputError: where there are no records.
    """
    if not records:
        raise InputError("There are no records to summarize. Certify some examples.")
    summary = {
        "model": setting.model,
        "dataset": setting.dataset,
        "split": setting.split,
        "subset": _subset(setting, records),
        "examples": len(records),
        "norm": "2",
        **setting.values,
        "largest_radius": _largest(setting),
        **_accuracies(records, setting),
        **_counts(records),
        "selection_samples": setting.values["n0"] * len(records),
        "estimation_samples": sum(record["samples"] for record in records),
        "seconds": round(sum(record["seconds"] for record in records), 3),
        "model_digest": setting.model_digest,
        "data_digest": setting.data_digest,
        "code_versions": sorted({str(record["code_version"]) for record in records}),
    }
    if "soft" in records[0]:
        soft = [record["soft"] | {"label": record["label"]} for record in records]
        summary["soft"] = _accuracies(soft, setting)
    return summary


def _accuracies(records, setting) -> dict:
    """Certified accuracy on the grid, and the average certified radius."""
    count, alpha = len(records), setting.values["alpha"]
    radius = np.array([record["radius"] for record in records], "float64")
    is_correct = _is_correct(records)
    # The published radii, and on to the greatest that the samples can certify.
    grid = metrics.radii_up_to(max(*metrics.RADII, _largest(setting)))
    certified = metrics.certified_accuracy(radius, is_correct, grid)
    low = metrics.high_probability_certified_accuracy(certified, count, alpha, _RISK)
    error = metrics.acr_standard_error(radius, is_correct) if count > 1 else None
    return {
        "clean_accuracy": round(float(is_correct.mean()), 6),
        "clean_accuracy_is": _CLEAN,
        "certified_accuracy": _by_radius(grid, certified),
        "acr": metrics.average_certified_radius(radius, is_correct),
        "acr_standard_error": error,
        "high_probability": {
            "risk": _RISK,
            "certified_accuracy": _by_radius(grid, np.maximum(low, 0.0)),
        },
    }


def _largest(setting) -> float:
    """What all n samples, agreeing, would certify."""
    values = setting.values
    return radii.largest_radius(values["n"], values["alpha"], values["sigma"])


def _is_correct(records) -> np.ndarray:
    return np.array([one["prediction"] == one["label"] for one in records], bool)


def _by_radius(grid, values) -> dict[str, float]:
    pairs = zip(grid, values, strict=True)
    return {f"{radius:.2f}": round(float(value), 6) for radius, value in pairs}


def _counts(records) -> dict[str, int]:
    """How the examples ended; together they are all of them."""
    predictions = np.array([record["prediction"] for record in records])
    is_skipped = np.array([record["is_skipped"] for record in records], bool)
    is_abstention = (predictions == radii.ABSTAIN) & ~is_skipped
    is_correct = _is_correct(records)
    is_wrong = ~is_correct & ~is_abstention & ~is_skipped
    return {
        "correct": int(is_correct.sum()),
        "abstained": int(is_abstention.sum()),
        "wrong": int(is_wrong.sum()),
        "skipped": int(is_skipped.sum()),
    }


def _subset(setting, records) -> dict:
    return {
        "rule": "start + i * skip, for i from 0 to examples - 1",
        "start": setting.start,
        "skip": setting.skip,
        "first": records[0]["idx"],
        "last": records[-1]["idx"],
    }
