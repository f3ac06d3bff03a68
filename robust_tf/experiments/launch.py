"""The configured training run, and the record of what it used."""

import gc
import pathlib
from collections.abc import Sequence

import keras

from robust_tf import files
from robust_tf.experiments import command_line
from robust_tf.experiments import configuration
from robust_tf.experiments import train
from robust_tf.training.cluster import count_workers
from robust_tf.training.distribution import strategy_for


def train_configured(workdir, arguments: Sequence[str]) -> dict:
    """Trains what `configuration.parse` has read, and returns the summary.

    `environment.json` and `operative_config.gin` are written once it is clear that the
    folder is this run's: a run that is refused leaves those of another alone.

    Args:
        workdir: the run folder.
        arguments: the command line, for the record.

    Raises:
        InputError: as `train.train` does.
    """
    if count_workers() > 1:  # They have to join before TensorFlow computes anything.
        strategy_for()
    workdir = pathlib.Path(workdir)
    environment = command_line.environment(arguments)

    def record():
        files.write_json(workdir / "environment.json", environment)
        files.write_atomically(
            workdir / "operative_config.gin", configuration.operative()
        )

    summary = configuration.call(train.train, workdir=workdir, on_accepted=record)
    record()  # With what only the end of the run has used.
    return summary


def train_one_of_many(workdir, arguments: Sequence[str]) -> dict:
    """As `train_configured`, and frees what it held: many runs fit into one process."""
    summary = train_configured(workdir, arguments)
    keras.utils.clear_session()
    gc.collect()
    return summary
