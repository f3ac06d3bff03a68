"""Programs on `.mat` models: the same answers as on the Keras model in them."""

import hashlib
import json

import gin
import keras
import numpy as np
import pytest
import scipy.io
from absl import flags

import robust_tf as rt
from bin import evaluate as evaluate_program
from bin import verify as verify_program
from robust_tf import data as datasets
from robust_tf.architectures import max_margin
from robust_tf.experiments import command_line
from robust_tf.experiments import evaluate
from robust_tf.experiments.settings import Data
from robust_tf.experiments.verification_models import load_classifier
from robust_tf.interchange import matlab_models
from robust_tf.regions import Threat
from tests.experiments.verification.cases import lines

GIVEN = ("--dataset=digits", "--epsilon=0.02", "--count=12")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """A small classifier of digits, as `.mat` and as `.keras`."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(0)
    model = max_margin.fc1((8, 8, 1), 10, units=16)
    images = datasets.load("digits", "train")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(images.floats(), images.labels, 128, 10, verbose=0)
    matlab_models.write_model(folder / "model.mat", model)
    model.save(folder / "model.keras")
    return folder / "model.mat", folder / "model.keras"


@pytest.fixture
def launch(monkeypatch):
    """A function that runs a program of `bin/` in this process."""

    def run(program, define, *arguments):
        values = flags.FlagValues()
        define(values)
        name = program.__name__
        command_line.parse_flags([name, *map(str, arguments)], values)
        monkeypatch.setattr(program, "_FLAGS", values)
        return command_line.guarded(program.main, [name])

    yield run
    gin.clear_config()


@pytest.fixture
def verify(launch):
    return lambda *given: launch(verify_program, verify_program.define_flags, *given)


@pytest.fixture
def measure(launch):
    def define(values):
        command_line.define_common_flags(values)
        command_line.define_model_flags(values)

    return lambda *given: launch(evaluate_program, define, *given)


def test_verify(verify, paths, tmp_path):
    answers = []
    for path in paths:
        workdir = tmp_path / path.suffix
        given = [*GIVEN, "--gin_file=gin_configs/plans/fast.gin", "--timeout=60"]
        assert verify(*given, f"--model={path}", f"--workdir={workdir}") is None
        found = lines(workdir)
        answers.append([(r["index"], r["prediction"], r["verdict"]) for r in found])
    assert answers[0] == answers[1]
    assert {"VERIFIED"} <= {verdict for _, _, verdict in answers[0]}
    digest = hashlib.sha256(paths[0].read_bytes()).hexdigest()
    assert {r["model_digest"] for r in lines(tmp_path / ".mat")} == {digest}


def test_evaluate(measure, paths, tmp_path):
    records = []
    for path in paths:
        workdir = tmp_path / path.suffix
        given = [*GIVEN, "--gin_param=pgd.PGD.steps = 2"]
        assert measure(*given, f"--model={path}", f"--workdir={workdir}") is None
        content = json.loads((workdir / "evaluation.json").read_text())
        records += content["models"]
    for key in ("clean_accuracy", "pgd_accuracy", "certified_by"):
        assert records[0][key] == records[1][key]
    assert records[0]["certified_accuracy"] > 0.0
    digest = hashlib.sha256(paths[0].read_bytes()).hexdigest()
    assert records[0]["model_digest"] == digest


def test_the_digest_is_that_of_the_bytes(paths, tmp_path):
    one = load_classifier(paths[0])
    copy = tmp_path / "copy.mat"
    copy.write_bytes(paths[0].read_bytes())
    (tmp_path / "copy.json").write_bytes(paths[0].with_suffix(".json").read_bytes())
    assert load_classifier(copy).digest == one.digest
    assert one.network is None
    matlab_models.write_model(tmp_path / "other.mat", max_margin.fc1((8, 8, 1), 10))
    assert load_classifier(tmp_path / "other.mat").digest != one.digest


def test_images_and_weights_must_fit(tmp_path):
    """Weights of 784 inputs are of images of 28x28x1."""
    matlab_models.write_model(tmp_path / "a.mat", max_margin.fc1((28, 28, 1), 10))
    (tmp_path / "a.json").unlink()
    with pytest.raises(rt.InputError, match=r"\(28, 28, 1\) .* Received: 'digits'"):
        load_classifier(tmp_path / "a.mat").check_fit(datasets.load("digits", "test"))
    with pytest.raises(rt.InputError, match=r"\(28, 28, 1\) .* Received: 'digits'"):
        evaluate.evaluate(
            None,
            models=[tmp_path / "a.mat"],
            data=Data("digits"),
            threat=Threat(0.1),
        )


def test_bad_files_end_with_a_message(verify, measure, capsys, tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"U": np.zeros((784, 3), "float32")})
    given = [*GIVEN, f"--model={tmp_path / 'a.mat'}", f"--workdir={tmp_path / 'out'}"]
    for program in (verify, measure):
        assert program(*given) == command_line.EXIT_BAD_INPUT
        error = capsys.readouterr().err
        assert "a.mat' looks like a network of layout 'fc1' and misses" in error
        assert "Traceback" not in error
