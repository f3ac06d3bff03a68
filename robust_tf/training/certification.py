"""Certificates of a classifier that will be smoothed, while it is trained."""

from collections.abc import Callable

import keras
import numpy as np

from robust_tf.graph import BoundGraph
from robust_tf.smoothing import metrics
from robust_tf.smoothing.base import BaseClassifier
from robust_tf.smoothing.classifier import SmoothedClassifier


class CertifyExamples(keras.callbacks.Callback):
    """Certifies the same examples by the same noise after some epochs.

    It adds to the epoch's logs `average_certified_radius` and `smoothed_accuracy`, the
    share of examples whose certified class is the label. Callbacks that write logs come
    after it.

    Args:
        graph: of the classifier that is trained.
        sigma: of the noise.
        images: in [0, 1], `[examples, *shape]`.
        labels: class indices, `[examples]`.
        every: epochs from one certification to the next; 0: none.
        first_epoch: none before so many epochs.
        record: called with the number of epochs done, and what was certified: the
            radius of each example, -1 where the class is wrong or there is none.
        **options: of `SmoothedClassifier.certify`.
    """

    def __init__(
        self,
        graph: BoundGraph,
        sigma: float,
        images,
        labels,
        *,
        every: int,
        first_epoch: int = 0,
        record: Callable[[int, np.ndarray], None] = lambda *_: None,
        **options,
    ):
        super().__init__()
        base = BaseClassifier(
            # Anew in each graph: weights are those of the time of the call.
            lambda inputs: graph.inference()(inputs),
            graph.shapes[0],
            graph.shapes[graph.output][0],
        )
        self._smoothed = SmoothedClassifier(base, sigma)
        self._images, self._labels = np.asarray(images), np.asarray(labels)
        self._every, self._first_epoch = every, first_epoch
        self._record, self._options = record, options

    def certify(self, epochs: int) -> dict[str, float]:
        """Certifies the examples now, and returns the entries of the logs."""
        found = self._smoothed.certify(
            self._images, labels=self._labels, **self._options
        )
        correct = found.is_certified & (found.prediction == self._labels)
        self._record(epochs, np.where(correct, found.radius, -1.0))
        return {
            "average_certified_radius": metrics.average_certified_radius(
                found.radius, correct
            ),
            "smoothed_accuracy": float(correct.mean()),
        }

    def on_epoch_end(self, epoch, logs=None):
        done = epoch + 1
        is_due = self._every and done % self._every == 0
        if is_due and done >= self._first_epoch and logs is not None:
            logs.update(self.certify(done))
