import tracemalloc

import numpy as np
import pytest
import tensorflow_datasets as tfds

from robust_tf.data import load
from robust_tf.data import memory
from robust_tf.data import normalization
from robust_tf.data import tfds_folder
from robust_tf.errors import InputError

NAME = "imagenet_resized/64x64"


@pytest.fixture
def root(write_set):
    """The set as TFDS lays it out, with a few images of noise."""

    def examples(count, seed):
        random = np.random.default_rng(seed)
        images = random.integers(0, 256, (count, 64, 64, 3), np.uint8)
        labels = random.integers(0, 1000, count)
        pairs = zip(images, labels.tolist(), strict=True)
        return [(i, {"image": x, "label": y}) for i, (x, y) in enumerate(pairs)]

    return write_set(
        name="imagenet_resized",
        config="64x64",
        version="0.1.0",
        features={
            "image": tfds.features.Image(shape=(64, 64, 3)),
            "label": tfds.features.ClassLabel(num_classes=1000),
        },
        train=examples(300, 0),
        validation=examples(20, 1),
    )


def pixels(count, seed):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 64, 64, 3), np.uint8)


@pytest.mark.usefixtures("no_sockets")
def test_splits_and_classes(root):
    train, test = load(NAME, "train", root), load(NAME, "test", root)
    assert (len(train), len(test)) == (300, 20)
    assert train.num_classes == test.num_classes == 1000
    np.testing.assert_array_equal(train.images, pixels(300, 0))
    np.testing.assert_array_equal(test.images, pixels(20, 1))
    with pytest.raises(InputError, match="validation_share=0.1"):
        load(NAME, "validation", root)


def test_is_normalised_as_published():
    mean, std = normalization(NAME)
    assert mean == (0.4815, 0.4578, 0.4082)
    assert std == (0.2153, 0.2111, 0.2121)
    assert normalization(f"{NAME}:0.1.0") == (mean, std)


@pytest.mark.parametrize(
    ("split", "share", "seed", "count"),
    [
        ("train", 0.0, None, 300),
        ("train", 0.2, None, 240),
        ("train", 0.2, 3, 240),
        ("validation", 0.2, 3, 60),
    ],
)
def test_is_held_once(root, monkeypatch, split, share, seed, count):
    monkeypatch.setattr(tfds_folder, "_BATCH", 4)
    load(NAME, split, root, share, seed)  # What is loaded once, is.
    tracemalloc.start()
    dataset = load(NAME, split, root, share, seed)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(dataset) == count
    assert dataset.images.nbytes == count * 64 * 64 * 3
    # Beside the images: a few batches, and what TFDS makes.
    assert peak < dataset.images.nbytes + 500_000


def test_says_when_memory_is_short(root, monkeypatch):
    class Memory:
        available = 3_000_000

    monkeypatch.setattr(memory.psutil, "virtual_memory", Memory)
    with pytest.raises(InputError, match=f"300 images of '{NAME}' take .*0.0 GB avail"):
        load(NAME, "train", root)
    assert len(load(NAME, "validation", root, 0.2)) == 60  # 0.7 MB.
