"""Labelled images: what every loader returns and every pipeline takes."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import Protocol

import numpy as np
import tensorflow as tf

from robust_tf.data.augmentation import Augmentation
from robust_tf.data.augmentation import augmented
from robust_tf.data.memory import host_tensor
from robust_tf.errors import InputError

# From positions `[m]` and a seed `[2]` to images `[m, height, width, channels]` float32
# in [0, 1] and labels `[m]` int32; for `tf.data`, built of its operations.
Reader = Callable[[tf.Tensor, tf.Tensor | None], tuple[tf.Tensor, tf.Tensor]]

_SUM_ERROR = 1e-5  # Of probabilities in float32.


class LabelledImages(Protocol):
    """Images and labels of one split, read-only and in a fixed order.

    Attributes:
        name: of the set, for messages and records.
        split: "train", "validation" or "test".
        num_classes: how many classes the set knows, whether or not all occur.
        labels: `[n]` int32, or what is indexed like it.
        targets: probabilities of the classes, `[n, num_classes]` float32; None for
            none.
        image_shape: height, width and channels.
        digest: SHA-256, in hex, that tells these examples from others.
    """

    name: str
    split: str
    num_classes: int
    labels: np.ndarray
    targets: np.ndarray | None
    image_shape: tuple[int, int, int]
    digest: str

    def __len__(self) -> int: ...

    def floats(self, indices=slice(None)) -> np.ndarray:
        """Returns the chosen images as float32 in [0, 1], as `reader()` reads them."""

    def select(self, indices, split: str | None = None) -> "LabelledImages":
        """Returns the chosen examples, in that order, as a set of their own."""

    def reader(self, augmentation: Augmentation | None = None) -> Reader:
        """Returns how a pipeline reads batches; without augmentation, seeds are idle.

        Raises:
            InputError: as `augmentation.augmented`, when the pipeline is made.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDataset:
    """Images and labels of one split in memory, read-only and in a fixed order.

    Attributes:
        name: of the set, for messages and records.
        images: `[n, height, width, channels]`; uint8 from 0 to 255, or floating
            point in [0, 1], which is kept as float32.
        labels: `[n]`, integers from 0 to `num_classes - 1`, kept as int32.
        num_classes: how many classes the set knows, whether or not all occur.
        split: "train", "validation" or "test".
        targets: probabilities of the classes, `[n, num_classes]`, kept as float32; None
            for none (`data.soft_targets`).

    Raises:
        InputError: for another shape or type, no examples, lengths that differ,
            labels out of range, floats that are NaN or leave [0, 1], targets that are
            no probabilities.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    num_classes: int
    split: str
    targets: np.ndarray | None = None

    def __post_init__(self):
        images, labels = np.asarray(self.images), np.asarray(self.labels)
        self._check_shapes(images, labels)
        self._check_labels(labels)
        if images.dtype != np.uint8:
            self._check_floats(images)
            images = images.astype(np.float32, copy=False)
        # Frozen: the fields can only be replaced this way.
        object.__setattr__(self, "images", read_only(images))
        labels = labels.astype(np.int32, copy=False)
        object.__setattr__(self, "labels", read_only(labels))
        if self.targets is not None:
            targets = checked_targets(
                self.name, self.targets, len(labels), self.num_classes
            )
            object.__setattr__(self, "targets", read_only(targets))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.images.shape[1:]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of the bytes of images, labels and targets, if any.

        All in C order and little-endian: uint8 or float32, int32, float32.
        """
        digest = hashlib.sha256()
        arrays = (self.images, self.labels, self.targets)
        for array in filter(lambda array: array is not None, arrays):
            little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
            digest.update(np.ascontiguousarray(little_endian))
        return digest.hexdigest()

    def floats(self, indices=slice(None)) -> np.ndarray:
        """Returns the chosen images as float32 in [0, 1].

        Args:
            indices: a slice or an array of positions, `[m]`.

        Returns:
            `[m, height, width, channels]`, the very values that the pipelines yield.
        """
        images = self.images[indices]
        if images.dtype == np.uint8:
            return images.astype(np.float32) / np.float32(255.0)
        return images.copy()

    def reader(self, augmentation: Augmentation | None = None) -> Reader:
        """Returns how a pipeline reads batches, see `LabelledImages`.

        Pixels stay in the type of the set: batches are gathered, then made floats.
        """
        images, labels = host_tensor(self.images), host_tensor(self.labels)

        def read(indices, seed=None):
            batch = as_floats(tf.gather(images, indices))
            return augmented(batch, augmentation, seed), tf.gather(labels, indices)

        return read

    def select(self, indices, split: str | None = None) -> "ImageDataset":
        """Returns the chosen examples, in that order, as a set of their own.

        Args:
            indices: a slice or an array of positions, `[m]`.
            split: what to call them; by default the split they come from.
        """
        return dataclasses.replace(
            self,
            images=self.images[indices],
            labels=self.labels[indices],
            split=split or self.split,
            targets=None if self.targets is None else self.targets[indices],
        )

    def _check_shapes(self, images, labels):
        if images.ndim != 4:
            raise InputError(
                f"Images of '{self.name}' must be [n, height, width, channels]. "
                f"Received: shape {images.shape}. Grey images need an axis of one "
                "channel: `images[..., None]`."
            )
        if labels.shape != images.shape[:1]:
            raise InputError(
                f"Data set '{self.name}' needs one label for each of its "
                f"{len(images)} images. Received: labels of shape {labels.shape}"
            )
        if images.size == 0:
            raise InputError(
                f"Data set '{self.name}' is empty (split '{self.split}'). Received: "
                f"images of shape {images.shape}. Choose another split or share."
            )

    def _check_labels(self, labels):
        if not np.issubdtype(labels.dtype, np.integer):
            raise InputError(
                f"Labels of '{self.name}' must be integers. Received: {labels.dtype}"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.num_classes:
            raise InputError(
                f"Labels of '{self.name}' must lie from 0 to {self.num_classes - 1}, "
                f"as it has {self.num_classes} classes. Received: labels from {low} "
                f"to {high}. Renumber them, or correct `num_classes`."
            )

    def _check_floats(self, images):
        if not np.issubdtype(images.dtype, np.floating):
            raise InputError(
                f"Images of '{self.name}' must be uint8 from 0 to 255 or floating "
                f"point in [0, 1]. Received: {images.dtype}"
            )
        low, high = images.min(), images.max()
        if not (low >= 0.0 and high <= 1.0):  # False for NaN, too.
            raise InputError(
                f"Float images of '{self.name}' must lie in [0, 1]. Received: values "
                f"from {low:g} to {high:g}. Divide pixels from 0 to 255 by 255, and "
                "leave normalisation to a layer of the model."
            )


def checked_targets(name: str, targets, count: int, num_classes: int) -> np.ndarray:
    """Returns targets as float32, `[count, num_classes]`.

    Args:
        name: of the set, for messages.
        targets: probabilities of the classes for each example.
        count: number of examples.
        num_classes: number of classes.

    Raises:
        InputError: for another shape, and for what are no probabilities.
    """
    targets = np.asarray(targets)
    if targets.shape != (count, num_classes):
        raise InputError(
            f"Data set '{name}' needs targets for each of its {count} examples and "
            f"{num_classes} classes. Received: targets of shape {targets.shape}"
        )
    targets = targets.astype(np.float32, copy=False)
    sums = targets.sum(-1, dtype=np.float64)
    if not ((targets >= 0.0).all() and (abs(sums - 1.0) <= _SUM_ERROR).all()):
        raise InputError(
            f"Targets of '{name}' must be probabilities, at least 0 and with a sum of "
            f"1. Received: values from {targets.min():g}, sums from {sums.min():g} to "
            f"{sums.max():g}"
        )
    return targets


def as_floats(images: tf.Tensor) -> tf.Tensor:
    """Returns images as float32 in [0, 1]; those of uint8 are divided by 255."""
    if images.dtype == tf.uint8:
        return tf.cast(images, tf.float32) / 255.0
    return images


def read_only(array: np.ndarray) -> np.ndarray:
    """Returns the array as one that cannot be written to."""
    view = array.view()
    view.flags.writeable = False
    return view
