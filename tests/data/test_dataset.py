import dataclasses
import hashlib

import numpy as np
import pytest
from absl.testing import parameterized

from robust_tf.data.dataset import ImageDataset
from robust_tf.errors import InputError


def make(images=None, labels=(0, 2), num_classes=3):
    if images is None:
        images = np.arange(2 * 4 * 5 * 1, dtype=np.uint8).reshape(2, 4, 5, 1)
    return ImageDataset("toy", images, np.array(labels), num_classes, "train")


class ImageDatasetTest(parameterized.TestCase):
    def test_shape_and_types(self):
        dataset = make()
        self.assertEqual(dataset.image_shape, (4, 5, 1))
        self.assertLen(dataset, 2)
        self.assertEqual(dataset.images.dtype, np.uint8)
        self.assertEqual(dataset.labels.dtype, np.int32)

    def test_bytes_are_divided_by_255(self):
        images = np.array([0, 51, 255, 128], np.uint8).reshape(1, 2, 2, 1)
        floats = make(images, labels=[0]).floats()
        self.assertEqual(floats.dtype, np.float32)
        expected = np.array([0.0, 0.2, 1.0, 128 / 255], np.float32)
        np.testing.assert_array_equal(floats.ravel(), expected)

    def test_floats_are_kept(self):
        images = np.linspace(0.0, 1.0, 8).reshape(2, 2, 2, 1)
        dataset = make(images)
        self.assertEqual(dataset.images.dtype, np.float32)
        np.testing.assert_array_equal(dataset.floats(), images.astype(np.float32))

    def test_floats_of_some(self):
        dataset = make()
        np.testing.assert_array_equal(dataset.floats([1]), dataset.floats()[1:])
        np.testing.assert_array_equal(dataset.floats(slice(1)), dataset.floats()[:1])

    def test_digest_is_sha256_of_images_and_labels(self):
        images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)
        content = bytes(range(8)) + b"\0\0\0\0" + b"\2\0\0\0"
        expected = hashlib.sha256(content).hexdigest()
        self.assertEqual(make(images).digest, expected)
        # Neither memory layout nor the type of the labels matters.
        fortran = np.asfortranarray(images)
        self.assertEqual(make(fortran, np.array([0, 2], np.uint8)).digest, expected)

    def test_digest_sees_one_pixel_and_one_label(self):
        images = make().images.copy()
        images[1, 0, 0, 0] ^= 1
        digests = {make().digest, make(images).digest, make(labels=(1, 2)).digest}
        self.assertLen(digests, 3)

    def test_targets_are_checked_kept_and_part_of_the_digest(self):
        shares = np.array([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]])
        dataset = dataclasses.replace(make(), targets=shares)
        self.assertEqual(dataset.targets.dtype, np.float32)
        self.assertFalse(dataset.targets.flags.writeable)
        self.assertNotEqual(dataset.digest, make().digest)
        np.testing.assert_array_equal(dataset.select([1]).targets, shares[1:])
        for bad, message in (
            (shares[:1], r"each of its 2 examples and 3 classes.*\(1, 3\)"),
            (shares[:, :2], r"\(2, 2\)"),
            (shares * 2.0, "sum of 1.*to 2"),
            (shares - [[0.5, -0.5, 0.0], [0.1, 0.0, -0.1]], "values from -0.1"),
            (shares * np.nan, "must be probabilities"),
        ):
            with self.assertRaisesRegex(InputError, message):
                dataclasses.replace(make(), targets=bad)

    def test_select_keeps_order(self):
        chosen = make().select([1, 0], split="validation")
        np.testing.assert_array_equal(chosen.labels, [2, 0])
        np.testing.assert_array_equal(chosen.images, make().images[::-1])
        self.assertEqual(chosen.split, "validation")

    def test_arrays_cannot_be_changed(self):
        images = np.zeros((2, 4, 5, 1), np.uint8)
        dataset = make(images)
        with pytest.raises(ValueError, match="read-only"):
            dataset.images[0] = 1
        images[0] = 0  # The caller's array stays theirs.

    @parameterized.named_parameters(
        ("no_channels", np.zeros((2, 4, 5), np.uint8), (0, 1), r"\[n, height"),
        ("vectors", np.zeros((2, 20), np.uint8), (0, 1), r"\[n, height"),
        ("labels_missing", np.zeros((2, 4, 5, 1), np.uint8), (0,), "one label"),
        ("empty", np.zeros((0, 4, 5, 1), np.uint8), (), "is empty"),
        ("label_high", np.zeros((2, 4, 5, 1), np.uint8), (0, 3), "labels from 0 to 3"),
        ("label_negative", np.zeros((2, 4, 5, 1), np.uint8), (-1, 0), "from -1 to 0"),
        ("float_labels", np.zeros((2, 4, 5, 1), np.uint8), (0.0, 1.0), "integers"),
        ("too_bright", np.full((2, 4, 5, 1), 255.0), (0, 1), "from 255 to 255"),
        ("normalised", np.full((2, 4, 5, 1), -0.5), (0, 1), r"lie in \[0, 1\]"),
        ("not_a_number", np.full((2, 4, 5, 1), np.nan), (0, 1), "nan"),
        ("int_images", np.zeros((2, 4, 5, 1), np.int64), (0, 1), "int64"),
    )
    def test_refuses(self, images, labels, message):
        with pytest.raises(InputError, match=message):
            make(images, labels)
