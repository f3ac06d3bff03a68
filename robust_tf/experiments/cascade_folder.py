"""The folder of a cascade: a run folder for each stage, and the record of them all."""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Sequence

import keras

from robust_tf import files
from robust_tf.errors import InputError
from robust_tf.experiments.model_files import MODEL
from robust_tf.layers.convert import convert

RECORD = "cascade.json"
EXAMPLES = "examples.npz"  # In the folder of a stage but the first (`data.subset`).
_SETTINGS = ("method", "relaxation", "dataset", "epsilon", "norm", "seed")


def is_cascade(path) -> bool:
    """Whether the folder holds the record of a cascade."""
    return (pathlib.Path(path) / RECORD).is_file()


def read(path) -> dict:
    """Returns the record of a cascade.

    `stages`, the most there may be; `method` and `relaxation` of certificates;
    `dataset`, `epsilon`, `norm`, `seed`; `is_done`; `left`, how many examples the last
    stage leaves, where that is known; `trained`, one record for each stage: `name`,
    `examples` (trained on), `seed`, `digest` (of the weights); `configuration`, lines
    of the gin configuration that all stages share.

    Raises:
        InputError: where there is none, or it is broken.
    """
    file = pathlib.Path(path) / RECORD
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        names = (*_SETTINGS, "stages", "is_done", "trained", "configuration")
        is_whole = all(name in record for name in names)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"'{file}' cannot be read as JSON: {error}") from error
    if not is_whole:
        raise InputError(
            f"'{file}' is no record of a cascade. Train into a new folder."
        )
    return record


def write(path, record: dict) -> None:
    """Writes the record, so that the old one or the new one is there."""
    files.write_json(pathlib.Path(path) / RECORD, record)


def accepted(path, record: dict) -> dict:
    """Returns the record to go on with: a new one, or that of an interrupted training.

    Writes nothing. The most stages there may be are those of the call. A record of a
    training that was refused, before any run began, is as good as none.

    Args:
        path: the folder of the cascade.
        record: of this call, with nothing trained.

    Raises:
        InputError: where the folder holds something else, or another cascade.
    """
    path = pathlib.Path(path)
    if not is_cascade(path):
        _check_empty(path)
        return record
    before = read(path)
    if not before["trained"] and not _runs_in(path):
        return record
    _check_same(path, before["configuration"], record["configuration"])
    done = len(before["trained"])
    if record["stages"] < done:
        raise InputError(
            f"The cascade in '{path}' has {done} trained stages. Received: stages = "
            f"{record['stages']}. Raise it, or give another --workdir."
        )
    return record | {key: before[key] for key in ("trained", "left")}


def load(path) -> tuple[dict, list[tuple[pathlib.Path, keras.Model]]]:
    """Returns the record of a cascade, and its stages: folders and classifiers.

    Raises:
        InputError: where the cascade is not trained to the end, a stage is missing, or
            one is not the classifier that the later ones were trained after.
    """
    path, record = pathlib.Path(path), read(path)
    if not record["is_done"]:
        names = [stage["name"] for stage in record["trained"]]
        raise InputError(
            f"The cascade in '{path}' is not trained to the end. Received: "
            f"{', '.join(names) or 'no stage'} of at most {record['stages']}. Go on "
            "with the training, or name the folder of one stage."
        )
    stages = [path / stage["name"] for stage in record["trained"]]
    return record, [
        (folder, load_stage(folder, stage["digest"]))
        for folder, stage in zip(stages, record["trained"], strict=True)
    ]


def load_stage(folder: pathlib.Path, digest: str | None = None) -> keras.Model:
    """Returns the classifier of a stage.

    Args:
        folder: of the stage.
        digest: what that of its weights must be; None for anything.

    Raises:
        InputError: where it is missing, or another.
    """
    file = folder / MODEL
    if not file.is_file():
        raise InputError(
            f"The cascade in '{folder.parent}' lacks the model of its stage "
            f"'{folder.name}', `{MODEL}`. Restore it, or train into another folder."
        )
    model = convert(file)
    if digest is not None and weights_digest(model) != digest:
        raise InputError(
            f"Stage '{folder.name}' of the cascade in '{folder.parent}' is not the "
            f"model that the stages after it were trained by. Received: weights of "
            f"digest {weights_digest(model)}, not {digest}. Restore it, or train into "
            "another folder."
        )
    return model


def weights_digest(model: keras.Model) -> str:
    """Returns SHA-256, in hex, of types, shapes and bytes of all weights, in order.

    Unlike that of a `.keras` file, the same each time a model is saved.
    """
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(f"{weight.dtype} {weight.shape} ".encode())
        digest.update(weight.tobytes())
    return digest.hexdigest()


def _check_empty(path):
    """Raises where a folder without a record holds runs."""
    found = _runs_in(path)
    if found:
        raise InputError(
            f"Folder '{path}' holds another run, and no cascade. Received: "
            f"{', '.join(found[:5])} there. Give another --workdir."
        )


def _runs_in(path) -> list[str]:
    """What is left of runs in a folder and in those within it."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        found = [
            str(one.relative_to(path))
            for pattern in (MODEL, "checkpoints", f"*/{MODEL}", "*/checkpoints")
            for one in path.glob(pattern)
        ]
    return sorted(found)


def _check_same(path, there: Sequence[str], here: Sequence[str]):
    differing = [f"\n  only there: {line}" for line in there if line not in here]
    differing += [f"\n  only here: {line}" for line in here if line not in there]
    if differing:
        raise InputError(
            f"Folder '{path}' belongs to another cascade:{''.join(differing)}\nGive "
            "another --workdir, or the configuration of that cascade."
        )
