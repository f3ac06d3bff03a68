"""Pictures of linear regions of models: from Python, and by `bin/plot.py`."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from robust_tf import files
from robust_tf.architectures import max_margin
from robust_tf.errors import InputError
from robust_tf.experiments import region_pictures
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Examples
from robust_tf.report import region_plots

ROOT = pathlib.Path(__file__).parents[2]
DIGITS = Data("digits")
FEW = Examples(start=5, count=12)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A run folder and a `.keras` file, of random weights."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(0)
    (folder / "run").mkdir()
    files.write_json(folder / "run" / "summary.json", {"dataset": "digits"})
    max_margin.fc1((8, 8, 1), 10, units=20).save(folder / "run" / "model.keras")
    small = max_margin.cnn_lenet_small((8, 8, 1), 10, filters=(4, 6), linear_size=8)
    small.save(folder / "cnn.keras")
    return {"dense": str(folder / "run"), "cnn": str(folder / "cnn.keras")}


def test_all_pictures(models, tmp_path):
    paths = region_pictures.draw(
        tmp_path / "a" / "b",
        models=models,
        data=DIGITS,
        examples=FEW,
        resolution=30,
        epsilon=0.1,
    )
    names = ["linear_regions", "input_gradients", "filters_first_layer"]
    names += ["filters_second_layer", "distances"]
    assert [path.name for path in paths] == [f"{name}.png" for name in names]
    for path in paths:
        assert path.parent == tmp_path / "a" / "b"
        assert path.read_bytes().startswith(b"\x89PNG")


def drawn(monkeypatch, name):
    """What a function of pictures is called with."""
    found = []
    monkeypatch.setattr(region_plots, name, lambda *given: found.append(given))
    return found


def test_points(models, tmp_path, monkeypatch):
    found = drawn(monkeypatch, "linear_regions")
    options = {"models": models, "data": DIGITS, "kinds": ["regions"], "resolution": 4}
    region_pictures.draw(tmp_path, examples=FEW, **options)
    region_pictures.draw(tmp_path, points=[3, 0, 300], **options)
    images = DIGITS.load("test")
    labels = images.labels
    seen = dict.fromkeys(labels[5:17].tolist())
    expected = [5 + labels[5:17].tolist().index(label) for label in list(seen)[:3]]
    for (sections, plane, captions, _), indices in zip(
        found, (expected, [3, 0, 300]), strict=True
    ):
        said = [f"image {i}, label {labels[i]}" for i in indices]
        assert captions == said and list(sections) == ["dense", "cnn"]
        points = plane.points(plane.coordinates)
        np.testing.assert_allclose(points, images.floats(indices), atol=1e-6)


def test_distances_are_of_the_chosen_examples(models, tmp_path, monkeypatch):
    found = drawn(monkeypatch, "distance_histograms")
    options = {"models": models, "data": DIGITS, "kinds": ["distances"], "norm": 2}
    region_pictures.draw(tmp_path, examples=FEW, **options)
    region_pictures.draw(tmp_path, examples=Examples(start=8, count=1), **options)
    (many, _, norm, epsilon), (one, *_) = found
    assert (norm, epsilon) == (2, None) and list(many) == ["dense", "cnn"]
    for name, distances in many.items():
        assert distances.region.shape == distances.decision.shape == (12,)
        np.testing.assert_allclose(one[name].region[0], distances.region[3], rtol=1e-4)
    logits = keras.models.load_model(f"{models['dense']}/model.keras")(
        DIGITS.load("test").floats(slice(5, 17))
    )
    is_right = np.argmax(logits, -1) == DIGITS.load("test").labels[5:17]
    np.testing.assert_array_equal(many["dense"].decision > 0.0, is_right)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ["areas"]}, r"`kinds` must be of .*'areas'"),
        ({"points": [0, 1]}, r"three indices .* \[0, 360\). Received: 0,1"),
        ({"points": [0, 1, 360]}, "Received: 0,1,360"),
        ({"points": [0, 1, 2.5]}, "Received: 0,1,2.5"),
        ({"points": [0, 1, 0]}, "unless they lie on one line"),
        ({"examples": Examples(count=2)}, "are of 2 classes"),
        ({"examples": Examples(start=350, count=20)}, "has 360 examples"),
        ({"norm": 0.5}, "norm"),
        ({"epsilon": -1.0}, "radius"),
        ({"models": {}}, "at least one model"),
    ],
)
def test_bad_input(models, tmp_path, options, message):
    given = {"models": models, "data": DIGITS, "resolution": 2} | options
    with pytest.raises(InputError, match=message):
        region_pictures.draw(tmp_path / "out", **given)
    assert not list(tmp_path.glob("out/*"))


def test_data_sets_of_run_folders(models):
    assert region_pictures.dataset_of(models.values()) == "digits"
    with pytest.raises(InputError, match="`--dataset` must name the data set"):
        region_pictures.dataset_of([models["cnn"]])


def run(*arguments):
    return subprocess.run(
        [sys.executable, "bin/plot.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_program(models, tmp_path):
    done = run(
        *(f"--model={name}={path}" for name, path in models.items()),
        *("--kind=gradients", "--kind=regions", "--points=1,40,90"),
        *("--epsilon=8/255", "--count=12", f"--out={tmp_path / 'out'}"),
    )
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["input_gradients.png", "linear_regions.png"]
    assert "WARNING" not in done.stderr.replace("WARNING: All log", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=none.keras", "--dataset=digits"], "which does not exist"),
        (["--kind=regions"], "`--kind` chooses pictures of models"),
        (["--model=a=x", "--model=a=y", "--dataset=digits"], "a name of its own"),
    ],
)
def test_bad_input_ends_with_status_2(tmp_path, arguments, message):
    done = run(*arguments, f"--out={tmp_path / 'out'}")
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
