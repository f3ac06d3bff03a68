"""Files that choose examples of a training split: those that a cascade leaves over.

An `.npz` file with ascending positions, the digest of the labelled images that they
are positions in, and the digests of the classifiers by which they were chosen.
"""

import dataclasses
import io
import os
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np

from robust_tf.data.dataset import ImageDataset
from robust_tf.errors import InputError

_FIELDS = ("positions", "digest", "split", "models")


@dataclasses.dataclass(frozen=True, eq=False)
class Subset:
    """What a file holds.

    Attributes:
        positions: of the chosen examples, `[m]` int64, ascending, at least one.
        digest: of the split that they are positions in (`ImageDataset.digest`).
        split: its name.
        models: digests of the classifiers by which they were chosen, in order.
    """

    positions: np.ndarray
    digest: str
    split: str
    models: tuple[str, ...]


def packed(
    dataset: ImageDataset, positions: np.ndarray, models: Sequence[str]
) -> bytes:
    """Returns the content of a file for `choose`.

    Args:
        dataset: the whole split, without targets.
        positions: of the chosen examples, `[m]` int64, ascending.
        models: digests of the classifiers by which they were chosen.

    Raises:
        InputError: for positions that do not fit the split.
    """
    positions = np.asarray(positions)
    _check(positions, dataset)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        positions=positions,
        digest=dataset.digest,
        split=dataset.split,
        models=np.array(list(models), dtype=np.str_),
    )
    return buffer.getvalue()


def choose(dataset: ImageDataset, path: str | os.PathLike) -> ImageDataset:
    """Returns the examples that a file chooses, in their order, as a set of their own.

    Its digest differs from that of the whole, so that no run goes on with others.

    Args:
        dataset: the very split that the file was made for.
        path: of the `.npz` file.

    Raises:
        InputError: as `read` does, and for files that belong to other images, labels or
            another split.
    """
    subset = read(path)
    if (subset.digest, subset.split) != (dataset.digest, dataset.split):
        raise InputError(
            f"The examples in `{path}` were chosen from other images or labels than "
            f"those of '{dataset.name}' ({dataset.split}), of digest {dataset.digest}. "
            f"Received: split '{subset.split}', digest {subset.digest}. Choose anew."
        )
    _check(subset.positions, dataset, path)
    return dataset.select(subset.positions)


def read(path: str | os.PathLike) -> Subset:
    """Returns what a file holds; positions are checked by `choose`.

    Raises:
        InputError: for files that are missing or hold something else.
    """
    try:
        # Of a file that is no archive, NumPy would leave the handle open.
        file = io.BytesIO(pathlib.Path(path).read_bytes())
        with np.load(file, allow_pickle=False) as content:
            positions, digest, split, models = (content[name] for name in _FIELDS)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"`{path}` is no file of chosen examples. Received: {error}. Such files "
            "are written by the training of a cascade."
        ) from error
    return Subset(positions, str(digest), str(split), tuple(map(str, models.ravel())))


def _check(positions, dataset, path=None):
    """Raises where positions are not ascending, or leave the split."""
    place = "" if path is None else f" in `{path}`"
    rule = f"Chosen examples{place} must be"
    if positions.dtype != np.int64 or positions.ndim != 1 or not len(positions):
        raise InputError(
            f"{rule} positions, [m] int64, at least one. Received: shape "
            f"{positions.shape}, type {positions.dtype}"
        )
    if (np.diff(positions) <= 0).any():
        raise InputError(
            f"{rule} in ascending order, each once. Received: "
            f"{positions[np.argmin(np.diff(positions)) :][:2].tolist()} in a row"
        )
    low, high = int(positions[0]), int(positions[-1])
    if low < 0 or high >= len(dataset):
        raise InputError(
            f"{rule} positions from 0 to {len(dataset) - 1}, as '{dataset.name}' "
            f"({dataset.split}) has {len(dataset)} examples. Received: positions from "
            f"{low} to {high}"
        )
