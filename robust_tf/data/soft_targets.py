"""Files of soft targets: how often each image got each class.

An `.npz` file with the digest of the labelled images that it belongs to.
"""

import dataclasses
import io
import os
import pathlib
import zipfile

import numpy as np

from robust_tf.data.dataset import ImageDataset
from robust_tf.errors import InputError

_FIELDS = ("counts", "digest", "split")


def packed(dataset: ImageDataset, counts: np.ndarray) -> bytes:
    """Returns the content of a file for `attach`.

    Args:
        dataset: the split that was counted on, without targets.
        counts: how often each image got each class, `[n, classes]` integers.

    Raises:
        InputError: where the counts do not fit the split.
    """
    counts = np.asarray(counts)
    _with_counts(dataset, counts)
    buffer = io.BytesIO()
    np.savez(buffer, counts=counts, digest=dataset.digest, split=dataset.split)
    return buffer.getvalue()


def attach(dataset: ImageDataset, path: str | os.PathLike) -> ImageDataset:
    """Returns the set with the targets of a file: counts, as shares of 1.

    Args:
        dataset: the very split that the file was made for, without targets.
        path: of the `.npz` file.

    Raises:
        InputError: for files that are missing, hold something else, or belong to other
            images, labels or another split.
    """
    counts, digest, split = _read(path)
    if (digest, split) != (dataset.digest, dataset.split):
        raise InputError(
            f"The soft targets in `{path}` belong to other images or labels than those "
            f"of '{dataset.name}' ({dataset.split}), of digest {dataset.digest}. "
            f"Received: split '{split}', digest {digest}. Compute them anew."
        )
    return _with_counts(dataset, counts)


def _with_counts(dataset, counts):
    is_counted = counts.ndim == 2 and np.issubdtype(counts.dtype, np.integer)
    if not is_counted or counts.size == 0 or (counts.sum(-1) < 1).any():
        raise InputError(
            "Soft targets are made of counts, [n, classes], of at least one class for "
            f"each image. Received: shape {counts.shape}, type {counts.dtype}"
        )
    shares = counts / counts.sum(-1, keepdims=True)
    return dataclasses.replace(dataset, targets=shares)


def _read(path):
    try:
        # Of a file that is no archive, NumPy would leave the handle open.
        file = io.BytesIO(pathlib.Path(path).read_bytes())
        with np.load(file, allow_pickle=False) as content:
            counts, digest, split = (content[name] for name in _FIELDS)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"`{path}` is no file of soft targets. Received: {error}. Compute them by "
            "`bin/soft_targets.py`."
        ) from error
    return counts, str(digest), str(split)
