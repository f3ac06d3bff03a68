"""Lists of what to decide, as competitions write them."""

import csv
import dataclasses
import math
import os
import pathlib

from robust_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class Instance:
    """A network, a property, and the seconds that a verdict may take."""

    network: pathlib.Path
    property: pathlib.Path
    timeout_s: float


def read_instances(path: str | os.PathLike) -> list[Instance]:
    """Reads lines of `network,property,seconds`, with paths relative to the file.

    Where a file does not exist, but does compressed, with `.gz` at its end, that is
    taken.

    Raises:
        InputError: naming file and line, for lines of another form and missing files.
    """
    path = pathlib.Path(path)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"'{path}' could not be read. Received: {error}. Give a text file with "
            "lines of `network,property,seconds`."
        ) from error
    return [_instance(path, number, row) for number, row in rows if row]


def _instance(path, number, row) -> Instance:
    try:
        network, prop, seconds = (entry.strip() for entry in row)
        timeout_s = float(seconds)
    except ValueError:
        timeout_s = math.nan
    if not 0.0 < timeout_s < math.inf:
        raise InputError(
            f"Line {number} of '{path}' is not `network,property,seconds`. Received: "
            f"{','.join(row)!r}. Write two paths and a positive number."
        )
    return Instance(
        _existing(path, number, network), _existing(path, number, prop), timeout_s
    )


def _existing(path, number, name) -> pathlib.Path:
    whole = path.parent / name
    for candidate in (whole, whole.with_name(f"{whole.name}.gz")):
        if candidate.is_file():
            return candidate
    raise InputError(
        f"Line {number} of '{path}' names a file that does not exist. Received: "
        f"'{name}', looked for as '{whole}'. Paths are relative to the list."
    )
