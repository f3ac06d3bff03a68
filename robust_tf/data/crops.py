"""From images of many shapes to images of one: windows of them, resized.

Resizing is bilinear, over all pixels that a smaller image stands for (antialiased), as
Pillow does it for torchvision's transforms. Every crop says what is to be done with
images of given heights and widths (`layout`); `decoding` does it to encoded images.
"""

import dataclasses
import math
from typing import NamedTuple

import tensorflow as tf

from robust_tf.data.augmentation import as_floating
from robust_tf.errors import InputError

_TRIES = 10
# Of the random numbers for places, which are not those for sides.
_PLACES = 1


class Layout(NamedTuple):
    """What becomes of each image of a batch.

    Attributes:
        window: top, left, height and width of the part that counts, `[batch, 4]` int32,
            in pixels of the image.
        sides: height and width that it is resized to, `[batch, 2]` int32.
        corner: top and left of what is cut out then, `[batch, 2]` int32.
        is_mirrored: left to right, at the end, `[batch]`.
    """

    window: tf.Tensor
    sides: tf.Tensor
    corner: tf.Tensor
    is_mirrored: tf.Tensor


@dataclasses.dataclass(frozen=True)
class CentreCrop:
    """Resizes images to one shorter side, and cuts a square out of their middle.

    How ImageNet is tested (arXiv:1902.02918): `Resize(256)` and `CenterCrop(224)` of
    torchvision. The longer side is rounded down, the corner to the nearest, half to
    even.

    Attributes:
        size: side of the square.
        shorter_side: of the resized image, at least `size`.

    Raises:
        InputError: for numbers out of range.
    """

    size: int = 224
    shorter_side: int = 256

    def __post_init__(self):
        _check_whole("size", self.size, 1)
        _check_whole("shorter_side", self.shorter_side, self.size)

    def layout(self, heights: tf.Tensor, widths: tf.Tensor, seed=None) -> Layout:
        """Returns what becomes of images of those heights and widths, `[batch]` int32.

        `seed` is not used.
        """
        del seed
        sides = tf.stack([heights, widths], 1)
        resized = self.shorter_side * sides // tf.reduce_min(sides, 1, keepdims=True)
        margins = tf.cast(resized - self.size, tf.float32)
        return Layout(
            window=tf.concat([tf.zeros_like(sides), sides], 1),
            sides=resized,
            corner=tf.cast(tf.round(margins / 2.0), tf.int32),
            is_mirrored=tf.zeros(tf.shape(heights), tf.bool),
        )


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """Cuts a random window out of each image, makes it a square, and mirrors half.

    How ImageNet is trained on (arXiv:1902.02918): `RandomResizedCrop(224)` and
    `RandomHorizontalFlip` of torchvision. A window has a share of the image's area,
    uniform in `area`, and a width over its height of which the logarithm is uniform in
    that of `aspect`; of ten draws the first one that fits the image counts, at any
    place. Where none fits, it is the middle of the image, as large as `aspect` allows.

    Of images that are stored encoded, the window alone is decoded.

    Attributes:
        size: side of the square.
        area: least and greatest share of the area, above 0 and up to 1.
        aspect: least and greatest width over height, above 0.
        flip: whether to mirror, with probability 0.5.

    Raises:
        InputError: for numbers out of range.
    """

    size: int = 224
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3.0 / 4.0, 4.0 / 3.0)
    flip: bool = True

    def __post_init__(self):
        _check_whole("size", self.size, 1)
        _check_range("area", self.area, 1.0)
        _check_range("aspect", self.aspect, math.inf)

    def layout(self, heights: tf.Tensor, widths: tf.Tensor, seed: tf.Tensor) -> Layout:
        """Returns what becomes of images of those heights and widths.

        Args:
            heights: `[batch]` int32.
            widths: `[batch]` int32.
            seed: `[2]`, integers, one seed for the whole batch.
        """
        sides = tf.stack([heights, widths], 1)
        window, is_drawn = self._windows(sides, seed)
        draws = tf.random.stateless_uniform(
            [3, tf.shape(heights)[0]],
            tf.random.fold_in(seed, _PLACES, alg="philox"),
            minval=None,
            maxval=None,
            dtype=tf.uint32,
            alg="philox",
        )
        free = sides - window
        # Of 2**32 values: the remainder favours none by more than `span / 2**32`.
        drawn = tf.transpose(draws[:2]) % tf.cast(free + 1, tf.uint32)
        corner = tf.where(is_drawn, tf.cast(drawn, tf.int32), free // 2)
        return Layout(
            window=tf.concat([corner, window], 1),
            sides=tf.fill(tf.shape(sides), self.size),
            corner=tf.zeros_like(sides),
            is_mirrored=tf.logical_and(draws[2] % 2 == 1, self.flip),
        )

    def __call__(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns squares out of the images; equal arguments give equal results.

        Args:
            images: `[batch, height, width, channels]`, floating point in [0, 1].
            seed: `[2]`, integers, one seed for the whole batch.

        Returns:
            `[batch, size, size, channels]`, of the type of `images`, in [0, 1].

        Raises:
            InputError: for images of integers.
        """
        images = as_floating(images, "Windows are resized")
        batch, height, width = (tf.shape(images)[axis] for axis in range(3))
        layout = self.layout(tf.fill([batch], height), tf.fill([batch], width), seed)

        def square(one):
            image, (window, *rest) = one
            top, left, height, width = tf.unstack(window)
            image = image[top : top + height, left : left + width]
            pixels = tf.clip_by_value(squared(image, *rest, self.size), 0.0, 1.0)
            return tf.cast(pixels, images.dtype)

        shape = [self.size, self.size, images.shape[-1]]
        return tf.map_fn(
            square,
            (images, layout),
            fn_output_signature=tf.TensorSpec(shape, images.dtype),
        )

    def _windows(self, sides, seed):
        """Heights and widths `[batch, 2]`, and which are drawn `[batch, 1]`."""
        heights, widths = tf.split(tf.cast(sides, tf.float32), 2, 1)
        draws = tf.random.stateless_uniform(
            [2, tf.shape(sides)[0], _TRIES], seed, alg="philox"
        )
        low, high = self.area
        areas = (low + (high - low) * draws[0]) * heights * widths
        low, high = map(math.log, self.aspect)
        roots = tf.exp((low + (high - low) * draws[1]) / 2.0)
        tall, wide = tf.round(tf.sqrt(areas) / roots), tf.round(tf.sqrt(areas) * roots)
        does_fit = (tall >= 1.0) & (wide >= 1.0) & (tall <= heights) & (wide <= widths)
        # The first that fits: of equal values, `argmax` takes the first.
        place = tf.argmax(tf.cast(does_fit, tf.int32), 1)
        drawn = tf.gather(tf.stack([tall, wide], -1), place, batch_dims=1)
        is_drawn = tf.reduce_any(does_fit, 1, keepdims=True)
        middle = self._largest(heights, widths)
        return tf.cast(tf.where(is_drawn, drawn, middle), tf.int32), is_drawn

    def _largest(self, heights, widths):
        """The largest windows that `aspect` allows, `[batch, 2]`; at least a pixel."""
        least, greatest = self.aspect
        tall = tf.minimum(heights, tf.round(widths / least))
        wide = tf.minimum(widths, tf.round(heights * greatest))
        return tf.maximum(tf.concat([tall, wide], 1), 1.0)


def squared(image, sides, corner, is_mirrored, size: int) -> tf.Tensor:
    """Returns what a layout makes of the window of one image.

    Args:
        image: the window, `[height, width, channels]`.
        sides: height and width that it is resized to, `[2]`.
        corner: of what is cut out then, `[2]`.
        is_mirrored: whether to mirror that.
        size: its side.

    Returns:
        `[size, size, channels]` float32, in the unit of `image`, up to rounding errors
        within its range.
    """
    image = tf.image.resize(image, sides, "bilinear", antialias=True)
    image = tf.slice(image, [*tf.unstack(corner), 0], [size, size, -1])
    return tf.where(is_mirrored, tf.reverse(image, [1]), image)


def _check_whole(name, value, least):
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not (is_whole and value >= least):
        raise InputError(
            f"`{name}` must be a whole number of at least {least} pixels. Received: "
            f"{value!r}"
        )


def _check_range(name, value, greatest):
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    numbers = is_pair and all(
        isinstance(one, int | float) and not isinstance(one, bool) for one in value
    )
    if not (numbers and 0.0 < value[0] <= value[1] <= greatest):
        rule = "above 0" if greatest == math.inf else f"above 0 and up to {greatest:g}"
        raise InputError(
            f"`{name}` must be two numbers in ascending order, {rule}. Received: "
            f"{value!r}"
        )
