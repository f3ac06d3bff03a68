"""Tables of results for people: accuracies in percent."""

from collections.abc import Sequence

import rich.console
import rich.table

_COLUMNS = {
    "name": "model",
    "dataset": "data set",
    "method": "method",
    "epsilon": "eps",
    "norm": "norm",
    "examples": "examples",
    "clean_accuracy": "clean %",
    "pgd_accuracy": "PGD %",
    "ibp": "IBP %",
    "crown-ibp": "CROWN-IBP %",
    "crown": "CROWN %",
    "certified_accuracy": "certified %",
}
_FRACTIONS = tuple(name for name, title in _COLUMNS.items() if title.endswith("%"))


def show(records: Sequence[dict], title: str | None = None) -> None:
    """Prints one row for each record, in the columns that any of them has."""
    flat = [record | record.get("certified_by", {}) for record in records]
    names = [name for name in _COLUMNS if any(name in record for record in flat)]
    table = rich.table.Table(title=title)
    for name in names:
        is_number = name in _FRACTIONS or name in ("epsilon", "examples")
        table.add_column(_COLUMNS[name], justify="right" if is_number else "left")
    for record in flat:
        table.add_row(*(_cell(name, record.get(name)) for name in names))
    rich.console.Console().print(table)


def _cell(name, value) -> str:
    if value is None:
        return "-"
    if name in _FRACTIONS:
        return f"{100 * value:.2f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
