"""The demonstration, in small: it writes what it says, twice over."""

import json

import keras
import numpy as np
import pytest

from robust_tf import data
from robust_tf.errors import InputError
from robust_tf.experiments import demo

SIZE = demo.Size(
    gin_params=(
        "settings.Run.epochs = 2",
        "ramp/schedules.LinearRamp.length = 1",
        "cnn.cnn_2layer.width = 1",
        "cnn.cnn_2layer.linear_size = 16",
        "test/pgd.PGD.steps = 2",
    ),
    radii=(0.0, 0.02),
    examples=40,
    images=3,
    attack_steps=2,
    radius_steps=3,
)
FILES = {
    "accuracy_against_radius.png",
    "radii_of_images.png",
    "results.json",
    "run",
    "training_curves.png",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    demo.demo(folder, SIZE)
    return folder


def test_all_files_are_there(folder):
    assert {path.name for path in folder.iterdir()} == FILES
    for path in folder.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    names = {path.name for path in (folder / "run").iterdir()}
    assert {"operative_config.gin", "environment.json", "model.keras"} <= names


def test_records(folder):
    records = json.loads((folder / "results.json").read_text())
    assert [record["epsilon"] for record in records] == [0.0, 0.02]
    for record in records:
        assert record["examples"] == 40
        best = max(record["certified_by"].values())
        assert set(record["certified_by"]) == {"ibp", "crown-ibp", "crown"}
        assert best <= record["certified_accuracy"] <= record["pgd_accuracy"]
        assert record["pgd_accuracy"] <= record["clean_accuracy"]
    assert records[0]["pgd_accuracy"] == records[0]["clean_accuracy"]


def test_a_second_call_repeats_the_first(folder, capsys):
    before = (folder / "results.json").read_text()
    epochs = (folder / "run" / "metrics.jsonl").read_bytes()
    demo.demo(folder, SIZE)
    assert (folder / "results.json").read_text() == before
    assert (folder / "run" / "metrics.jsonl").read_bytes() == epochs  # Not trained.
    text = capsys.readouterr().out
    assert "Found one" in text
    assert "proved" in text
    assert demo.SNIPPET.split("\n")[0] in text


def test_another_configuration_is_refused(folder):
    other = demo.Size(gin_params=(*SIZE.gin_params, "settings.Run.learning_rate = 1.0"))
    with pytest.raises(InputError, match="belongs to another run"):
        demo.demo(folder, other)


def test_the_snippet_runs():
    test = data.load("digits", "test")
    inputs = keras.Input(test.image_shape)
    outputs = keras.layers.Dense(10)(keras.layers.Flatten()(inputs))
    names = {
        "keras_model": keras.Model(inputs, outputs),
        "images": test.floats(slice(5)),
        "labels": test.labels[:5],
    }
    exec(demo.SNIPPET, names)
    assert names["is_robust"].shape == (5,)
    assert names["is_robust"].dtype == np.bool_
    assert len(demo.SNIPPET.split("\n")) == 6
