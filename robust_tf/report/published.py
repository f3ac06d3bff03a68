"""Published accuracies, for comparison; where each is from stands in the file."""

import csv
import fractions
import math
import pathlib

_FILE = pathlib.Path(__file__).with_name("published.tsv")
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
    with _FILE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [
        {
            "method": row["method"],
            "clean_accuracy": round(float(row["clean"]) / _PERCENT, 6),
            "certified_accuracy": round(float(row["certified"]) / _PERCENT, 6),
            "verifier": row["verifier"],
            "source": row["source"],
        }
        for row in rows
        if row["dataset"] == dataset.partition(":")[0]
        and math.isclose(_number(row["epsilon"]), epsilon, rel_tol=_TOLERANCE)
    ]


def _number(text) -> float:
    return float(fractions.Fraction(text))
