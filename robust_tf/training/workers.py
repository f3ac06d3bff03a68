"""Training on several machines: one loop over the same `train_step`.

Every worker is a process of its own with the same program, and finds the others by
`TF_CONFIG` (`tf.distribute.MultiWorkerMirroredStrategy`). Keras's `fit` fails under
that strategy.
"""

import contextlib
from collections.abc import Iterator
from collections.abc import Sequence

import keras
import tensorflow as tf
from absl import logging

from robust_tf.errors import InputError
from robust_tf.training.certified_model import CertifiedModel
from robust_tf.training.cluster import is_chief

# What TensorFlow raises where another worker has gone, or a reduction was given up.
_GONE = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnimplementedError,
)


class WorkerLostError(RuntimeError):
    """Another worker of a run has gone; what this one had done since is lost."""


def fit_on_workers(
    model: CertifiedModel,
    strategy: tf.distribute.Strategy,
    batches: tf.data.Dataset,
    *,
    epochs: int,
    initial_epoch: int,
    steps_per_epoch: int,
    validation: tf.data.Dataset | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Trains as `model.fit` does, on all workers of a strategy.

    Every worker goes through all batches, and works on its own part of each: the
    first examples are those of the first worker's first replica.

    Args:
        model: compiled, made in the strategy's scope.
        strategy: over the workers.
        batches: of the whole run from `initial_epoch` on, of the size that all
            replicas share, the same on every worker.
        epochs: the epoch to stop before.
        initial_epoch: the first one.
        steps_per_epoch: batches in one.
        validation: measured after each epoch; batches of that size too.
        callbacks: told of epochs, on every worker.

    Raises:
        WorkerLostError: where another worker has gone.
    """

    @tf.function(autograph=False)
    def train(batch):
        strategy.run(lambda one: model.train_step(one) and None, args=(batch,))

    @tf.function(autograph=False)
    def test(batch):
        strategy.run(lambda one: model.test_step(one) and None, args=(batch,))

    callbacks = keras.callbacks.CallbackList(callbacks, model=model)
    with _told_of_lost_workers():
        _check_equal(strategy, initial_epoch)
        parts = iter(_distributed(strategy, batches))
        callbacks.on_train_begin()
        for epoch in range(initial_epoch, epochs):
            callbacks.on_epoch_begin(epoch)
            model.reset_metrics()
            for _ in range(steps_per_epoch):
                train(next(parts))
            logs = _floats(model.training_results())
            if validation is not None:
                callbacks.on_test_begin()
                model.reset_metrics()
                for batch in _distributed(strategy, validation):
                    test(batch)
                found = _floats(model.get_metrics_result())
                logs |= {f"val_{name}": value for name, value in found.items()}
            if is_chief():
                logging.info("Epoch %d of %d: %s", epoch + 1, epochs, logs)
            callbacks.on_epoch_end(epoch, logs)
        callbacks.on_train_end()


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Returns once every worker has called this.

    A worker that ends while others still reduce would be taken for lost.

    Raises:
        WorkerLostError: where another worker has gone.
    """
    with _told_of_lost_workers():
        _check_equal(strategy, 0)


def _distributed(strategy, batches):
    """Each replica's part of every batch, in the order of the replicas."""

    def of_worker(context):
        count = context.num_replicas_in_sync // context.num_input_pipelines
        first = context.input_pipeline_id * count

        def cut(values):
            size = values.shape[0] // context.num_replicas_in_sync
            part = values[first * size : (first + count) * size]
            return tf.reshape(part, [count, size, *values.shape[1:]])

        return batches.map(lambda *batch: tf.nest.map_structure(cut, batch)).unbatch()

    return strategy.distribute_datasets_from_function(of_worker)


def _check_equal(strategy, number: int):
    """Checks that all workers have the same number; all must have called it."""
    values = strategy.run(tf.function(lambda: tf.constant(float(number))))
    total = strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)
    mean = float(total) / strategy.num_replicas_in_sync
    if abs(mean - number) > 1e-3:
        raise InputError(
            "All workers must go on from one checkpoint. Received: this one has "
            f"trained for {number} epochs, all for {mean:g} on average. Give them one "
            "--workdir on a file system that they share."
        )


@contextlib.contextmanager
def _told_of_lost_workers() -> Iterator[None]:
    try:
        yield
    except _GONE as error:
        text = str(error).splitlines()[0][:300]
        raise WorkerLostError(
            f"Another worker has gone, or cannot be reached. Received: {text}. Start "
            "all workers again: they go on from the last whole checkpoint."
        ) from error


def _floats(results) -> dict[str, float]:
    return {name: float(value) for name, value in results.items()}
