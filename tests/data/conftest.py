"""Data sets for the tests: tiny ones that TFDS writes, and real ones if at hand."""

import os
import pathlib
import socket

import numpy as np
import pytest
import tensorflow_datasets as tfds

REAL_DATA = os.environ.get("ROBUST_TF_TEST_DATA") or (
    pathlib.Path(__file__).parents[3] / "shared" / "data" / "tfds"
)


def examples(count, first=0):
    """`count` keys and examples `[4, 5, 3]`, of classes 0, 1, 2, 0, 1, ...

    Every pixel of an image says which it is: `first`, `first + 1`, ...
    """
    images = [np.full((4, 5, 3), first + i, np.uint8) for i in range(count)]
    return [(i, {"image": image, "label": i % 3}) for i, image in enumerate(images)]


@pytest.fixture
def write_set(tmp_path):
    """A function that has TFDS write a set below `tmp_path`, and returns that.

    Splits are given as arguments of `examples`, or as a list of keys and examples.
    """

    def write(name="toy", version="1.0.0", config=None, features=None, **splits):
        features = features or {
            "image": tfds.features.Image(shape=(4, 5, 3)),
            "label": tfds.features.ClassLabel(num_classes=3),
        }
        splits = splits or {"train": (10,), "test": (4, 100)}
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version=version,
            config=config,
            features=tfds.features.FeaturesDict(features),
            split_datasets={
                split: content if isinstance(content, list) else examples(*content)
                for split, content in splits.items()
            },
            data_dir=tmp_path,
            disable_shuffling=True,
        )
        return tmp_path

    return write


@pytest.fixture
def forbid_sockets(monkeypatch):
    """A function after which no connection can be opened."""

    def refuse(*args, **kwargs):
        raise AssertionError("A connection was opened.")

    return lambda: monkeypatch.setattr(socket, "socket", refuse)


@pytest.fixture
def no_sockets(forbid_sockets):
    """Allows no connection from the beginning of the test."""
    forbid_sockets()


@pytest.fixture
def real_data():
    """The TFDS folder with mnist and cifar10."""
    if not pathlib.Path(REAL_DATA).is_dir():
        pytest.skip(f"{REAL_DATA} is missing: set ROBUST_TF_TEST_DATA to a TFDS folder")
    return str(REAL_DATA)
