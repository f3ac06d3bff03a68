"""Tables on the console, and as text."""

import io

import rich.console

_UNLIMITED = 10_000  # Characters in a line of a file.


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
