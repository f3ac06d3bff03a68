"""What is known of cascades, for people: errors in percent, and who decides how often.

The published verified error and the bound under attack stand in columns of their own,
and the note below says which is which.
"""

from collections.abc import Sequence

import rich.text

from robust_tf.report import printing
from robust_tf.report.tables import STAGES

_ERRORS = {
    "clean_accuracy": "clean",
    "verified_as_received": "verified as received",
    "certified_by_all_stages": "bound by all stages",
}
_STAGE = {
    "name": "stage",
    "trained_on": "trained on",
    "decided": "decided",
    "right": "right",
    "certified": "certified",
    "certified_right": "certified and right",
}
_LEFT = ("cascade", "data", "by", "norm", "stage")
_NOTE = (
    " errors in percent; verified as received (as published): the stage that decides "
    "an image\n does not certify the label; NO bound on the error under attack, as "
    "another stage may\n decide the perturbed image; bound by all stages: not all of "
    "them certify the label, a\n bound on the error under attack\n"
)
_STAGE_NOTE = " images of each stage; the last one decides what none certifies\n"


def show(records: Sequence[dict]) -> None:
    """Prints a row for each cascade, and one for each of their stages.

    Args:
        records: `cascades` of `evaluation.json`; nothing is printed without any.
    """
    if records:
        printing.show(*_parts(records))


def render(records: Sequence[dict]) -> str:
    """Returns the tables of `show` as text without colours, unbroken."""
    return printing.render(*_parts(records))


def _parts(records):
    yield printing.plain_table([_row(record) for record in records], _LEFT)
    yield rich.text.Text(_NOTE, style="italic")
    rows = []
    for record in records:
        name = {"cascade": record["name"]} if len(records) > 1 else {}
        rows += [name | _stage_row(stage) for stage in record["stages"]]
    yield printing.plain_table(rows, _LEFT)
    yield rich.text.Text(_STAGE_NOTE, style="italic")


def _row(record) -> dict[str, str]:
    return {
        "cascade": record["name"],
        "data": record["dataset"],
        "by": STAGES.get(record["method"], record["method"]),
        "eps": f"{record['epsilon']:.4g}",
        "norm": record["norm"],
        "n": str(record["examples"]),
    } | {
        title: f"{100.0 * (1.0 - record[name]):.2f}" for name, title in _ERRORS.items()
    }


def _stage_row(stage) -> dict[str, str]:
    return {title: str(stage[name]) for name, title in _STAGE.items()}
