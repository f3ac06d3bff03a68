"""Discarding, reweighting and sphere attacks by the program, on digits."""

import json

import pytest

from robust_tf.experiments import command_line
from robust_tf.training.reweighting import ImageWeights
from tests.experiments import test_gin_files

launch = test_gin_files.launch
EXPERIMENT = """
include 'gin_configs/base/train.gin'
include 'gin_configs/datasets/digits.gin'
include 'gin_configs/architectures/cnn_2layer.gin'
include 'gin_configs/methods/discard_reweight.gin'
from __gin__ import dynamic_registration
from robust_tf import regions
from robust_tf import schedules
from robust_tf.architectures import cnn
from robust_tf.experiments import settings
from robust_tf.objectives import noise
from robust_tf.objectives import sphere_noise
from robust_tf.training import reweighting

noise.Noise:
    sigma = 0.25
    copies = 2
FIRST_EPOCH = 2
reweighting.Reweighting:
    least_accuracy = 0.5
    samples = 10
    every = 2
sphere_noise.SpherePGD.steps = 2
regions.Threat.epsilon = 0.25
settings.Data.batch_size = 128
rate/schedules.StepDecay.initial = 0.05
cnn.cnn_2layer:
    width = 2
    linear_size = 16
"""


def ends(folder):
    """Records and weights; the run's times left out."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    summary = json.loads((folder / "summary.json").read_text())
    newest = max((folder / "checkpoints").glob("epoch-*.json"))
    return (
        [json.loads(line) | {"seconds": None} for line in lines],
        summary | {"train_seconds": None},
        json.loads(newest.read_text())["sha256"],
    )


@pytest.fixture
def train(launch, tmp_path):
    (tmp_path / "digits.gin").write_text(EXPERIMENT)

    def run(name, epochs, *bindings):
        bindings = [f"settings.Run.epochs = {epochs}", *bindings]
        arguments = [f"--gin_file={tmp_path / 'digits.gin'}"]
        arguments += test_gin_files.params(bindings)
        return launch(*arguments, folder=tmp_path / name)

    return run


def test_digits_in_one_sitting_and_in_several(train, tmp_path, capsys):
    assert train("whole", 5) is None
    records, summary, _ = ends(tmp_path / "whole")
    kept = [record["kept_images"] for record in records]
    assert kept[:2] == [1437, 1437] and 0 < kept[2] < 1437
    assert kept[2:] == [kept[2]] * 3 and summary["kept_images"] == kept[2]
    assert (summary["method"], summary["sigma"]) == ("discard-reweight", 0.25)
    assert [record["epsilon"] for record in records] == [0.0] * 2 + [0.25] * 3
    # Within a stretch, and at a border.
    for epochs in (3, 4, 5):
        assert train("parts", epochs) is None
    parts = ends(tmp_path / "parts")
    assert parts == ends(tmp_path / "whole")
    other = "reweighting.Reweighting.every = 1"
    assert train("parts", 6, other) == command_line.EXIT_BAD_INPUT
    assert "belongs to another run:\n  reweighting: " in capsys.readouterr().err


def test_images_that_are_left_out_are_not_trained_on(train, tmp_path, monkeypatch):
    """With weights for a single image, its copies alone make the loss."""
    weights = [0.0] * 5 + [1.0] + [0.0] * 1431
    monkeypatch.setattr(ImageWeights, "before", lambda *_: weights)
    assert train("one", 4, "sphere_noise.SpherePGD.steps = 1") is None
    records, *_ = ends(tmp_path / "one")
    assert records[1]["noisy_accuracy"] > 0.99


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("FIRST_EPOCH = 3", "within the 3 epochs. Received: first_epoch 3"),
        ("noise.Noise.noise_atack = None", "noise_atack"),
        ("terms.WeightedSum.noise = None", "Leave `reweighting` out"),
    ],
)
def test_bad_input(train, capsys, binding, message):
    assert train("bad", 3, binding) == command_line.EXIT_BAD_INPUT
    assert message in capsys.readouterr().err
