import io

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from robust_tf.data import decoding
from robust_tf.data.crops import CentreCrop
from robust_tf.data.crops import RandomResizedCrop
from tests.data import stored_sets

SEED = tf.constant([1, 2], tf.int64)
# Pillow rounds after each axis, we after both. Of CMYK, TensorFlow cuts off what Pillow
# rounds.
LEVELS = {"RGB": 1, "L": 1, "CMYK": 2, "P": 1, "RGBA": 1}


def squares(content, crop, seed=None, channels=3):
    found = decoding.decode_squares(tf.constant([content]), crop, channels, seed)
    assert found.dtype == tf.uint8
    return found.numpy()[0].astype(int)


@pytest.mark.parametrize("sides", [(90, 61), (47, 80), (64, 64), (20, 31)])
@pytest.mark.parametrize(("kind", "form"), stored_sets.KINDS)
def test_centre_crops_are_those_of_pillow(sides, kind, form):
    content = stored_sets.encoded(*sides, kind, form)
    found = squares(content, CentreCrop(28, 32))
    wanted = stored_sets.centre_crop(content, 28, 32)
    assert abs(found - wanted).max() <= LEVELS[kind]
    assert abs(found - wanted).mean() < 0.5 * LEVELS[kind]
    assert wanted.std() > 10.0


@pytest.mark.parametrize("kind", ["RGB", "L", "CMYK"])
def test_whole_images_are_those_of_pillow(kind):
    content = stored_sets.encoded(50, 40, kind)
    found = decoding.decode(tf.constant([content]), (40, 50, 3)).numpy()[0]
    wanted = np.asarray(stored_sets.decoded(content))
    assert abs(found.astype(int) - wanted).max() <= (1 if kind == "CMYK" else 0)


@pytest.mark.parametrize(
    ("kind", "form", "options"),
    [
        ("RGB", "JPEG", {"subsampling": 0}),  # Colours in full resolution.
        ("RGB", "JPEG", {"subsampling": 1}),  # Half of the columns.
        ("RGB", "JPEG", {"subsampling": 2}),  # Half of both.
        ("RGB", "JPEG", {"subsampling": 2, "progressive": True}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "PNG", {}),
    ],
)
def test_windows_are_parts_of_the_whole_image(kind, form, options):
    """What lies beside a window changes none of its pixels."""
    content = stored_sets.encoded(75, 61, kind, form, **options)
    whole = tf.cast(decoding.decode(tf.constant([content]), (61, 75, 3)), tf.float32)
    crop = RandomResizedCrop(16)
    for number in range(25):
        seed = tf.constant([7, number], tf.int64)
        found = squares(content, crop, seed)
        wanted = crop(whole / 255.0, seed).numpy()[0] * 255.0
        # Rounded; where a pixel is half a level, to either side.
        assert abs(found - wanted).max() < 0.501


@pytest.mark.parametrize(("kind", "form"), stored_sets.KINDS)
def test_random_crops_are_those_of_pillow(kind, form):
    content = stored_sets.encoded(83, 70, kind, form)
    crop = RandomResizedCrop(24)
    for number in range(10):
        seed = tf.constant([0, number], tf.int64)
        parts = crop.layout(tf.constant([70]), tf.constant([83]), seed)
        top, left, height, width = parts.window.numpy()[0].tolist()
        image = stored_sets.decoded(content)
        image = image.crop((left, top, left + width, top + height))
        image = image.resize((24, 24), PIL.Image.Resampling.BILINEAR)
        wanted = np.asarray(image, int)
        wanted = wanted[:, ::-1] if parts.is_mirrored.numpy()[0] else wanted
        assert abs(squares(content, crop, seed) - wanted).max() <= LEVELS[kind]


def test_images_of_a_batch_are_drawn_apart():
    content = stored_sets.encoded(60, 60)
    batch = tf.constant([content] * 8)
    found = decoding.decode_squares(batch, RandomResizedCrop(12), 3, SEED).numpy()
    assert len({square.tobytes() for square in found}) == 8


@pytest.mark.parametrize("kind", ["P", "RGBA"])
def test_palettes_and_transparency(kind):
    image = stored_sets.decoded(stored_sets.encoded(40, 44)).convert(kind)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    wanted = stored_sets.centre_crop(buffer.getvalue(), 16, 20)
    found = squares(buffer.getvalue(), CentreCrop(16, 20))
    assert abs(found - wanted).max() <= LEVELS[kind]


def test_grey_images_may_stay_so():
    content = stored_sets.encoded(40, 44, "L")
    found = squares(content, CentreCrop(16, 20), channels=1)
    assert found.shape == (16, 16, 1)
    wanted = stored_sets.centre_crop(content, 16, 20)
    assert abs(found - wanted).max() <= 1


def test_records_hold_image_and_label():
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a\0\0"])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[7])),
        "file_name": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x"])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    record = example.SerializeToString()
    images, labels = decoding.parse(tf.constant([record, record]))
    assert images.numpy().tolist() == [b"a\0\0"] * 2
    assert labels.dtype == tf.int32
    assert decoding.parse_labels(tf.constant([record])).numpy().tolist() == [7]
