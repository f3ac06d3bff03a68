"""Small sets of encoded images of many shapes, as TFDS writes ArrayRecord files."""

import io

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

# Kind of each image, and the format it is encoded in: all that ImageNet holds.
KINDS = (("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"))
CLASSES = 5
FEATURES = {
    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
    "label": tfds.features.ClassLabel(num_classes=CLASSES),
}


def encoded(width, height, kind="RGB", form="JPEG", seed=0, **options):
    """The bytes of an image with smooth edges and some noise."""
    random = np.random.default_rng(seed)
    bands = len(PIL.Image.new(kind, (1, 1)).getbands())
    coarse = random.integers(0, 256, (5, 7, bands), np.uint8)
    planes = [
        PIL.Image.fromarray(np.ascontiguousarray(coarse[..., band]))
        .resize((width, height), PIL.Image.Resampling.BICUBIC)
        for band in range(bands)
    ]  # fmt: skip
    noise = random.integers(-15, 16, (height, width, bands))
    pixels = np.stack([np.asarray(plane) for plane in planes], -1) + noise
    planes = [
        PIL.Image.fromarray(np.ascontiguousarray(plane))
        for plane in np.moveaxis(pixels.clip(0, 255).astype(np.uint8), -1, 0)
    ]
    buffer = io.BytesIO()
    PIL.Image.merge(kind, planes).save(buffer, form, **options)
    return buffer.getvalue()


def contents(count, first=0):
    """Bytes of images of every kind, of sides from 20 to 90; labels 0, 1, 2, ..."""
    random = np.random.default_rng(first)
    sides = random.integers(20, 91, (count, 2)).tolist()
    return [
        encoded(*sides[i], *KINDS[i % len(KINDS)], seed=first + i) for i in range(count)
    ]


def examples(count, first=0):
    """Keys and examples, for `write`."""
    return [
        (i, {"image": io.BytesIO(content), "label": i % CLASSES})
        for i, content in enumerate(contents(count, first))
    ]


def write(folder, name="toy", file_format="array_record", features=None, **splits):
    """Has TFDS write a set below `folder`, and returns the folder of its version.

    Splits are given as lists of keys and examples; by default, 20 to train on, and 9.
    """
    splits = splits or {"train": examples(20), "validation": examples(9, 50)}
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(FEATURES | (features or {})),
        split_datasets=splits,
        data_dir=folder,
        file_format=file_format,
        disable_shuffling=True,
    )
    return folder / name / "1.0.0"


def decoded(content):
    """What Pillow makes of it, RGB."""
    return PIL.Image.open(io.BytesIO(content)).convert("RGB")


def centre_crop(content, size, shorter_side):
    """`Resize(shorter_side)` and `CenterCrop(size)` of torchvision, `[*, *, 3]`."""
    image = decoded(content)
    width, height = image.size
    if width <= height:
        sides = shorter_side, int(shorter_side * height / width)
    else:
        sides = int(shorter_side * width / height), shorter_side
    image = image.resize(sides, PIL.Image.Resampling.BILINEAR)
    left, top = (int(round((side - size) / 2.0)) for side in sides)
    return np.asarray(image.crop((left, top, left + size, top + size)), int)
