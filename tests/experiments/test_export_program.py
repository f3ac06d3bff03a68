"""bin/export.py: what it writes, and what it refuses."""

import functools
import hashlib
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from bin import export as program
from robust_tf.architectures import cnn
from robust_tf.architectures import max_margin
from robust_tf.experiments import command_line
from robust_tf.experiments.verification_models import model_digest
from robust_tf.interchange import matlab_models
from robust_tf.smoothing import SmoothedClassifier
from tests.experiments import programs
from tests.training import small


@pytest.fixture
def launch(monkeypatch):
    """A function that runs the program in this process, and returns the status."""
    return functools.partial(programs.launch, monkeypatch, program, name="export.py")


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


@pytest.fixture
def plain(tmp_path):
    """A run folder without noise, and its classifier."""
    path = tmp_path / "plain"
    path.mkdir()
    classifier = small.cnn(seed=1)
    classifier.save(path / "model.keras")
    return path, classifier


def test_without_noise_it_exports_certificates(launch, plain, tmp_path):
    folder, classifier = plain
    out = tmp_path / "new" / "1"  # A version of a model, as servers want it.
    more = ("--method=crown", "--largest_radius=64/255", "--radius_steps=5")
    assert launch(f"--model={folder}", f"--out={out}", *more) is None
    record = json.loads((out / "robust_tf_export.json").read_text())
    assert record["model_digest"] == model_digest(classifier)
    options = {"kind": "certified", "method": "crown", "steps": 5, "norm": "inf"}
    options["upper"] = 64 / 255
    assert options.items() <= record.items()
    images, _ = small.images_and_labels(3)
    loaded = tf.saved_model.load(out)
    found = loaded.certify(tf.constant(images), tf.constant(0.01))
    logits = np.asarray(classifier(images))
    rows = rt.margin_specification(logits.argmax(-1), small.CLASSES)
    bounds = rt.compute_bounds(classifier, rt.LpBall(images, 0.01), "crown", rows)
    np.testing.assert_allclose(found["lower_bounds"], bounds.lower, atol=1e-5)
    radii = loaded.certified_radius(tf.constant(images))["radius"].numpy()
    # Multiples of the last step of the bisection.
    steps = radii / (64 / 255 / 2**4)
    np.testing.assert_allclose(steps, steps.round(), atol=1e-4)


def test_noise_of_the_run_folder_does_not_forbid_certificates(launch, folder, tmp_path):
    out = tmp_path / "out"
    told = ("--kind=certified", "--method=ibp", "--radius_steps=1")
    assert launch(f"--model={folder}", f"--out={out}", *told) is None
    signatures = tf.saved_model.load(out).signatures
    assert {"predict", "certify", "certified_radius"} <= signatures.keys()


def state_of(classifier):
    """The weights of `cnn_2layer` under PyTorch's names, with its axes."""
    conv1, bias1, conv2, bias2, dense1, bias3, dense2, bias4 = classifier.get_weights()
    dense1 = dense1.reshape(2, 3, 8, -1).transpose(3, 2, 0, 1)
    return {
        "module.0.weight": conv1.transpose(3, 2, 0, 1),
        "module.0.bias": bias1,
        "module.2.weight": conv2.transpose(3, 2, 0, 1),
        "module.2.bias": bias2,
        "module.5.weight": dense1.reshape(len(dense1), -1),
        "module.5.bias": bias3,
        "module.7.weight": dense2.T,
        "module.7.bias": bias4,
    }


ARCHITECTURE = (
    "--gin_file=gin_configs/architectures/cnn_2layer.gin",
    "--gin_param=cnn.cnn_2layer.width = 1",
    "--gin_param=cnn.cnn_2layer.linear_size = 5",
)


