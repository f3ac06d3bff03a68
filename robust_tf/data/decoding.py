"""From the bytes of records to images, by operations of TensorFlow."""

import tensorflow as tf

from robust_tf.data.crops import CentreCrop
from robust_tf.data.crops import RandomResizedCrop
from robust_tf.data.crops import squared

_FEATURES = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
}
# As Pillow decodes; TensorFlow's own choice differs by up to 5/255.
_DCT = "INTEGER_ACCURATE"
# Columns of a JPEG that are decoded beside a window: colours of lower resolution are
# interpolated from their neighbours.
_RIM = 1


def parse(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns encoded images `[m]` and labels `[m]` int32 of records `[m]`.

    Args:
        records: serialised `tf.train.Example`s, as TFDS writes them.
    """
    examples = tf.io.parse_example(records, _FEATURES)
    return examples["image"], tf.cast(examples["label"], tf.int32)


def parse_labels(records: tf.Tensor) -> tf.Tensor:
    """Returns the labels alone, `[m]` int32."""
    return parse(records)[1]


def decode(encoded: tf.Tensor, shape: tuple[int, int, int]) -> tf.Tensor:
    """Returns whole images of one shape.

    Args:
        encoded: JPEGs, or what else `tf.io.decode_image` knows, `[m]`.
        shape: height, width and channels, 1 or 3.

    Returns:
        `[m, *shape]` uint8.
    """
    return tf.map_fn(
        lambda content: _whole(content, shape[-1]),
        encoded,
        fn_output_signature=tf.TensorSpec(shape, tf.uint8),
    )


def decode_squares(
    encoded: tf.Tensor,
    crop: CentreCrop | RandomResizedCrop,
    channels: int,
    seed: tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns squares of images of any shapes.

    Pixels are those of Pillow's decoder and, but for a level here and there, of its
    resizing, which rounds after each of the two axes. Grey, CMYK and palette images
    become RGB where `channels` is 3.

    Args:
        encoded: JPEGs, or what else `tf.io.decode_image` knows, `[m]`.
        crop: which squares.
        channels: 1 or 3.
        seed: of a random crop, `[2]`.

    Returns:
        `[m, crop.size, crop.size, channels]` uint8.
    """
    sides = tf.map_fn(_sides, encoded, fn_output_signature=tf.TensorSpec([2], tf.int32))
    layout = crop.layout(sides[:, 0], sides[:, 1], seed)

    def one(example):
        content, (window, *rest) = example
        pixels = squared(_window(content, window, channels), *rest, crop.size)
        return tf.cast(tf.clip_by_value(tf.round(pixels), 0.0, 255.0), tf.uint8)

    shape = [crop.size, crop.size, channels]
    return tf.map_fn(
        one, (encoded, layout), fn_output_signature=tf.TensorSpec(shape, tf.uint8)
    )


def _sides(content):
    """Height and width of an encoded image, `[2]`; of a JPEG without decoding it."""
    return tf.cond(
        tf.io.is_jpeg(content),
        lambda: tf.io.extract_jpeg_shape(content)[:2],
        lambda: tf.shape(_any_format(content, 3))[:2],
    )


def _window(content, window, channels):
    """The pixels of a window, `[height, width, channels]` uint8."""
    top, left, height, width = tf.unstack(window)

    def jpeg():
        first = tf.maximum(left - _RIM, 0)
        end = tf.minimum(left + width + _RIM, tf.io.extract_jpeg_shape(content)[1])
        image = tf.io.decode_and_crop_jpeg(
            content,
            tf.stack([top, first, height, end - first]),
            channels=channels,
            dct_method=_DCT,
        )
        return image[:, left - first :][:, :width]

    def other():
        return _any_format(content, channels)[top:, left:][:height, :width]

    return tf.cond(tf.io.is_jpeg(content), jpeg, other)


def _whole(content, channels):
    return tf.cond(
        tf.io.is_jpeg(content),
        lambda: tf.io.decode_jpeg(content, channels, dct_method=_DCT),
        lambda: _any_format(content, channels),
    )


def _any_format(content, channels):
    """Of a film, the first image."""
    return tf.io.decode_image(content, channels, expand_animations=False)
