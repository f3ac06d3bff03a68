"""Files that a kill at any moment leaves whole: written at once, or line by line."""

import contextlib
import json
import math
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator

from absl import logging

from robust_tf.errors import InputError

_TEMPORARY = ".tmp"


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a file so that readers see the old content or the new, never a part.

    The folder must exist. Text is written as UTF-8.
    """
    path = pathlib.Path(path)
    content = content.encode("utf-8") if isinstance(content, str) else content
    temporary = _temporary(path)
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            _sync(file)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields where to make a folder that gets its name once the block has ended.

    So it is whole or absent. What an error in the block leaves is removed.

    Raises:
        InputError: for a path that exists.
    """
    path = pathlib.Path(path)
    if path.exists():
        raise InputError(f"'{path}' exists already. Give the name of a new folder.")
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(path.parent)


def remove_unfinished(folder: str | os.PathLike) -> None:
    """Removes what writers that were killed left; no other may be writing there."""
    for temporary in pathlib.Path(folder).glob(f".*{_TEMPORARY}"):
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value) -> None:
    """Writes `value` as JSON, atomically, in the conventions of `to_json`."""
    write_atomically(path, to_json(value, indent=2) + "\n")


def append_json_line(path: str | os.PathLike, record: dict) -> None:
    """Appends one record as a line, on disk when this returns.

    A half-written last line, left by a run that was killed, is cut off first.
    """
    path = pathlib.Path(path)
    is_new = not path.exists()
    with open(path, "a+b") as file:
        _mend_end(file, path)
        file.write(to_json(record).encode("utf-8") + b"\n")
        _sync(file)
    if is_new:
        _sync_folder(path.parent)


def read_json_lines(path: str | os.PathLike) -> list[dict]:
    """Returns the records of a file with one JSON object per line.

    A half-written last line, left by a run that was killed, is dropped with a warning.

    Raises:
        InputError: where there is no such file, or another line is broken.
    """
    try:
        lines = pathlib.Path(path).read_bytes().split(b"\n")
    except FileNotFoundError as error:
        raise InputError(f"There is no file `{path}` to read records from.") from error
    *whole, rest = lines
    records = [_parsed(line) for line in whole]
    if None in records:
        number = records.index(None)
        raise InputError(
            f"Line {number + 1} of `{path}` is no JSON object. Received: "
            f"{whole[number][:80]!r}. Repair or remove the line."
        )
    if rest and _parsed(rest) is None:
        logging.warning("Dropped the half-written last line of '%s'.", path)
    elif rest:
        records.append(_parsed(rest))
    return records


def to_json(value, indent: int | None = None) -> str:
    """Returns JSON: arrays as lists, paths as strings, and NaN and infinity as null.

    JSON has no numbers that are not finite, and other programs refuse them.
    """
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _temporary(path) -> pathlib.Path:
    """A new name beside a path, for what is not whole yet."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}{_TEMPORARY}")


def _plain(value):
    """The value in the types of JSON."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # Numbers and arrays of NumPy.
        return _plain(value.tolist())
    return value


def _parsed(line: bytes) -> dict | None:
    """The record, or None where the line holds none."""
    try:
        record = json.loads(line.decode("utf-8"))
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _mend_end(file, path) -> None:
    """Ends the last line: completed where only its line break is missing, else cut."""
    if not file.tell():  # Opened for appending, so at the end.
        return
    file.seek(-1, os.SEEK_END)
    if file.read() == b"\n":
        return
    file.seek(0)
    rest = file.read().rpartition(b"\n")[2]
    if _parsed(rest) is not None:
        file.write(b"\n")
        return
    file.truncate(file.seek(-len(rest), os.SEEK_END))
    logging.warning("Cut off the half-written last line of '%s'.", path)


def _sync(file) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: pathlib.Path) -> None:
    """Puts the folder's entries on disk: a rename is one of them."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