def test_published_weights_become_keras_then_onnx_then_a_saved_model(launch, tmp_path):
    published = cnn.cnn_2layer((8, 12, 3), 4, width=1, linear_size=5)
    np.savez(tmp_path / "weights.npz", **state_of(published))
    images = np.random.default_rng(0).random((3, 8, 12, 3)).astype("float32")
    wanted = np.asarray(published(images))
    weights = (f"--state_dict={tmp_path}/weights.npz", "--input_shape=8,12,3")
    out = tmp_path / "model.keras"
    assert launch(*weights, *ARCHITECTURE, f"--out={out}") is None
    found = keras.models.load_model(out)(images)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    record = json.loads((tmp_path / "model.keras.json").read_text())
    content = (tmp_path / "weights.npz").read_bytes()
    assert record["model_digest"] == hashlib.sha256(content).hexdigest()
    assert record["kind"] == "keras"
    onnx = tmp_path / "model.onnx"
    assert launch(f"--model={out}", f"--out={onnx}") is None
    assert json.loads((tmp_path / "model.onnx.json").read_text())["kind"] == "onnx"
    assert launch(f"--model={onnx}", f"--out={tmp_path}/saved", "--method=ibp") is None
    loaded = tf.saved_model.load(tmp_path / "saved")
    # An ONNX network is read as it is, with channels first at its input or last.
    shape = loaded.signatures["predict"].structured_input_signature[1]["images"].shape
    given = images if shape[-1] == 3 else images.transpose(0, 3, 1, 2)
    found = loaded.predict(tf.constant(given))["logits"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_matlab_models(launch, tmp_path):
    model = max_margin.fc1((28, 28, 1), 10, units=4)
    matlab_models.write_model(tmp_path / "model.mat", model)
    out, told = tmp_path / "out", ("--method=ibp", "--radius_steps=1")
    assert launch(f"--model={tmp_path}/model.mat", f"--out={out}", *told) is None
    images = np.random.default_rng(0).random((2, 28, 28, 1)).astype("float32")
    loaded = tf.saved_model.load(out)
    found = loaded.predict(tf.constant(images))["logits"]
    np.testing.assert_allclose(found, model(images), rtol=0, atol=1e-5)


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
        (("--model=MODEL", "--out=OUT", "--method=ibp"), "as no --kind is given"),
        (("--model=MODEL", "--out=OUT.onnx", "--n=100"), "--n; they belong to"),
        (("--model=MODEL", "--out=OUT", "--kind=onnx"), "ends in .onnx"),
        (("--model=MODEL", "--out=OUT.keras", "--kind=certified"), "a folder"),
        (("--model=MODEL", "--out=OUT/no/m.onnx"), "There is no folder"),
        (("--model=MODEL", "--out=OUT", "--kind=certified", "--sigma=1"), "--sigma; "),
        (("--model=MODEL", "--out=OUT", "--kind=certified", "--norm=2"), "must be inf"),
        (
            ("--model=MODEL", "--out=OUT", "--kind=certified", "--largest_radius=8"),
            "above 0 and up to 1",
        ),
        (("--model=MODEL", "--out=OUT", "--input_shape=1,1,1"), "--input_shape; they"),
        (("--model=MODEL", "--state_dict=W", "--out=OUT"), "Received: both"),
        (("--state_dict=/none.pth", "--out=OUT"), "no file of weights"),
        (("--state_dict=WEIGHTS", "--out=OUT.keras"), "must choose the architecture"),
        (
            ("--state_dict=WEIGHTS", "--out=OUT.keras", *ARCHITECTURE),
            "`--input_shape` must be",
        ),
        (
            ("--state_dict=WEIGHTS", "--out=OUT", *ARCHITECTURE, "--input_shape=8,8,1"),
            "'0.weight' has shape (2, 2), and layer",
        ),
        (("--state_dict=WEIGHTS", "--out=OUT", "--kind=smoothed"), "`--sigma` must"),
    ],
)
def test_bad_input(launch, folder, tmp_path, capsys, arguments, text):
    places = {"MODEL": str(folder), "OUT": str(tmp_path / "out")}
    places["WEIGHTS"] = str(tmp_path / "weights.npz")
    np.savez(places["WEIGHTS"], **{"0.weight": np.ones((2, 2), "float32")})
    for name, place in places.items():
        arguments = [one.replace(name, place) for one in arguments]
    assert launch(*arguments) == command_line.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert text in error and "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["weights.npz"]


def test_without_a_sigma_it_says_so(launch, tmp_path, capsys):
    small.cnn().save(tmp_path / "model.keras")
    given = (f"--model={tmp_path}/model.keras", f"--out={tmp_path}/out")
    given = (*given, "--kind=smoothed")
    assert launch(*given) == command_line.EXIT_BAD_INPUT
    assert "`--sigma` must give" in capsys.readouterr().err
