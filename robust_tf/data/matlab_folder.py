"""Image classification sets as MATLAB files (arXiv:1810.07481).

`DATA_DIR/NAME/NAME_int_train.mat` and `NAME_int_test.mat` hold `images`, uint8 `[n,
height, width, channels]` or, of grey images, `[n, height, width]`, and `labels`, whole
numbers from 0 on, `[1, n]` or `[n, 1]`.
"""

import os
import pathlib
import re

import numpy as np

from robust_tf import matlab
from robust_tf.data import tfds_folder
from robust_tf.data.memory import empty_images
from robust_tf.errors import InputError

GTS = "gts"
_SPLITS = ("train", "test")
_NAME = re.compile(r"\w+")
# Of sets that have been published in this form; of others the labels tell.
_NUM_CLASSES = {GTS: 43, "mnist": 10, "fmnist": 10, "cifar10": 10}


class MatlabSource:
    """A set in a folder of `.mat` files.

    Files of known sets have labels of 43 (`gts`) or 10 classes (`mnist`, `fmnist`,
    `cifar10`); other sets have as many classes as the greatest label of all files says.

    Args:
        name: of the set.
        folder: that holds its files.

    Raises:
        InputError: for a folder without such files, and for labels that are none.
    """

    def __init__(self, name: str, folder: pathlib.Path):
        self._name, self._folder = name, folder
        self.splits = tuple(s for s in _SPLITS if self._path(s).is_file())
        if not self.splits:
            raise InputError(
                f"Data set '{name}' is read from {self._path('train')} and "
                f"{self._path('test')}. Received: {_listing(folder)}. Put the files "
                "there, or name another --data_dir."
            )
        self.num_classes = _NUM_CLASSES.get(name) or self._greatest_label() + 1

    def labels(self, split: str) -> np.ndarray:
        """Returns the labels of a split, `[n]`; no image is kept."""
        stored = self._read(split, "labels")
        path = self._path(split)
        is_vector = stored.ndim == 2 and 1 in stored.shape
        if stored.dtype.kind not in "iu" or not is_vector:
            raise InputError(
                f"`labels` of '{path}' must be whole numbers, [1, n] or [n, 1]. "
                f"Received: {stored.dtype} of shape {list(stored.shape)}. Save them as "
                "uint8 or int32."
            )
        labels = stored.reshape(-1).astype(np.int64)
        limit = _NUM_CLASSES.get(self._name, 2**31)
        if labels.size and not 0 <= labels.min() <= labels.max() < limit:
            raise InputError(
                f"`labels` of '{path}' must begin at 0 and be below the number of "
                f"classes, {limit}. Received: labels from {labels.min()} to "
                f"{labels.max()}. Renumber them."
            )
        return labels

    def read(
        self, split: str, indices: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns images `[m, height, width, channels]`, uint8, and labels `[m]`.

        Args:
            split: one of `splits`.
            indices: positions in the file, `[m]`, in the order wanted; None for all.

        Raises:
            InputError: for a variable that is missing, of another type or shape, as
                many images as there are not labels, or too little memory.
        """
        labels, stored = self.labels(split), self._read(split, "images")
        if stored.dtype != np.uint8 or stored.ndim not in (3, 4):
            raise InputError(
                f"`images` of '{self._path(split)}' must be uint8, [n, height, width, "
                f"channels] or [n, height, width]. Received: {stored.dtype} of shape "
                f"{list(stored.shape)}"
            )
        if len(stored) != len(labels):
            raise InputError(
                f"'{self._path(split)}' must hold one label for each image. Received: "
                f"{len(labels)} labels, {len(stored)} images (their first axis)"
            )
        if stored.ndim == 3:
            stored = stored[..., np.newaxis]
        chosen = slice(None) if indices is None else indices
        labels = labels[chosen]
        # Files hold the last axis first: what is read lies the other way in memory.
        images = empty_images(
            self._name, (len(labels), *stored.shape[1:]), stored.dtype
        )
        images[...] = stored[chosen]
        return images, labels

    def _read(self, split, variable):
        path = self._path(split)
        arrays = matlab.read_arrays(path, (variable,))
        if variable not in arrays:
            raise InputError(
                f"'{path}' must hold the variables `images` and `labels`. Received: no "
                f"`{variable}`"
            )
        return arrays[variable]

    def _greatest_label(self) -> int:
        return max(int(self.labels(s).max(initial=0)) for s in self.splits)

    def _path(self, split) -> pathlib.Path:
        return self._folder / f"{self._name}_int_{split}.mat"


def is_meant(name: str, data_dir: str | os.PathLike | None = None) -> bool:
    """Whether a name stands for `.mat` files: of `gts` always, of others found ones.

    Where TFDS has prepared a set of that name, that is meant.

    Args:
        name: of the set.
        data_dir: as `open_set` takes it.
    """
    if not _NAME.fullmatch(name):
        return False
    folder = tfds_folder.data_folder(data_dir) / name
    is_there = any((folder / f"{name}_int_{s}.mat").is_file() for s in _SPLITS)
    if not is_there and name != GTS:
        return False
    return tfds_folder.find(name, data_dir) is None


def open_set(name: str, data_dir: str | os.PathLike | None = None) -> MatlabSource:
    """Returns the source of a set in `DATA_DIR/NAME/`.

    Args:
        name: of the set.
        data_dir: the folder of all sets; None for the TFDS data folder.

    Raises:
        InputError: where it is not there, or has labels that are none.
    """
    return MatlabSource(name, tfds_folder.data_folder(data_dir) / name)


def _listing(folder) -> str:
    if not folder.is_dir():
        return f"no folder {folder}"
    names = sorted(entry.name for entry in folder.glob("[!.]*"))[:20]
    return f"a folder with {names or 'nothing'}"
