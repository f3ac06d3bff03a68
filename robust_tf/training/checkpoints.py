"""Checkpoints that are whole or absent, whenever a run is killed."""

import dataclasses
import hashlib
import io
import json
import pathlib
import re
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
from absl import logging

from robust_tf.errors import InputError
from robust_tf.files import remove_unfinished
from robust_tf.files import write_atomically
from robust_tf.files import write_json


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Values of variables after a number of whole epochs, and what goes with them."""

    epoch: int
    values: dict[str, np.ndarray]
    notes: dict


class CheckpointStore:
    """The newest checkpoints of a run, in one folder.

    Each is an `.npz` file, and beside it a `.json` file with its digest, written last:
    a checkpoint without it, or of another digest, is not whole, and is passed over.

    Args:
        folder: made if it is missing.
        run: what must agree for a checkpoint to be resumed from: a name for each
            property of the run, and its value as text.
        keep: how many checkpoints are kept.
    """

    def __init__(self, folder, run: Mapping[str, str], keep: int = 2):
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._run = dict(run)
        self._keep = keep

    def save(self, checkpoint: Checkpoint, name: str | None = None) -> None:
        """Writes a checkpoint; a `name` keeps it apart from the newest ones."""
        stem = name or f"epoch-{checkpoint.epoch:06d}"
        content = _packed(checkpoint.values)
        write_atomically(self._folder / f"{stem}.npz", content)
        record = {
            "epoch": checkpoint.epoch,
            "sha256": hashlib.sha256(content).hexdigest(),
            "run": self._run,
            "notes": checkpoint.notes,
        }
        write_json(self._folder / f"{stem}.json", record)
        if name is None:
            self._prune(stem)

    def newest(self) -> Checkpoint | None:
        """Returns the newest whole checkpoint; None where there is none.

        Raises:
            InputError: where it belongs to another run or another architecture.
        """
        for stem in self._stems():
            checkpoint = self.load(stem)
            if checkpoint is not None:
                return checkpoint
        return None

    def load(self, stem: str) -> Checkpoint | None:
        """Returns one checkpoint; None, and a warning, where it is not whole."""
        path = self._folder / f"{stem}.npz"
        try:
            record = json.loads((self._folder / f"{stem}.json").read_text())
            content = path.read_bytes()
            wanted, run, epoch = record["sha256"], record["run"], record["epoch"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            logging.warning("Checkpoint '%s' is passed over: %s", path, error)
            return None
        if hashlib.sha256(content).hexdigest() != wanted:
            logging.warning(
                "Checkpoint '%s' is passed over: it is damaged, as its digest is not "
                "the recorded one.",
                path,
            )
            return None
        self._check_run(path, run)
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            values = {key: arrays[key] for key in arrays.files}
        return Checkpoint(epoch, values, record["notes"])

    def _check_run(self, path, run):
        keys = sorted(run.keys() | self._run.keys())
        different = [key for key in keys if run.get(key) != self._run.get(key)]
        if different:
            listing = "\n  ".join(
                f"{key}: {run.get(key)!r} there, {self._run.get(key)!r} here"
                for key in different
            )
            raise InputError(
                f"Checkpoint '{path}' belongs to another run:\n  {listing}\nContinue "
                "it with its own configuration, or give another --workdir."
            )

    def _prune(self, newest):
        """Drops all but the last few up to `newest`; later ones were passed over."""
        stems = self._stems()
        first = stems.index(newest)
        for old in stems[:first] + stems[first + self._keep :]:
            for suffix in (".json", ".npz"):  # The digest first: then it is not whole.
                (self._folder / f"{old}{suffix}").unlink(missing_ok=True)
        remove_unfinished(self._folder)

    def _stems(self) -> list[str]:
        """Names of checkpoints, newest first; those without a digest too."""
        return sorted(
            {path.stem for path in self._folder.glob("epoch-*.npz")}, reverse=True
        )


def collect(variables: Sequence) -> dict[str, np.ndarray]:
    """Returns the values of variables, in order, under unique names.

    Names do not tell what else the process has made: Keras calls the second layer of
    a kind `dense_1`, in a second model `dense_5`.
    """
    return {
        _without_counters(f"{number:04d} {variable.path}"): np.asarray(variable)
        for number, variable in enumerate(variables)
    }


def restore(variables: Sequence, values: Mapping[str, np.ndarray]) -> None:
    """Sets variables to collected values.

    Raises:
        InputError: where names, shapes or types differ; nothing is set then.
    """
    wanted = collect(variables)
    values = {_without_counters(name): value for name, value in values.items()}
    problems = [
        f"{name}: {_form(values.get(name))} there, {_form(wanted.get(name))} here"
        for name in sorted(wanted.keys() | values.keys())
        if _form(values.get(name)) != _form(wanted.get(name))
    ]
    if problems:
        shown = "\n  ".join(problems[:10])
        raise InputError(
            f"The checkpoint is of another architecture; {len(problems)} variables "
            f"differ:\n  {shown}\nBuild the model that was trained, or give another "
            "--workdir."
        )
    for variable, value in zip(variables, values.values(), strict=True):
        variable.assign(value)


def _without_counters(name) -> str:
    return re.sub(r"_\d+(?=[/_]|$)", "", name)


def _packed(values) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **values)
    return buffer.getvalue()


def _form(value) -> str:
    return "absent" if value is None else f"{value.dtype}{list(value.shape)}"
