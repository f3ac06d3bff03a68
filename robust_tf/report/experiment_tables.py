"""All experiments: what was published of each, and what run folders hold."""

import json
import pathlib
from collections.abc import Mapping
from collections.abc import Sequence

import rich.box
import rich.console
import rich.table
import rich.text

from robust_tf.errors import InputError
from robust_tf.report import printing
from robust_tf.report.published import published_experiments
from robust_tf.report.tables import STAGES

_NUMBERS = {"clean": 2, "attacked": 2, "verified": 2, "acr": 3}  # Decimals.
_TITLES = {"acr": "ACR", "by": "verified by", "source": "published in"}
_FILES = (
    "summary.json",
    "evaluation.json",
    "verification_summary.json",
    "certification_summary.json",
)


def rows(names: Sequence[str], runs: Mapping[str, Sequence[pathlib.Path]]) -> list:
    """Returns one row for each experiment, or for each member of it that is known.

    Args:
        names: of the experiments and families.
        runs: run folders by the name of the experiment; of a family, several.

    Returns:
        Records with `experiment`, and `published` and `measured`: the errors `clean`,
        `attacked` and `verified` (fractions), `acr` and `by`, each where it is known,
        and `source` of what is published. Runs of no experiment come last.

    Raises:
        InputError: for run folders whose files are broken.
    """
    published = {}
    for record in published_experiments():
        published.setdefault(record["experiment"], {})[record["member"]] = record
    found = []
    for name in [*names, *(name for name in runs if name not in names)]:
        members = {
            "" if run.name == name else run.name: measured(run)
            for run in runs.get(name, ())
        }
        known = published.get(name, {})
        if "" in known and "" not in members:
            members |= _best(members)
        for member in dict.fromkeys([*known, *members]) or [""]:
            found.append(
                {
                    "experiment": f"{name}/{member}" if member else name,
                    "published": known.get(member, {}),
                    "measured": members.get(member, {}),
                }
            )
    return found


def measured(run: pathlib.Path) -> dict:
    """Returns the errors that the files of a run folder hold, as fractions.

    Of `summary.json` and `evaluation.json` the one of more images counts, and of its
    bounds the one that verifies most, which `by` names. What complete verification
    has found on other images stands beside it; errors from exact methods and radii by
    smoothing are given with the number of images. Of a cascade, `verified` is of the
    images as received, as it is published, and `by` gives the bound under attack.

    Raises:
        InputError: for a file that is broken.
    """
    summary, evaluation, verification, smoothed = (_read(run / n) for n in _FILES)
    if evaluation.get("cascades"):
        return _measured_cascade(evaluation["cascades"][0])
    evaluated = (evaluation.get("models") or [{}])[0]
    record = max((evaluated, summary), key=lambda one: one.get("examples", 0))
    result = {
        name: 1.0 - record[key]
        for name, key in {"clean": "clean_accuracy", "attacked": "pgd_accuracy"}.items()
        if key in record
    }
    by_method = record.get("certified_by")
    if by_method:
        best = max(by_method, key=by_method.get)
        result |= {"verified": 1.0 - by_method[best], "by": STAGES.get(best, best)}
    if verification:
        error = 100.0 * (1.0 - verification["certified_accuracy"])
        found = f"{error:.2f} by verification of {verification['examples']} images"
        result["by"] = ", ".join(filter(None, (result.get("by"), found)))
    exact = evaluated.get("robust_error")
    if exact:
        result["attacked"] = exact["lower_bound"]
        result["verified"] = exact["upper_bound"]
        result["by"] = f"exact methods, {exact['examples']} images"
    if smoothed:
        result["clean"] = 1.0 - smoothed["clean_accuracy"]
        result["acr"] = smoothed["acr"]
        result["by"] = f"smoothing, {smoothed['examples']} images"
    return result


def _measured_cascade(record) -> dict:
    by = STAGES.get(record["method"], record["method"])
    bound = 100.0 * (1.0 - record["certified_by_all_stages"])
    return {
        "clean": 1.0 - record["clean_accuracy"],
        "verified": 1.0 - record["verified_as_received"],
        "by": f"{by}, cascade, images as received ({bound:.2f} by all stages)",
    }


def show(found: Sequence[dict]) -> None:
    """Prints the table of `rows`; numbers are published, then measured."""
    printing.show(_table(found))


def render(found: Sequence[dict]) -> str:
    """Returns the table of `show` as text without colours, unbroken."""
    return printing.render(_table(found))


def _best(members) -> dict:
    """The measured member of the least verified error, as that of the whole family."""
    known = {name: one for name, one in members.items() if "verified" in one}
    if not known:
        return {}
    name = min(known, key=lambda one: known[one]["verified"])
    return {"": known[name] | {"by": f"{known[name]['by']}, {name}"}}


def _read(path) -> dict:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"'{path}' must hold a record of results. Measure again.")
    return content


def _table(found) -> rich.console.Group:
    table = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False
    )
    table.add_column("experiment", overflow="fold")
    for name in (*_NUMBERS, "by"):
        is_number = name in _NUMBERS
        title = _TITLES.get(name, name)
        table.add_column(title, justify="right" if is_number else "left")
    table.add_column(_TITLES["source"], overflow="fold")
    for row in found:
        cells = [_pair(row, name) for name in (*_NUMBERS, "by")]
        cells = (row["experiment"], *cells, row["published"].get("source", "-"))
        table.add_row(*map(rich.text.Text, cells))  # No markup in brackets.
    note = (
        " published / measured; errors in percent: clean, under attack (or the lower "
        "bound\n of the robust error), not verified (or its upper bound); ACR: average "
        "certified\n radius by smoothing\n"
    )
    return rich.console.Group(table, rich.text.Text(note, style="italic"))


def _pair(row, name) -> str:
    """What is published and what is measured; one dash where neither is known."""
    cells = [_cell(row[part].get(name), name) for part in ("published", "measured")]
    return "-" if cells == ["-", "-"] else " / ".join(cells)


def _cell(value, name) -> str:
    if value in (None, ""):
        return "-"
    if name not in _NUMBERS:
        return value
    scale = 1.0 if name == "acr" else 100.0
    return f"{scale * value:.{_NUMBERS[name]}f}"
