"""Random changes of training images, as functions of a seed."""

import dataclasses

import tensorflow as tf

from robust_tf.errors import InputError

PADDING_MODES = ("zero", "edge")


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
        batch, height, width = (tf.shape(images)[axis] for axis in range(3))
        draws = self._draw(batch, seed)
        rows = tf.range(height)[tf.newaxis] + draws[0][:, tf.newaxis]
        columns = tf.range(width)[tf.newaxis] + draws[1][:, tf.newaxis]
        is_inside = _is_within(rows, height)[:, :, tf.newaxis]
        is_inside &= _is_within(columns, width)[:, tf.newaxis, :]
        # A mirrored image is read from its other end, before it is padded.
        mirrored = tf.cast(draws[2][:, tf.newaxis], tf.bool)
        columns = tf.where(mirrored, width - 1 - columns, columns)
        moved = _gather_pixels(images, rows, columns)
        if self.padding and self.padding_mode == "zero":
            black = tf.zeros([], images.dtype)
            moved = tf.where(is_inside[..., tf.newaxis], moved, black)
        return tf.ensure_shape(moved, images.shape)

    def _draw(self, batch, seed):
        """Shifts down and right, and 1 where an image is mirrored; `[3, batch]`."""
        spans = tf.constant([2 * self.padding + 1] * 2 + [2 if self.flip else 1])
        draws = tf.random.stateless_uniform(
            [3, batch],
            seed,
            minval=None,
            maxval=None,
            dtype=tf.uint32,
            alg="philox",
        )
        # From 2**32 values: no outcome is favoured by more than 1 part in 10**8.
        draws = tf.cast(draws % tf.cast(spans, tf.uint32)[:, tf.newaxis], tf.int32)
        return draws - tf.constant([[self.padding], [self.padding], [0]])


def _is_within(places, size):
    return (places >= 0) & (places < size)


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
