"""From the name of a set and of a split to labelled images in memory."""

import os

import numpy as np

from robust_tf.data import tfds_folder
from robust_tf.data.dataset import ImageDataset
from robust_tf.data.digits import DigitsSource
from robust_tf.errors import InputError

SPLITS = ("train", "validation", "test")


def load(
    name: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
    validation_share: float = 0.0,
    validation_shuffle_seed: int | None = None,
    download: bool = False,
    expected_digest: str | None = None,
) -> ImageDataset:
    """Returns one split of a data set, in memory and in the order of its files.

    With a `validation_share`, the first `int((1 - share) n)` examples of the stored
    training split are for training and the rest for validation, as published systems
    do (arXiv:2305.13991); with a seed, one fixed permutation of the split is cut there
    instead. Without a share, "validation" is what the set itself calls so. Where a set
    has no "test" split, its "validation" split stands for it.

    Args:
        name: `digits` (embedded), or a TFDS image classification set (`mnist`,
            `cifar10`, `svhn_cropped`, `name/config`, `name:1.2.3`, ...).
        split: "train", "validation" or "test".
        data_dir: the TFDS data folder; None for the environment variable
            TFDS_DATA_DIR, or else `~/tensorflow_datasets`.
        validation_share: of the training split, at least 0 and below 1. Give the same
            share and seed to load "train" and "validation", or the two overlap.
        validation_shuffle_seed: of the permutation; None for no permutation.
        download: whether TFDS may fetch a set that is not there; without it no
            connection is opened.
        expected_digest: what `ImageDataset.digest` must be; None for anything.

    Raises:
        InputError: for a set or split that is missing, damaged or no set of images
            with one class each; a share out of range; another digest.
    """
    _check_request(split, validation_share)
    if name == "digits":
        source = DigitsSource()
    else:
        source = tfds_folder.open_set(name, data_dir, download)
    stored = _stored_split(name, split, source.splits, validation_share)
    images, labels = source.read(stored)
    dataset = ImageDataset(name, images, labels, source.num_classes, split)
    if validation_share and stored == "train":
        indices = _part(dataset, split, validation_share, validation_shuffle_seed)
        dataset = dataset.select(indices)
    if expected_digest is not None and dataset.digest != expected_digest:
        raise InputError(
            f"The digest of '{name}' ({split}) is not the expected one. Expected: "
            f"{expected_digest}. Received: {dataset.digest}. The data, its version or "
            "the validation share differ from those the digest was taken of."
        )
    return dataset


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


def _part(dataset, split, validation_share, seed):
    """Indices of the part of the stored training split that is `split`."""
    count = len(dataset)
    # Rounded first: (1 - 0.9) * 10 is 0.9999999999999998.
    num_training = int(round((1.0 - validation_share) * count, 6))
    if not 0 < num_training < count:
        raise InputError(
            f"A share must leave examples to train and to validate. Received: "
            f"validation_share {validation_share} of {count} examples in "
            f"'{dataset.name}'"
        )
    order = np.arange(count)
    if seed is not None:
        # The legacy generator's stream is frozen; `default_rng` promises no such thing.
        order = np.random.RandomState(seed).permutation(count)
    return order[:num_training] if split == "train" else order[num_training:]
