"""Random changes of training images, as functions of a seed."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from robust_tf.errors import InputError

# From images and a seed `[2]` to images, see `pipeline.training_batches`.
Augmentation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

PADDING_MODES = ("zero", "edge")
# Of the random numbers for colours, which are not those for places.
_COLORS = 1


@dataclasses.dataclass(frozen=True)
class RandomFlipAndCrop:
    """Mirrors images left to right, pads them, and cuts them to their size again.

    Each image draws its own mirroring (probability 0.5) and its own shift, uniform
    from `-padding` to `padding` in both directions. Published systems differ:
    CROWN-IBP (arXiv:1906.06316) flips CIFAR-10 and pads 4 pixels with zeros, and only
    crops SVHN; fast certified training (arXiv:2103.17268) flips and repeats the edge,
    2 pixels on CIFAR-10 and 4 on TinyImageNet.

    Attributes:
        flip: whether to mirror.
        padding: pixels on each side; 0 for no crop.
        padding_mode: "zero" (black) or "edge" (repeats the outermost pixels).

    Raises:
        InputError: for a negative padding or an unknown mode.
    """

    flip: bool = True
    padding: int = 4
    padding_mode: str = "zero"

    def __post_init__(self):
        if isinstance(self.padding, bool) or not isinstance(self.padding, int):
            raise InputError(
                "`padding` must be a whole number of pixels. Received: "
                f"{self.padding!r}"
            )
        if self.padding < 0:
            raise InputError(
                f"`padding` must be at least 0 pixels. Received: {self.padding}"
            )
        if self.padding_mode not in PADDING_MODES:
            raise InputError(
                f"`padding_mode` must be one of {PADDING_MODES}. Received: "
                f"{self.padding_mode!r}"
            )

    def __call__(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns the changed images; equal arguments give equal results.

        Args:
            images: `[batch, height, width, channels]`, of any type.
            seed: `[2]`, integers, one seed for the whole batch.

        Returns:
            The shape and type of `images`, made of its pixels and of zeros.
        """
        shape = images.shape
        batch, height, width = (tf.shape(images)[axis] for axis in range(3))
        down, right, is_mirrored = self._draw(batch, seed)
        rows = tf.range(height) + down
        columns = tf.range(width) + right
        # A mirrored image is read from its other end, and mirrored before it is padded.
        columns = tf.where(is_mirrored, width - 1 - columns, columns)
        if self.padding and self.padding_mode == "zero":
            # With a black rim, repeating the edge is padding with zeros.
            images = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]])
            rows, columns = rows + 1, columns + 1
        return tf.ensure_shape(_gather_pixels(images, rows, columns), shape)

    def _draw(self, batch, seed):
        """Shifts down and right, and whether to mirror: three of `[batch, 1]`."""
        spans = [2 * self.padding + 1, 2 * self.padding + 1, 2 if self.flip else 1]
        draws = tf.random.stateless_uniform(
            [3, batch, 1],
            seed,
            minval=None,
            maxval=None,
            dtype=tf.uint32,
            alg="philox",
        )
        # Of 2**32 values: the remainder favours none by more than `span / 2**32`.
        down, right, mirrored = (
            tf.cast(draw % span, tf.int32)
            for draw, span in zip(tf.unstack(draws), spans, strict=True)
        )
        return down - self.padding, right - self.padding, mirrored == 1


