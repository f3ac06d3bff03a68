import math

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from robust_tf.data.crops import CentreCrop
from robust_tf.data.crops import RandomResizedCrop
from robust_tf.data.dataset import ImageDataset
from robust_tf.data.pipeline import training_batches
from robust_tf.errors import InputError

SEED = tf.constant([3, 5], tf.int64)


def layout(crop, height, width, count=1, seed=SEED):
    """Arrays of what a crop does to `count` images of one shape."""
    found = crop.layout(tf.fill([count], height), tf.fill([count], width), seed)
    return type(found)(*(part.numpy() for part in found))


class TestCentreCrop:
    # Worked by hand: the longer side is rounded down, the corner half to even.
    @pytest.mark.parametrize(
        ("sides", "resized", "corner"),
        [
            ((375, 500), (256, 341), (16, 58)),  # 58.5.
            ((500, 333), (384, 256), (80, 16)),  # 384.38.
            ((256, 256), (256, 256), (16, 16)),
            ((100, 343), (256, 878), (16, 327)),
            ((64, 65), (256, 260), (16, 18)),
        ],
    )
    def test_layout(self, sides, resized, corner):
        found = layout(CentreCrop(), *sides)
        np.testing.assert_array_equal(found.window, [[0, 0, *sides]])
        np.testing.assert_array_equal(found.sides, [resized])
        np.testing.assert_array_equal(found.corner, [corner])
        assert not found.is_mirrored.any()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"size": 0}, "`size` must be a whole number of at least 1"),
            ({"size": 224.0}, "Received: 224.0"),
            ({"shorter_side": 200}, "`shorter_side` must .* at least 224"),
            ({"shorter_side": True}, "Received: True"),
        ],
    )
    def test_refuses(self, options, message):
        with pytest.raises(InputError, match=message):
            CentreCrop(**options)


def drawn_windows(height, width, count):
    """Windows as torchvision's transform draws them, one image at a time."""
    random = np.random.default_rng(0)
    found = []
    while len(found) < count:
        for _ in range(10):
            area = random.uniform(0.08, 1.0) * height * width
            aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
            wide = round(math.sqrt(area * aspect))
            tall = round(math.sqrt(area / aspect))
            if 0 < wide <= width and 0 < tall <= height:
                top = random.integers(0, height - tall + 1)
                left = random.integers(0, width - wide + 1)
                found.append((top, left, tall, wide))
                break
    return np.array(found)


def measures(windows, height, width):
    """Area, aspect, places in the room that is left, and lower end of each window."""
    top, left, tall, wide = windows.T
    yield tall * wide
    yield wide / tall
    yield top / np.maximum(height - tall, 1)
    yield left / np.maximum(width - wide, 1)
    yield top + tall


