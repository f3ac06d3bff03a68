"""Tables on the console, and as text."""

import io
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

import rich.box
import rich.console
import rich.table
import rich.text

_UNLIMITED = 10_000  # Characters in a line of a file.
_WORDS = ("model", "data", "norm")


def show(*parts) -> None:
    """Prints what `rich` can show, part by part; lines of a file are unbroken."""
    console = rich.console.Console()
    if not console.is_terminal:  # A file has no edge at which to break lines.
        console.width = _UNLIMITED
    for part in parts:
        console.print(part)


def render(*parts) -> str:
    """Returns what `show` prints as text without colours, unbroken."""
    text = io.StringIO()
    console = rich.console.Console(file=text, width=_UNLIMITED, color_system=None)
    for part in parts:
        console.print(part)
    return text.getvalue()


def plain_table(
    rows: Sequence[Mapping[str, str]], words: Collection[str] = _WORDS
) -> rich.table.Table:
    """Returns a table of cells that are text already; those that are missing are "-".

    Args:
        rows: cells by column.
        words: columns that are aligned to the left; the others are numbers.
    """
    table = empty_table(dict.fromkeys(name for row in rows for name in row), words)
    for row in rows:
        cells = (row.get(column.header, "-") for column in table.columns)
        table.add_row(*map(rich.text.Text, cells))  # No markup in brackets.
    return table


def empty_table(
    names: Iterable[str], words: Collection[str] = _WORDS
) -> rich.table.Table:
    """Returns a table without rows; columns that are not of words go to the right."""
    table = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False
    )
    for name in names:
        justify = "left" if name in words else "right"
        table.add_column(name, justify=justify, overflow="fold")
    return table