@dataclasses.dataclass(frozen=True)
class RandomCropAndColor:
    """Crops and mirrors images, then changes their brightness and their contrast.

    That of maximum margin regularization (arXiv:1810.07481), where it is off unless
    asked for: crops of images padded by 2 zeros on each side, mirrored but for MNIST,
    GTS and SVHN (`RandomFlipAndCrop`); then pixels plus a number from `-brightness` to
    `brightness`, cut to [0, 1]; then their distances to the mean of their channel times
    a number from `1 - contrast` to `1 + contrast`, cut to [0, 1]. Each image draws for
    itself. Published test images are padded and cut in the middle, so they stay as they
    are.

    Attributes:
        flip: whether to mirror, with probability 0.5.
        padding: zeros on each side; 0 for no crop.
        brightness: of pixels in [0, 1], from 0 to 1.
        contrast: from 0 to 1.

    Raises:
        InputError: for numbers out of range.
    """

    flip: bool = True
    padding: int = 2
    brightness: float = 0.1
    contrast: float = 0.4

    def __post_init__(self):
        RandomFlipAndCrop(self.flip, self.padding)  # Refuses what it cannot do.
        for name in ("brightness", "contrast"):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not 0.0 <= value <= 1.0:
                raise InputError(
                    f"`{name}` must be a number from 0 to 1. Received: {value!r}"
                )

    def __call__(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns the changed images; equal arguments give equal results.

        Args:
            images: `[batch, height, width, channels]`, floating point in [0, 1].
            seed: `[2]`, integers, one seed for the whole batch.

        Returns:
            The shape and type of `images`, in [0, 1].

        Raises:
            InputError: for images of integers.
        """
        images = as_floating(images, "Brightness and contrast are changed")
        images = RandomFlipAndCrop(self.flip, self.padding)(images, seed)
        draws = tf.random.stateless_uniform(
            [2, tf.shape(images)[0], 1, 1, 1],
            tf.random.fold_in(seed, _COLORS, alg="philox"),
            minval=-1.0,
            maxval=1.0,
            dtype=images.dtype,
            alg="philox",
        )
        shifts, factors = self.brightness * draws[0], 1.0 + self.contrast * draws[1]
        images = tf.clip_by_value(images + shifts, 0.0, 1.0)
        means = tf.reduce_mean(images, (1, 2), keepdims=True)
        return tf.clip_by_value(means + factors * (images - means), 0.0, 1.0)


def as_floating(images, what: str) -> tf.Tensor:
    """Returns images as a tensor.

    Args:
        images: floating point in [0, 1].
        what: is done to them, for the message.

    Raises:
        InputError: for images of integers.
    """
    images = tf.convert_to_tensor(images)
    if not images.dtype.is_floating:
        raise InputError(
            f"{what} of floating-point images in [0, 1]. Received: {images.dtype.name}"
        )
    return images


def augmented(
    images: tf.Tensor, augmentation: Augmentation | None, seed: tf.Tensor | None
) -> tf.Tensor:
    """Returns the changed images, of the same static shape; None changes nothing.

    Args:
        images: `[batch, height, width, channels]` float32 in [0, 1].
        augmentation: what changes them.
        seed: `[2]`, integers, one seed for the whole batch.

    Raises:
        InputError: for an augmentation that changes shape or type.
    """
    if augmentation is None:
        return images
    changed = tf.convert_to_tensor(augmentation(images, seed))
    is_same = changed.dtype == images.dtype
    if not is_same or not changed.shape.is_compatible_with(images.shape):
        raise InputError(
            "An augmentation must return images of the shape and type it was given, "
            f"{images.shape} {images.dtype.name}. Received: {changed.shape} "
            f"{changed.dtype.name}"
        )
    return tf.ensure_shape(changed, images.shape)


def _gather_pixels(images, rows, columns):
    """`images[b, rows[b, i], columns[b, j]]` at `[b, i, j]`, places cut to the image.

    One gather over all pixels: twice as fast on a CPU as padding and then gathering
    rows and columns.
    """
    batch, height, width = (tf.shape(images)[axis] for axis in range(3))
    rows = tf.clip_by_value(rows, 0, height - 1)
    columns = tf.clip_by_value(columns, 0, width - 1)
    rows += tf.range(batch)[:, tf.newaxis] * height
    places = rows[:, :, tf.newaxis] * width + columns[:, tf.newaxis, :]
    pixels = tf.reshape(images, [-1, images.shape[-1] or tf.shape(images)[-1]])
    return tf.gather(pixels, places)
