"""Logs of certified radii, as published systems of randomized smoothing write them.

Three formats are read:

- tables `idx label predict radius correct time` (arXiv:1902.02918), with radii of any
  number of digits, and times as `H:MM:SS`, `H:MM:SS.ffffff` or plain seconds; further
  columns are left out, such as those of arXiv:2112.12084;
- curves, two columns without a header: radius, certified accuracy;
- `.mat` files with the row `hard` or `soft` (arXiv:2001.02378): a radius for each
  example, -1 where the prediction is wrong or there is none.

Our own table is the first of these, with radii in full precision.
"""

import collections
import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np
from absl import logging

from robust_tf import matlab
from robust_tf.errors import InputError
from robust_tf.smoothing.radius import ABSTAIN

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
HEADER = "\t".join(COLUMNS)
_NEEDED = COLUMNS[:5]  # The time may be missing.
MATLAB_ROWS = ("hard", "soft")
_NOT_CERTIFIED = -1.0
_TIME = re.compile(r"(?:(\d+) days?, )?(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)")


@dataclasses.dataclass(frozen=True)
class Row:
    """What a table says of one example.

    Attributes:
        index: of the example in its split.
        label: its class.
        prediction: of the smoothed classifier; -1 where it abstains.
        radius: L2, in pixels in [0, 1]; that of a wrong prediction is its own.
        seconds: that the certificate took.
    """

    index: int
    label: int
    prediction: int
    radius: float
    seconds: float

    @property
    def is_correct(self) -> bool:
        """Whether the prediction is the label; no abstention is."""
        return self.prediction == self.label

    def line(self) -> str:
        """Returns the line of a table, ended: radius by `repr`, H:MM:SS.ffffff."""
        entries = (self.index, self.label, self.prediction, repr(float(self.radius)))
        time = format_time(self.seconds)
        return "\t".join(map(str, (*entries, int(self.is_correct), time))) + "\n"


@dataclasses.dataclass(frozen=True)
class RadiusLog:
    """The radii of some examples.

    Attributes:
        indices: of the examples in their split, int64, `[n]`; None where a format does
            not say.
        radius: L2, in pixels in [0, 1], float64, `[n]`, at least 0.
        is_correct: whether the certified class is the label, bool, `[n]`.
        is_abstention: bool, `[n]`; None where a format does not tell abstentions from
            wrong predictions.
    """

    indices: np.ndarray | None
    radius: np.ndarray
    is_correct: np.ndarray
    is_abstention: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class AccuracyCurve:
    """Certified accuracy at some radii.

    Attributes:
        radii: L2, in pixels in [0, 1], ascending, float64, `[m]`.
        accuracy: fraction of examples, descending, float64, `[m]`.
    """

    radii: np.ndarray
    accuracy: np.ndarray


def read_log(path: str | os.PathLike) -> RadiusLog | AccuracyCurve:
    """Returns a log in any of the formats; told apart by what is in the file.

    Raises:
        InputError: for a file that is missing or in none of the formats; the message
            names the line.
    """
    path = pathlib.Path(path)
    if path.suffix == ".mat":
        return read_matlab(path)
    first = _lines(path)[0]
    if set(_NEEDED) <= set(first.split("\t")):
        return log_of(read_rows(path), path)
    if len(_numbers(first)) == 2:
        return read_curve(path)
    raise InputError(
        f"'{path}' is no log of radii. Received: a first line {first[:80]!r}. It must "
        f"be '{' '.join(COLUMNS)}' (with tabs), or a radius and a certified accuracy; "
        "or give a `.mat` file."
    )


def read_rows(path: str | os.PathLike, keep_unended: bool = True) -> list[Row]:
    """Returns the rows of a table, in the order of the file.

    A half-written last line, left by a run that was killed, is dropped with a warning.

    Args:
        path: of the table.
        keep_unended: whether a last line without a line break may be a row; it may
            have lost digits of its time.

    Raises:
        InputError: for a file that is missing, has other columns, names an example
            twice, or has a line that is no row.
    """
    path = pathlib.Path(path)
    header, *lines = _lines(path)
    names = header.split("\t")
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise InputError(
            f"'{path}' must begin with '{' '.join(COLUMNS)}' (with tabs). Received: "
            f"{header[:80]!r}, without {', '.join(missing)}"
        )
    *whole, rest = lines or [""]
    rows = [_row(path, number, line, names) for number, line in enumerate(whole, 2)]
    last = _last_row(path, rest, names) if keep_unended else None
    rows += [] if last is None else [last]
    if rest and last is None:
        logging.warning("Dropped the half-written last line of '%s'.", path)
    counts = collections.Counter(row.index for row in rows)
    for index, count in counts.items():
        if count > 1:
            raise InputError(
                f"'{path}' must name each example once. Received: example {index}, "
                f"{count} times. Remove the lines that do not belong there."
            )
    return rows


def log_of(rows: Sequence[Row], source: str | os.PathLike) -> RadiusLog:
    """Returns the columns of some rows.

    Args:
        rows: at least one.
        source: they come from, for the error.

    Raises:
        InputError: where there are none.
    """
    if not rows:
        raise InputError(f"'{source}' has no rows. Certify some examples.")
    return RadiusLog(
        np.array([row.index for row in rows], "int64"),
        np.array([row.radius for row in rows], "float64"),
        np.array([row.is_correct for row in rows], bool),
        np.array([row.prediction == ABSTAIN for row in rows], bool),
    )


