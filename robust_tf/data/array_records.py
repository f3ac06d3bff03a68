"""Image sets that TFDS has written as ArrayRecord files: any example by its number."""

import functools
import hashlib
import importlib.util
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from robust_tf.data import decoding
from robust_tf.data.damage import explained
from robust_tf.errors import InputError

FORMAT = "array_record"
# Of each file's end, which holds where its records lie: what a digest is taken of.
_TAIL = 2**17
# File handles beside those of the records.
_OTHER_FILES = 512


class ArrayRecordSource:
    """A set in a folder that TFDS wrote with `file_format="array_record"`.

    Reading opens no connection, and holds nothing in memory.

    Args:
        name: of the set, for messages.
        folder: the folder of one version.
        builder: that of the folder.

    Attributes:
        image_shape: height, width and channels; None for what varies.
        num_classes: how many classes there are.
        splits: names of those whose examples have labels. ImageNet's own test split has
            none, so its validation split stands for it.

    Raises:
        InputError: where the package `array_record` is missing, and for damaged files.
    """

    def __init__(
        self, name: str, folder: pathlib.Path, builder: tfds.core.DatasetBuilder
    ):
        check_is_installed()
        self._name, self._folder, self._builder = name, folder, builder
        features = builder.info.features
        self.image_shape = features["image"].shape
        self.num_classes = features["label"].num_classes
        files = [
            one.filename
            for split in builder.info.splits.values()
            for one in split.file_instructions
        ]
        _allow_open_files(len(files))
        self.splits = tuple(filter(self._has_labels, builder.info.splits))

    def records(self, split: str) -> "Records":
        """Returns the examples of a split, in stored order."""
        with explained(self._name, self._folder):
            source = self._builder.as_data_source(
                split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
            )
            instructions = self._builder.info.splits[split].file_instructions
        files = [pathlib.Path(one.filename) for one in instructions]
        return Records(self._name, self._folder, source, files)

    def _has_labels(self, split):
        """Whether the first example has one: TFDS writes -1 for none."""
        (record,) = self.records(split).read([0])
        with explained(self._name, self._folder):
            return int(decoding.parse_labels([record])[0]) >= 0


class Records:
    """Serialised examples, by their positions; safe to use from several threads.

    Args:
        name: of the set, for messages.
        folder: that they lie in, for messages.
        source: with `__len__` and `__getitems__`, such as TFDS makes.
        files: that they lie in, in order.
    """

    def __init__(
        self,
        name: str,
        folder: pathlib.Path,
        source: Sequence[bytes],
        files: Sequence[pathlib.Path],
    ):
        self.name, self.folder = name, folder
        self._source, self._files = source, list(files)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, positions: Sequence[int]) -> np.ndarray:
        """Returns the records at those positions, `[m]`, objects of type `bytes`.

        Raises:
            InputError: for files that are missing or damaged.
        """
        with explained(self.name, self.folder):
            found = self._source.__getitems__([int(one) for one in positions])
        # Of `bytes` as such, NumPy would cut off zeros at the end.
        records = np.empty(len(found), object)
        records[:] = found
        return records

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of the files' sizes and of the last 128 KiB of each.

        There they say where each of their records lies, so that a record of another
        length shows; to read them all would take hours.
        """
        digest = hashlib.sha256()
        with explained(self.name, self.folder):
            for path in self._files:
                size = path.stat().st_size
                digest.update(size.to_bytes(8, "little"))
                with path.open("rb") as file:
                    file.seek(max(size - _TAIL, 0))
                    digest.update(file.read())
        return digest.hexdigest()


def check_is_installed() -> None:
    """Raises an `InputError` where the package `array_record` is missing."""
    if importlib.util.find_spec(FORMAT) is None:
        raise InputError(
            "Images of many shapes are read from files of the format array_record, "
            "which takes the package `array_record`. Received: an environment without "
            'it. Install it: pip install "robust_tf[imagenet]"'
        )


def _allow_open_files(count):
    """Raises this process's limit of open files: each file of records stays open."""
    import resource  # Of Unix alone, as is `array_record`.

    needed = count + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise InputError(
            f"The set lies in {count} files, which stay open. Received: a limit of "
            f"{hard} open files. Raise it to {needed}, in `/etc/security/limits.conf` "
            "or as your system does it."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
