"""Images of many shapes through the programs: trained on, interrupted, certified."""

import functools
import json

import gin
import numpy as np
import pytest

from bin import certify as certify_program
from bin import train as train_program
from robust_tf import data as datasets
from robust_tf import files
from robust_tf.smoothing import SmoothedClassifier
from tests.data import stored_sets
from tests.experiments import programs

pytest.importorskip("array_record", reason="the extra `imagenet` is not installed")

# The configuration of ImageNet, on few small images and neurons.
SMALL = """
include 'gin_configs/base/{base}.gin'
include 'gin_configs/datasets/imagenet.gin'
from __gin__ import dynamic_registration
from robust_tf.data import crops
from robust_tf.experiments import settings

settings.Data.name = 'toy'
crops.RandomResizedCrop.size = 32
crops.CentreCrop:
    size = 32
    shorter_side = 36
"""
TRAINED = """
include 'gin_configs/architectures/cnn_2layer.gin'
include 'gin_configs/methods/gaussian.gin'
from __gin__ import dynamic_registration
from robust_tf import schedules
from robust_tf.architectures import cnn
from robust_tf.objectives import noise

cnn.cnn_2layer:
    width = 1
    linear_size = 8
noise.Noise.sigma = 0.25
settings.Data.batch_size = 6
settings.Run.epochs = {epochs}
rate/schedules.StepDecay.initial = 0.01
"""
GIVEN = ("--n0=20", "--n=100", "--alpha=0.05", "--full")


@pytest.fixture
def launch(monkeypatch):
    """A function that runs a program in this process, and returns the status."""

    yield functools.partial(programs.launch, monkeypatch)
    gin.clear_config()


@pytest.fixture
def train(launch, tmp_path):
    """A function that trains in a folder, of the set in `tmp_path`."""
    stored_sets.write(tmp_path)

    def run(folder, epochs):
        text = SMALL.format(base="train") + TRAINED.format(epochs=epochs)
        path = tmp_path / f"train_{epochs}.gin"
        path.write_text(text)
        return launch(
            train_program,
            f"--gin_file={path}",
            f"--data_dir={tmp_path}",
            f"--workdir={tmp_path / folder}",
        )

    return run


@pytest.fixture
def certify(launch, tmp_path):
    """A function that certifies the classifier in `whole`."""
    path = tmp_path / "certify.gin"
    path.write_text(SMALL.format(base="certify"))
    return functools.partial(
        launch,
        certify_program,
        f"--gin_file={path}",
        f"--data_dir={tmp_path}",
        f"--model={tmp_path / 'whole'}",
        *GIVEN,
    )


def weights_digest(folder):
    """Of the last checkpoint."""
    *_, record = sorted((folder / "checkpoints").glob("epoch-*.json"))
    return json.loads(record.read_text())["sha256"]


def test_trains_goes_on_and_certifies(train, certify, tmp_path):
    assert train("whole", 2) is None
    assert train("cut", 1) is None
    assert weights_digest(tmp_path / "cut") != weights_digest(tmp_path / "whole")
    assert train("cut", 2) is None
    assert weights_digest(tmp_path / "cut") == weights_digest(tmp_path / "whole")
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert (summary["dataset"], summary["sigma"]) == ("toy", 0.25)
    assert summary["examples"] == 9

    out = tmp_path / "certificates"
    chosen = ("--start=1", "--skip=3", "--count=7")
    assert certify(f"--workdir={out}", *chosen) is None
    records = files.read_json_lines(out / "certification_counts.jsonl")
    assert [record["idx"] for record in records] == [1, 4, 7]
    assert [record["label"] for record in records] == [1, 4, 2]
    crop = datasets.CentreCrop(32, 36)
    images = datasets.load("toy", "test", tmp_path, evaluation_crop=crop)
    smoothed = SmoothedClassifier(str(tmp_path / "whole" / "model.keras"), sigma=0.25)
    wanted = smoothed.certify(
        images.floats([1, 4, 7]), 20, 100, 0.05, seed=0, indices=[1, 4, 7], mode="full"
    )
    found = np.array([record["counts"] for record in records])
    np.testing.assert_array_equal(found, wanted.counts)


def test_damage_is_told_in_one_message(train, tmp_path, capsys):
    (file,) = (tmp_path / "toy" / "1.0.0").glob("*train*")
    content = bytearray(file.read_bytes())
    content[9000] ^= 255
    file.write_bytes(content)
    assert train("damaged", 1) == 2
    shown = capsys.readouterr().err
    assert f"program.py: Data set 'toy' in {file.parent} cannot be read" in shown
    assert "Traceback" not in shown
