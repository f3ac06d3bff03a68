"""Files of soft targets: what is written, and what is refused."""

import dataclasses
import io

import numpy as np
import pytest

from robust_tf.data import soft_targets
from robust_tf.data.dataset import ImageDataset
from robust_tf.errors import InputError

COUNTS = np.array([[3, 1, 0], [0, 0, 4]])


def images(split="train", label=2):
    pixels = np.arange(2 * 4 * 5, dtype=np.uint8).reshape(2, 4, 5, 1)
    return ImageDataset("toy", pixels, np.array([0, label]), 3, split)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "soft_targets.npz"
    file.write_bytes(soft_targets.packed(images(), COUNTS))
    return file


def test_counts_become_shares(path):
    found = soft_targets.attach(images(), path)
    np.testing.assert_array_equal(found.targets, [[0.75, 0.25, 0.0], [0.0, 0.0, 1.0]])
    assert dataclasses.replace(found, targets=None).digest == images().digest


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (images(label=1), "other images or labels"),
        (images(split="test"), r"'toy' \(test\).*split 'train'"),
        (images().select([1, 0]), "digest"),
    ],
)
def test_other_images_are_refused(path, other, text):
    with pytest.raises(InputError, match=text):
        soft_targets.attach(other, path)


@pytest.mark.parametrize(
    "counts", [COUNTS[:1], COUNTS / 4, COUNTS * [[1], [0]], COUNTS[:, :2], COUNTS[0]]
)
def test_counts_that_do_not_fit_are_refused(counts):
    with pytest.raises(InputError, match="Received: "):
        soft_targets.packed(images(), counts)


def test_files_of_something_else_are_refused(path, tmp_path):
    other, array = tmp_path / "other.npz", io.BytesIO()
    np.save(array, COUNTS)
    for write in (
        lambda: None,
        lambda: other.write_text("text"),
        lambda: other.write_bytes(path.read_bytes()[:-40]),
        lambda: np.savez(other, counts=COUNTS),
        lambda: other.write_bytes(array.getvalue()),
        lambda: np.savez(other, counts=np.array([{}]), digest="", split=""),
    ):
        write()
        with pytest.raises(
            InputError, match="no file of soft targets.*soft_targets.py"
        ):
            soft_targets.attach(images(), other)
