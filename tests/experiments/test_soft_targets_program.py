"""Soft targets: counted, resumed, refused, and trained with."""

import json

import gin
import keras
import numpy as np
import pytest
from absl import flags

from bin import soft_targets as program
from bin import train as training_program
from robust_tf import data as datasets
from robust_tf import layers
from robust_tf.data import ImageDataset
from robust_tf.errors import InputError
from robust_tf.experiments import command_line
from robust_tf.experiments import settings
from robust_tf.experiments import soft_targets
from robust_tf.smoothing import SmoothedClassifier
from tests.training import small

N = 12


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    """Sixteen images of four classes, whatever the set; counted by five."""

    def load(name, split, data_dir=None, **cut):
        images, labels = small.images_and_labels(16, seed=len(split))
        images = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)])
        return ImageDataset(name, images, labels, small.CLASSES, split)

    monkeypatch.setattr(datasets, "load", load)
    monkeypatch.setattr(soft_targets, "_CHUNK", 5)
    yield
    gin.clear_config()


def classifier():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    tensor = layers.ReLU()(layers.Dense(8)(layers.Flatten()(inputs)))
    return keras.Model(inputs, layers.Dense(small.CLASSES)(tensor))


@pytest.fixture
def model(tmp_path):
    classifier().save(tmp_path / "model.keras")
    return str(tmp_path / "model.keras")


def compute(workdir, model, **settings_given):
    options = {"sigma": 0.25, "n": N} | settings_given
    return soft_targets.compute_soft_targets(
        workdir, model=model, data=settings.Data("toy"), **options
    )


def test_targets_are_shares_of_votes(tmp_path, model):
    summary = compute(tmp_path, model)
    images = settings.Data("toy").load("train")
    data = settings.Data("toy", soft_targets=str(tmp_path / soft_targets.TARGETS))
    found = data.load("train")
    smoothed = SmoothedClassifier(classifier(), sigma=0.25)
    counts = smoothed.predict(images.floats(), N, 0.05).counts
    np.testing.assert_allclose(found.targets, counts / N, rtol=1e-6)
    is_right = counts.argmax(-1) == images.labels
    assert summary["accuracy"] == is_right.mean() and summary["examples"] == 16
    # Images alone: other splits have no targets.
    assert data.load("test").targets is None


def test_an_interrupted_count_goes_on(tmp_path, model, monkeypatch):
    compute(tmp_path / "whole", model)
    predict, calls = SmoothedClassifier.predict, []

    def interrupted(self, *arguments, **options):
        calls.append(options["indices"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(self, *arguments, **options)

    monkeypatch.setattr(SmoothedClassifier, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compute(tmp_path / "parts", model)
    assert not (tmp_path / "parts" / soft_targets.TARGETS).exists()
    compute(tmp_path / "parts", model)
    assert [call[0] for call in calls] == [0, 5, 10, 10, 15]
    first, second = (
        (tmp_path / name / soft_targets.TARGETS).read_bytes()
        for name in ("whole", "parts")
    )
    assert first == second


@pytest.mark.parametrize(
    ("change", "text"),
    [({"sigma": 0.5}, "sigma: 0.25 there, 0.5 here"), ({"seed": 1}, "seed: 0 there")],
)
def test_a_folder_of_something_else_is_refused(tmp_path, model, change, text):
    compute(tmp_path, model)
    with pytest.raises(InputError, match=text):
        compute(tmp_path, model, **change)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"n": 0}, "`--n` must be"),
        ({"n": 2}, "decide nothing"),
        ({"seed": -1}, "`--seed` must be"),
        ({"batch_size": 0}, "`--batch_size` must be"),
        ({"sigma": 0.0}, "`sigma`"),
    ],
)
def test_bad_values_leave_no_folder(tmp_path, model, change, text):
    with pytest.raises(InputError, match=text):
        compute(tmp_path / "new", model, **change)
    assert not (tmp_path / "new").exists()


def test_targets_and_a_validation_share_are_refused():
    with pytest.raises(InputError, match="held out has none.*validation_share. 0.1"):
        settings.Data("toy", soft_targets="any", validation_share=0.1)


