"""Runs whose training images are weighed: stretches, records, resumption, refusals."""

import dataclasses
import functools

import numpy as np
import pytest

import robust_tf as rt
from robust_tf import data as datasets
from robust_tf import schedules
from robust_tf.data import RandomFlipAndCrop
from robust_tf.experiments import fitting
from robust_tf.objectives import smoothed
from robust_tf.objectives import terms
from robust_tf.objectives.noise import Noise
from robust_tf.objectives.sphere_noise import SpherePGD
from robust_tf.regions import Threat
from robust_tf.training.certified_model import CertifiedModel
from robust_tf.training.optimizers import MomentumDescent
from robust_tf.training.reweighting import ImageWeights
from robust_tf.training.reweighting import Reweighting
from tests.experiments import test_train
from tests.experiments.test_train import DATA
from tests.experiments.test_train import NORMALIZED
from tests.experiments.test_train import RUN
from tests.experiments.test_train import records
from tests.experiments.test_train import result

small_data = test_train.small_data
SETTINGS = Reweighting(2, 0.5, samples=20, every=2)
OBJECTIVE = terms.WeightedSum(
    (smoothed.NoisyCrossEntropy(),),
    (1.0,),
    "discard-reweight",
    noise=Noise(0.25, 2, noise_attack=SpherePGD(2)),
)
SIX_EPOCHS = dataclasses.replace(
    RUN,
    epochs=6,
    optimizer=MomentumDescent,
    learning_rate=0.05,
    ramp=schedules.Staircase(start=2),
    neuron_examples=0,
)


def launch(folder, **changed):
    arguments = {
        "data": DATA,
        "run": SIX_EPOCHS,
        "objective": OBJECTIVE,
        "threat": Threat(0.2, 2),
        "architecture": NORMALIZED,
        "reweighting": SETTINGS,
    } | changed
    return test_train.launch(folder, **arguments)


@pytest.fixture
def batches(monkeypatch):
    """What each call for batches was asked for, and the labels of what it gave."""
    seen = []

    def spied(*arguments, **options):
        made = make(*arguments, **options)
        if "weights" in options:  # Those of training, not of statistics.
            labels = np.stack([labels for _, labels in made.as_numpy_iterator()])
            seen.append((options, labels))
        return made

    make = datasets.training_batches
    monkeypatch.setattr(datasets, "training_batches", spied)
    return seen


def test_training_goes_in_stretches_between_renewed_weights(tmp_path, batches):
    summary = launch(tmp_path)
    stretches = [(one["first_epoch"], one["epochs"]) for one, _ in batches]
    assert stretches == [(0, 2), (2, 4), (4, 6)]
    assert [len(labels) for _, labels in batches] == [6, 6, 6]
    first, second, third = (options["weights"] for options, _ in batches)
    assert first is None
    np.testing.assert_array_equal(second > 0.0, third > 0.0)
    assert (second != third).any()
    kept = np.count_nonzero(second)
    assert 0 < kept < 48 and summary["kept_images"] == kept
    lines = records(tmp_path)
    assert [line["kept_images"] for line in lines] == [48, 48] + [kept] * 4
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3, 4, 5]
    assert [line["step"] for line in lines] == [3, 6, 9, 12, 15, 18]
    assert [line["epsilon"] > 0.0 for line in lines] == [False] * 2 + [True] * 4
    assert list((tmp_path / "tensorboard" / "train").iterdir())


def test_steps_are_traced_once(tmp_path, monkeypatch):
    traces = {}

    def counted(name):
        step = getattr(CertifiedModel, name)

        def spied(self, batch):
            traces[name] = traces.get(name, 0) + 1
            return step(self, batch)

        monkeypatch.setattr(CertifiedModel, name, spied)

    counted("train_step")
    counted("test_step")
    data = dataclasses.replace(DATA, validation_share=0.2)
    launch(tmp_path / "one", data=data, reweighting=None)
    in_one = dict(traces)
    traces.clear()
    launch(tmp_path / "three", data=data)
    assert traces == in_one == {"train_step": 1, "test_step": 1}


def test_stretches_alone_change_nothing(tmp_path, monkeypatch):
    """A run cut where images are weighed, without weights, is the run in one piece."""
    data = dataclasses.replace(DATA, validation_share=0.2)
    launch(tmp_path / "whole", data=data, reweighting=None)
    monkeypatch.setattr(fitting, "image_weights", lambda *_: StretchesAlone(SETTINGS))
    launch(tmp_path / "cut", data=data)
    lines, wanted = records(tmp_path / "cut"), records(tmp_path / "whole")
    assert lines == wanted
    weights = (result(tmp_path / name)["weights"] for name in ("cut", "whole"))
    assert len(set(map(tuple, weights))) == 1


class StretchesAlone(ImageWeights):
    """Weighs nothing."""

    variables = ()
    kept_images = 48

    def __init__(self, settings):
        self._settings = settings

    def before(self, epoch):
        del epoch

    def on_epoch_end(self, epoch, logs=None):
        pass


