"""Stochastic weight averaging (SWA, arXiv:1803.05407)."""

import keras
import numpy as np

from robust_tf.training.callbacks import AfterSteps


class WeightAverage(AfterSteps):
    """Puts the mean of the weights at the ends of epochs into the classifier.

    From `first_epoch` on, each epoch counts once and equally (the published form takes
    the mean over cycles of the learning rate). The classifier has the average from the
    end of an epoch's steps, so in its validation and its checkpoint, to the beginning
    of the next epoch, and after the last one; steps go on from the weights they left.
    (`keras.callbacks.SwapEMAWeights` is an exponential mean over all steps.)

    Moving statistics are swapped with the weights. Their average fits no weights: have
    `PreciseStatistics` follow this callback.

    Args:
        classifier: what is trained; call this within the strategy's scope.
        first_epoch: the first epoch whose weights count, from 0.
    """

    def __init__(self, classifier: keras.Model, first_epoch: int):
        super().__init__()
        self._weights = classifier.weights
        self._first_epoch = first_epoch
        self._count = keras.Variable(
            0, dtype="int64", trainable=False, name="averaged_epochs"
        )
        # Of the two sets of values, the one that the classifier does not have.
        self._others = [
            keras.Variable(weight, dtype=weight.dtype, trainable=False, name="other")
            for weight in self._weights
        ]

    @property
    def variables(self) -> list[keras.Variable]:
        """How many epochs count; the average, or what has changed places with it."""
        return [self._count, *self._others]

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        if int(self._count.numpy()) > 0:
            self._swap()

    def after_steps(self, epoch):
        if epoch < self._first_epoch:
            return
        self._count.assign_add(1)
        for weight, average in zip(self._weights, self._others, strict=True):
            now, before = (np.asarray(value, "float64") for value in (weight, average))
            average.assign(before + (now - before) / int(self._count.numpy()))
        self._swap()

    def _swap(self):
        for weight, other in zip(self._weights, self._others, strict=True):
            value = np.asarray(weight)
            weight.assign(other)
            other.assign(value)
