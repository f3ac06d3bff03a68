"""What the records of certification say together."""

from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from robust_tf.errors import InputError
from robust_tf.experiments.certification_records import Setting
from robust_tf.smoothing import metrics
from robust_tf.smoothing.radius import ABSTAIN

_ZERO, _STEP_OF_PIXELS = "0.00", 1.0 / 255.0
_RISK = 1e-3  # Of the certified accuracies that hold with high probability.
_CLEAN = (
    "certified accuracy at radius 0: abstentions, and examples whose candidate is not "
    "their label, count as errors"
)


def summarize(setting: Setting, records: Sequence[Mapping], reach: Mapping) -> dict:
    """Returns the content of `certification_summary.json`.

    Accuracies are fractions of all examples on record; radii are in pixels in [0, 1].
    The average certified radius (ACR) counts 0 for a prediction that is wrong or
    missing; where radii were listed, it is a lower bound.

    Args:
        setting: what they are records of.
        records: one for each example; at least one.
        reach: `norm` of the radii, whether it `is_converted` from the noise's own, and
            the `largest_radius` that the samples can certify.

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
        **setting.values,
        **reach,
        **_accuracies(records, setting, reach),
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
        summary["soft"] = _accuracies(soft, setting, reach)
    return summary


def _accuracies(records, setting, reach) -> dict:
    """Certified accuracy on the grid, and the average certified radius."""
    count, alpha = len(records), setting.values["alpha"]
    radius = np.array([record["radius"] for record in records], "float64")
    is_correct = _is_correct(records)
    grid = _grid(setting, reach)
    certified = metrics.certified_accuracy(radius, is_correct, list(grid.values()))
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


def _grid(setting, reach) -> dict[str, float]:
    """The radii at which accuracies are told, by name."""
    listed, largest = setting.values.get("radii"), reach["largest_radius"]
    if listed is not None:
        return {_name(radius): radius for radius in sorted({0.0, *listed})}
    if reach["norm"] == "inf":
        found = metrics.radii_up_to(largest, _STEP_OF_PIXELS)
        return {_ZERO: 0.0} | {f"{k}/255": found[k] for k in range(1, len(found))}
    # The published radii, and on to the greatest that the samples can certify.
    return {_name(r): r for r in metrics.radii_up_to(max(*metrics.RADII, largest))}


def _name(radius) -> str:
    short = f"{radius:.2f}"
    return short if float(short) == radius else repr(radius)


def _is_correct(records) -> np.ndarray:
    return np.array([one["prediction"] == one["label"] for one in records], bool)


def _by_radius(grid, values) -> dict[str, float]:
    pairs = zip(grid, values, strict=True)
    return {name: round(float(value), 6) for name, value in pairs}


def _counts(records) -> dict[str, int]:
    """How the examples ended; together they are all of them."""
    predictions = np.array([record["prediction"] for record in records])
    is_skipped = np.array([record["is_skipped"] for record in records], bool)
    is_abstention = (predictions == ABSTAIN) & ~is_skipped
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
