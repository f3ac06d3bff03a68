"""Labelled images that stay in their files: read, decoded and cropped on demand."""

import dataclasses
import functools
import hashlib
import json

import numpy as np
import tensorflow as tf

from robust_tf.data import decoding
from robust_tf.data.array_records import Records
from robust_tf.data.augmentation import Augmentation
from robust_tf.data.augmentation import augmented
from robust_tf.data.crops import CentreCrop
from robust_tf.data.crops import RandomResizedCrop
from robust_tf.data.damage import explained
from robust_tf.data.dataset import Reader
from robust_tf.data.dataset import as_floats
from robust_tf.data.dataset import checked_targets
from robust_tf.data.dataset import read_only
from robust_tf.data.memory import empty_images
from robust_tf.errors import InputError

# Images that are decoded together where many are asked for.
_CHUNK = 100


@dataclasses.dataclass(frozen=True, eq=False)
class StoredImages:
    """A split whose images do not fit in memory, or have many shapes.

    What a program sees of an image is its `evaluation_crop`, but for batches that are
    augmented by a `RandomResizedCrop`: those are cut out of the whole image instead.

    Attributes:
        name: of the set, for messages and records.
        records: where the examples are read.
        stored_shape: height, width and channels as stored; None for what varies.
        num_classes: how many classes the set knows, whether or not all occur.
        split: "train", "validation" or "test".
        evaluation_crop: makes the images one shape; None where they have one.
        positions: of the examples among the records, `[n]` int64; None for all.
        targets: probabilities of the classes, `[n, num_classes]`, kept as float32; None
            for none (`data.soft_targets`).

    Raises:
        InputError: for images of many shapes without a crop, no examples, targets that
            are no probabilities.
    """

    name: str
    records: Records
    stored_shape: tuple[int | None, int | None, int]
    num_classes: int
    split: str
    evaluation_crop: CentreCrop | None = None
    positions: np.ndarray | None = None
    targets: np.ndarray | None = None

    def __post_init__(self):
        if self.evaluation_crop is None and None in self.stored_shape:
            raise InputError(
                f"Images of '{self.name}' have many shapes, and need a crop of one. "
                "Received: evaluation_crop None. Give `settings.Data.evaluation_crop`, "
                "such as `crops.CentreCrop()`."
            )
        if len(self) == 0:
            raise InputError(
                f"Data set '{self.name}' is empty (split '{self.split}'). Received: "
                "no examples. Choose another split or share."
            )
        if self.targets is not None:
            targets = checked_targets(
                self.name, self.targets, len(self), self.num_classes
            )
            # Frozen: the fields can only be replaced this way.
            object.__setattr__(self, "targets", read_only(targets))

    def __len__(self) -> int:
        return len(self.records if self.positions is None else self.positions)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels, of what a program sees."""
        crop = self.evaluation_crop
        if crop is None:
            return self.stored_shape
        return crop.size, crop.size, self.stored_shape[-1]

    @property
    def labels(self) -> "StoredLabels":
        """The labels, read on demand: whole examples are read for them."""
        return StoredLabels(self)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of `Records.digest`, crop, positions and targets.

        Not of pixels and labels, which would take hours to read. A set that is prepared
        anew, by other versions of its tools, may have another digest.
        """
        arrays = {"positions": self.positions, "targets": self.targets}
        content = {
            "records": self.records.digest,
            "evaluation_crop": repr(self.evaluation_crop),
            **{name: _digest(array) for name, array in arrays.items()},
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def floats(self, indices=slice(None)) -> np.ndarray:
        """Returns the chosen images as float32 in [0, 1].

        Args:
            indices: a slice or an array of positions, `[m]`.

        Returns:
            `[m, height, width, channels]`, the very values that the pipelines yield.

        Raises:
            InputError: for damaged files, or too little memory.
        """
        chosen = np.arange(len(self))[indices]
        shape = (len(chosen), *self.image_shape)
        images = empty_images(self.name, shape, np.float32)
        for start in range(0, len(chosen), _CHUNK):
            rows = slice(start, start + _CHUNK)
            records = self.read_records(chosen[rows])
            with self._explained():
                images[rows] = self._decoder(tf.constant(records))
        images /= np.float32(255.0)
        return images

    def select(self, indices, split: str | None = None) -> "StoredImages":
        """Returns the chosen examples, in that order, as a set of their own.

        Args:
            indices: a slice or an array of positions, `[m]`.
            split: what to call them; by default the split they come from.
        """
        places = np.arange(len(self)) if self.positions is None else self.positions
        return dataclasses.replace(
            self,
            positions=places[indices],
            split=split or self.split,
            targets=None if self.targets is None else self.targets[indices],
        )

    def reader(self, augmentation: Augmentation | None = None) -> Reader:
        """Returns how a pipeline reads batches, see `LabelledImages`."""
        crop = augmentation if isinstance(augmentation, RandomResizedCrop) else None
        after = None if crop else augmentation
        self._check_size(crop)

        @tf.autograph.experimental.do_not_convert
        def read(indices, seed=None):
            records = tf.numpy_function(
                self.read_records, [indices], tf.string, stateful=False
            )
            records = tf.ensure_shape(records, indices.shape)
            encoded, labels = decoding.parse(records)
            images = as_floats(self._decode(encoded, crop, seed))
            return augmented(images, after, seed), labels

        return read

    def read_records(self, indices: np.ndarray) -> np.ndarray:
        """Returns the records of examples, `[m]`, objects of type `bytes`."""
        places = indices if self.positions is None else self.positions[indices]
        return self.records.read(places)

    def read_labels(self, indices: np.ndarray) -> np.ndarray:
        """Returns the labels of examples, `[m]` int32."""
        labels = np.empty(len(indices), np.int32)
        for start in range(0, len(indices), _CHUNK):
            rows = slice(start, start + _CHUNK)
            records = self.read_records(indices[rows])
            with self._explained(), tf.device("CPU:0"):
                labels[rows] = decoding.parse_labels(tf.constant(records))
        return labels

    @functools.cached_property
    def _decoder(self):
        """A function from records `[m]` to images, uint8; a graph, as it is faster."""

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def decoder(records):
            with tf.device("CPU:0"):
                return self._decode(decoding.parse(records)[0])

        return decoder

    def _decode(self, encoded, crop=None, seed=None):
        """`[m, *image_shape]` uint8."""
        crop = crop or self.evaluation_crop
        if crop is None:
            return decoding.decode(encoded, self.stored_shape)
        return decoding.decode_squares(encoded, crop, self.stored_shape[-1], seed)

    def _explained(self):
        return explained(self.name, self.records.folder)

    def _check_size(self, crop):
        if crop is not None and self.image_shape[:2] != (crop.size, crop.size):
            height, width, _ = self.image_shape
            raise InputError(
                f"Images of '{self.name}' are measured at {height}x{width} pixels, and "
                f"training images must have as many. Received: {crop}. Set its `size`, "
                "or that of `settings.Data.evaluation_crop`."
            )


class StoredLabels:
    """Labels of stored images, which are indexed as an array of them is.

    Args:
        images: whose.
    """

    def __init__(self, images: StoredImages):
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, indices):
        """Returns what `array[indices]` is of the array `[n]` int32 of all labels."""
        chosen = np.arange(len(self))[indices]
        found = self._images.read_labels(np.atleast_1d(chosen))
        return found.reshape(np.shape(chosen))[()]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if copy is False:
            raise ValueError("Labels that are read from files are always a copy.")
        return self[:].astype(dtype or np.int32, copy=False)


def _digest(array) -> str | None:
    """SHA-256, in hex, of an array in C order and little-endian; None of None."""
    if array is None:
        return None
    little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(np.ascontiguousarray(little_endian)).hexdigest()
