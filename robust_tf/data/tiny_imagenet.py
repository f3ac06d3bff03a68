"""TinyImageNet: from the folder its authors publish, or as TFDS has prepared it."""

import os
import pathlib
from collections.abc import Iterator

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds
from absl import logging

from robust_tf.data import tfds_folder
from robust_tf.data.memory import empty_images
from robust_tf.errors import InputError

NAME = "tiny_imagenet"
FOLDER = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"

_VERSION = "1.0.0"
_NUM_CLASSES = 200
_SIZE = (64, 64)
_SHAPE = (*_SIZE, 3)
_COUNTS = {"train": 100_000, "validation": 10_000}
_SUBFOLDERS = {"train": "train", "validation": "val"}
_AGAIN = f"Extract {URL} anew."
# What Pillow raises for files that are no JPEGs, or damaged.
_DAMAGE = (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError)


class OriginalFolder:
    """The folder `tiny-imagenet-200`, read file by file; nothing is ever written.

    Training images lie in `train/<wnid>/images/`, validation images in `val/images/`
    with their classes in `val/val_annotations.txt`; or both are sorted into folders of
    classes, `train/<wnid>/` and `val/<wnid>/`, as the published systems do first. Both
    layouts give the same examples in the same order: training images by class and then
    by number, validation images by number. A folder may hold fewer images than the
    published 100,000 and 10,000, and then says so.

    The label is the position of the image's class (a WordNet id, "n01443537") among
    all 200 in alphabetical order. Pixels are those that Pillow decodes, as in the
    published systems (arXiv:2103.17268); TensorFlow's decoder differs by up to 5/255
    unless told to be accurate. Grey images become RGB.

    Attributes:
        classes: the 200 WordNet ids, from `wnids.txt`, or else the folders in `train`.

    Raises:
        InputError: where the classes cannot be told.
    """

    splits = tuple(_COUNTS)
    num_classes = _NUM_CLASSES

    def __init__(self, folder: str | os.PathLike):
        self._folder = pathlib.Path(folder)
        self.classes = _read_classes(self._folder)
        self._positions = {wnid: label for label, wnid in enumerate(self.classes)}
        self._listed = {}

    def labels(self, split: str) -> np.ndarray:
        """Returns the labels of a split, `[n]`."""
        return np.array([label for _, label in self._files(split)], np.int64)

    def read(
        self, split: str, indices: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns images `[m, 64, 64, 3]`, uint8, and labels `[m]`.

        Args:
            split: "train" or "validation".
            indices: positions in the split, `[m]`; None for all.

        Raises:
            InputError: for files that are missing, damaged or of another size.
        """
        self._tell_if_partial(split)
        files, labels = self._files(split), self.labels(split)
        if indices is None:
            indices = np.arange(len(files))
        images = empty_images(NAME, (len(indices), *_SHAPE), np.uint8)
        for row, index in enumerate(indices):
            images[row] = _read_image(files[index][0])
        return images, labels[indices]

    def examples(self, split: str) -> Iterator[tuple[str, np.ndarray, int]]:
        """Yields file name, image `[64, 64, 3]`, uint8, and label, in order."""
        self._tell_if_partial(split)
        for path, label in self._files(split):
            yield path.name, _read_image(path), label

    def _files(self, split):
        """Path and label of each image."""
        if split not in self._listed:
            place = self._folder / _SUBFOLDERS[split]
            if split == "validation" and _image_files(place / "images"):
                files = self._annotated(place)
            else:
                files = self._in_class_folders(place)
            if split == "validation":
                files.sort(key=lambda file: _by_number(file[0]))
            if not files:
                raise InputError(
                    f"{place} should hold images of TinyImageNet, in `images` or in "
                    f"folders such as {self.classes[0]}. Received: no `*.JPEG` there. "
                    f"{_AGAIN}"
                )
            self._listed[split] = files
        return self._listed[split]

    def _in_class_folders(self, place):
        files = []
        for folder in _subfolders(place):
            if folder.name != "images":  # Left over from sorting `val`.
                label, inner = self._label(folder.name, place), folder / "images"
                paths = _image_files(inner if inner.is_dir() else folder)
                files += [(path, label) for path in paths]
        return files

    def _annotated(self, place):
        path = place / "val_annotations.txt"
        classes = {}
        for number, line in enumerate(_read_text(path).splitlines(), 1):
            name, wnid, *_ = [*line.split("\t"), "", ""]
            if line.strip():
                classes[name] = self._label(wnid, f"{path}, line {number}")
        files = []
        for image in _image_files(place / "images"):
            if image.name not in classes:
                raise InputError(
                    f"{path} should name the class of every image in "
                    f"{place / 'images'}. Received: no line on {image.name}. {_AGAIN}"
                )
            files.append((image, classes[image.name]))
        return files

    def _label(self, wnid, place):
        label = self._positions.get(wnid)
        if label is None:
            raise InputError(
                f"{place} names a class that is not among the {_NUM_CLASSES} of "
                f"{self._folder}. Received: {wnid!r}. {_AGAIN}"
            )
        return label

    def _tell_if_partial(self, split):
        count = len(self._files(split))
        if count != _COUNTS[split]:
            logging.warning(
                "TinyImageNet in %s is partial: %s of %s %s images.",
                self._folder,
                f"{count:,}",
                f"{_COUNTS[split]:,}",
                split,
            )


class TinyImagenet(tfds.core.GeneratorBasedBuilder):
    """TinyImageNet for TFDS, examples and order as in `OriginalFolder`.

    Images are stored without loss (PNG), so that every reader sees the same pixels.

    Args:
        folder: the original folder to prepare the set from; None to download its
            archive, whose size and SHA-256 are then checked. An archive laid into
            `<data_dir>/downloads/manual/` is used instead of a download.
        **kwargs: of `tfds.core.DatasetBuilder`, such as `data_dir`.
    """

    VERSION = tfds.core.Version(_VERSION)
    RELEASE_NOTES = {_VERSION: "First version."}

    def __init__(self, *, folder: str | os.PathLike | None = None, **kwargs):
        self._original = folder
        super().__init__(**kwargs)

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images of 200 classes of ImageNet, scaled down to 64x64.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=_SHAPE, encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=_NUM_CLASSES),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="http://cs231n.stanford.edu/",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        folder = self._original or self._fetch(dl_manager) / FOLDER
        source = OriginalFolder(folder)
        self.info.features["label"].names = source.classes
        return {
            split: self._generate_examples(source, split) for split in source.splits
        }

    def _generate_examples(self, source, split):
        for name, image, label in source.examples(split):
            yield name, {"image": image, "label": label}

    def _fetch(self, dl_manager):
        if URL not in (self.url_infos or {}):  # Never unchecked.
            raise InputError(
                f"The checksum of {URL} should lie in checksums.tsv beside "
                f"{__file__}. Received: none. Install robust_tf anew."
            )
        return dl_manager.download_and_extract(URL)


def open_set(
    name: str = NAME, data_dir: str | os.PathLike | None = None, download: bool = False
) -> OriginalFolder | tfds_folder.TfdsSource:
    """Returns the source of TinyImageNet: prepared by TFDS, else its original folder.

    Args:
        name: "tiny_imagenet", or with the version, "tiny_imagenet:1.0.0".
        data_dir: a folder that holds the prepared set (`tiny_imagenet/1.0.0/`) or the
            original one (`tiny-imagenet-200/`), or the original folder itself; None
            for the TFDS data folder.
        download: whether TFDS may fetch and prepare a set that is in neither form.

    Raises:
        InputError: where it is in neither form, or cannot be read.
    """
    root = tfds_folder.data_folder(data_dir)
    folder = _original_folder(root)
    is_original = name in (NAME, f"{NAME}:{_VERSION}") and folder is not None
    if is_original and tfds_folder.find(name, data_dir) is None:
        return OriginalFolder(folder)
    alternative = f", or {root / FOLDER}/ as its authors publish it"
    return tfds_folder.open_set(name, data_dir, download, alternative)


def _original_folder(root):
    """The original folder, in `root` or `root` itself, or None."""
    for folder in (root / FOLDER, root):
        is_named = folder.name == FOLDER and folder.is_dir()
        if is_named or all((folder / sub).is_dir() for sub in _SUBFOLDERS.values()):
            return folder
    return None


def _read_classes(folder):
    path = folder / "wnids.txt"
    if path.is_file():
        classes = _read_text(path).split()
    else:
        path = folder / "train"
        classes = [sub.name for sub in _subfolders(path)]
    if len(classes) != _NUM_CLASSES or len(set(classes)) != _NUM_CLASSES:
        raise InputError(
            f"TinyImageNet has {_NUM_CLASSES} classes, and labels are positions among "
            f"them: {folder} should hold `wnids.txt`, or a folder of each in `train`. "
            f"Received: {len(set(classes))} different ones of {len(classes)} in {path}."
            f" {_AGAIN}"
        )
    return sorted(classes)


def _subfolders(place):
    """The folders in a folder, by name; hidden ones left out."""
    if not place.is_dir():
        raise InputError(
            f"TinyImageNet needs the folder {place}. Received: "
            f"{'a file' if place.exists() else 'nothing'} there. {_AGAIN}"
        )
    return sorted(sub for sub in place.glob("[!.]*") if sub.is_dir())


def _image_files(folder):
    """The images in a folder, by number; none where there is no such folder."""
    return sorted(folder.glob("[!.]*.JPEG"), key=_by_number)


def _by_number(path):
    """`val_9.JPEG` before `val_10.JPEG`."""
    return len(path.name), path.name


def _read_text(path):
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}. {_AGAIN}") from error


def _read_image(path):
    """`[64, 64, 3]`, uint8."""
    try:
        with PIL.Image.open(path, formats=("JPEG",)) as image:
            size = image.size  # Known before anything is decoded.
            if size == _SIZE:
                return np.asarray(image.convert("RGB"))
    except _DAMAGE as error:
        message = f"{path} should be a JPEG. Received: {error}. {_AGAIN}"
        raise InputError(message) from error
    raise InputError(
        f"Images of TinyImageNet have 64x64 pixels. Received: {path}, of "
        f"{size[0]}x{size[1]}. {_AGAIN}"
    )