def launch(monkeypatch, module, define, *arguments):
    """Runs a program in this process; returns its status."""
    values = flags.FlagValues()
    define(values)
    arguments = [f"{module.__name__}.py", *arguments]
    command_line.parse_flags(arguments, values)
    monkeypatch.setattr(module, "_FLAGS", values)
    monkeypatch.setattr(module.sys, "argv", arguments)
    return command_line.guarded(module.main, arguments[:1])


def run_program(monkeypatch, *arguments):
    return launch(monkeypatch, program, program.define_flags, *arguments)


def test_the_program_counts_and_records(tmp_path, model, monkeypatch):
    given = (f"--model={model}", "--dataset=toy", f"--workdir={tmp_path / 'out'}")
    assert run_program(monkeypatch, *given, "--sigma=0.25", f"--n={N}") is None
    compute(tmp_path / "called", model)
    files = (tmp_path / name / soft_targets.TARGETS for name in ("out", "called"))
    first, second = (file.read_bytes() for file in files)
    assert first == second
    environment = tmp_path / "out" / "soft_targets_environment.json"
    assert "--sigma=0.25" in json.loads(environment.read_text())["command_line"]
    config = (tmp_path / "out" / "soft_targets_config.gin").read_text()
    assert f"compute_soft_targets.n = {N}" in config


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "`--model` must name"),
        (["--model=MODEL", "--dataset=toy"], "`--sigma` must give the noise"),
        (["--model=MODEL", "--sigma=0.25"], "`--dataset` must give the data set"),
        (["--model=MODEL", "--epsilon=0.1"], "`--epsilon` means nothing here"),
    ],
)
def test_the_program_refuses(tmp_path, model, monkeypatch, capsys, arguments, text):
    arguments = [one.replace("MODEL", model) for one in arguments]
    status = run_program(monkeypatch, *arguments, f"--workdir={tmp_path / 'out'}")
    assert status == command_line.EXIT_BAD_INPUT
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


EXPERIMENT = """
include 'gin_configs/base/train.gin'
include 'gin_configs/architectures/cnn_2layer.gin'
include 'gin_configs/methods/cat_rs.gin'
from __gin__ import dynamic_registration
from robust_tf import schedules
from robust_tf.architectures import cnn
from robust_tf.experiments import settings
from robust_tf.objectives import noise

settings.Data:
    name = 'toy'
    batch_size = 8
noise.Noise.sigma = 0.25
LAMBDA = 1.0
rate/schedules.StepDecay.initial = 0.01
cnn.cnn_2layer:
    width = 1
    linear_size = 8
"""


def train(monkeypatch, folder, path, epochs):
    (folder / "cat_rs.gin").write_text(EXPERIMENT)
    bindings = [f"settings.Run.epochs = {epochs}"]
    if path is not None:
        bindings.append(f"settings.Data.soft_targets = '{path}'")
    return launch(
        monkeypatch,
        training_program,
        training_program.define_flags,
        f"--gin_file={folder / 'cat_rs.gin'}",
        f"--workdir={folder / 'run'}",
        *[f"--gin_param={one}" for one in bindings],
    )


def test_training_goes_on_with_the_same_targets_alone(
    tmp_path, model, monkeypatch, capsys
):
    first, second = tmp_path / "first", tmp_path / "second"
    compute(first, model)
    compute(second, model, seed=1)
    path = first / soft_targets.TARGETS
    assert train(monkeypatch, tmp_path, None, 1) == command_line.EXIT_BAD_INPUT
    assert "Data.soft_targets" in capsys.readouterr().err
    assert train(monkeypatch, tmp_path, path, 1) is None
    assert train(monkeypatch, tmp_path, path, 2) is None
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2 and "high_loss" in json.loads(lines[1])
    other = second / soft_targets.TARGETS
    assert train(monkeypatch, tmp_path, other, 3) == command_line.EXIT_BAD_INPUT
    assert "belongs to another run:\n  data: " in capsys.readouterr().err
