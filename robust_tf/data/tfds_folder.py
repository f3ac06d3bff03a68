"""Image classification sets that TFDS has written to a folder, read from there."""

import contextlib
import json
import os
import pathlib
import re

import numpy as np
import tensorflow_datasets as tfds

from robust_tf.data.memory import empty_images
from robust_tf.errors import InputError

_BATCH = 1000
_NAME = re.compile(r"(\w+(?:/[\w.-]+)?)(?::(\d+\.\d+\.\d+))?")
_NODE = re.compile(r"{{function_node .*?}} *| *\[Op:.*")  # In TensorFlow's messages.
_FEATURE = re.compile(r"tensorflow_datasets\.core\.features(\.\w+)+")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class TfdsSource:
    """A set in a folder that TFDS wrote, `<data_dir>/<name>[/<config>]/<version>/`.

    Reading opens no connection: all that is needed lies in the folder.

    Args:
        name: of the set, for messages.
        folder: the folder of one version.

    Raises:
        InputError: where the folder cannot be read, or the set has no feature "image"
            of one fixed shape or no feature "label" with a known number of classes.
    """

    def __init__(self, name: str, folder: pathlib.Path):
        self._name, self._folder = name, folder
        _refuse_foreign_features(folder)
        with _explained(name, folder):
            self._builder = tfds.builder_from_directory(folder)
            features = self._builder.info.features
            self.splits = tuple(self._builder.info.splits)
        self._shape, self._dtype, self.num_classes = self._structure(features)

    def labels(self, split: str) -> np.ndarray:
        """Returns the labels of a split, `[n]`, in order; no image is decoded."""
        skip = {"image": tfds.decode.SkipDecoding()}
        with _explained(self._name, self._folder):
            batches = list(self._batches(split, lambda e: e["label"], skip))
        return np.concatenate(batches) if batches else np.empty(0, np.int64)

    def read(
        self, split: str, indices: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns images `[m, height, width, channels]` and labels `[m]`.

        Memory is taken for the images that are asked for, once.

        Args:
            split: one of `splits`.
            indices: distinct positions in the stored split, `[m]`, in the order
                wanted; None for all.

        Raises:
            InputError: for damaged files, or too little memory.
        """
        count = self._builder.info.splits[split].num_examples
        size = count if indices is None else len(indices)
        images = empty_images(self._name, (size, *self._shape), self._dtype)
        labels = np.empty(size, np.int64)
        rows = np.arange(count)  # Where each stored example goes; -1: nowhere.
        if indices is not None:
            rows = np.full(count, -1)
            rows[indices] = np.arange(size)
        read = 0
        with _explained(self._name, self._folder):
            pairs = self._batches(split, lambda e: (e["image"], e["label"]))
            for some_images, some_labels in pairs:
                row = rows[read : read + len(some_labels)]
                is_wanted = row >= 0
                images[row[is_wanted]] = some_images[is_wanted]
                labels[row[is_wanted]] = some_labels[is_wanted]
                read += len(some_labels)
        if read != count:
            raise InputError(
                f"{self._folder} should hold {count} examples of '{split}'. Received: "
                f"{read}. Prepare the set anew."
            )
        return images, labels

    def _batches(self, split, choose, decoders=None):
        # One file after the other, so that the order is that of the folder.
        config = tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1)
        examples = self._builder.as_dataset(
            split=split, shuffle_files=False, read_config=config, decoders=decoders
        )
        return examples.map(choose).batch(_BATCH).as_numpy_iterator()

    def _structure(self, features):
        """Shape and type of an image, and how many classes there are."""
        image, label = (_feature(features, key) for key in ("image", "label"))
        if not isinstance(image, tfds.features.Image) or None in image.shape:
            problem = "a feature 'image' of one fixed shape [height, width, channels]"
        elif not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
            problem = "a feature 'label' that is one class of a known number"
        else:
            return image.shape, image.np_dtype, label.num_classes
        raise InputError(
            f"Data set '{self._name}' is no image classification set of ours: it "
            f"needs {problem}. Received: {features!r} in {self._folder}"
        )


def _refuse_foreign_features(folder):
    """Refuses classes from outside TFDS: it would import any module they name."""
    path = folder / "features.json"
    try:
        names = set(_class_names(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError):
        return  # TFDS cannot read it either, and says so.
    foreign = sorted(name for name in names if not _FEATURE.fullmatch(name))
    if foreign:
        raise InputError(
            f"`{path}` may name features of TFDS itself only. Received: {foreign}. "
            "Reading it would run other code: prepare the set anew."
        )


def _class_names(value):
    """All class names in a feature description, at any depth."""
    if isinstance(value, list):
        for entry in value:
            yield from _class_names(entry)
    elif isinstance(value, dict):
        for key, entry in value.items():
            if key in ("pythonClassName", "python_class_name"):
                yield str(entry)
            yield from _class_names(entry)


def open_set(
    name: str,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    alternative: str = "",
) -> TfdsSource:
    """Returns the source of a set, of its newest version unless `name` says which.

    Args:
        name: `mnist`, `mnist:3.0.1`, or with a configuration
            `imagenet_resized/64x64`.
        data_dir: the TFDS data folder; None for the environment variable
            TFDS_DATA_DIR, or else `~/tensorflow_datasets`.
        download: whether TFDS may fetch and prepare a set that is not there.
        alternative: what else could have been there, for the message.

    Raises:
        InputError: where it is not there, or cannot be read.
    """
    root, folder = data_folder(data_dir), find(name, data_dir)
    if folder is None and download:
        folder = _download(root, name)
    if folder is None:
        raise InputError(_missing(root, name, alternative))
    return TfdsSource(name, folder)


def data_folder(data_dir: str | os.PathLike | None) -> pathlib.Path:
    """Returns the folder that a `data_dir` stands for, as `open_set` says."""
    return pathlib.Path(
        data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    ).expanduser()


def find(name: str, data_dir: str | os.PathLike | None = None) -> pathlib.Path | None:
    """Returns the folder of a prepared version, or None; arguments as `open_set`.

    Raises:
        InputError: for a name that is none, or that fits several configurations.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(
            "A data set is called `name`, `name/config` or `name:1.2.3`. Received: "
            f"{name!r}"
        )
    root, (path, version) = data_folder(data_dir), match.groups()
    versions = _versions(root / path)
    if not versions and "/" not in path:
        configs = [sub.name for sub in _folders(root / path) if _versions(sub)]
        if len(configs) > 1:
            raise InputError(
                f"Data set '{path}' in {root} has several configurations: {configs}. "
                f"Received: {name!r}. Name one: '{path}/{configs[0]}'."
            )
        if configs:
            versions = _versions(root / path / configs[0])
    if version is not None:
        versions = [folder for folder in versions if folder.name == version]
    return versions[-1] if versions else None


def _versions(folder):
    """The folders of whole versions, oldest first."""
    versions = [
        sub
        for sub in _folders(folder)
        if _VERSION.fullmatch(sub.name) and (sub / "dataset_info.json").is_file()
    ]
    return sorted(versions, key=lambda sub: [int(part) for part in sub.name.split(".")])


def _folders(folder):
    if not folder.is_dir():
        return []
    return sorted(sub for sub in folder.iterdir() if sub.is_dir())


def _missing(root, name, alternative):
    path = name.partition(":")[0]
    places = [root / path, root]
    place = next((place for place in places if place.is_dir()), None)
    if place is None:
        there = f"{root} does not exist"
    else:
        listing = sorted(entry.name for entry in place.glob("[!.]*"))[:20]
        there = f"{place} holds {listing or 'nothing'}"
    return (
        f"Data set '{name}' was not found in {root}. Expected: "
        f"{root / path.split('/')[0]}/ with a folder such as 3.0.1/ that holds "
        f"dataset_info.json{alternative}. Received: {there}. Point --data_dir (or "
        "TFDS_DATA_DIR) to the folder that holds the set, or let TFDS fetch it: "
        "download=True."
    )


def _download(root, name):
    try:
        builder = tfds.builder(name, data_dir=root)
    except tfds.core.DatasetNotFoundError as error:
        raise InputError(
            f"TFDS knows no data set of that name. Received: {name!r}. See "
            "`tfds.list_builders()`."
        ) from error
    builder.download_and_prepare()
    return pathlib.Path(builder.data_dir)


def _feature(features, key):
    """The feature of that name, or None."""
    is_named = isinstance(features, tfds.features.FeaturesDict) and key in features
    return features[key] if is_named else None


@contextlib.contextmanager
def _explained(name, folder):
    """Turns whatever a damaged folder raises into an error that names the folder."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = _NODE.sub("", str(error)).strip().split("\n")[0][:300].rstrip(".")
        raise InputError(
            f"Data set '{name}' in {folder} cannot be read; its files are damaged or "
            f"incomplete. Received: {type(error).__name__}: {reason}. Delete the "
            "folder and prepare the set anew."
        ) from error
