"""Data sets as MATLAB files: layouts, integer types, refusals."""

import numpy as np
import pytest
import scipy.io

from robust_tf.data import evaluation_batches
from robust_tf.data import loading
from robust_tf.data import statistics
from robust_tf.errors import InputError

load = loading.load


def pixels(count, shape=(4, 5, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def numbers(count, classes=43):
    return np.arange(count) % classes


def save(root, name, split, **arrays):
    (root / name).mkdir(exist_ok=True)
    path = root / name / f"{name}_int_{split}.mat"
    scipy.io.savemat(path, arrays)
    return path


@pytest.fixture
def gts(tmp_path):
    """A folder with a few images; of both splits, in the two forms of labels."""
    train, test = numbers(50).astype("uint8"), numbers(9).astype("int32")
    save(tmp_path, "gts", "train", images=pixels(50), labels=train[None])
    save(tmp_path, "gts", "test", images=pixels(9, seed=1), labels=test[:, None])
    return tmp_path


@pytest.mark.usefixtures("no_sockets")
def test_images_and_labels(gts):
    train, test = load("gts", "train", gts), load("gts", "test", gts)
    np.testing.assert_array_equal(train.images, pixels(50))
    np.testing.assert_array_equal(train.labels, numbers(50))
    np.testing.assert_array_equal(test.images, pixels(9, seed=1))
    np.testing.assert_array_equal(test.labels, numbers(9))
    assert (train.num_classes, test.num_classes) == (43, 43)
    assert (train.name, train.split, test.split) == ("gts", "train", "test")
    assert train.images.flags.c_contiguous and train.images.dtype == np.uint8


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64"])
@pytest.mark.parametrize("shape", [(1, 9), (9, 1)])
def test_forms_of_labels(tmp_path, dtype, shape):
    labels = numbers(9).astype(dtype).reshape(shape)
    save(tmp_path, "gts", "test", images=pixels(9), labels=labels)
    found = load("gts", "test", tmp_path)
    np.testing.assert_array_equal(found.labels, numbers(9))


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 1)], ids=["no_channels", "one"])
def test_grey_images(tmp_path, shape):
    labels = numbers(8, 10)[None]
    save(tmp_path, "fmnist", "train", images=pixels(8, shape), labels=labels)
    found = load("fmnist", "train", tmp_path)
    assert (found.image_shape, found.num_classes) == ((6, 7, 1), 10)
    np.testing.assert_array_equal(
        found.images[..., 0], pixels(8, shape).reshape(8, 6, 7)
    )


def test_a_single_image(tmp_path):
    save(tmp_path, "gts", "test", images=pixels(1), labels=np.array([[42]], "uint8"))
    assert load("gts", "test", tmp_path).labels.tolist() == [42]


def test_classes_of_other_sets_are_counted_over_both_files(tmp_path):
    for split, count in (("train", 4), ("test", 6)):
        labels = np.arange(count, dtype="uint8")[None]
        save(tmp_path, "toy", split, images=pixels(count), labels=labels)
    assert load("toy", "train", tmp_path).num_classes == 6
    assert load("toy", "test", tmp_path).num_classes == 6


def test_a_share_for_validation(gts):
    train = load("gts", "train", gts, validation_share=0.2, validation_shuffle_seed=3)
    rest = load(
        "gts", "validation", gts, validation_share=0.2, validation_shuffle_seed=3
    )
    assert (len(train), len(rest)) == (40, 10)
    pairs = zip(pixels(50), numbers(50), strict=True)
    stored = {image.tobytes(): label for image, label in pairs}
    for part in (train, rest):
        for image, label in zip(part.images, part.labels, strict=True):
            assert stored.pop(image.tobytes()) == label
    assert not stored


def test_the_first_examples_alone(gts):
    """Published numbers of GTS leave out the last 30 of 12,630."""
    batches = evaluation_batches(load("gts", "test", gts), 4, count=6)
    weights = np.concatenate([weight for _, _, weight in batches.as_numpy_iterator()])
    assert weights.sum() == 6


def test_a_set_of_tfds_comes_first(write_set):
    root = write_set("toy")
    labels = numbers(3)[None]
    save(root, "toy", "train", images=pixels(3, (8, 8, 3)), labels=labels)
    assert load("toy", "train", root).image_shape == (4, 5, 3)
    save(root, "other", "train", images=pixels(3, (8, 8, 3)), labels=labels)
    assert load("other", "train", root).image_shape == (8, 8, 3)


def test_published_training_does_not_normalise():
    assert statistics.normalization("gts") == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("content", [None, "empty", "other"])
def test_a_missing_set(tmp_path, content):
    if content is not None:
        (tmp_path / "gts").mkdir()
    if content == "other":
        (tmp_path / "gts" / "notes.txt").write_text("")
    with pytest.raises(InputError, match="gts_int_train.mat and .*gts_int_test.mat"):
        load("gts", "train", tmp_path)


def test_a_missing_split(tmp_path):
    save(tmp_path, "gts", "test", images=pixels(3), labels=numbers(3)[None])
    with pytest.raises(
        InputError, match=r"no split of its own for 'train'.*\['test'\]"
    ):
        load("gts", "train", tmp_path)


LABELS = numbers(4).astype("uint8")[None]
BAD = {
    "no_images": ({"labels": LABELS}, "no `images`"),
    "no_labels": ({"images": pixels(4)}, "no `labels`"),
    "float_labels": ({"labels": LABELS / 1.0}, "whole numbers.*float64"),
    "one_hot": ({"labels": np.eye(4, dtype="uint8")}, r"\[1, n\].* shape \[4, 4\]"),
    "from_one": (
        {"labels": np.array([[1, 2, 43, 3]], "uint8")},
        "begin at 0 .* classes, 43. Received: labels from 1 to 43",
    ),
    "negative": ({"labels": np.array([[0, -1, 2, 3]], "int32")}, "from -1 to 3"),
    "fewer_labels": ({"labels": LABELS[:, :3]}, "3 labels, 4 images"),
    "images_on_the_last_axis": (
        {"images": pixels(4, (6, 5, 3)).transpose(1, 2, 3, 0)},
        "4 labels, 6 images",
    ),
    "float_images": ({"images": pixels(4) / 255.0}, "must be uint8.*float64"),
    "wide_images": ({"images": pixels(4).astype("int16")}, "must be uint8.*int16"),
    "flat_images": ({"images": pixels(4, (60,))}, r"must be uint8.*shape \[4, 60\]"),
    "no_examples": (
        {"images": pixels(0), "labels": np.zeros((1, 0), "uint8")},
        "is empty",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused(tmp_path, case):
    change, message = BAD[case]
    arrays = {"images": pixels(4), "labels": LABELS}
    if case.startswith("no_") and case != "no_examples":
        arrays = {}
    path = save(tmp_path, "gts", "train", **(arrays | change))
    with pytest.raises(InputError, match=message) as error:
        load("gts", "train", tmp_path)
    assert case == "no_examples" or str(path) in str(error.value)


def test_broken_files_are_refused(tmp_path):
    path = save(tmp_path, "gts", "train", images=pixels(4), labels=LABELS)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="cannot be read as a MATLAB file|no `labels`"):
        load("gts", "train", tmp_path)
