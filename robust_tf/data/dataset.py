"""Labelled images in memory: what every loader returns and every pipeline takes."""

import dataclasses
import functools
import hashlib

import numpy as np

from robust_tf.errors import InputError

_SUM_ERROR = 1e-5  # Of probabilities in float32.


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDataset:
    """Images and labels of one split, read-only and in a fixed order.

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
        object.__setattr__(self, "images", _read_only(images))
        labels = labels.astype(np.int32, copy=False)
        object.__setattr__(self, "labels", _read_only(labels))
        if self.targets is not None:
            targets = self._checked_targets()
            object.__setattr__(self, "targets", _read_only(targets))

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

    def _checked_targets(self):
        targets = np.asarray(self.targets)
        if targets.shape != (len(self.labels), self.num_classes):
            raise InputError(
                f"Data set '{self.name}' needs targets for each of its "
                f"{len(self.labels)} examples and {self.num_classes} classes. "
                f"Received: targets of shape {targets.shape}"
            )
        targets = targets.astype(np.float32, copy=False)
        sums = targets.sum(-1, dtype=np.float64)
        if not ((targets >= 0.0).all() and (abs(sums - 1.0) <= _SUM_ERROR).all()):
            raise InputError(
                f"Targets of '{self.name}' must be probabilities, at least 0 and with "
                f"a sum of 1. Received: values from {targets.min():g}, sums from "
                f"{sums.min():g} to {sums.max():g}"
            )
        return targets

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


def _read_only(array):
    view = array.view()
    view.flags.writeable = False
    return view
