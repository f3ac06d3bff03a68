"""Tables of certified radii, as papers print them: accuracy by radius, and their mean.

Accuracies are in percent of all examples; the average certified radius (ACR) is cut
after three decimals, so that it never says more than what was certified.
"""

import csv
import dataclasses
import decimal
import math
import pathlib
from collections.abc import Mapping
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import rich.box
import rich.table
import rich.text

from robust_tf.errors import InputError
from robust_tf.report import printing
from robust_tf.smoothing import metrics

_PUBLISHED = pathlib.Path(__file__).with_name("published_certification.tsv")
_MARK = "*"
_WORDS = ("model", "against")  # Columns of them; the others are numbers.
_ACR = "ACR"  # Among radii: the last column.
L2 = "2"  # The norm of published logs.
_DIGITS = decimal.Decimal("0.001")
_NOTE = (
    " accuracy in percent of all examples at each {norm} radius (pixels in [0, 1]); at "
    "0 that of the\n smoothed classifier, abstentions being errors; "
    f"{_MARK}: first greatest of those measured\n"
)


@dataclasses.dataclass(frozen=True)
class Certified:
    """The radii of a run or a log.

    Attributes:
        name: in tables and pictures.
        radius: in pixels in [0, 1], float64, `[n]`.
        is_correct: whether the certified class is the label, bool, `[n]`.
        indices: of the examples in their split, `[n]`; None where they are unknown.
        sigma: of the noise; None where it is unknown.
        data_digest: of images and labels; None where it is unknown.
        norm: of the radii: "1", "2" or "inf".
    """

    name: str
    radius: np.ndarray
    is_correct: np.ndarray
    indices: np.ndarray | None = None
    sigma: float | None = None
    data_digest: str | None = None
    norm: str = L2

    @property
    def scores(self) -> dict[int, float]:
        """What each example adds to the ACR, by its index; empty if unknown."""
        if self.indices is None:
            return {}
        values = metrics.scores(self.radius, self.is_correct)
        pairs = zip(self.indices.tolist(), values.tolist(), strict=True)
        return dict(pairs)

    def row(self) -> dict:
        """Returns the row of a table, on the published grid of radii."""
        values = metrics.certified_accuracy(self.radius, self.is_correct)
        return {
            "name": self.name,
            "sigma": self.sigma,
            "norm": self.norm,
            "examples": len(self.radius),
            "samples": None,
            "alpha": None,
            "certified_accuracy": _by_radius(values),
            "acr": metrics.average_certified_radius(self.radius, self.is_correct),
        }

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns where certified accuracy falls, and what it is up to there."""
        radii = np.unique(np.append(self.radius[self.is_correct], 0.0))
        values = metrics.certified_accuracy(self.radius, self.is_correct, radii)
        return radii, values


def run_of(name: str, records: Sequence[Mapping], summary: Mapping) -> Certified:
    """Returns what a folder that `certify` has written tells.

    Args:
        name: of the run.
        records: of `certification_counts.jsonl`.
        summary: of `certification_summary.json`.
    """
    return Certified(
        name,
        np.array([record["radius"] for record in records], "float64"),
        np.array([r["prediction"] == r["label"] for r in records], bool),
        np.array([record["idx"] for record in records], "int64"),
        summary["sigma"],
        summary["data_digest"],
        summary["norm"],
    )


def row_of(name: str, summary: Mapping) -> dict:
    """Returns the row of a run, from its `certification_summary.json`."""
    names = ("sigma", "norm", "examples", "alpha", "certified_accuracy", "acr")
    samples = {"samples": summary["n"]}
    return {"name": name} | {key: summary[key] for key in names} | samples


def row_of_curve(name: str, radii: np.ndarray, accuracy: np.ndarray) -> dict:
    """Returns the row of a log that tells accuracies alone.

    Between two radii the accuracy is at least that at the greater one; the ACR is the
    area below, counted so.

    Args:
        name: of the log.
        radii: ascending, `[m]`.
        accuracy: at these, a fraction, `[m]`.
    """
    places = np.searchsorted(radii, np.asarray(metrics.RADII) - 1e-9)
    values = np.append(accuracy, 0.0)[places]
    steps = np.diff(np.append(0.0, radii))
    return {
        "name": name,
        "sigma": None,
        "norm": L2,
        "examples": None,
        "samples": None,
        "alpha": None,
        "certified_accuracy": _by_radius(values),
        "acr": float((steps * accuracy).sum()),
    }


def published(dataset: str, sigmas: Sequence[float] = ()) -> list[dict]:
    """Returns what others measured, as rows; `name` tells the images it is of.

    Args:
        dataset: "cifar10" or "mnist".
        sigmas: of the noise; empty for all that are known.

    Raises:
        InputError: where nothing is known of a data set.
    """
    with _PUBLISHED.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    known = sorted({row["dataset"] for row in rows})
    if dataset not in known:
        raise InputError(
            f"Published radii are known of {', '.join(known)}. Received: {dataset!r}"
        )
    return [
        {
            "name": f"{row['method']} ({row['subset']})",
            "sigma": float(row["sigma"]),
            "norm": L2,
            "examples": None,
            "samples": None,
            "alpha": None,
            "certified_accuracy": {
                f"{radius:.2f}": float(row[f"{radius:.2f}"])
                for radius in metrics.RADII
                if row[f"{radius:.2f}"]
            },
            "acr": float(row["acr"]),
            "source": row["source"],
        }
        for row in rows
        if row["dataset"] == dataset
        and (not sigmas or any(math.isclose(float(row["sigma"]), s) for s in sigmas))
    ]


def differences(runs: Sequence[Certified]) -> list[dict]:
    """Returns how the ACR of each run differs from the first run's, on the same images.

    Runs without indices, of other data, or without images in common are left out.

    Args:
        runs: two or more.

    Returns:
        One record each: `name`, `against`, `examples` in common, `difference` (of the
        ACR, positive where this run is better) and its `standard_error`.
    """
    found = []
    for other in runs[1:]:
        first = runs[0]
        common = sorted(first.scores.keys() & other.scores.keys())
        digests = {first.data_digest, other.data_digest} - {None}
        if len(common) < 2 or len(digests) > 1:
            continue
        pair = ([run.scores[index] for index in common] for run in (other, first))
        difference, error = metrics.paired_difference(*pair)
        found.append(
            {
                "name": other.name,
                "against": first.name,
                "examples": len(common),
                "difference": difference,
                "standard_error": error,
            }
        )
    return found


def show(
    rows: Sequence[dict],
    references: Sequence[dict] = (),
    compared: Sequence[dict] = (),
) -> None:
    """Prints the table of some runs, and how they differ.

    Args:
        rows: measured; the first greatest value of a column is marked.
        references: rows that others published.
        compared: of `differences`.
    """
    printing.show(*_parts(rows, references, compared))


def render(
    rows: Sequence[dict],
    references: Sequence[dict] = (),
    compared: Sequence[dict] = (),
) -> str:
    """Returns what `show` prints as text without colours, unbroken."""
    return printing.render(*_parts(rows, references, compared))


def _parts(rows, references, compared):
    """The table, its notes, and the table of differences."""
    note = _NOTE.format(norm=f"L{common_norm([*rows, *references])}")
    grid = _grid([*rows, *references])
    names = ["model", "sigma", "images", "samples", *grid, _ACR]
    table = printing.empty_table(names, _WORDS)
    most = {radius: _greatest(rows, radius) for radius in (*grid, _ACR)}
    for place, row in enumerate(rows):
        marks = [radius for radius, greatest in most.items() if greatest == place]
        table.add_row(*_texts(row, grid, marks, 2))
    table.add_section()
    for row in references:
        table.add_row(*_texts(row, grid, (), 0))
    yield table
    yield rich.text.Text(note + _levels(rows), style="italic")
    if references:
        sources = dict.fromkeys(row["source"] for row in references)
        text = f" at the end, published: {', '.join(sources)}\n"
        yield rich.text.Text(text, style="italic")
    if compared:
        yield from _compared(compared)


def common_norm(rows: Sequence[Mapping]) -> str:
    """Returns the norm of the radii of all rows: "1", "2" or "inf".

    Raises:
        InputError: where they differ.
    """
    norms = {row["name"]: row["norm"] for row in rows}
    if len(set(norms.values())) > 1:
        shown = ", ".join(f"{name}: L{norm}" for name, norm in norms.items())
        raise InputError(
            "Radii of different norms cannot stand side by side. Received: "
            f"{shown}. Give those of one norm at a time."
        )
    return next(iter(norms.values()), L2)


def _grid(rows) -> list[str]:
    """The radii to which anything is certified, and 0."""
    values = [entry for row in rows for entry in row["certified_accuracy"].items()]
    found = {radius for radius, value in values if value > 0.0 or not Fraction(radius)}
    return sorted(found, key=Fraction)


def _levels(rows) -> str:
    """At which alpha the radii hold, where it is known."""
    found = {row["alpha"] for row in rows} - {None}
    shown = " or ".join(f"{alpha:g}" for alpha in sorted(found))
    return f" samples: for each image, at most; alpha {shown}\n" if found else ""


def _compared(records):
    """The table of differences, and its note."""
    rows = [
        {
            "model": one["name"],
            "against": one["against"],
            "images": str(one["examples"]),
            "ACR difference": f"{one['difference']:+.4f}",
            "standard error": f"{one['standard_error']:.4f}",
        }
        for one in records
    ]
    yield printing.plain_table(rows, _WORDS)
    yield rich.text.Text(" on the images that both have, in pairs\n", style="italic")


def _greatest(rows, radius) -> int | None:
    """The place of the first greatest value; None where there is nothing to compare."""
    values = [_value(row, radius) for row in rows]
    found = [-math.inf if value is None else value for value in values]
    if len(rows) < 2 or max(found) <= 0.0:
        return None
    return found.index(max(found))


def _value(row, radius) -> float | None:
    return row["acr"] if radius == _ACR else row["certified_accuracy"].get(radius)


def _texts(row, grid, marks, decimals) -> list[rich.text.Text]:
    """The cells of a row, without markup in brackets."""
    sigma = "-" if row["sigma"] is None else f"{row['sigma']:g}"
    counts = [row["examples"], row["samples"]]
    shown = ["-" if count is None else str(count) for count in counts]
    cells = [row["name"], sigma, *shown]
    for radius in (*grid, _ACR):
        value = _value(row, radius)
        if value is None:
            text = "-"
        elif radius == _ACR:
            exact = decimal.Decimal(repr(float(value)))
            text = str(exact.quantize(_DIGITS, decimal.ROUND_FLOOR))
        else:
            text = f"{100 * value:.{decimals}f}"
        cells.append(text + (_MARK if radius in marks else " "))
    return list(map(rich.text.Text, cells))


def _by_radius(values) -> dict[str, float]:
    pairs = zip(metrics.RADII, values, strict=True)
    return {f"{radius:.2f}": float(value) for radius, value in pairs}