def _kill_before_weighing(epoch, monkeypatch):
    def before(self, number):
        if number == epoch:
            raise test_train.Killed
        return weigh(self, number)

    weigh = ImageWeights.before
    monkeypatch.setattr(ImageWeights, "before", before)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path, batches):
    """Killed before images are weighed, and in both epochs of a stretch."""
    settings = {
        "data": dataclasses.replace(
            DATA, validation_share=0.2, augmentation=RandomFlipAndCrop(padding=1)
        ),
        "run": dataclasses.replace(SIX_EPOCHS, epochs=6, keep="best"),
    }
    launch(tmp_path / "whole", **settings)
    whole = {
        epoch: labels
        for (options, part) in batches
        for epoch, labels in zip(
            range(options["first_epoch"], options["epochs"]),
            np.split(part, len(part) // 3),
            strict=True,
        )
    }
    kills = [
        (2, _kill_before_weighing),
        (3, test_train._kill_in_epoch),
        (4, _kill_before_weighing),
        (4, test_train._kill_after_metrics),
    ]
    for epoch, kill in kills:
        batches.clear()
        with pytest.MonkeyPatch.context() as patched:
            kill(epoch, patched)
            with pytest.raises(test_train.Killed):
                launch(tmp_path / "parts", **settings)
        for options, part in batches:
            wanted = [
                whole[e] for e in range(options["first_epoch"], options["epochs"])
            ]
            np.testing.assert_array_equal(part, np.concatenate(wanted))
    launch(tmp_path / "parts", **settings)
    assert result(tmp_path / "parts") == result(tmp_path / "whole")


def test_a_longer_run_goes_on(tmp_path):
    """From its last epoch on, before which the longer run weighs anew."""
    launch(tmp_path / "parts", run=dataclasses.replace(SIX_EPOCHS, epochs=4))
    launch(tmp_path / "parts")
    launch(tmp_path / "whole")
    assert result(tmp_path / "parts") == result(tmp_path / "whole")


def test_a_finished_run_is_neither_trained_nor_weighed_again(tmp_path, monkeypatch):
    launch(tmp_path)
    before = result(tmp_path)
    (tmp_path / "summary.json").unlink()
    monkeypatch.setattr(ImageWeights, "counts", None)
    launch(tmp_path)
    assert result(tmp_path) == before


def test_two_replicas_go_the_same_way(tmp_path):
    """Almost without noise of their own, as each replica draws another."""
    quiet = dataclasses.replace(OBJECTIVE, noise=Noise(1e-9, 2))
    architecture = functools.partial(test_train.classifier, normalized=True)
    lines = []
    for name, devices in (("one", ("CPU:0",)), ("two", ("CPU:0", "CPU:1"))):
        run = dataclasses.replace(SIX_EPOCHS, devices=devices)
        launch(tmp_path / name, run=run, objective=quiet, architecture=architecture)
        lines.append(records(tmp_path / name))
    assert lines[0][-1]["kept_images"] < 48
    for one, two in zip(*lines, strict=True):
        assert one == pytest.approx(two, abs=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"objective": terms.natural()}, "needs an objective with `noise`"),
        (
            {"run": dataclasses.replace(SIX_EPOCHS, epochs=2)},
            "within the 2 epochs. Received: first_epoch 2",
        ),
        (
            {
                "run": dataclasses.replace(
                    SIX_EPOCHS,
                    optimizer=functools.partial(MomentumDescent, use_ema=True),
                )
            },
            "`use_ema`",
        ),
        (
            {"reweighting": Reweighting(0, 1.0, samples=1000)},
            "Of the 48 training images none is kept",
        ),
    ],
)
def test_what_does_not_go_with_it(tmp_path, changed, message):
    with pytest.raises(rt.InputError, match=message):
        launch(tmp_path, **changed)


def test_several_workers_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("robust_tf.experiments.train.count_workers", lambda: 2)
    with pytest.raises(rt.InputError, match="Received: reweighting"):
        launch(tmp_path)


def test_it_is_part_of_what_a_run_is(tmp_path):
    launch(tmp_path / "with")
    other = dataclasses.replace(SETTINGS, least_accuracy=0.4)
    with pytest.raises(rt.InputError, match=r"reweighting: .*0\.5.* there, .*0\.4"):
        launch(tmp_path / "with", reweighting=other)
    noise = dataclasses.replace(OBJECTIVE.noise, noise_attack=SpherePGD(3))
    objective = dataclasses.replace(OBJECTIVE, noise=noise)
    with pytest.raises(rt.InputError, match="another run:\n  noise_attack: .*2.*3"):
        launch(tmp_path / "with", objective=objective)
    plain = dataclasses.replace(OBJECTIVE, noise=Noise(0.25, 2))
    launch(tmp_path / "without", objective=plain, reweighting=None)
    for changed, name in (
        ({"objective": OBJECTIVE, "reweighting": None}, "noise_attack"),
        ({"objective": plain}, "reweighting"),
    ):
        with pytest.raises(rt.InputError, match=f"another run:\n  {name}: None there"):
            launch(tmp_path / "without", **changed)
