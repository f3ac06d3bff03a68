"""Tables of results for people: accuracies in percent."""

from collections.abc import Sequence

import rich.box
import rich.console
import rich.table
import rich.text

from robust_tf.report import printing

_FACTS = {
    "name": "model",
    "dataset": "data",
    "method": "method",
    "epsilon": "eps",
    "norm": "norm",
    "examples": "n",
}
# What all rows agree on of these is said once, below the table.
_SHARED = ("dataset", "method", "norm", "examples")
# From what is measured to what is proved, and from loose bounds to tight ones.
_METHODS = {
    "ibp": "IBP",
    "crown-ibp": "CROWN-IBP",
    "convex-adversarial": "CAP",
    "crown": "CROWN",
    "alpha-crown": "alpha-CROWN",
}
# Of verification: what its stages are called.
STAGES = _METHODS | {
    "input-split": "input split",
    "bab": "branch and bound",
    "milp": "MILP",
}
_MEASURED = {"clean_accuracy": "clean", "pgd_accuracy": "PGD"}
_TOTAL = {"certified_accuracy": "cert. by any"}
# Of robust error, from below to above.
_ERRORS = {
    "pgd_error": "PGD",
    "lower_bound": "lower",
    "upper_bound": "upper",
    "convex_upper_bound": "CAP",
    "region_upper_bound": "region",
}
_NUMBERS = ("epsilon", "examples")
_NO_PROOFS = ("clean", "attack")  # Stages of verification that certify nothing.
_LEAST_WIDTH = {"epsilon": 5, "norm": 4, "examples": 3}
_DEFAULT_WIDTH = 6  # Of "100.00".


def show(records: Sequence[dict], title: str | None = None) -> None:
    """Prints one row for each record, in the columns that any of them has.

    Args:
        records: in the names of `summary.json` and `evaluation.json`: accuracies are
            fractions, `certified_by` holds one for each method.
        title: of the table.
    """
    printing.show(_table(records, title))


def render(records: Sequence[dict], title: str | None = None) -> str:
    """Returns the table of `show` as text without colours, unbroken."""
    return printing.render(_table(records, title))


def show_verification(summaries: Sequence[dict]) -> None:
    """Prints what verification has found: accuracies in percent, verdicts, times.

    Args:
        summaries: of `verification_summary.json`, each with a `name`.
    """
    printing.show(*_verification_tables(summaries))


def render_verification(summaries: Sequence[dict]) -> str:
    """Returns the tables of `show_verification` as text without colours, unbroken."""
    return printing.render(*_verification_tables(summaries))


def show_robust_errors(records: Sequence[dict]) -> None:
    """Prints errors in percent, from below and from above; nothing without any.

    Args:
        records: of `evaluation.json`; those with a `robust_error` are shown.
    """
    rows = [
        {
            "model": record["name"],
            "data": record["dataset"],
            "norm": record["robust_error"]["norm"],
            "eps": _cell(record["robust_error"]["epsilon"], False),
            "n": str(record["robust_error"]["examples"]),
            "clean": _cell(1.0 - record["clean_accuracy"], True),
        }
        | {
            title: _cell(record["robust_error"].get(name), True)
            for name, title in _ERRORS.items()
        }
        for record in records
        if "robust_error" in record
    ]
    if not rows:
        return
    note = (
        " errors in percent; clean: on the whole split; CAP, region: upper bounds "
        "by the\n convex adversarial polytope and by linear regions alone\n"
    )
    printing.show(printing.plain_table(rows), rich.text.Text(note, style="italic"))


def _verification_tables(summaries):
    """Accuracies by stage; below, verdicts and seconds."""
    stages = [stage for one in summaries for stage in one["certified_after"]]
    stages = [stage for stage in dict.fromkeys(stages) if stage not in _NO_PROOFS]
    rows = [_verification_row(summary, stages) for summary in summaries]
    yield printing.plain_table(rows)
    yield rich.text.Text(
        " in percent of all examples tried; not falsified: greatest accuracy still "
        "possible\n under a stage: certified by it or an earlier one, within no "
        "solver's tolerance\n",
        style="italic",
    )
    yield printing.plain_table([_verdict_row(summary) for summary in summaries])
    yield rich.text.Text(" examples by verdict, and seconds of each\n", style="italic")


def _verification_row(summary, stages) -> dict[str, str]:
    certified = summary["certified_accuracy"]
    with_tolerance = summary["certified_accuracy_with_tolerance"]
    after = summary["certified_after"]
    row = {
        "model": summary["name"],
        "data": summary["dataset"],
        "eps": _cell(summary["epsilon"], False),
        "norm": str(summary["norm"]),
        "n": str(summary["examples"]),
        "clean": _cell(summary["clean_accuracy"], True),
        "not falsified": _cell(summary["attacked_accuracy"], True),
    }
    row |= {STAGES.get(stage, stage): _cell(after.get(stage), True) for stage in stages}
    row["certified"] = _cell(certified, True)
    if with_tolerance != certified:
        row["and within tolerance"] = _cell(with_tolerance, True)
    return row


def _verdict_row(summary) -> dict[str, str]:
    seconds = summary["seconds"]
    return {
        "model": summary["name"],
        **{name.lower(): str(count) for name, count in summary["verdicts"].items()},
        **{f"{of} s": _cell(seconds[of], False) for of in ("mean", "median", "max")},
    }


def _table(records, title) -> rich.console.Group:
    """The table, and below it what all rows share."""
    flat = [record | (record.get("certified_by") or {}) for record in records]
    accuracies = _MEASURED | _methods(records) | _TOTAL
    shared = {name: flat[0][name] for name in _SHARED if _agree(flat, name)}
    titles = {
        name: shown
        for name, shown in (_FACTS | accuracies).items()
        if name not in shared and any(record.get(name) is not None for record in flat)
    }
    facts = [f"{_FACTS[name]} {value}" for name, value in shared.items()]
    note = ", ".join(["accuracies in percent", *facts]) if flat else ""
    table = rich.table.Table(
        title=None if title is None else rich.text.Text(title),
        box=rich.box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    for name, shown in titles.items():
        is_number = name in accuracies or name in _NUMBERS
        table.add_column(
            shown,
            justify="right" if is_number else "left",
            overflow="fold",  # A number without its end would be another number.
            min_width=_LEAST_WIDTH.get(name, _DEFAULT_WIDTH),
        )
    for record in flat:
        cells = (_cell(record.get(name), name in accuracies) for name in titles)
        table.add_row(*map(rich.text.Text, cells))  # No markup in brackets.
    return rich.console.Group(table, rich.text.Text(f" {note}\n", style="italic"))


def _agree(records, name) -> bool:
    """Whether all records have the same value of that name."""
    values = {record.get(name) for record in records}
    return len(values) == 1 and None not in values


def _methods(records) -> dict[str, str]:
    """Titles of all methods of proof, those that are unknown here last."""
    used = {name for record in records for name in record.get("certified_by") or {}}
    return _METHODS | {name: name for name in sorted(used - _METHODS.keys())}


def _cell(value, is_accuracy) -> str:
    if value is None:
        return "-"
    if is_accuracy:
        return f"{100 * value:.2f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