def read_curve(path: str | os.PathLike) -> AccuracyCurve:
    """Returns the curve of a file with two columns, radius and certified accuracy.

    Raises:
        InputError: for a file that is missing, a line that is none of the kind, or
            radii that do not ascend.
    """
    path = pathlib.Path(path)
    points = []
    for number, line in enumerate(filter(None, _lines(path)), 1):
        found = _numbers(line)
        if len(found) != 2 or not found[0] >= 0.0 or not 0.0 <= found[1] <= 1.0:
            raise InputError(
                f"Line {number} of '{path}' must be a radius and a certified accuracy "
                f"in [0, 1]. Received: {line[:80]!r}"
            )
        points.append(found)
    radii, accuracy = np.array(points, "float64").T
    if not (np.diff(radii) > 0.0).all() or (np.diff(accuracy) > 0.0).any():
        raise InputError(
            f"'{path}' must list radii that ascend, and accuracies that do not. "
            f"Received: {len(points)} points in another order"
        )
    return AccuracyCurve(radii, accuracy)


def read_matlab(path: str | os.PathLike, name: str | None = None) -> RadiusLog:
    """Returns the radii of a `.mat` file.

    Args:
        path: of it.
        name: "hard" or "soft"; None for the first of them that is there.

    Raises:
        InputError: for a file that is missing, broken, or has no such row.
    """
    arrays = matlab.read_arrays(path)
    names = MATLAB_ROWS if name is None else (name,)
    found = [one for one in names if one in arrays]
    if not found:
        raise InputError(
            f"'{path}' must hold {' or '.join(f'`{one}`' for one in names)}. Received: "
            f"{', '.join(sorted(arrays)) or 'no arrays'}"
        )
    values = np.asarray(arrays[found[0]])
    is_row = values.size > 0 and max(values.shape) == values.size
    if not is_row or values.dtype.kind not in "iuf" or not (values >= -1.0).all():
        raise InputError(
            f"`{found[0]}` in '{path}' must be a row of radii, -1 for examples that "
            f"are not certified. Received: shape {values.shape}, {values.dtype}"
        )
    values = values.reshape(-1).astype("float64")
    is_correct = values >= 0.0
    return RadiusLog(None, np.where(is_correct, values, 0.0), is_correct, None)


def write_matlab(path: str | os.PathLike, **logs: RadiusLog) -> None:
    """Writes the rows `hard` and `soft`, `[1, n]` each, atomically.

    Args:
        path: of the file; its folder must exist.
        logs: by name of the row.
    """
    rows = {
        name: np.where(log.is_correct, log.radius, _NOT_CERTIFIED)[None]
        for name, log in logs.items()
    }
    matlab.write_arrays(path, rows)


def format_time(seconds: float) -> str:
    """Returns a time as H:MM:SS.ffffff, rounded to microseconds."""
    rest, microseconds = divmod(round(seconds * 1e6), 1_000_000)
    rest, whole = divmod(rest, 60)
    hours, minutes = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{whole:02}.{microseconds:06}"


def parse_time(text: str) -> float:
    """Returns the seconds of a time in any of the three formats.

    Raises:
        InputError: for anything else.
    """
    match = _TIME.fullmatch(text)
    if match:
        days, hours, minutes, seconds = match.groups()
        whole = 24 * int(days or 0) + int(hours)
        return 3600.0 * whole + 60.0 * int(minutes) + float(seconds)
    found = _numbers(text)
    if len(found) != 1 or found[0] < 0.0:
        raise InputError(
            "A time must be H:MM:SS, H:MM:SS.ffffff or seconds. Received: "
            f"{text[:80]!r}"
        )
    return found[0]


def _row(path, number, line, names) -> Row:
    """The row of a line; its columns are found by their names."""
    entries = dict(zip(names, line.split("\t"), strict=False))
    try:
        row = Row(
            int(entries["idx"]),
            int(entries["label"]),
            int(entries["predict"]),
            float(entries["radius"]),
            parse_time(entries["time"]) if "time" in names else math.nan,
        )
        is_correct = {"0": False, "1": True}[entries["correct"]]
    except (KeyError, ValueError) as error:
        raise InputError(
            f"Line {number} of '{path}' is no row of a log. Received: {line[:80]!r}. "
            "Repair or remove the line."
        ) from error
    is_radius = math.isfinite(row.radius) and row.radius >= 0.0
    is_class = row.label >= 0 and row.prediction >= ABSTAIN
    if not is_radius or not is_class or is_correct != row.is_correct:
        raise InputError(
            f"Line {number} of '{path}' contradicts itself: a radius is at least 0, "
            "and `correct` says whether `predict` is `label`. Received: "
            f"{line[:80]!r}. Repair or remove the line."
        )
    return row


def _last_row(path, line, names) -> Row | None:
    """The row of a line that has no end, or None."""
    try:
        return _row(path, "last", line, names)
    except InputError:
        return None


def _lines(path: pathlib.Path) -> list[str]:
    """The lines of a text file, the last one empty where the text is ended."""
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"'{path}' cannot be read as text. Received: {error}. Give a log of radii."
        ) from error
    return text.replace("\r\n", "\n").split("\n")


def _numbers(line: str) -> list[float]:
    """The finite numbers of a line with blanks or tabs between; none for words."""
    try:
        found = [float(entry) for entry in line.split()]
    except ValueError:
        return []
    return found if all(map(math.isfinite, found)) else []
