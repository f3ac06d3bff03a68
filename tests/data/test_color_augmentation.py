"""Crops, brightness and contrast: what can come of an image, and nothing else."""

import numpy as np
import pytest
import tensorflow as tf

from robust_tf.data import ImageDataset
from robust_tf.data import training_batches
from robust_tf.data.augmentation import RandomCropAndColor
from robust_tf.data.augmentation import RandomFlipAndCrop
from robust_tf.errors import InputError

SEED = tf.constant([1, 2], tf.int64)


def random_images(count, low=0.0, high=1.0, shape=(6, 5, 3)):
    pixels = np.random.default_rng(0).uniform(low, high, (count, *shape))
    return pixels.astype("float32")


def colored(**options):
    """Without crops and mirrors."""
    return RandomCropAndColor(flip=False, padding=0, **options)


def test_brightness_adds_one_number_to_each_image():
    images = random_images(4000, 0.2, 0.8)
    changed = colored(contrast=0.0)(images, SEED).numpy()
    shifts = (changed - images).reshape(len(images), -1)
    wanted = np.broadcast_to(shifts[:, :1], shifts.shape)
    np.testing.assert_allclose(shifts, wanted, atol=1e-6)
    # Uniform from -0.1 to 0.1: the ends are met, the quarters hold equal shares.
    assert -0.1 - 1e-6 < shifts.min() < -0.0998
    assert 0.0998 < shifts.max() < 0.1 + 1e-6
    counts = np.histogram(shifts[:, 0], np.linspace(-0.1001, 0.1001, 5))[0]
    assert abs(counts - 1000).max() < 6 * 750**0.5


def test_contrast_stretches_about_the_mean_of_each_channel():
    images = random_images(4000, 0.4, 0.6)
    changed = colored(brightness=0.0)(images, SEED).numpy()
    means = images.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(changed.mean((1, 2), keepdims=True), means, atol=1e-5)
    apart = abs(images - means) > 0.03
    factors = np.where(
        apart, (changed - means) / np.where(apart, images - means, 1.0), 0
    )
    each = factors.reshape(len(images), -1).max(1)
    wanted = means + each[:, None, None, None] * (images - means)
    np.testing.assert_allclose(changed, wanted, atol=1e-5)
    assert 0.6 - 1e-3 < each.min() < 0.602
    assert 1.398 < each.max() < 1.4 + 1e-3
    counts = np.histogram(each, np.linspace(0.599, 1.401, 5))[0]
    assert abs(counts - 1000).max() < 6 * 750**0.5


def test_brightness_and_contrast_are_drawn_apart():
    images = random_images(4000, 0.4, 0.6)
    changed = colored()(images, SEED).numpy()
    shifts = (changed - images).mean((1, 2, 3))
    factors = changed.std((1, 2, 3)) / images.std((1, 2, 3))
    assert abs(np.corrcoef(shifts, factors)[0, 1]) < 6 / 4000**0.5


def test_pixels_are_cut_after_each_change():
    """White stays white: shifted beyond 1 and cut, its channel has no contrast."""
    images = np.ones((200, 4, 4, 1), "float32")
    images[:, :, :2] = 0.0
    changed = RandomCropAndColor(False, 0, 1.0, 0.0)(images, SEED).numpy()
    shifted = changed[:, 0, 0, 0] - changed[:, 0, 3, 0]
    assert changed.min() == 0.0 and changed.max() == 1.0
    assert ((changed[:, 0, 3, 0] == 1.0) | (changed[:, 0, 0, 0] == 0.0)).all()
    assert len(np.unique(shifted)) > 100
    # Contrast about means of what is cut: never from those of what is not.
    both = RandomCropAndColor(False, 0, 1.0, 1.0)(images, SEED).numpy()
    means = changed.mean((1, 2), keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.nanmax(
            (both - means) / (changed - means), (1, 2, 3), keepdims=True
        )
    wanted = np.clip(means + factors * (changed - means), 0.0, 1.0)
    np.testing.assert_allclose(both, wanted, atol=1e-5)


def test_crops_and_mirrors_are_those_of_random_flip_and_crop():
    images = random_images(64)
    for flip, padding in ((True, 2), (False, 2), (True, 0)):
        changed = RandomCropAndColor(flip, padding, 0.0, 0.0)(images, SEED)
        wanted = RandomFlipAndCrop(flip, padding, "zero")(tf.constant(images), SEED)
        np.testing.assert_allclose(changed, wanted, atol=1e-6)


def test_published_values_are_the_default():
    assert RandomCropAndColor() == RandomCropAndColor(True, 2, 0.1, 0.4)


def test_is_a_function_of_the_seed():
    images = tf.constant(random_images(8))
    first = RandomCropAndColor()(images, SEED)
    again = tf.function(RandomCropAndColor())(images, SEED)
    other = RandomCropAndColor()(images, tf.constant([1, 3], tf.int64))
    np.testing.assert_allclose(first, again, atol=1e-6)
    assert abs(first - other).numpy().max() > 0.1


def test_in_a_pipeline():
    """The order of its batches and their colours are those of seed and epoch."""
    pixels = (255.0 * random_images(20)).astype("uint8")
    dataset = ImageDataset("toy", pixels, np.arange(20) % 3, 3, "train")

    def batches(first_epoch):
        options = {"epochs": 3, "augmentation": RandomCropAndColor()}
        found = training_batches(dataset, 8, 5, first_epoch=first_epoch, **options)
        return [batch.numpy() for batch, _ in found]

    whole = batches(0)
    assert len(whole) == 6
    for one in whole:
        assert one.shape == (8, 6, 5, 3) and one.dtype == np.float32
        assert one.min() >= 0.0 and one.max() <= 1.0
    for one, other in zip(whole[4:], batches(2), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(whole[0], whole[2])


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_keeps_type_and_unknown_batch_size(dtype):
    specification = tf.TensorSpec([None, 6, 5, 3], dtype)
    seed = tf.TensorSpec([2], tf.int64)
    traced = tf.function(RandomCropAndColor(), input_signature=[specification, seed])
    changed = traced(tf.cast(random_images(3), dtype), SEED)
    assert (changed.shape, changed.dtype) == ((3, 6, 5, 3), dtype)
    outputs = traced.get_concrete_function().structured_outputs
    assert outputs.shape.as_list() == [None, 6, 5, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": -1}, "`padding` must be at least 0"),
        ({"padding": 0.5}, "`padding` must be a whole number"),
        ({"brightness": -0.1}, "`brightness` must be a number from 0 to 1"),
        ({"brightness": 25}, "`brightness`.*Received: 25"),
        ({"contrast": 1.4}, "`contrast`.*Received: 1.4"),
        ({"contrast": True}, "`contrast`.*Received: True"),
        ({"contrast": float("nan")}, "`contrast`.*Received: nan"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(InputError, match=message):
        RandomCropAndColor(**options)


def test_refuses_integers():
    with pytest.raises(InputError, match="floating-point images.*Received: uint8"):
        RandomCropAndColor()(tf.zeros([2, 4, 4, 3], tf.uint8), SEED)
