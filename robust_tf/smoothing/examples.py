"""Images that are to be certified, checked."""

import dataclasses

import numpy as np

from robust_tf.errors import InputError
from robust_tf.smoothing.base import BaseClassifier
from robust_tf.smoothing.sampling import MAX_INDEX


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images, their places in a data set, and their labels, if there are any.

    Attributes:
        images: `[examples, *input_shape]`, in [0, 1], in the type of the classifier.
        indices: in the data set; they choose the noise.
        labels: class indices, or None.
    """

    images: np.ndarray
    indices: tuple[int, ...]
    labels: tuple[int, ...] | None

    @classmethod
    def checked(cls, base: BaseClassifier, x, indices=None, labels=None) -> "Examples":
        """Checks what a user handed in.

        Args:
            base: the classifier.
            x: float images in [0, 1], `[examples, *input_shape]`.
            indices: in the data set, `[examples]`; None for 0, 1, ...
            labels: class indices, `[examples]`, or None.

        Raises:
            InputError: for what does not fit.
        """
        images = _checked_images(base, x)
        count = len(images)
        indices = np.arange(count) if indices is None else indices
        indices = _whole_numbers(indices, "indices", count)
        if indices.min() < 0 or indices.max() >= MAX_INDEX:
            wrong = indices[(indices < 0) | (indices >= MAX_INDEX)][0]
            raise InputError(
                "Indices in a data set must lie from 0 to 2,147,483,647. Received: "
                f"{wrong}"
            )
        if len(np.unique(indices)) < count:
            raise InputError(
                "Indices must differ: images of one index would share their noise. "
                f"Received: {indices[:10].tolist()}"
            )
        if labels is not None:
            labels = _whole_numbers(labels, "labels", count)
            if labels.min() < 0 or labels.max() >= base.num_classes:
                wrong = labels[(labels < 0) | (labels >= base.num_classes)][0]
                raise InputError(
                    f"Labels must lie in 0..{base.num_classes - 1} for "
                    f"{base.num_classes} classes. Received: {wrong}"
                )
            labels = tuple(labels.tolist())
        return cls(images, tuple(indices.tolist()), labels)

    def __len__(self):
        return len(self.images)


def _checked_images(base, x) -> np.ndarray:
    try:
        images = np.asarray(x)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Images must be an array of one shape. Received: {type(x).__name__} "
            f"({error})"
        ) from error
    if images.dtype.kind != "f":
        raise InputError(
            "Images must be floats in [0, 1]. Received: "
            f"{images.dtype}. Divide 8-bit images by 255."
        )
    if images.shape[1:] != base.input_shape or not images.size:
        raise InputError(
            f"The model takes images of shape [examples, "
            f"{', '.join(map(str, base.input_shape))}], at least one. Received: shape "
            f"{list(images.shape)}"
        )
    is_inside = (images >= 0.0) & (images <= 1.0)  # False for NaN, too.
    if not np.all(is_inside):
        raise InputError(
            f"Images must lie in [0, 1]. Received: {images[~is_inside][0]} among "
            f"{np.sum(~is_inside)} pixels outside. Scale them, and make normalisation "
            "a layer of the model."
        )
    return images.astype(base.dtype)


def _whole_numbers(values, name, count) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype.kind not in "iu" or values.shape != (count,):
        raise InputError(
            f"`{name}` must be one integer for each of the {count} images. Received: "
            f"{values.dtype} of shape {values.shape}"
        )
    return values.astype(np.int64)
