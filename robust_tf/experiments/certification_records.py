"""Records of certification: a row and a line of counts for each example, and a check.

`certification.tsv` is what other programs read; `certification_counts.jsonl` holds the
counts that each row was computed from, and what the records are of.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

from absl import logging

from robust_tf import files
from robust_tf.errors import InputError
from robust_tf.interchange.radius_logs import HEADER
from robust_tf.interchange.radius_logs import Row
from robust_tf.interchange.radius_logs import read_rows

TABLE = "certification.tsv"
COUNTS = "certification_counts.jsonl"
MATLAB = "certification.mat"
SUMMARY = "certification_summary.json"
_DIGESTS = {"model_digest": "model", "data_digest": "data set"}
_REQUIRED = ("idx", "label", "prediction", "radius", "is_skipped", *_DIGESTS)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a folder's records are records of.

    Attributes:
        model: path of the base classifier.
        dataset: name of the data set.
        split: of it.
        start: index of the first example.
        skip: distance between the indices of examples.
        values: what decides about a certificate, by name: `sigma`, `n0`, `n`, `alpha`,
            `seed` and how it works; in the types of JSON.
        model_digest: of layers and weights.
        data_digest: of images and labels.
    """

    model: str
    dataset: str
    split: str
    start: int
    skip: int
    values: Mapping
    model_digest: str
    data_digest: str

    @property
    def facts(self) -> dict:
        """What each record repeats."""
        return {**self.values, **{name: getattr(self, name) for name in _DIGESTS}}

    def index(self, place: int) -> int:
        """Returns the index of the example in a row, counted from 0."""
        return self.start + place * self.skip


class Folder:
    """The records of one working folder, in the order of the examples.

    Attributes:
        setting: what they are records of.
        rows: of the table.
        records: of counts, one for each row.
    """

    def __init__(self, workdir: pathlib.Path, setting: Setting):
        self.setting = setting
        self.rows: list[Row] = []
        self.records: list[dict] = []
        self._workdir = workdir

    @classmethod
    def open(cls, workdir: pathlib.Path, setting: Setting) -> "Folder":
        """Reads what is there, up to the last whole row that both files have.

        What is left beyond it by a run that was killed is cut off with a warning.

        Raises:
            InputError: for records of something else, of other examples, or that
                contradict one another; nothing is changed then.
        """
        folder = cls(workdir, setting)
        rows = _read_table(workdir / TABLE)
        records = _read_counts(workdir / COUNTS)
        _check_whole(workdir, rows, records)
        rows, records = rows or [], records or []
        _check_setting(workdir, records, setting)
        _check_rows(workdir, rows, records, setting)
        common = min(len(rows), len(records))
        folder.rows, folder.records = rows[:common], records[:common]
        workdir.mkdir(parents=True, exist_ok=True)
        folder._mend(len(rows), len(records))
        return folder

    def append(self, row: Row, record: Mapping) -> None:
        """Enters an example; both files are on disk when this returns.

        Raises:
            InputError: where it is not the next one.
        """
        if row.index != self.setting.index(len(self.rows)):
            raise InputError(
                f"The next example is {self.setting.index(len(self.rows))}. Received: "
                f"{row.index}"
            )
        record = {**record, **self.setting.facts}
        files.append_json_line(self._workdir / COUNTS, record)
        self.records.append(record)
        self.rows.append(row)
        self._write_table()

    def write(self, name: str, value) -> None:
        """Writes a file beside the records, as JSON."""
        files.write_json(self._workdir / name, value)

    def path(self, name: str) -> pathlib.Path:
        """Returns the path of a file beside the records."""
        return self._workdir / name

    def _mend(self, rows: int, records: int) -> None:
        """Makes both files end with the last example that both have."""
        common = len(self.rows)
        for name, count in ((TABLE, rows), (COUNTS, records)):
            if count > common:
                logging.warning(
                    "Dropped %d example(s) at the end of '%s': the other file of "
                    "records does not have them. They are certified again.",
                    count - common,
                    self._workdir / name,
                )
        if records:
            content = (self._workdir / COUNTS).read_bytes()
            kept = content.split(b"\n")[:common]
            _replace(self._workdir / COUNTS, content, b"\n".join([*kept, b""]))
        self._write_table()

    def _write_table(self) -> None:
        # As a whole: a certificate takes much longer than to write all rows, and
        # readers never meet a half-written one.
        lines = [f"{HEADER}\n", *(row.line() for row in self.rows)]
        files.write_atomically(self._workdir / TABLE, "".join(lines))


def _replace(path, old: bytes, new: bytes) -> None:
    if new != old:
        files.write_atomically(path, new)


def _read_table(path: pathlib.Path) -> list[Row] | None:
    """The rows that are ended; None where there is no file."""
    if not path.exists():
        return None
    if HEADER.encode().startswith(path.read_bytes()):
        return []  # A run was killed before its first row.
    return read_rows(path, keep_unended=False)


def _read_counts(path: pathlib.Path) -> list[dict] | None:
    """The lines of counts; None where there is no file."""
    if not path.exists():
        return None
    records = files.read_json_lines(path)
    for number, record in enumerate(records, 1):
        missing = [name for name in _REQUIRED if name not in record]
        if missing:
            raise InputError(
                f"Line {number} of '{path}' is no record of certification. Received: "
                f"no {', '.join(missing)}. Repair or remove the line."
            )
    return records


def _check_whole(workdir, rows, records) -> None:
    """Refuses rows without counts, which could be of anything, and the reverse."""
    for name, other, mine, others in (
        (COUNTS, TABLE, records, rows),
        (TABLE, COUNTS, rows, records),
    ):
        if mine is None and others:
            raise InputError(
                f"'{workdir}' has {len(others)} example(s) in {other}. Received: no "
                f"{name} beside it. Restore that file, or give another --workdir."
            )


def _check_setting(workdir, records, setting) -> None:
    """Refuses records of another model, other data or other values."""
    known = {**_DIGESTS, **{name: name for name in setting.values}}
    for record in records:
        wrong = [name for name in known if record.get(name) != setting.facts[name]]
        if not wrong:
            continue
        shown = "; ".join(
            f"{name} {str(setting.facts[name])[:12]}, recorded is "
            f"{str(record.get(name))[:12]}"
            for name in wrong
        )
        raise InputError(
            f"'{workdir / COUNTS}' holds records of another "
            f"{' and another '.join(known[name] for name in wrong)}. Received: "
            f"{shown}. Repeat the command with what the records are of, or give "
            "another --workdir."
        )


def _check_rows(workdir, rows, records, setting) -> None:
    """Refuses other examples, and files that contradict each other."""
    for name, indices in (
        (TABLE, [row.index for row in rows]),
        (COUNTS, [record["idx"] for record in records]),
    ):
        for place, index in enumerate(indices):
            if index != setting.index(place):
                raise InputError(
                    f"'{workdir / name}' holds other examples. Received: row "
                    f"{place + 1} is example {index}, not {setting.index(place)} "
                    f"(--start={setting.start} --skip={setting.skip}). Repeat the "
                    "command with what the records are of, or give another --workdir."
                )
    for row, record in zip(rows, records, strict=False):
        told = (row.label, row.prediction, row.radius)
        counted = (record["label"], record["prediction"], record["radius"])
        if told != counted:
            raise InputError(
                f"'{TABLE}' and '{COUNTS}' in '{workdir}' contradict each other. "
                f"Received: example {row.index}, label, prediction and radius {told}, "
                f"and {counted}. Remove the lines from there on in both."
            )
