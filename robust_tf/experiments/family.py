"""Families of models: one configuration, many architectures, a run folder for each.

A member is trained as any run is, by `train.train`; its configuration is the family's
with its own architecture and seed, so the record in its folder repeats it alone.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Callable
from collections.abc import Sequence

import gin
from absl import logging

from robust_tf import files
from robust_tf.errors import InputError
from robust_tf.experiments import configuration
from robust_tf.experiments import launch
from robust_tf.experiments.evaluate import RECORD
from robust_tf.experiments.settings import Run

_MEMBERS = "robust_tf.experiments.family.Family.members"
_ARCHITECTURE = "robust_tf.experiments.train.train.architecture"
_SEED = "robust_tf.experiments.settings.Run.seed"


@dataclasses.dataclass(frozen=True)
class Family:
    """Architectures that are trained alike.

    Attributes:
        members: name (of its run folder) and factory of each, in the published order:
            a member's index, from 0, is its place here.
    """

    members: Sequence[tuple[str, Callable]]

    def __post_init__(self):
        is_list = isinstance(self.members, tuple | list)
        if not is_list or not self.members or not all(map(_is_member, self.members)):
            raise InputError(
                "`members` must be pairs of a name and a factory, such as (('small', "
                "@small/cnn.cnn_2layer),); names become folders, and consist of "
                "letters, digits, '_', '-' and '.', a letter first. Received: "
                f"{self.members!r}"
            )
        _refuse_twice("`members` must have names of their own", self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the members, in order."""
        return tuple(name for name, _ in self.members)

    def subset(self, text: str | None) -> list[int]:
        """Returns the indices that `--model_subset` chooses, ascending.

        Args:
            text: indices, ranges with both ends and names, with commas in between, such
                as "0,3-5"; None for all members.

        Raises:
            InputError: for what is no member, a member given twice, or no member.
        """
        if text is None:
            return list(range(len(self.members)))
        entries = [entry.strip() for entry in text.split(",")]
        chosen = [index for entry in entries for index in self._indices(entry, text)]
        _refuse_twice(
            "`--model_subset` must name each member once",
            [self.names[index] for index in chosen],
            f", in {text!r}",
        )
        return sorted(chosen)

    def _indices(self, entry, text):
        if entry in self.names:
            return [self.names.index(entry)]
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", entry)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < len(self.members):
            known = ", ".join(f"{i} {name}" for i, name in enumerate(self.names))
            raise InputError(
                "`--model_subset` must hold indices, ranges or names of members, such "
                f"as 0,3-5. Received: {entry!r} in {text!r}. The members are: {known}"
            )
        return range(first, last + 1)


def is_configured() -> bool:
    """Whether the configuration is a family's."""
    return configuration.is_bound(_MEMBERS)


def seed_of(seed: int, name: str) -> int:
    """Returns a member's seed, the same whichever others are trained.

    Args:
        seed: of the family.
        name: of the member.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def train_members(
    workdir,
    gin_files: Sequence[str],
    gin_params: Sequence[str],
    subset: str | None,
    arguments: Sequence[str],
) -> list[dict]:
    """Trains members one after the other, each into `workdir/NAME`.

    Members that are done are not trained again, and one that was interrupted goes on.

    Args:
        workdir: holds the run folders.
        gin_files: the configuration, which has been parsed.
        gin_params: bindings that win over the files.
        subset: which members, as `Family.subset` reads it.
        arguments: the command line, for the records.

    Returns:
        The summary of each, with its `name`.

    Raises:
        InputError: for members that are unknown, an architecture beside the members',
            and as `train.train` does.
    """
    if configuration.is_bound(_ARCHITECTURE):
        raise InputError(
            "`train.train.architecture` must be left out where `family.Family.members` "
            "are configured: each member has its own. Received: both"
        )
    family = configuration.call(Family)
    chosen = family.subset(subset)
    seed = configuration.call(Run).seed
    bindings = [
        [
            f"{_ARCHITECTURE} = @{'/'.join(filter(None, reference.config_key))}",
            f"{_SEED} = {seed_of(seed, name)}",
        ]
        for name, reference in gin.query_parameter(_MEMBERS)
    ]
    summaries = []
    for number, index in enumerate(chosen, 1):
        name = family.names[index]
        title = f"Member {number} of {len(chosen)}, {index} {name}"
        configuration.parse(gin_files, [*gin_params, *bindings[index]])
        folder = pathlib.Path(workdir) / name
        summaries.append({"name": name} | _member(folder, index, title, arguments))
    return summaries


def _member(folder, index, title, arguments) -> dict:
    """The summary of the configured member, trained unless it has been."""
    digest = hashlib.sha256(gin.config_str().encode()).hexdigest()
    summary = _known(folder, digest)
    if summary is not None:
        logging.info("%s: done before.", title)
        return summary
    logging.info("%s.", title)
    summary = launch.train_one_of_many(folder, arguments)
    record = {"index": index, "name": folder.name, "configuration": digest}
    files.write_json(folder / RECORD, record)
    return summary


def _known(folder, digest) -> dict | None:
    """The summary of a member that an earlier call has finished."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    summary = folder / "summary.json"
    is_whole = summary.is_file() and (folder / "model.keras").is_file()
    if record["configuration"] != digest or not is_whole:
        return None
    return json.loads(summary.read_text(encoding="utf-8"))


def _is_member(entry) -> bool:
    return (
        isinstance(entry, tuple | list)
        and len(entry) == 2
        and isinstance(entry[0], str)
        and bool(re.fullmatch(r"[A-Za-z][\w.-]*", entry[0], re.ASCII))
        and callable(entry[1])
    )


def _refuse_twice(rule, names, place=""):
    twice = [name for name in dict.fromkeys(names) if list(names).count(name) > 1]
    if twice:
        raise InputError(f"{rule}. Received: {', '.join(twice)} twice{place}")
