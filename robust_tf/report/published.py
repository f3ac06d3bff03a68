"""Published accuracies, for comparison; where each is from stands in the file."""

import csv
import fractions
import math
import pathlib

_FILE = pathlib.Path(__file__).with_name("published.tsv")
_EXPERIMENTS = pathlib.Path(__file__).with_name("published_experiments.tsv")
# Published radii are rounded: 2/255 is 0.00784 in some systems.
_TOLERANCE = 1e-3
_PERCENT = 100.0


def published(dataset: str, epsilon: float, norm="inf") -> list[dict]:
    """Returns what others measured in one setting, on the whole test split.

    Networks are of full size. What is known of clean or of certified accuracy alone
    is not among it.

    Args:
        dataset: name of the data set, such as "cifar10".
        epsilon: radius in pixels in [0, 1]; one part in a thousand off is the same.
        norm: of the perturbations; all that is known is in the Linf norm.

    Returns:
        Records with `method`, `clean_accuracy` and `certified_accuracy` (fractions),
        `verifier` and `source`.
    """
    if float(norm) != math.inf:
        return []
    return [
        {
            "method": row["method"],
            "clean_accuracy": round(float(row["clean"]) / _PERCENT, 6),
            "certified_accuracy": round(float(row["certified"]) / _PERCENT, 6),
            "verifier": row["verifier"],
            "source": row["source"],
        }
        for row in _rows(_FILE)
        if row["dataset"] == dataset.partition(":")[0]
        and math.isclose(_number(row["epsilon"]), epsilon, rel_tol=_TOLERANCE)
    ]


def published_experiments() -> list[dict]:
    """Returns what was published of the experiments in `gin_configs`, by their names.

    Returns:
        Records with `experiment`, `member` (of a family; "" for a model alone, or the
        best of all), the errors `clean`, `attacked` and `verified` (fractions), `acr`,
        each where it is known, `by` (what verified) and `source`.
    """
    records = []
    for row in _rows(_EXPERIMENTS):
        record = {key: row[key] for key in ("experiment", "member", "source")}
        for key in ("clean", "attacked", "verified"):
            if row[key]:
                record[key] = round(float(row[key]) / _PERCENT, 6)
        if row["acr"]:
            record["acr"] = float(row["acr"])
        records.append(record | {"by": row["verifier"]})
    return records


def _rows(path) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _number(text) -> float:
    return float(fractions.Fraction(text))
