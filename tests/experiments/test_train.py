"""Run folders, and runs that are interrupted and go on."""

import dataclasses
import functools
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import robust_tf as rt
from robust_tf import data as datasets
from robust_tf import schedules
from robust_tf.attacks.pgd import PGD
from robust_tf.data import ImageDataset
from robust_tf.data import RandomFlipAndCrop
from robust_tf.errors import InputError
from robust_tf.experiments.settings import Certification
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Run
from robust_tf.experiments.train import train
from robust_tf.matlab import read_arrays
from robust_tf.objectives import smoothed
from robust_tf.objectives import terms
from robust_tf.objectives.forward import Adversary
from robust_tf.objectives.noise import Noise
from robust_tf.regions import Threat
from robust_tf.training import checkpoints
from robust_tf.training.callbacks import MetricsLog
from robust_tf.training.checkpoints import CheckpointStore
from robust_tf.training.gradients import LessCertain
from robust_tf.training.gradients import SharpnessAware
from tests.training import small

ROOT = pathlib.Path(__file__).parents[2]
SIZES = {"train": 48, "validation": 20, "test": 20}
DATA = Data("digits", batch_size=16)
RUN = Run(
    epochs=2,
    optimizer=keras.optimizers.Adam,
    learning_rate=0.01,
    ramp=schedules.LinearRamp(start=0, length=1),
)


def classifier(input_shape, num_classes, **options):
    assert (input_shape, num_classes) == (small.SHAPE, small.CLASSES)
    return small.cnn(seed=None, **options)


@pytest.fixture(autouse=True)
def small_data(monkeypatch):
    """Whatever set is asked for, these images come."""

    def load(name, split, data_dir=None, **cut):
        images, labels = small.images_and_labels(SIZES[split], seed=len(split))
        return ImageDataset(name, images, labels, small.CLASSES, split)

    monkeypatch.setattr(datasets, "load", load)


def launch(folder, data=DATA, run=RUN, **more):
    arguments = {
        "threat": Threat(0.05),
        "architecture": classifier,
        "objective": terms.natural(),
    } | more
    return train(folder, data=data, run=run, **arguments)


