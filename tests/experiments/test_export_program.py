"""bin/export.py: what it writes, and what it refuses."""

import json

import pytest
import tensorflow as tf
from absl import flags

from bin import export as program
from robust_tf.experiments import command_line
from robust_tf.smoothing import SmoothedClassifier
from tests.training import small


@pytest.fixture
def launch(monkeypatch):
    """A function that runs the program in this process, and returns the status."""

    def run(*arguments):
        values = flags.FlagValues()
        program.define_flags(values)
        arguments = ["export.py", *arguments]
        command_line.parse_flags(arguments, values)
        monkeypatch.setattr(program, "_FLAGS", values)
        monkeypatch.setattr(program.sys, "argv", arguments)
        return command_line.guarded(program.main, ["export.py"])

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run folder, trained with noise of 0.3."""
    path = tmp_path_factory.mktemp("run")
    small.cnn().save(path / "model.keras")
    (path / "summary.json").write_text(json.dumps({"sigma": 0.3}))
    return path


def test_the_noise_is_that_of_the_run_folder(launch, folder, tmp_path):
    out = tmp_path / "exported"
    few = ("--n0=10", "--n=60", "--alpha=0.05")
    assert launch(f"--model={folder}", f"--out={out}", *few) is None
    record = json.loads((out / "robust_tf_export.json").read_text())
    assert (record["sigma"], record["n"]) == (0.3, 60)
    images, _ = small.images_and_labels(3)
    loaded = tf.saved_model.load(out)
    found = loaded.certify(tf.constant(images), tf.constant(0, tf.int64))
    wanted = SmoothedClassifier(str(folder / "model.keras"), 0.3).certify(
        images, 10, 60, 0.05, mode="full"
    )
    assert found["counts"].numpy().tolist() == wanted.counts.tolist()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "`--model` must name"),
        (("--model=MODEL",), "`--out` must name"),
        (("--model=MODEL", "--out=OUT", "--sigma=0"), "`sigma`"),
        (("--model=MODEL", "--out=OUT", "--n0=2", "--n=5"), "Use at least 10"),
        (("--model=MODEL", "--out=OUT", "--alpha=1.5"), "alpha"),
        (("--model=MODEL/model.keras", "--out=MODEL"), "exists already"),
        (("--model=/none.keras", "--out=OUT"), "/none.keras"),
    ],
)
def test_bad_input(launch, folder, tmp_path, capsys, arguments, text):
    places = {"MODEL": str(folder), "OUT": str(tmp_path / "out")}
    for name, place in places.items():
        arguments = [one.replace(name, place) for one in arguments]
    assert launch(*arguments) == command_line.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert text in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_without_a_sigma_it_says_so(launch, tmp_path, capsys):
    small.cnn().save(tmp_path / "model.keras")
    given = (f"--model={tmp_path}/model.keras", f"--out={tmp_path}/out")
    assert launch(*given) == command_line.EXIT_BAD_INPUT
    assert "`--sigma` must give" in capsys.readouterr().err
