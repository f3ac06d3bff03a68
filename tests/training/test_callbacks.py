"""What callbacks write at the end of an epoch."""

import json
import types

import keras
import numpy as np
import pytest

import robust_tf as rt
from robust_tf.training.callbacks import Checkpoints
from robust_tf.training.callbacks import MetricsLog
from robust_tf.training.checkpoints import CheckpointStore


def _model():
    """What callbacks need of a model: a classifier, an optimizer and their count."""
    classifier = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(classifier.trainable_variables)
    return types.SimpleNamespace(
        classifier=classifier, optimizer=optimizer, step=optimizer.iterations
    )


def _train(callback, model, epochs, first=0):
    callback.set_model(model)
    for epoch, logs in enumerate(epochs, first):
        callback.on_epoch_begin(epoch)
        model.optimizer.iterations.assign_add(3)
        for variable in model.classifier.variables:
            variable.assign(np.full(variable.shape, epoch))
        callback.on_epoch_end(epoch, logs)


def _records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    _train(log, _model(), [{"loss": np.float32(0.5)}, {"loss": float("nan")}])
    first, second = _records(tmp_path / "metrics.jsonl")
    assert first.pop("seconds") >= 0.0
    assert first == {"epoch": 0, "step": 3, "loss": 0.5}
    assert (second["epoch"], second["step"], second["loss"]) == (1, 6, None)


def test_metrics_are_cut_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.cut_back(0)
    assert _records(path) == []
    _train(log, _model(), [{"loss": 0.5}] * 3)
    with open(path, "a") as file:
        file.write('{"epoch": 3, "lo')  # A kill in the middle of a line.
    log.cut_back(2)
    assert [record["epoch"] for record in _records(path)] == [0, 1]
    _train(log, _model(), [{"loss": 0.1}], first=2)
    assert [record["epoch"] for record in _records(path)] == [0, 1, 2]


def _checkpoints(folder, **selection):
    return Checkpoints(CheckpointStore(folder, {}), **selection)


ACCURACIES = [{"val": 0.9}, {"val": 0.5}, {"val": 0.7}, {"val": 0.7}, {"val": 0.6}]


def test_the_best_epoch_of_those_that_count(tmp_path):
    model = _model()
    checkpoints = _checkpoints(tmp_path, monitor="val", first_epoch=1)
    _train(checkpoints, model, ACCURACIES)
    assert checkpoints.notes["best_value"] == 0.7
    assert checkpoints.notes["best_epoch"] == 3  # The later of two that are equal.
    checkpoints.restore_best(model)
    np.testing.assert_array_equal(model.classifier.variables[0], [[3.0], [3.0]])


def test_the_best_so_far_is_resumed(tmp_path):
    checkpoints = _checkpoints(tmp_path, monitor="val", first_epoch=1)
    _train(checkpoints, _model(), ACCURACIES[:4])
    again, model = _checkpoints(tmp_path, monitor="val", first_epoch=1), _model()
    assert again.resume(model) == 4
    assert int(model.optimizer.iterations) == 12
    assert again.notes == checkpoints.notes
    _train(again, model, ACCURACIES[4:], first=4)
    assert again.notes["best_epoch"] == 3
    assert again.notes["seconds"] > checkpoints.notes["seconds"]
    again.restore_best(model)
    np.testing.assert_array_equal(model.classifier.variables[0], [[3.0], [3.0]])


@pytest.mark.parametrize("damage", ["absent", "damaged", "other"])
def test_no_other_weights_stand_for_the_best(tmp_path, damage):
    model = _model()
    checkpoints = _checkpoints(tmp_path, monitor="val")
    _train(checkpoints, model, ACCURACIES)
    path = tmp_path / "best.npz"
    if damage == "absent":
        path.unlink()
    elif damage == "damaged":
        path.write_bytes(path.read_bytes()[:-5])
    else:
        store = CheckpointStore(tmp_path, {})
        store.save(store.newest(), "best")
    with pytest.raises(rt.InputError, match="of another epoch than 0, which was"):
        checkpoints.restore_best(model)


def test_without_a_monitor_there_is_no_best(tmp_path):
    _train(_checkpoints(tmp_path), _model(), ACCURACIES)
    assert not (tmp_path / "best.npz").exists()


def test_nothing_to_resume(tmp_path):
    assert _checkpoints(tmp_path).resume(_model()) == 0