def records(folder):
    """Lines of `metrics.jsonl`, without what differs from run to run."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) | {"seconds": None} for line in lines]


def result(folder):
    """What must be the same, bit for bit, however often a run was interrupted."""
    epochs = sorted((folder / "checkpoints").glob("epoch-*.json"))
    notes = [json.loads(path.read_text())["notes"] for path in epochs]
    return {
        "records": records(folder),
        "summary": json.loads((folder / "summary.json").read_text())
        | {"train_seconds": None},
        "epochs": [path.name for path in epochs],
        "digests": [json.loads(path.read_text())["sha256"] for path in epochs],
        "notes": [note | {"seconds": None} for note in notes],
        "weights": [
            value.tobytes()
            for value in keras.models.load_model(folder / "model.keras").get_weights()
        ],
    }


class Killed(BaseException):
    """Ends a run where it stands."""


def _kill_in_epoch(epoch, monkeypatch):
    def on_epoch_begin(self, number, logs=None):
        begin(self, number, logs)
        self.is_last = number == epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.is_last and batch == 1:
            raise Killed

    begin = MetricsLog.on_epoch_begin
    monkeypatch.setattr(MetricsLog, "on_epoch_begin", on_epoch_begin)
    monkeypatch.setattr(MetricsLog, "on_train_batch_end", on_train_batch_end)


def _kill_after_metrics(epoch, monkeypatch):
    def save(self, checkpoint, name=None):
        if checkpoint.epoch == epoch + 1:
            raise Killed
        write(self, checkpoint, name)

    write = CheckpointStore.save
    monkeypatch.setattr(CheckpointStore, "save", save)


def _kill_before_digest(epoch, monkeypatch):
    def write_json(path, record):
        if path.name == f"epoch-{epoch + 1:06d}.json":
            raise Killed
        write(path, record)

    write = checkpoints.write_json
    monkeypatch.setattr(checkpoints, "write_json", write_json)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path):
    """Killed at the start, in an epoch, after its metrics, before its digest."""
    settings = {
        "data": dataclasses.replace(
            DATA, validation_share=0.2, augmentation=RandomFlipAndCrop(padding=1)
        ),
        "run": dataclasses.replace(
            RUN,
            epochs=5,
            keep="best",
            max_gradient_norm=1.0,
            learning_rate=schedules.StepDecay(0.01, every=2),
        ),
        "architecture": functools.partial(classifier, normalized=True, dropout=0.2),
        "objective": terms.WeightedSum(
            (terms.IntervalCrossEntropy(), terms.AdversarialCrossEntropy()),
            (terms.FollowsRadius(0.0, 0.5), 0.5),
            adversary=Adversary(PGD(steps=2)),
        ),
        "test_attack": PGD(steps=2),
    }
    kills = ((0, _kill_in_epoch), (2, _kill_in_epoch))
    kills += ((2, _kill_after_metrics), (3, _kill_before_digest))
    whole = _assert_resumed(tmp_path, kills, settings)
    assert whole["notes"][-1]["best_epoch"] is not None
    assert [record["epoch"] for record in whole["records"]] == [0, 1, 2, 3, 4]
    assert [record["step"] for record in whole["records"]] == [3, 6, 9, 12, 15]


def _assert_resumed(folder, kills, settings):
    """Runs in one sitting and in many end alike; returns the result of the first."""
    launch(folder / "whole", **settings)
    for epoch, kill in kills:
        with pytest.MonkeyPatch.context() as patched, pytest.raises(Killed):
            kill(epoch, patched)
            launch(folder / "parts", **settings)
    launch(folder / "parts", **settings)
    whole = result(folder / "whole")
    assert result(folder / "parts") == whole
    return whole


NORMALIZED = functools.partial(classifier, normalized=True, dropout=0.2)


@pytest.mark.parametrize(
    "techniques",
    [
        {
            "gradient_rule": SharpnessAware(terms.FollowsRadius(0.0, 0.1)),
            "micro_batches": 2,
            "precise_statistics": "epoch",
        },
        {
            "average_from": 1,
            "statistics_batches": 2,
            "precise_statistics": "end",
            "keep": "best",
        },
        {"gradient_rule": LessCertain()},
    ],
    ids=["sharpness_and_statistics", "average", "less_certain"],
)
def test_an_interrupted_run_with_techniques(tmp_path, techniques):
    """Killed in the epoch after the first average; another follows."""
    objective = terms.robust_natural()
    if isinstance(techniques.get("gradient_rule"), LessCertain):
        objective = small.adversarial()
    settings = {
        "objective": objective,
        "data": dataclasses.replace(DATA, validation_share=0.2),
        "run": dataclasses.replace(RUN, epochs=4, **techniques),
        "architecture": NORMALIZED,
    }
    _assert_resumed(tmp_path, [(2, _kill_in_epoch)], settings)


def test_the_average_is_what_is_measured_and_saved(tmp_path):
    """Of the weights that the same run has without it, with statistics of its own."""
    run = dataclasses.replace(RUN, epochs=4)
    data = dataclasses.replace(DATA, validation_share=0.2)
    settings = {"data": data, "architecture": NORMALIZED}
    ends = []
    for epochs in (3, 4):
        launch(
            tmp_path / "run", run=dataclasses.replace(run, epochs=epochs), **settings
        )
        ends.append(keras.models.load_model(tmp_path / "run" / "model.keras"))
    averaged = dataclasses.replace(run, average_from=2)
    summary = launch(tmp_path / "average", run=averaged, **settings)
    model = keras.models.load_model(tmp_path / "average" / "model.keras")
    for weight, *others in zip(
        *(m.trainable_weights for m in (model, *ends)), strict=True
    ):
        np.testing.assert_allclose(weight, np.mean(others, 0), rtol=0, atol=1e-6)
    images, labels = small.images_and_labels(SIZES["train"], seed=len("train"))
    values = np.reshape(model.get_layer("conv")(images), (-1, 3))
    norm = model.get_layer("norm")
    np.testing.assert_allclose(norm.moving_mean, values.mean(0), rtol=1e-4)
    np.testing.assert_allclose(norm.moving_variance, values.var(0, ddof=1), rtol=1e-4)
    for split, accuracy in (
        ("test", summary["clean_accuracy"]),
        ("validation", records(tmp_path / "average")[-1]["val_clean_accuracy"]),
    ):
        images, labels = small.images_and_labels(SIZES[split], seed=len(split))
        right = np.argmax(model(images), -1) == labels
        assert accuracy == pytest.approx(right.mean(), abs=1e-6)


def test_precise_statistics_at_the_end(tmp_path):
    """The last epoch is validated with moving ones; what is kept has the precise."""
    run = dataclasses.replace(RUN, precise_statistics="end")
    launch(tmp_path / "run", run=run, architecture=NORMALIZED)
    launch(tmp_path / "plain", architecture=NORMALIZED)
    assert records(tmp_path / "run") == records(tmp_path / "plain")
    model, plain = (
        keras.models.load_model(tmp_path / name / "model.keras")
        for name in ("run", "plain")
    )
    for one, other in zip(
        model.trainable_weights, plain.trainable_weights, strict=True
    ):
        np.testing.assert_array_equal(one, other)
    images, _ = small.images_and_labels(SIZES["train"], seed=len("train"))
    values = np.reshape(model.get_layer("conv")(images), (-1, 3))
    precise, moving = (one.get_layer("norm").moving_mean for one in (model, plain))
    np.testing.assert_allclose(precise, values.mean(0), rtol=1e-4)
    assert np.abs(moving - values.mean(0)).max() > 0.01


def test_two_updates_for_each_batch_leave_times_as_they_are(tmp_path):
    """Epochs of ramp and learning rate, and the steps on record, count batches."""
    rates = []

    def optimizer(learning_rate):
        rates.append(learning_rate)
        return keras.optimizers.SGD(learning_rate)

    run = dataclasses.replace(
        RUN,
        optimizer=optimizer,
        learning_rate=schedules.MilestoneDecay(0.1, 0.5, (1,)),
        ramp=schedules.LinearRamp(start=0, length=2),
    )
    recorded = []
    for name, rule in (("plain", None), ("edac", LessCertain())):
        changed = dataclasses.replace(run, gradient_rule=rule)
        launch(tmp_path / name, run=changed, objective=small.adversarial())
        recorded.append(records(tmp_path / name))
    for plain, edac in zip(*recorded, strict=True):
        assert (plain["step"], plain["epsilon"]) == (edac["step"], edac["epsilon"])
    assert [record["step"] for record in recorded[0]] == [3, 6]
    np.testing.assert_allclose([rates[0](s) for s in (2, 3, 5)], [0.1, 0.05, 0.05])
    np.testing.assert_allclose([rates[1](s) for s in (5, 6, 11)], [0.1, 0.05, 0.05])


def test_techniques_are_part_of_what_a_run_is(folder):
    before = result(folder)
    for changed in (
        {"gradient_rule": SharpnessAware(0.1)},
        {"average_from": 1},
        {"precise_statistics": "epoch"},
    ):
        (name,) = changed
        with pytest.raises(rt.InputError, match=f"another run:\n  {name}: None there"):
            launch(folder, run=dataclasses.replace(RUN, **changed))
    assert result(folder) == before


def test_shares_of_neurons_can_be_left_out(folder, tmp_path):
    launch(tmp_path / "none", run=dataclasses.replace(RUN, neuron_examples=0))
    for record, wanted in zip(records(tmp_path / "none"), records(folder), strict=True):
        kept = {key: value for key, value in wanted.items() if "/" not in key}
        assert record == kept != wanted


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a short natural run, and what it returned; not to be changed."""
    with pytest.MonkeyPatch.context() as patched:
        small_data.__wrapped__(patched)
        folder = tmp_path_factory.mktemp("finished")
        return folder, launch(folder)


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the finished run."""
    subprocess.run(["cp", "-r", str(finished[0]), str(tmp_path / "run")], check=True)
    return tmp_path / "run"


def test_the_run_folder(finished):
    folder, summary = finished
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert (
        summary.items()
        >= {
            "dataset": "digits",
            "architecture": "classifier",
            "method": "natural",
            "epsilon": 0.05,
            "norm": "inf",
            "epochs": 2,
            "seed": 0,
            "examples": 20,
        }.items()
    )
    names = {"clean_accuracy", "certified_accuracy", "certified_by", "train_seconds"}
    assert summary.keys() >= names
    expected = {"epoch", "step", "seconds", "epsilon", "loss", "standard_loss"}
    states = ("active", "inactive", "unstable")
    expected |= {f"{state}/{number}" for state in states for number in (1, 2)}
    assert records(folder)[0].keys() == expected | {"clean_accuracy"}
    assert list((folder / "tensorboard" / "train").iterdir())
    files = {"checkpoints", "metrics.jsonl", "model.keras", "summary.json"}
    assert {path.name for path in folder.iterdir()} == files | {"tensorboard"}


def test_a_finished_run_is_not_trained_again(folder):
    before = result(folder)
    for name in ("model.keras", "summary.json"):
        (folder / name).unlink()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(keras.optimizers.Adam, "apply", _refuse)
        launch(folder)
    assert result(folder) == before


def _refuse(*_, **__):
    raise AssertionError("A finished run was trained.")


def test_more_epochs_go_on(folder, tmp_path):
    longer = dataclasses.replace(RUN, epochs=3)
    launch(folder, run=longer)
    launch(tmp_path / "whole", run=longer)
    assert result(folder) == result(tmp_path / "whole")


def test_fewer_epochs_are_refused(folder):
    with pytest.raises(rt.InputError, match="2 epochs already. Received: epochs = 1"):
        launch(folder, run=dataclasses.replace(RUN, epochs=1))


def test_with_all_checkpoints_damaged_it_starts_from_scratch(folder, caplog):
    before = result(folder)
    for path in (folder / "checkpoints").glob("*.npz"):
        os.truncate(path, 100)
    with caplog.at_level(logging.WARNING, "absl"):
        launch(folder)
    warnings = [record.getMessage() for record in caplog.records]
    assert sum("is passed over" in warning for warning in warnings) == 2
    assert result(folder) == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": dataclasses.replace(DATA, batch_size=24)}, "batch_size: '16' there"),
        ({"threat": Threat(0.06)}, "threat: .*0.05.* there, .*0.06.* here"),
        ({"objective": terms.robust(None)}, "objective: "),
        ({"run": dataclasses.replace(RUN, seed=1)}, "seed: '0' there, '1' here"),
        ({"run": dataclasses.replace(RUN, learning_rate=0.1)}, "optimizer: "),
        (
            {"architecture": functools.partial(classifier, dropout=0.5)},
            "architecture: '.* parameters, .*' there",
        ),
    ],
)
def test_another_run_in_the_folder_is_refused(folder, changed, message):
    before = result(folder)
    with pytest.raises(rt.InputError, match=f"another run:\n  {message}"):
        launch(folder, **changed)
    assert result(folder) == before


@pytest.mark.parametrize(
    ("data", "run", "message"),
    [
        ({}, {"keep": "best"}, "`keep = 'best'` needs a validation split"),
        (
            {"validation_share": 0.1},
            {"keep": "best", "ramp": schedules.LinearRamp(1, 1)},
            "needs an epoch after the ramp.*: epochs = 2",
        ),
        ({"batch_size": 49}, {}, "48 examples, which fill no batch"),
        ({"batch_size": 15}, {"devices": ("CPU:0", "CPU:1")}, "a multiple of 2"),
        ({"batch_size": 18}, {"micro_batches": 4}, "a multiple of 4"),
        ({}, {"devices": ("GPU:7",)}, "There is no device"),
    ],
)
def test_settings_that_cannot_be_met(tmp_path, data, run, message):
    data = dataclasses.replace(DATA, **data)
    with pytest.raises(rt.InputError, match=message):
        launch(tmp_path, data=data, run=dataclasses.replace(RUN, **run))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 0}, "`epochs`"),
        ({"epochs": 1.5}, "`epochs`"),
        ({"seed": -1}, "`seed`"),
        ({"seed": 2**32}, "`seed`"),
        ({"keep": "first"}, "`keep`"),
        ({"micro_batches": 0}, "`micro_batches`"),
        ({"max_gradient_norm": 0.0}, "`max_gradient_norm`"),
        ({"learning_rate": "fast"}, "`learning_rate`"),
        ({"average_from": 2}, r"`average_from` must be a whole number in \[0, 2\)"),
        ({"average_from": -1}, "`average_from`"),
        ({"precise_statistics": "always"}, "`precise_statistics`.*'epoch', 'end'"),
        ({"statistics_batches": 0}, "`statistics_batches`"),
        ({"neuron_examples": -1}, "`neuron_examples`"),
    ],
)
def test_settings_out_of_range(changed, message):
    with pytest.raises(rt.InputError, match=message):
        dataclasses.replace(RUN, **changed)


@pytest.mark.parametrize("devices", [("CPU:1",), ("CPU:0", "CPU:1")])
def test_devices_make_no_difference(finished, tmp_path, devices):
    run = dataclasses.replace(RUN, devices=devices)
    launch(tmp_path, run=run)
    for record, wanted in zip(records(tmp_path), records(finished[0]), strict=True):
        assert record == pytest.approx(wanted, abs=1e-5)


# What a process killed for good looks like: slow, as it starts four of them.

_DIGITS = (
    "settings.Run.epochs = 8",
    "ramp/schedules.LinearRamp.start = 1",
    "ramp/schedules.LinearRamp.length = 4",
    "settings.Data.validation_share = 0.1",
    "settings.Run.keep = 'best'",
    "test/pgd.PGD.steps = 2",
)


def _start(folder):
    command = [sys.executable, "bin/train.py", f"--workdir={folder}"]
    command.append("--gin_file=gin_configs/experiments/digits_eps0.1_crown_ibp.gin")
    command += [f"--gin_param={binding}" for binding in _DIGITS]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)


def _finish(folder):
    process = _start(folder)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()


@pytest.mark.slow
def test_kill_9(tmp_path):
    _finish(tmp_path / "whole")
    for epochs in (2, 5):
        process = _start(tmp_path / "parts")
        path, limit = tmp_path / "parts" / "metrics.jsonl", time.time() + 300
        while not path.exists() or path.read_bytes().count(b"\n") < epochs:
            assert process.poll() is None and time.time() < limit
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len(records(tmp_path / "parts")) < 8
    _finish(tmp_path / "parts")
    assert result(tmp_path / "parts") == result(tmp_path / "whole")
    texts = {
        (tmp_path / part / "operative_config.gin").read_text()
        for part in ("parts", "whole")
    }
    assert len(texts) == 1


SMOOTHED = terms.WeightedSum(
    (smoothed.NoisyCrossEntropy(),), (1.0,), "gaussian", noise=Noise(0.25, 2)
)


def test_a_classifier_to_be_smoothed(tmp_path):
    """Its summary tells the noise, and the folder holds what was certified."""
    certification = Certification(count=6, start=2, every=1, n0=20, n=100)
    arguments = {"objective": SMOOTHED, "threat": Threat(0.0, 2)}
    launch(tmp_path, certification=certification, **arguments)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["sigma"] == 0.25
    assert "certified_accuracy" not in summary
    assert summary["certification"]["start"] == 2
    for number, record in enumerate(records(tmp_path), start=1):
        (radii,) = read_arrays(tmp_path / f"certification/{number}.mat")["hard"]
        assert radii.shape == (6,)
        mean = np.maximum(radii, 0.0).mean()
        assert record["average_certified_radius"] == pytest.approx(mean)
        assert record["smoothed_accuracy"] == pytest.approx((radii >= 0.0).mean())
    assert summary["average_certified_radius"] == pytest.approx(mean)


def test_an_interrupted_run_with_noise_repeats(tmp_path):
    arguments = {"objective": SMOOTHED, "threat": Threat(0.0, 2)}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    launch(whole, **arguments)
    launch(cut, run=dataclasses.replace(RUN, epochs=1), **arguments)
    launch(cut, **arguments)
    assert result(cut) == result(whole)


@pytest.mark.parametrize(
    ("certification", "objective", "text"),
    [
        (Certification(count=4), terms.natural(), "needs an objective with `noise`"),
        (Certification(count=21), SMOOTHED, "start 0, count 21"),
    ],
)
def test_certification_that_cannot_be(tmp_path, certification, objective, text):
    with pytest.raises(InputError, match=text):
        launch(tmp_path, certification=certification, objective=objective)


def test_the_best_epoch_of_a_classifier_to_be_smoothed(tmp_path):
    run = dataclasses.replace(RUN, keep="best", epochs=3)
    data = dataclasses.replace(DATA, validation_share=0.1)
    launch(tmp_path, data, run, objective=SMOOTHED, threat=Threat(0.0, 2))
    notes = json.loads((tmp_path / "checkpoints/best.json").read_text())["notes"]
    values = [record["val_noisy_accuracy"] for record in records(tmp_path)]
    assert notes["best_value"] == max(values[1:])
