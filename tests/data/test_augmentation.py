import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from robust_tf.data.augmentation import RandomFlipAndCrop
from robust_tf.errors import InputError


def distinct_images(count, shape=(6, 5, 2), dtype=np.int32):
    """Images whose entries all differ and are above 0."""
    size = count * int(np.prod(shape))
    return np.arange(1, size + 1, dtype=dtype).reshape(count, *shape)


def outcomes(image, augmentation):
    """All images that can come of one: {bytes: (flipped, down, right)}, by NumPy."""
    pad = augmentation.padding
    mode = {"zero": "constant", "edge": "edge"}[augmentation.padding_mode]
    height, width = image.shape[:2]
    table = {}
    for flipped in (False, True)[: 1 + augmentation.flip]:
        turned = image[:, ::-1] if flipped else image
        padded = np.pad(turned, [(pad, pad), (pad, pad), (0, 0)], mode=mode)
        for down in range(2 * pad + 1):
            for right in range(2 * pad + 1):
                crop = padded[down : down + height, right : right + width]
                table[crop.tobytes()] = (flipped, down, right)
    return table


class RandomFlipAndCropTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("flip_and_zero", RandomFlipAndCrop(padding=1)),
        ("flip_and_edge", RandomFlipAndCrop(padding=2, padding_mode="edge")),
        ("crop_only", RandomFlipAndCrop(flip=False, padding=1)),
        ("flip_only", RandomFlipAndCrop(padding=0)),
    )
    def test_every_outcome_and_no_other_occurs(self, augmentation):
        images = np.repeat(distinct_images(1), 2000, axis=0)
        table = outcomes(images[0], augmentation)
        changed = augmentation(tf.constant(images), tf.constant([1, 2])).numpy()
        seen = [table[image.tobytes()] for image in changed]  # KeyError: no other.
        frequencies = np.unique(seen, axis=0, return_counts=True)[1]
        self.assertLen(frequencies, len(table))
        # Uniform: within 6 standard deviations of a binomial count.
        expected = len(seen) / len(table)
        self.assertLess(abs(frequencies - expected).max(), 6 * expected**0.5)

    def test_padding_wider_than_the_image(self):
        augmentation = RandomFlipAndCrop(padding=7, padding_mode="edge")
        images = np.repeat(distinct_images(1, (2, 3, 1)), 50, axis=0)
        table = outcomes(images[0], augmentation)
        for image in augmentation(tf.constant(images), tf.constant([1, 2])).numpy():
            self.assertIn(image.tobytes(), table)

    def test_images_draw_for_themselves(self):
        augmentation = RandomFlipAndCrop(padding=2)
        images = distinct_images(32)
        changed = augmentation(tf.constant(images), tf.constant([3, 4])).numpy()
        found = [
            outcomes(before, augmentation)[after.tobytes()]
            for before, after in zip(images, changed, strict=True)
        ]
        self.assertGreater(len(set(found)), 10)

    def test_is_a_function_of_the_seed(self):
        augmentation = RandomFlipAndCrop()
        images = tf.constant(distinct_images(8, (8, 8, 3)))
        traced = tf.function(augmentation)
        first = augmentation(images, tf.constant([1, 2], tf.int64))
        again = traced(images, tf.constant([1, 2], tf.int64))
        other = augmentation(images, tf.constant([1, 3], tf.int64))
        np.testing.assert_array_equal(first, again)
        self.assertFalse(np.array_equal(first, other))

    def test_nothing_to_do(self):
        images = tf.constant(distinct_images(4))
        same = RandomFlipAndCrop(flip=False, padding=0)(images, tf.constant([1, 2]))
        np.testing.assert_array_equal(same, images)

    @parameterized.parameters(tf.uint8, tf.float32, tf.float64)
    def test_keeps_type(self, dtype):
        images = tf.cast(distinct_images(2), dtype)
        changed = RandomFlipAndCrop(padding=1)(images, tf.constant([1, 2]))
        self.assertEqual(changed.dtype, dtype)

    def test_batch_of_unknown_size(self):
        signature = tf.TensorSpec([None, 6, 5, 2], tf.int32)
        seed = tf.TensorSpec([2], tf.int64)
        function = tf.function(RandomFlipAndCrop(), input_signature=[signature, seed])
        self.assertEqual(function(distinct_images(3), [1, 2]).shape, (3, 6, 5, 2))
        outputs = function.get_concrete_function().structured_outputs
        self.assertEqual(outputs.shape.as_list(), [None, 6, 5, 2])

    @parameterized.named_parameters(
        ("negative", {"padding": -1}, "at least 0"),
        ("fraction", {"padding": 1.5}, "whole number"),
        ("mode", {"padding_mode": "reflect"}, "one of"),
    )
    def test_refuses(self, options, message):
        with pytest.raises(InputError, match=message):
            RandomFlipAndCrop(**options)
