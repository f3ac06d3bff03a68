"""Fronts over one parameter: trained, interrupted, resumed, and what is refused."""

import gc
import json
import re

import gin
import keras
import numpy as np
import pytest
from absl import flags

from bin import pareto as program
from robust_tf.experiments import command_line
from robust_tf.experiments import configuration
from robust_tf.experiments import launch as launcher
from robust_tf.experiments import pareto
from robust_tf.training.callbacks import MetricsLog
from robust_tf.training.certified_model import CertifiedModel

PARAMETER = "expressive.MtlIbp.coefficient"
EXPERIMENT = """
include 'gin_configs/base/train.gin'
include 'gin_configs/datasets/digits.gin'
include 'gin_configs/architectures/cnn_2layer.gin'
include 'gin_configs/methods/mtl_ibp.gin'
from __gin__ import dynamic_registration
from robust_tf import regions
from robust_tf import schedules
from robust_tf.architectures import cnn
from robust_tf.attacks import pgd
from robust_tf.experiments import settings

regions.Threat.epsilon = 0.02
settings.Run.epochs = 2
settings.Run.neuron_examples = 0
settings.Data.batch_size = 64
cnn.cnn_2layer.width = 1
cnn.cnn_2layer.linear_size = 16
ramp/schedules.SmoothedRamp.length = 1
rate/schedules.MilestoneDecay:
    initial = 5e-3
    milestones = (1,)
test/pgd.PGD.steps = 2
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    path = tmp_path_factory.mktemp("gin") / "experiment.gin"
    path.write_text(EXPERIMENT)
    return str(path)


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config()


@pytest.fixture
def launch(monkeypatch, tmp_path, experiment):
    """A function that runs `bin/pareto.py` in this process; it returns the status."""

    def run(*arguments, folder=tmp_path):
        given = {"workdir": folder, "gin_file": experiment, "parameter": PARAMETER}
        given = [f"--{name}={value}" for name, value in given.items()]
        arguments = ["pareto.py", *given, *arguments]
        values = flags.FlagValues()
        program.define_flags(values)
        command_line.parse_flags(arguments, values)
        monkeypatch.setattr(program, "_FLAGS", values)
        monkeypatch.setattr(program.sys, "argv", arguments)
        return command_line.guarded(program.main, ["pareto.py"])

    return run


def refuse(*_, **__):
    raise AssertionError("A point that is done was trained or measured again.")


def weights(folder):
    model = keras.models.load_model(folder / "model.keras")
    return [value.tobytes() for value in model.get_weights()]


def without_times(result):
    times = {"seconds": None, "train_seconds": None}
    return result | {"points": [point | times for point in result["points"]]}


def interrupt_second_point(monkeypatch):
    """As Ctrl-C does, in the second epoch of the second run."""
    begin, begun = MetricsLog.on_epoch_begin, []

    def on_epoch_begin(self, number, logs=None):
        begun.append(number)
        if begun == [0, 1, 0, 1]:
            raise KeyboardInterrupt
        begin(self, number, logs)

    monkeypatch.setattr(MetricsLog, "on_epoch_begin", on_epoch_begin)


def test_a_front_is_trained_interrupted_and_resumed(
    launch, tmp_path, experiment, capsys
):
    given = ("--values=0.01,1", "--seed=3", "--count=60")
    with pytest.MonkeyPatch.context() as patched:
        interrupt_second_point(patched)
        assert launch(*given) == command_line.EXIT_INTERRUPTED
    partial = json.loads((tmp_path / "pareto.json").read_text())
    assert [point["name"] for point in partial["points"]] == ["0.01"]
    first = (tmp_path / "0.01" / "metrics.jsonl").read_bytes()
    capsys.readouterr()

    assert launch(*given) is None
    result = json.loads((tmp_path / "pareto.json").read_text())
    assert (tmp_path / "0.01" / "metrics.jsonl").read_bytes() == first
    setting = {"parameter": PARAMETER, "dataset": "digits", "method": "mtl-ibp"}
    setting |= {"split": "validation", "validation_share": 0.2, "epsilon": 0.02}
    assert result.items() >= setting.items()
    assert result["points"][0] == partial["points"][0] | {
        "is_efficient": result["points"][0]["is_efficient"]
    }
    shown = capsys.readouterr().out
    for point, value in zip(result["points"], (0.01, 1), strict=True):
        assert point["value"] == value
        assert point["examples"] == 60
        assert point["seed"] == 3
        assert set(point["certified_by"]) == {"ibp", "crown-ibp"}
        assert max(point["certified_by"].values()) <= point["certified_accuracy"]
        assert point["certified_accuracy"] <= point["pgd_accuracy"]
        assert point["pgd_accuracy"] <= point["clean_accuracy"]
        assert f"{100 * point['certified_accuracy']:.2f}" in shown
        folder = tmp_path / point["name"]
        (record,) = json.loads((folder / "evaluation.json").read_text())["models"]
        assert (record["split"], record["seed"]) == ("validation", 3)
        operative = (folder / "operative_config.gin").read_text()
        assert f"MtlIbp.coefficient = {value}\n" in operative
        assert "Data.validation_share = 0.2\n" in operative
        assert "evaluate.evaluate" not in operative
        assert "evaluate.evaluate" in (folder / "evaluation_config.gin").read_text()
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert weights(tmp_path / "0.01") != weights(tmp_path / "1")
    gc.collect()  # No model outlives its point.
    assert not [one for one in gc.get_objects() if type(one) is CertifiedModel]

    # What was interrupted, and came after another run, is what one run alone gives.
    binding = f"{PARAMETER} = 1"
    share = "settings.Data.validation_share = 0.2"
    configuration.parse([experiment], [binding, share, "settings.Run.seed = 3"])
    alone = tmp_path / "alone"
    launcher.train_configured(alone, [])
    assert weights(alone) == weights(tmp_path / "1")

    # All is done: a third call only draws.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pareto.launch, "train_configured", refuse)
        patched.setattr(pareto, "_rehearse", refuse)
        (tmp_path / "pareto.png").unlink()
        assert launch(*given) is None
    assert json.loads((tmp_path / "pareto.json").read_text()) == result
    assert (tmp_path / "pareto.png").exists()

    # Other examples: measured again, not trained again.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(keras.optimizers.Adam, "apply", refuse)
        assert launch("--values=0.01", "--seed=3", "--count=30") is None
    again = json.loads((tmp_path / "pareto.json").read_text())
    assert [point["examples"] for point in again["points"]] == [30]


def test_a_share_of_the_experiment_is_kept(experiment):
    bound = "settings.Data.validation_share = 0.3"
    for params, expected in (((), 0.2), ((bound,), 0.3), ((f"{bound[:-3]}0.0",), 0.2)):
        sweep = pareto.Sweep((experiment,), params, PARAMETER, {"1": 1})
        sweep.parse("1")
        assert pareto._bound_share() == expected


def test_configurations_are_told_apart(experiment):
    def digest(*params, name="1", values=None):
        values = values or {"1": 1, "0.5": 0.5}
        return pareto.Sweep((experiment,), params, PARAMETER, values).parse(name)

    assert digest() == digest()
    others = [digest(name="0.5"), digest("settings.Run.seed = 1")]
    others.append(digest("settings.Examples.count = 7"))
    assert len({digest(), *others}) == 4


def points(*pairs):
    keys = ("clean_accuracy", "certified_accuracy")
    return [dict(zip(keys, pair, strict=True)) for pair in pairs]


@pytest.mark.parametrize(
    ("pairs", "efficient"),
    [
        ([(0.9, 0.1)], [True]),
        ([(0.9, 0.1), (0.8, 0.2)], [True, True]),
        ([(0.9, 0.2), (0.8, 0.1)], [True, False]),
        ([(0.9, 0.1), (0.9, 0.2)], [False, True]),
        ([(0.9, 0.1), (0.8, 0.1)], [True, False]),
        ([(0.9, 0.1), (0.9, 0.1)], [True, True]),  # Neither is better.
        ([(0.9, 0.1), (0.7, 0.3), (0.8, 0.2), (0.75, 0.15)], [True, True, True, False]),
    ],
)
def test_what_is_dominated_is_marked(pairs, efficient):
    marked = pareto.mark_efficient(points(*pairs))
    assert [point["is_efficient"] for point in marked] == efficient
    np.testing.assert_equal(
        [point["clean_accuracy"] for point in marked], [clean for clean, _ in pairs]
    )


@pytest.mark.parametrize(
    ("given", "used", "is_meant"),
    [
        ("expressive.MtlIbp.coefficient", "expressive.MtlIbp.coefficient", True),
        ("MtlIbp.coefficient", "expressive.MtlIbp.coefficient", True),
        (
            "robust_tf.objectives.expressive.MtlIbp.coefficient",
            "expressive.MtlIbp.coefficient",
            True,
        ),
        ("expressive.CcIbp.coefficient", "expressive.MtlIbp.coefficient", False),
        ("coefficient", "expressive.MtlIbp.coefficient", False),
        ("COEFFICIENT", "COEFFICIENT", True),
        ("pgd.PGD.steps", "train/pgd.PGD.steps", True),
        ("train/pgd.PGD.steps", "train/pgd.PGD.steps", True),
        ("train/pgd.PGD.steps", "test/pgd.PGD.steps", False),
        ("Ibp.coefficient", "expressive.MtlIbp.coefficient", False),
    ],
)
def test_names_of_one_parameter(given, used, is_meant):
    assert pareto._is_meant(given, used) == is_meant


FULL = "--parameter=robust_tf.objectives.expressive"
SET = f"--gin_param={PARAMETER} = 0.5"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--values="], "`--values` must be numbers"),
        (["--values=0.1,x"], "Received: 'x'"),
        (["--values=0.1,0.1"], "each number once"),
        (["--parameter=expressive.MtlIbp.alpha"], "--parameter=.*no parameter `alpha`"),
        (["--parameter=expressive.NoIbp.alpha"], "--parameter=.*Nothing used so far"),
        ([f"{FULL}.CcIbp.coefficient", SET], "no notice.*It uses: .*MtlIbp.coeff"),
        (["--parameter=coefficient", SET], "takes no notice"),  # Taken for a macro.
        (["--parameter=coefficient"], "required values unset:.*MtlIbp.coefficient"),
        (["--parameter="], "`--parameter` must name what varies"),
        (["--values=0.5,1.5"], rf"{PARAMETER} = 1.5: `coefficient` must lie in"),
        (["--validation_share=0"], "`--validation_share` must lie between"),
        (["--gin_param=settings.Examples.split = 'test'"], "validation split"),
        (["--gin_param=settings.Data.name = 'none'"], "none"),
        (["--gin_file=none.gin"], "There is no gin file"),
        (["--epsilon=-1"], "`--epsilon` must be"),
    ],
)
def test_bad_input(launch, capsys, monkeypatch, arguments, message):
    """Nothing is trained, not even the points that are in order."""
    monkeypatch.setattr(pareto.launch, "train_configured", refuse)
    assert launch("--values=0.5", *arguments) == command_line.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert "pareto.py: " in error
    assert "Traceback" not in error
    assert re.search(message, error, re.DOTALL), error


def test_a_macro_can_vary(tmp_path, experiment):
    params = (f"{PARAMETER} = %ALPHA", "settings.Run.epochs = 1")
    sweep = pareto.Sweep((experiment,), params, "ALPHA", {"0.5": 0.5})
    pareto._rehearse(tmp_path / "0.5", sweep, "0.5")


def test_no_experiment(launch, capsys):
    assert launch("--values=1", "--gin_file=") == command_line.EXIT_BAD_INPUT
    assert "no gin file" in capsys.readouterr().err
