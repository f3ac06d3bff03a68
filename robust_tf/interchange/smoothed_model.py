"""A smoothed classifier as a SavedModel, for programs without this library.

It holds its own noise, votes and bounds: a table of the radius for each possible count.
"""

import functools
import os

import keras
import numpy as np
import tensorflow as tf
from scipy import stats

from robust_tf.files import whole_folder
from robust_tf.smoothing import radius as bounds
from robust_tf.smoothing.classifier import SmoothedClassifier
from robust_tf.smoothing.sampling import ESTIMATION
from robust_tf.smoothing.sampling import PREDICTION
from robust_tf.smoothing.sampling import SELECTION


def export_smoothed(
    path: str | os.PathLike,
    smoothed: SmoothedClassifier,
    *,
    n0: int = 100,
    n: int = 10_000,
    alpha: float = 0.001,
) -> None:
    """Writes a SavedModel with the endpoints `certify`, `predict` and `logits`.

    The last is the base classifier, `[batch, *shape]` to `[batch, classes]`. The others
    take images, float `[batch, *shape]` in [0, 1], and a seed, an int64 scalar.
    `certify` returns `prediction`, int64 `[batch]` (-1 abstains), `radius`, float64
    `[batch]` in the noise's own norm, and `counts`, int64 `[batch, classes]`: those of
    `SmoothedClassifier.certify` in mode "full" for the same seed, where an image's
    place in the batch is its index. `predict` returns `prediction` and `counts`, by the
    exact test of the first two classes.

    Args:
        path: of the folder, which must not exist.
        smoothed: what is exported; its weights become constants of the SavedModel.
        n0: samples of the selection.
        n: samples of the estimation, and of a prediction.
        alpha: probability that a certificate is wrong, for each image.

    Raises:
        InputError: for a folder that exists, and samples that can certify nothing.
    """
    bounds.check_selection(n0, n)
    bounds.check_can_certify(n, alpha)
    with whole_folder(path) as folder:
        endpoints = _Endpoints(smoothed, n0, n, alpha)
        base = smoothed.base
        signature = [
            tf.TensorSpec([None, *base.input_shape], base.dtype, "images"),
            tf.TensorSpec([], tf.int64, "seed"),
        ]
        archive = keras.export.ExportArchive()
        archive.track(endpoints)
        for name in ("certify", "predict"):
            archive.add_endpoint(name, getattr(endpoints, name), signature)
        archive.add_endpoint("logits", endpoints.logits, signature[:1])
        archive.write_out(folder, verbose=False)


class _Endpoints(tf.Module):
    """The functions that are exported, and their tables."""

    def __init__(self, smoothed, n0, n, alpha):
        super().__init__()
        self._smoothed, self._n0, self._n = smoothed, n0, n
        counts = np.arange(n + 1)
        lower = bounds.clopper_pearson_lower(counts, n, alpha)
        dimensions = int(np.prod(smoothed.base.input_shape))
        radius_of = functools.partial(smoothed.noise.radius, dimensions=dimensions)
        _, radii = bounds.concluded(counts, lower, radius_of)
        self._radii = tf.constant(radii)
        self._least = bounds.smallest_count(n, alpha)
        self._leads = tf.constant(_least_leads(n, alpha))

    def logits(self, images):
        """Of the base classifier, without noise."""
        return self._smoothed.base.logits(images)

    def certify(self, images, seed):
        """Prediction, radius and counts of each image."""
        selected = self._votes(images, seed, SELECTION, self._n0)
        candidate = tf.argmax(selected, -1)
        counts = self._votes(images, seed, ESTIMATION, self._n)
        hits = tf.gather(counts, candidate, axis=-1, batch_dims=1)
        is_sure = hits >= self._least
        return {
            "prediction": tf.where(is_sure, candidate, bounds.ABSTAIN),
            "radius": tf.gather(self._radii, hits),
            "counts": counts,
        }

    def predict(self, images, seed):
        """Prediction and counts of each image."""
        counts = self._votes(images, seed, PREDICTION, self._n)
        first, second = tf.unstack(tf.math.top_k(counts, 2).values, axis=-1)
        is_sure = first >= tf.gather(self._leads, first + second)
        best = tf.argmax(counts, -1)
        return {
            "prediction": tf.where(is_sure, best, bounds.ABSTAIN),
            "counts": counts,
        }

    def _votes(self, images, seed, stage, size):
        """Votes of so many samples for each image, int64 `[batch, classes]`."""
        return self._smoothed.votes(images, seed, stage, size)


def _least_leads(n, alpha) -> np.ndarray:
    """The least count of the first class that decides, by votes of both, `[n + 1]`."""
    votes = np.arange(n + 1)
    # Two-sided and exact: twice the upper tail, as a fair coin's is symmetric.
    least = stats.binom.isf(alpha / 2.0, votes, 0.5).astype(np.int64) + 1
    # What rounding of the inverse may be off by.
    for _ in range(2):
        tail = 2.0 * stats.binom.sf(least - 1, votes, 0.5)
        least += tail > alpha
    return least
