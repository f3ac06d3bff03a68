"""From the name of a set and of a split to labelled images."""

import os

import numpy as np

from robust_tf.data import matlab_folder
from robust_tf.data import tfds_folder
from robust_tf.data import tiny_imagenet
from robust_tf.data.array_records import ArrayRecordSource
from robust_tf.data.crops import CentreCrop
from robust_tf.data.dataset import ImageDataset
from robust_tf.data.digits import DigitsSource
from robust_tf.data.stored import StoredImages
from robust_tf.errors import InputError

SPLITS = ("train", "validation", "test")
# The end of a split that is stored class by class would be whole classes.
SORTED_SPLIT_SEED = 0


def load(
    name: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
    validation_share: float = 0.0,
    validation_shuffle_seed: int | None = None,
    download: bool = False,
    expected_digest: str | None = None,
    evaluation_crop: CentreCrop | None = None,
) -> ImageDataset | StoredImages:
    """Returns one split of a data set, in the order of its files.

    Images are held in memory, but for those that TFDS has written as ArrayRecord files
    (`file_format="array_record"`), as it has to where they have many shapes
    (ImageNet): they are read one by one.

    With a `validation_share`, the first `int((1 - share) n)` examples of the stored
    training split are for training and the rest for validation, as published systems
    do (arXiv:2305.13991); with a seed, one fixed permutation of the split is cut there
    instead. A split that is stored class by class (TinyImageNet), or not held in
    memory, is always permuted, with seed 0 where none is given. Without a share,
    "validation" is what the set itself calls so. Where a set has no "test" split, its
    "validation" split stands for it.

    Args:
        name: `digits` (embedded), `tiny_imagenet` (also from its original folder,
            `DATA_DIR/tiny-imagenet-200`), a TFDS image classification set (`mnist`,
            `cifar10`, `imagenet_resized/64x64`, `name:1.2.3`, ...), or what lies as
            `DATA_DIR/NAME/NAME_int_train.mat` and is no such set (`gts`).
        split: "train", "validation" or "test".
        data_dir: the TFDS data folder; None for the environment variable
            TFDS_DATA_DIR, or else `~/tensorflow_datasets`.
        validation_share: of the training split, at least 0 and below 1. Give the same
            share and seed to load "train" and "validation", or the two overlap.
        validation_shuffle_seed: of the permutation; None for none, but see above.
        download: whether TFDS may fetch a set that is not there; without it no
            connection is opened.
        expected_digest: what the set's `digest` must be; None for anything.
        evaluation_crop: makes images that are read one by one one shape; None where
            they have one.

    Raises:
        InputError: for a set or split that is missing, damaged, too large for memory,
            or no set of images with one class each; a share out of range; another
            digest; a crop of images in memory, or none of those of many shapes.
    """
    _check_request(split, validation_share)
    source = _open(name, data_dir, download)
    stored = _stored_split(name, split, source.splits, validation_share)
    indices = None
    if validation_share and stored == "train":
        order = _order(source, validation_shuffle_seed)
        indices = _part(name, order, split, validation_share)
    if isinstance(source, ArrayRecordSource):
        dataset = StoredImages(
            name,
            source.records(stored),
            source.image_shape,
            source.num_classes,
            split,
            evaluation_crop,
            indices,
        )
    else:
        _refuse_crop(name, evaluation_crop)
        images, labels = source.read(stored, indices)
        dataset = ImageDataset(name, images, labels, source.num_classes, split)
    if expected_digest is not None and dataset.digest != expected_digest:
        raise InputError(
            f"The digest of '{name}' ({split}) is not the expected one. Expected: "
            f"{expected_digest}. Received: {dataset.digest}. The data, its version or "
            "the validation share differ from those the digest was taken of."
        )
    return dataset


def _open(name, data_dir, download):
    if name == "digits":
        return DigitsSource()
    if name.partition(":")[0] == tiny_imagenet.NAME:
        return tiny_imagenet.open_set(name, data_dir, download)
    if matlab_folder.is_meant(name, data_dir):
        return matlab_folder.open_set(name, data_dir)
    return tfds_folder.open_set(name, data_dir, download)


def _check_request(split, validation_share):
    if split not in SPLITS:
        raise InputError(f"`split` must be one of {SPLITS}. Received: {split!r}")
    if not 0.0 <= validation_share < 1.0:
        raise InputError(
            "`validation_share` is a share of the training split, at least 0 and below "
            f"1. Received: {validation_share!r}"
        )


def _stored_split(name, split, available, validation_share):
    """The split of the files from which `split` is taken."""
    if split == "validation":
        wanted = "train" if validation_share else "validation"
        # What stands for the test split must not also select a model.
        is_there = wanted in available and (validation_share or "test" in available)
        stored = wanted if is_there else None
    elif split == "test":
        stored = next((s for s in ("test", "validation") if s in available), None)
    else:
        stored = "train" if "train" in available else None
    if stored is None:
        hint = " Cut one from the training split: validation_share=0.1."
        raise InputError(
            f"Data set '{name}' has no split of its own for '{split}'. Received: "
            f"splits {sorted(available)}.{hint if split == 'validation' else ''}"
        )
    return stored


def _refuse_crop(name, crop):
    if crop is not None:
        raise InputError(
            "`evaluation_crop` is for images that are read one by one, and those of "
            f"'{name}' are held in memory. Received: {crop}. Leave it out."
        )


def _order(source, seed):
    """Positions of the stored training split, in the order in which it is cut."""
    if isinstance(source, ArrayRecordSource):  # Labels would take hours to read.
        count = len(source.records("train"))
        seed = SORTED_SPLIT_SEED if seed is None else seed
    else:
        labels = source.labels("train")
        count, num_classes = len(labels), len(np.unique(labels))
        is_by_class = np.count_nonzero(np.diff(labels)) == num_classes - 1
        if seed is None and is_by_class and 1 < num_classes < count:
            seed = SORTED_SPLIT_SEED
    if seed is None:
        return np.arange(count)
    # The legacy generator's stream is frozen; `default_rng` promises no such thing.
    return np.random.RandomState(seed).permutation(count)


def _part(name, order, split, validation_share):
    """The part of the stored training split that is `split`."""
    count = len(order)
    # Rounded first: (1 - 0.9) * 10 is 0.9999999999999998.
    num_training = int(round((1.0 - validation_share) * count, 6))
    if not 0 < num_training < count:
        raise InputError(
            "A share must leave examples to train and to validate. Received: "
            f"validation_share {validation_share} of {count} examples in '{name}'"
        )
    return order[:num_training] if split == "train" else order[num_training:]
