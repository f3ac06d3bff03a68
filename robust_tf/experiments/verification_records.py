"""Records of verification: one line for each example, and what they are records of."""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from robust_tf import files
from robust_tf.errors import InputError
from robust_tf.verification.result import ContradictionError
from robust_tf.verification.result import Verdict
from robust_tf.verification.result import VerificationResult

RECORDS = "verification.jsonl"
SETTING = "verification_setting.json"
SUMMARY = "verification_summary.json"
CONTRADICTION = "contradiction.json"
_POINTS = "counterexamples"
_FINAL = (Verdict.VERIFIED, Verdict.FALSIFIED)
_DIGESTS = {
    "model_digest": "model",
    "data_digest": "data set",
    "config_digest": "configuration",
}
_REQUIRED = ("index", "label", "prediction", "verdict", "method", *_DIGESTS)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a folder's records are records of.

    Attributes:
        model: path of the classifier.
        dataset: name of the data set.
        split: of it.
        start: index of the first example, of all shards.
        stop: index after the last one.
        shard: such as "2/8"; None for all examples.
        stages: names, in their order.
        configuration: what decides about verdicts: threat, plan and seed.
        model_digest: of layers and weights.
        data_digest: of images and labels.
        merged_from: the folders whose records were joined; None for those of a run.
    """

    model: str
    dataset: str
    split: str
    start: int
    stop: int
    shard: str | None
    stages: tuple[str, ...]
    configuration: dict
    model_digest: str
    data_digest: str
    merged_from: tuple[str, ...] | None = None

    @property
    def config_digest(self) -> str:
        """SHA-256, in hex, of the configuration."""
        text = json.dumps(self.configuration, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def digests(self) -> dict[str, str]:
        """The digests that each record repeats."""
        return {name: getattr(self, name) for name in _DIGESTS}

    def widened(self, other: "Setting") -> "Setting":
        """Returns the setting of the examples of both."""
        return dataclasses.replace(
            self, start=min(self.start, other.start), stop=max(self.stop, other.stop)
        )

    def write(self, workdir: pathlib.Path) -> None:
        """Writes it beside the records."""
        files.write_json(workdir / SETTING, dataclasses.asdict(self) | self.digests)

    @classmethod
    def read(cls, workdir: pathlib.Path) -> "Setting | None":
        """Returns the setting in a folder; None where there is none.

        Raises:
            InputError: for a file that holds no setting.
        """
        path = workdir / SETTING
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            names = [field.name for field in dataclasses.fields(cls)]
            values = {name: content[name] for name in names}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"'{path}' does not say what the records beside it are of. Received: "
                f"{error!r}. Restore it, or give another --workdir."
            ) from error
        values["stages"] = tuple(values["stages"])
        return cls(**values)


def description(value):
    """Returns a value in the types of JSON, the same in every process.

    Objects become their class and attributes, functions their names.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): description(entry) for key, entry in value.items()}
    if isinstance(value, Sequence):
        return [description(entry) for entry in value]
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return str(value)
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return {"class": type(value).__qualname__} | description(vars(value))


def read_records(workdir: pathlib.Path) -> list[dict]:
    """Returns the records of a folder, oldest first; none where there is no file.

    A half-written last line, left by a run that was killed, is dropped with a warning.

    Raises:
        InputError: where another line is broken, or no record of verification.
    """
    path = workdir / RECORDS
    records = files.read_json_lines(path) if path.exists() else []
    for number, record in enumerate(records, 1):
        missing = [name for name in _REQUIRED if name not in record]
        if missing or record["verdict"] not in list(Verdict):
            raise InputError(
                f"Line {number} of '{path}' is no record of verification. Received: "
                + (f"no {', '.join(missing)}" if missing else str(record["verdict"]))
                + ". Repair or remove the line."
            )
    return records


