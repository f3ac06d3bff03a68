"""A family's results for people: errors in percent, and which model has which."""

import rich.box
import rich.console
import rich.table
import rich.text

from robust_tf.report import printing
from robust_tf.report.tables import STAGES

# From what is measured to what is proved.
_ERRORS = {"clean_accuracy": "clean", "pgd_accuracy": "PGD"}
_TOTAL = {"certified_accuracy": "verified by any"}
# The least error is the greatest accuracy.
_STATISTICS = {"min": "max", "median": "median", "max": "min"}


def show(family: dict) -> None:
    """Prints least, median and greatest error of each kind, with the models' names.

    Args:
        family: of `evaluation.json`, whose accuracies are fractions.
    """
    printing.show(_table(family))


def render(family: dict) -> str:
    """Returns the table of `show` as text without colours, unbroken."""
    return printing.render(_table(family))


def _table(family) -> rich.console.Group:
    table = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False
    )
    table.add_column("error")
    for name in _STATISTICS:
        table.add_column(name, justify="right", min_width=6)
        table.add_column("of", overflow="fold")
    for title, row in _rows(family):
        table.add_row(*map(rich.text.Text, (title, *row)))  # No markup in brackets.
    note = (
        " errors in percent; a median of an even number of models is the mean of the "
        "two in\n the middle, and the model named has the greater error of them\n"
    )
    return rich.console.Group(table, rich.text.Text(note, style="italic"))


def _rows(family):
    """Titles, and the cells beside each."""
    records = [family[statistic] for statistic in _STATISTICS.values()]
    kinds = [(None, name, title) for name, title in _ERRORS.items()]
    kinds += [
        ("certified_by", name, f"verified by {STAGES.get(name, name)}")
        for name in records[0].get("certified_by", {})
    ]
    kinds += [(None, name, title) for name, title in _TOTAL.items()]
    for group, name, title in kinds:
        values = [record[group] if group else record for record in records]
        models = [record["models"] for record in records]
        models = [one[group] if group else one for one in models]
        if name in values[0]:
            pairs = zip(values, models, strict=True)
            yield title, [cell for pair in pairs for cell in _cells(*pair, name)]


def _cells(values, models, name):
    return f"{100.0 * (1.0 - values[name]):.2f}", models[name]
