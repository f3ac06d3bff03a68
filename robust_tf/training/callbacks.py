"""What a run does after each epoch: its records and its checkpoints."""

import pathlib
import time
from collections.abc import Sequence

import keras
import numpy as np

from robust_tf.errors import InputError
from robust_tf.files import append_json_line
from robust_tf.files import read_json_lines
from robust_tf.files import to_json
from robust_tf.files import write_atomically
from robust_tf.training.checkpoints import Checkpoint
from robust_tf.training.checkpoints import CheckpointStore
from robust_tf.training.checkpoints import collect
from robust_tf.training.checkpoints import restore


class _Timed(keras.callbacks.Callback):
    """Knows how long the epoch has taken so far."""

    def on_epoch_begin(self, epoch, logs=None):
        del epoch, logs
        self._begun = time.perf_counter()

    def _seconds(self) -> float:
        return time.perf_counter() - self._begun


class AfterSteps(keras.callbacks.Callback):
    """Acts after the last step of each epoch, before validation measures anything."""

    @property
    def variables(self) -> list[keras.Variable]:
        """What a checkpoint must hold for it to go on."""
        return []

    def on_epoch_begin(self, epoch, logs=None):
        del logs
        self._epoch = epoch

    def on_test_begin(self, logs=None):
        del logs
        self._act_once()

    def on_epoch_end(self, epoch, logs=None):
        del epoch, logs
        self._act_once()

    def _act_once(self):
        epoch, self._epoch = self._epoch, None
        if epoch is not None:
            self.after_steps(epoch)

    def after_steps(self, epoch: int) -> None:
        """What to do; epochs count from 0."""
        raise NotImplementedError


class MetricsLog(_Timed):
    """Appends one JSON object per epoch to a file."""

    def __init__(self, path):
        super().__init__()
        self._path = pathlib.Path(path)

    def cut_back(self, epochs: int) -> None:
        """Drops the records of all but the first `epochs` epochs."""
        records = read_json_lines(self._path) if self._path.exists() else []
        kept = [record for record in records if record["epoch"] < epochs]
        lines = "".join(f"{to_json(record)}\n" for record in kept)
        write_atomically(self._path, lines)

    def on_epoch_end(self, epoch, logs=None):
        record = {
            "epoch": epoch,
            "step": int(self.model.step),
            "seconds": self._seconds(),
        }
        append_json_line(self._path, record | _floats(logs))


class Checkpoints(_Timed):
    """Saves all variables after each epoch, and the best weights under the name `best`.

    Args:
        store: where checkpoints go.
        monitor: key of the epoch's logs, greater is better; None keeps no best.
        first_epoch: no epoch before it can be the best one.
        more_variables: what decides how training goes on, besides the variables of the
            classifier and the optimizer.
    """

    BEST = "best"

    def __init__(
        self,
        store: CheckpointStore,
        monitor: str | None = None,
        first_epoch: int = 0,
        more_variables: Sequence = (),
    ):
        super().__init__()
        self._more_variables = list(more_variables)
        self._store, self._monitor, self._first_epoch = store, monitor, first_epoch
        self._notes = {"best_value": None, "best_epoch": None, "seconds": 0.0}

    @property
    def notes(self) -> dict:
        """Best value so far, its epoch, and the seconds trained in all sittings."""
        return dict(self._notes)

    def resume(self, model: keras.Model) -> int:
        """Restores the newest whole checkpoint; returns the number of epochs done."""
        checkpoint = self._store.newest()
        if checkpoint is None:
            return 0
        restore(self._variables(model), checkpoint.values)
        self._notes = dict(checkpoint.notes)
        return checkpoint.epoch

    def restore_best(self, model: keras.Model) -> None:
        """Sets the classifier to the best weights.

        Raises:
            InputError: where there are none, or they are damaged.
        """
        checkpoint = self._store.load(self.BEST)
        if checkpoint is None or checkpoint.notes != self._best():
            raise InputError(
                f"The checkpoint '{self.BEST}' is missing, damaged or of another "
                f"epoch than {self._notes['best_epoch']}, which was the best. Remove "
                "the run folder's checkpoints and train again, or keep the last "
                "weights: keep = 'last'."
            )
        restore(model.classifier.variables, checkpoint.values)

    def on_epoch_end(self, epoch, logs=None):
        self._notes["seconds"] += self._seconds()
        self._keep_best(epoch, _floats(logs))
        values = collect(self._variables(self.model))
        self._store.save(Checkpoint(epoch + 1, values, self.notes))

    def _keep_best(self, epoch, logs):
        if self._monitor is None or epoch < self._first_epoch:
            return
        value, best = logs[self._monitor], self._notes["best_value"]
        if best is None or value >= best:
            self._notes |= {"best_value": value, "best_epoch": epoch}
            values = collect(self.model.classifier.variables)
            self._store.save(Checkpoint(epoch + 1, values, self._best()), self.BEST)

    def _variables(self, model) -> list:
        """All that decides how training goes on."""
        own = [*model.classifier.variables, *model.optimizer.variables]
        return own + self._more_variables

    def _best(self) -> dict:
        return {key: self._notes[key] for key in ("best_value", "best_epoch")}


def _floats(logs) -> dict:
    return {key: float(np.asarray(value)) for key, value in (logs or {}).items()}
