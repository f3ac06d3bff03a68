"""How a run goes through its epochs: batches, and stretches between renewed weights."""

import sys
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from robust_tf import data as datasets
from robust_tf.data.dataset import LabelledImages
from robust_tf.errors import InputError
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Run
from robust_tf.training.certified_model import CertifiedModel
from robust_tf.training.reweighting import ImageWeights
from robust_tf.training.reweighting import Reweighting


def image_weights(
    model: CertifiedModel, training: LabelledImages, run: Run, reweighting: Reweighting
) -> ImageWeights:
    """Returns what weighs the training images; call this in the strategy's scope.

    Raises:
        InputError: for a run that does not go with it.
    """
    objective = model.objective
    if objective.noise is None:
        raise InputError(
            "`reweighting` is by accuracy under noise, and needs an objective with "
            f"`noise`. Received: the objective {objective.method!r}. Leave "
            "`reweighting` out."
        )
    if reweighting.first_epoch >= run.epochs:
        raise InputError(
            f"`reweighting` must begin within the {run.epochs} epochs. Received: "
            f"first_epoch {reweighting.first_epoch}. Lower it, or leave `reweighting` "
            "out."
        )
    if model.optimizer.use_ema:
        raise InputError(
            "`reweighting` trains in stretches, at the end of which Keras would put an "
            "optimizer's average in place of the weights. Received: an optimizer with "
            "`use_ema`. Average by `settings.Run.average_from`."
        )
    noise = objective.noise
    return ImageWeights(reweighting, model.graph, noise.sigma, training, run.seed)


def training_batches(
    training: LabelledImages,
    data: Data,
    run: Run,
    first: int,
    end: int,
    weights: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Returns the batches of epochs `first` to `end - 1`."""
    return datasets.training_batches(
        training,
        data.batch_size,
        run.seed,
        epochs=end,
        first_epoch=first,
        augmentation=data.augmentation,
        weights=weights,
    )


def fit(
    model: CertifiedModel,
    training: LabelledImages,
    validation: tf.data.Dataset | None,
    data: Data,
    run: Run,
    done: int,
    callbacks: Sequence[keras.callbacks.Callback],
    weights: ImageWeights | None = None,
) -> None:
    """Trains from epoch `done` on, by one `model.fit` for each stretch of epochs.

    Batches are made ahead of the steps. So those of a new stretch wait for its weights,
    which are measured when the last one has ended.

    Args:
        model: compiled.
        training: the training split.
        validation: batches that are measured after each epoch; None for none.
        data: batch size and augmentation.
        run: epochs and seed.
        done: epochs that need no training.
        callbacks: of `fit`.
        weights: of the training images; None for one stretch in which all are equal.
    """
    stretches = [(done, run.epochs)]
    if weights is not None:
        stretches = weights.stretches(done, run.epochs)
    for first, end in stretches:
        # A finished run has one stretch, of no epochs: nothing is measured for it.
        chances = weights.before(first) if weights is not None and first < end else None
        model.fit(
            training_batches(training, data, run, first, end, chances),
            epochs=end,
            initial_epoch=first,
            steps_per_epoch=model.steps_per_epoch,
            shuffle=False,
            validation_data=validation,
            # First, as it would print what the others add.
            callbacks=[_Progress(run.epochs), *callbacks],
            verbose=1 if sys.stderr.isatty() else 2,
        )


class _Progress(keras.callbacks.ProgbarLogger):
    """Counts the epochs of the run, not those up to the end of a stretch."""

    def __init__(self, epochs):
        super().__init__()
        self._run_epochs = epochs

    def set_params(self, params):
        super().set_params(params | {"epochs": self._run_epochs})
