"""Image classification sets that TFDS has written to a folder, read from there."""

import json
import os
import pathlib
import re

import numpy as np
import tensorflow_datasets as tfds

from robust_tf.data import array_records
from robust_tf.data.array_records import ArrayRecordSource
from robust_tf.data.damage import explained
from robust_tf.data.memory import empty_images
from robust_tf.errors import InputError

_BATCH = 1000
_NAME = re.compile(r"(\w+(?:/[\w.-]+)?)(?::(\d+\.\d+\.\d+))?")
_FEATURE = re.compile(r"tensorflow_datasets\.core\.features(\.\w+)+")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class TfdsSource:
    """A set in a folder that TFDS wrote, `<data_dir>/<name>[/<config>]/<version>/`.

    Reading opens no connection: all that is needed lies in the folder.

    Args:
        name: of the set, for messages.
        folder: the folder of one version.
        builder: that of the folder, of images of one shape.
    """

    def __init__(
        self, name: str, folder: pathlib.Path, builder: tfds.core.DatasetBuilder
    ):
        self._name, self._folder, self._builder = name, folder, builder
        image, label = (builder.info.features[key] for key in ("image", "label"))
        self.splits = tuple(builder.info.splits)
        self._shape, self._dtype = image.shape, image.np_dtype
        self.num_classes = label.num_classes

    def labels(self, split: str) -> np.ndarray:
        """Returns the labels of a split, `[n]`, in order; no image is decoded."""
        skip = {"image": tfds.decode.SkipDecoding()}
        with explained(self._name, self._folder):
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
        with explained(self._name, self._folder):
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


def _source(name, folder):
    """The source of the set in a folder: read as a whole, or image by image."""
    _refuse_foreign_features(folder)
    with explained(name, folder):
        builder = tfds.builder_from_directory(folder)
        info = builder.info
        features, formats = info.features, info.available_file_formats()
        formats = {one.value for one in formats}
        is_sequential = info.file_format.value != array_records.FORMAT
    image, label = (_feature(features, key) for key in ("image", "label"))
    if not isinstance(image, tfds.features.Image):
        problem = "a feature 'image' [height, width, channels]"
    elif not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
        problem = "a feature 'label' that is one class of a known number"
    elif is_sequential and not _has_many_shapes(features):
        return TfdsSource(name, folder, builder)
    elif image.shape[-1] not in (1, 3) or image.np_dtype != np.uint8:
        problem = "a feature 'image' of 1 or 3 channels and type uint8"
    elif array_records.FORMAT not in formats:
        raise InputError(_unreadable(name, folder, formats))
    else:
        return ArrayRecordSource(name, folder, builder)
    raise InputError(
        f"Data set '{name}' is no image classification set of ours: it needs "
        f"{problem}. Received: {features!r} in {folder}"
    )


def _unreadable(name, folder, formats):
    return (
        f"Images of '{name}' have many shapes, and are read one by one, from files of "
        f"the format {array_records.FORMAT}. Received: {', '.join(sorted(formats))} in "
        f"{folder}. Prepare the set anew, in another folder: `tfds.builder({name!r}, "
        f"data_dir=FOLDER, file_format='{array_records.FORMAT}')"
        ".download_and_prepare()`."
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
) -> TfdsSource | ArrayRecordSource:
    """Returns the source of a set, of its newest version unless `name` says which.

    Args:
        name: `mnist`, `mnist:3.0.1`, or with a configuration
            `imagenet_resized/64x64`.
        data_dir: the TFDS data folder; None for the environment variable
            TFDS_DATA_DIR, or else `~/tensorflow_datasets`.
        download: whether TFDS may fetch and prepare a set that is not there.
        alternative: what else could have been there, for the message.

    Raises:
        InputError: where it is not there, cannot be read, or has no feature "image" or
            no feature "label" with a known number of classes.
    """
    root, folder = data_folder(data_dir), find(name, data_dir)
    if folder is None and download:
        folder = _download(root, name)
    if folder is None:
        raise InputError(_missing(root, name, alternative))
    return _source(name, folder)


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
        if _has_many_shapes(builder.info.features):
            array_records.check_is_installed()
            builder = tfds.builder(
                name, data_dir=root, file_format=array_records.FORMAT
            )
    except tfds.core.DatasetNotFoundError as error:
        raise InputError(
            f"TFDS knows no data set of that name. Received: {name!r}. See "
            "`tfds.list_builders()`."
        ) from error
    builder.download_and_prepare()
    return pathlib.Path(builder.data_dir)


def _has_many_shapes(features):
    image = _feature(features, "image")
    return isinstance(image, tfds.features.Image) and None in image.shape


def _feature(features, key):
    """The feature of that name, or None."""
    is_named = isinstance(features, tfds.features.FeaturesDict) and key in features
    return features[key] if is_named else None
