"""A classifier and its certificates as a SavedModel, for programs without this library.

Bounds and bisection are graphs of TensorFlow's own operations: no Python functions, and
no files beyond those of the SavedModel. The batch size is free, from 1, and `predict`
is the default signature: TensorFlow Serving takes the folder as a version of a model.

Bounds are in float32, as the classifier itself. A process on an accelerator must not
cut products to TensorFloat-32 (`NVIDIA_TF32_OVERRIDE=0`, or `tf.config.experimental.
enable_tensor_float_32_execution(False)`): bounds would then err by more than the
`LEAST_MARGIN` that certificates leave.
"""

import math
import os

import keras
import tensorflow as tf

from robust_tf.attacks.pgd import margins_of
from robust_tf.errors import InputError
from robust_tf.files import whole_folder
from robust_tf.layers.convert import convert
from robust_tf.propagation.compute import compute_bounds
from robust_tf.regions import LpBall
from robust_tf.specifications import margin_specification
from robust_tf.verification.accuracy import LEAST_MARGIN
from robust_tf.verification.radii import certified_radii

METHODS = ("ibp", "crown-ibp", "crown")
_WIDEST = 1.0  # An Linf radius beyond it exceeds the whole range of a pixel.


def export_certified(
    path: str | os.PathLike,
    model,
    *,
    method: str = "crown-ibp",
    upper: float = 1.0,
    steps: int = 16,
) -> None:
    """Writes a SavedModel: endpoints `predict`, `certify` and `certified_radius`.

    All take `images`, `[batch, *shape]` in [0, 1] and in the type of the model's input;
    radii are of Linf balls, cut to [0, 1], and in the same type. Classes are int64.

    `predict` returns `logits`, `[batch, classes]`. `certify` also takes `radius`, a
    scalar for all images, and returns `prediction`, `[batch]`; `lower_bounds`, `[batch,
    classes - 1]`, of the predicted logit minus each other one, by ascending class, as
    `compute_bounds` has them; and `certified`, booleans `[batch]`: all of them are
    above `LEAST_MARGIN`, so no point of the ball has another prediction.
    `certified_radius` returns `prediction` and `radius`, `[batch]`, the largest radius
    found by bisection (`verification.radii.certified_radii`): proved itself, or 0.

    An image with NaN or a pixel outside [0, 1] is never certified and has radius 0; nor
    is any at a radius that is NaN, negative or above 1. Its lower bounds are minus
    infinity, and its prediction says nothing. Other images of the batch do not suffer.

    Args:
        path: of the folder, which must not exist.
        model: that `robust_tf.convert` takes; its weights become the SavedModel's.
        method: of `compute_bounds`, one of `METHODS`.
        upper: the largest radius that `certified_radius` tries.
        steps: how many radii it tries.

    Raises:
        InputError: for a folder that exists, another method, numbers out of range, and
            as `convert`.
    """
    _check_options(method, upper, steps)
    with whole_folder(path) as folder:
        endpoints = _Endpoints(convert(model), method, upper, steps)
        shape, dtype = endpoints.model.inputs[0].shape, endpoints.model.inputs[0].dtype
        images = tf.TensorSpec([None, *shape[1:]], dtype, "images")
        radius = tf.TensorSpec([], dtype, "radius")
        archive = keras.export.ExportArchive()
        archive.track(endpoints)
        # The first one is the default.
        archive.add_endpoint("predict", endpoints.predict, [images])
        archive.add_endpoint("certify", endpoints.certify, [images, radius])
        archive.add_endpoint("certified_radius", endpoints.certified_radius, [images])
        # Nobody differentiates certificates.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        archive.write_out(folder, options, verbose=False)


class _Endpoints(tf.Module):
    """The functions that are exported."""

    def __init__(self, model, method, upper, steps):
        super().__init__()
        self.model = model
        self._method, self._upper, self._steps = method, upper, steps

    def predict(self, images):
        """Logits of each image."""
        return {"logits": self._logits(images)}

    def certify(self, images, radius):
        """Prediction, lower bounds of its margins, and whether they prove it."""
        logits = self._logits(images)
        prediction = tf.argmax(logits, -1)
        is_image, images = _images_alone(images)
        is_radius = (radius >= 0.0) & (radius <= _WIDEST)  # NaN is neither.
        region = LpBall(images, tf.where(is_radius, radius, tf.zeros_like(radius)))
        rows = margin_specification(prediction, logits.shape[-1], images.dtype)
        lower = compute_bounds(self.model, region, self._method, rows).lower
        is_asked = is_image & is_radius
        is_proved = tf.reduce_all(lower > LEAST_MARGIN, -1)
        # The prediction is in the set: a proof of a tie would be a rounding error.
        is_first = margins_of(logits, prediction) > 0.0
        nothing = tf.constant(-math.inf, lower.dtype)
        return {
            "prediction": prediction,
            "lower_bounds": tf.where(is_asked[:, None], lower, nothing),
            "certified": is_asked & is_first & is_proved,
        }

    def certified_radius(self, images):
        """Prediction, and the largest radius that was proved for it."""
        prediction = tf.argmax(self._logits(images), -1)
        is_image, images = _images_alone(images)
        radii = certified_radii(
            self.model,
            images,
            prediction,
            method=self._method,
            upper=self._upper,
            steps=self._steps,
        )
        radii = tf.where(is_image, radii, tf.zeros_like(radii))
        return {"prediction": prediction, "radius": radii}

    def _logits(self, images):
        return self.model(images, training=False)


def _images_alone(images):
    """Which examples are images, `[batch]`, and those, with black ones for the rest."""
    axes = range(1, images.shape.rank)
    is_pixel = (images >= 0.0) & (images <= 1.0)  # NaN is neither.
    is_image = tf.reduce_all(is_pixel, list(axes))
    aligned = tf.reshape(is_image, [-1, *(1 for _ in axes)])
    return is_image, tf.where(aligned, images, tf.zeros_like(images))


def _check_options(method, upper, steps):
    if method not in METHODS:
        raise InputError(f"`method` must be one of {METHODS}. Received: {method!r}")
    if not 0.0 < upper <= _WIDEST:
        raise InputError(
            "`upper` must be a radius above 0 and up to 1, the range of a pixel. "
            f"Received: {upper!r}"
        )
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(
            f"`steps` must be a whole number of at least 1. Received: {steps!r}"
        )