class TestRandomResizedCrop:
    def test_windows_are_distributed_as_published(self):
        height, width, count = 300, 420, 20_000
        found = layout(RandomResizedCrop(), height, width, count)
        wanted = drawn_windows(height, width, count)
        pairs = zip(
            measures(found.window, height, width),
            measures(wanted, height, width),
            strict=True,
        )
        for pair in pairs:
            assert scipy.stats.ks_2samp(*pair).pvalue > 0.01
        assert abs(found.is_mirrored.mean() - 0.5) < 0.015
        top, left, tall, wide = found.window.T
        assert min(top.min(), left.min()) == 0
        assert ((top + tall).max(), (left + wide).max()) == (height, width)
        shares = tall * wide / (height * width)
        assert shares.min() > 0.075 and shares.max() > 0.9
        # Places and mirroring do not follow from the sides.
        assert abs(np.corrcoef(wide, found.is_mirrored)[0, 1]) < 0.03
        free = found.window[(tall < 250) & (wide < 250)]
        ranks = free[:, 0] / (height - free[:, 2]), free[:, 1] / (width - free[:, 3])
        assert abs(np.corrcoef(*ranks)[0, 1]) < 0.03

    def test_area_and_aspect_are_kept_to(self):
        crop = RandomResizedCrop(8, (0.2, 0.3), (0.5, 0.6), flip=False)
        found = layout(crop, 1000, 1000, 1000)
        _, _, tall, wide = found.window.T
        shares, aspects = tall * wide / 1e6, wide / tall
        assert (shares.min() > 0.199) and (shares.max() < 0.301)
        assert (aspects.min() > 0.498) and (aspects.max() < 0.602)
        assert shares.std() > 0.025 and aspects.std() > 0.025
        assert not found.is_mirrored.any()

    @pytest.mark.parametrize(
        ("sides", "window"),
        [
            ((10, 1000), (0, 493, 10, 13)),  # round(10 * 4 / 3) wide.
            ((1000, 10), (493, 0, 13, 10)),  # round(10 / (3 / 4)) tall.
            ((1, 300), (0, 149, 1, 1)),
        ],
    )
    def test_the_middle_where_no_draw_fits(self, sides, window):
        found = layout(RandomResizedCrop(), *sides, count=5)
        np.testing.assert_array_equal(found.window, [window] * 5)

    def test_the_whole_image_where_it_may_be_that(self):
        crop = RandomResizedCrop(8, (1.0, 1.0), (1.0, 1.0))
        found = layout(crop, 30, 30, count=3)
        np.testing.assert_array_equal(found.window, [(0, 0, 30, 30)] * 3)

    def test_images_in_memory(self):
        random = np.random.default_rng(0)
        images = tf.constant(random.uniform(size=(6, 20, 26, 3)), tf.float32)
        crop = RandomResizedCrop(9)
        found = crop(images, SEED).numpy()
        assert found.shape == (6, 9, 9, 3) and found.dtype == np.float32
        parts = layout(crop, 20, 26, 6)
        assert 0 < parts.is_mirrored.sum() < 6
        for image, (top, left, tall, wide), is_mirrored, square in zip(
            images.numpy(), parts.window, parts.is_mirrored, found, strict=True
        ):
            window = image[top : top + tall, left : left + wide]
            wanted = bilinear(window, 9)
            wanted = wanted[:, ::-1] if is_mirrored else wanted
            np.testing.assert_allclose(square, wanted, atol=1e-5)
        np.testing.assert_array_equal(crop(images, SEED), found)
        other = crop(images, tf.constant([3, 6], tf.int64))
        assert not np.allclose(other, found)

    def test_augments_a_set_in_memory(self):
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (12, 10, 10, 3), np.uint8)
        dataset = ImageDataset("toy", images, np.arange(12) % 3, 3, "train")
        batches = training_batches(
            dataset, 4, 0, epochs=1, augmentation=RandomResizedCrop(10)
        )
        assert batches.element_spec[0] == tf.TensorSpec([4, 10, 10, 3])
        found = np.concatenate([images for images, _ in batches])
        assert 0.0 <= found.min() < found.max() <= 1.0
        with pytest.raises(InputError, match=r"\(4, 10, 10, 3\).*\(4, 8, 8, 3\)"):
            training_batches(dataset, 4, 0, epochs=1, augmentation=RandomResizedCrop(8))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"size": 0}, "`size` must be a whole number"),
            ({"area": (0.5, 1.1)}, "`area` must be two numbers .* up to 1"),
            ({"area": (0.0, 1.0)}, "above 0"),
            ({"area": (0.9, 0.1)}, "in ascending order"),
            ({"area": 0.5}, "`area` must be two numbers"),
            ({"aspect": (-1.0, 2.0)}, "`aspect` must be two numbers"),
            ({"aspect": (1.0, math.nan)}, "`aspect` must be two numbers"),
            ({"aspect": ("1", "2")}, "`aspect` must be two numbers"),
        ],
    )
    def test_refuses(self, options, message):
        with pytest.raises(InputError, match=message):
            RandomResizedCrop(**options)

    def test_refuses_integers(self):
        with pytest.raises(InputError, match="floating-point images.*uint8"):
            RandomResizedCrop(4)(np.zeros((1, 8, 8, 3), np.uint8), SEED)


def bilinear(image, size):
    """Resized by weights that fall off in straight lines, antialiased; NumPy."""
    for axis in (0, 1):
        count = image.shape[axis]
        scale = count / size
        reach = max(scale, 1.0)
        centres = (np.arange(size) + 0.5) * scale
        distances = np.arange(count) + 0.5 - centres[:, None]
        weights = np.maximum(1.0 - np.abs(distances) / reach, 0.0)
        weights /= weights.sum(1, keepdims=True)
        image = np.moveaxis(np.tensordot(weights, image, (1, axis)), 0, axis)
    return image