def check_digests(
    workdir: pathlib.Path, records: Iterable[Mapping], setting: Setting
) -> None:
    """Checks that records are of the model, data and configuration of a setting.

    Raises:
        InputError: naming which of the three differs, and what to do.
    """
    for record in records:
        wrong = [name for name in _DIGESTS if record[name] != setting.digests[name]]
        if not wrong:
            continue
        shown = "; ".join(
            f"{name} {setting.digests[name][:12]}, recorded is {record[name][:12]}"
            for name in wrong
        )
        known = Setting.read(workdir)
        details = _differences(known, setting) if "config_digest" in wrong else ""
        raise InputError(
            f"'{workdir / RECORDS}' holds records of another "
            f"{' and another '.join(_DIGESTS[name] for name in wrong)}. Received: "
            f"{shown}{details}. Repeat the command with what the records are of, or "
            "give another --workdir."
        )


def newest(records: Iterable[Mapping], where: str) -> dict[int, dict]:
    """Returns the newest record of each index, by index, in the order of indices.

    Args:
        records: oldest first.
        where: they come from, for errors.

    Raises:
        ContradictionError: where one index was verified and falsified.
    """
    found = {}
    for record in records:
        index = record["index"]
        check_agreement(index, found.get(index), record, where)
        old = found.get(index)
        if old is None or old["verdict"] not in _FINAL or record["verdict"] in _FINAL:
            found[index] = dict(record)
    return dict(sorted(found.items()))


def check_agreement(index: int, one, other, where: str) -> None:
    """Checks that of two records of an index not one is a proof and one an attack.

    Raises:
        ContradictionError: where they are.
    """
    verdicts = {record["verdict"] for record in (one, other) if record is not None}
    if verdicts >= set(_FINAL):
        raise ContradictionError(
            f"Example {index} is both VERIFIED and FALSIFIED in {where}. One of the "
            "two is wrong; nothing is reported."
        )


def record_of(
    result: VerificationResult,
    index: int,
    label: int,
    workdir: pathlib.Path,
    facts: Mapping,
) -> dict:
    """Returns the record of a result; a point that belongs to it is saved before.

    Args:
        result: of an example.
        index: of it in the split.
        label: its class.
        workdir: of the records.
        facts: that all records of a run share.
    """
    point = {"counterexample": None}
    if result.counterexample is not None:
        is_unsafe = result.verdict == Verdict.FALSIFIED
        name = f"{_POINTS}/{index:06d}{'' if is_unsafe else '_suspect'}.npy"
        _save(workdir / name, result.counterexample)
        point["counterexample" if is_unsafe else "suspect"] = name
    return {
        "index": index,
        "label": label,
        "prediction": result.prediction,
        "epsilon": facts["epsilon"],
        "norm": facts["norm"],
        "verdict": result.verdict.value,
        "method": result.method,
        "lower_bound": result.lower_bound,
        "upper_bound": result.upper_bound,
        **point,
        "seconds": round(result.seconds, 6),
        "stage_seconds": {k: round(v, 6) for k, v in result.stage_seconds.items()},
        "claim": None if result.claim is None else str(result.claim),
        "reason": result.reason,
        "domains": result.domains,
        **facts,
    }


def copy_points(record: Mapping, source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies the points that a record names from one folder to another.

    Raises:
        InputError: where a file is missing.
    """
    for name in filter(None, (record.get("counterexample"), record.get("suspect"))):
        path = source / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(
                f"The record of example {record['index']} names a point that cannot be "
                f"read. Received: '{path}' ({error}). Restore the folder."
            ) from error
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(target / name, content)


def _save(path: pathlib.Path, point: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.save(content, point)
    files.write_atomically(path, content.getvalue())


def _differences(known: Setting | None, setting: Setting) -> str:
    """Which entries of the configuration differ, and how."""
    if known is None:
        return ""
    old, new = _leaves(known.configuration), _leaves(setting.configuration)
    names = [name for name in new | old if old.get(name) != new.get(name)]
    return "".join(
        f"; {name} is {new.get(name)}, was {old.get(name)}" for name in names[:5]
    )


def _leaves(value, name="") -> dict[str, object]:
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list | tuple):
        entries = enumerate(value)
    else:
        return {name: value}
    found = {}
    for key, entry in entries:
        found |= _leaves(entry, os.fspath(f"{name}.{key}" if name else str(key)))
    return found
