"""The evaluation of saved models on the embedded digits."""

import json

import gin
import keras
import numpy as np
import pytest
from absl import flags

import robust_tf as rt
from bin import evaluate as program
from robust_tf.attacks.pgd import PGD
from robust_tf.experiments import command_line
from robust_tf.experiments.evaluate import evaluate
from robust_tf.experiments.settings import Bounds
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Examples
from robust_tf.regions import Threat

DIGITS = Data("digits")


def save(path, seed, shape=(8, 8, 1), classes=10):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Flatten(),
            keras.layers.Dense(12, activation="relu"),
            keras.layers.Dense(classes, activation="softmax"),
        ]
    )
    model.save(path)
    return str(path)


def test_a_family_and_its_records(tmp_path):
    paths = [save(tmp_path / f"{seed}.keras", seed) for seed in range(3)]
    result = evaluate(
        tmp_path / "out",
        models=paths,
        data=DIGITS,
        threat=Threat(0.01),
        examples=Examples(start=300, count=45, batch_size=20),
        bounds=Bounds(("ibp", "crown"), "best"),
        attack=PGD(steps=3),
    )
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == result
    records = result["models"]
    assert [record["name"] for record in records] == paths
    clean = [record["clean_accuracy"] for record in records]
    assert result["family"]["median"]["clean_accuracy"] == np.median(clean)
    assert result["family"]["max"]["clean_accuracy"] == max(clean)
    of = {name: row["models"] for name, row in result["family"].items()}
    for name, index in {"min": 0, "median": 1, "max": 2}.items():
        chosen = paths.index(of[name]["clean_accuracy"])
        assert clean[chosen] == sorted(clean)[index]
        chosen = paths.index(of[name]["certified_by"]["ibp"])
        bounded = [record["certified_by"]["ibp"] for record in records]
        assert bounded[chosen] == sorted(bounded)[index]
    for record in records:
        assert record["examples"] == 45
        assert record["start"] == 300
        by_method = record["certified_by"]
        assert by_method["ibp"] <= by_method["crown"] <= record["certified_accuracy"]
        assert record["certified_accuracy"] <= record["pgd_accuracy"]
        assert record["pgd_accuracy"] <= record["clean_accuracy"]


def test_a_family_of_two_and_its_folder(tmp_path):
    """The median is the mean of both, and the model named the one of greater error."""
    for seed, name in enumerate("ba"):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "model.keras", seed)
        (tmp_path / name / "family_member.json").write_text(f'{{"index": {seed}}}')
    result = evaluate(
        None,
        models=[str(tmp_path)],
        data=DIGITS,
        threat=Threat(0.01),
        examples=Examples(count=50),
        bounds=Bounds(("ibp",)),
    )
    paths = [str(tmp_path / name) for name in "ba"]
    assert [record["name"] for record in result["models"]] == paths
    clean = [record["clean_accuracy"] for record in result["models"]]
    assert clean[0] != clean[1]
    median = result["family"]["median"]
    assert median["clean_accuracy"] == round(sum(clean) / 2, 6)
    assert median["models"]["clean_accuracy"] == paths[clean.index(min(clean))]


def test_a_family_that_is_not_trained_to_the_end(tmp_path):
    for name in ("done", "begun"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    save(tmp_path / "done" / "model.keras", 0)
    with pytest.raises(rt.InputError, match="not trained to the end: begun. Go on"):
        evaluate(None, models=[tmp_path], data=DIGITS, threat=Threat(0.1))


def test_results_do_not_depend_on_the_batch_size(tmp_path):
    path = save(tmp_path / "a.keras", 0)
    results = [
        evaluate(
            None,
            models=[path],
            data=DIGITS,
            threat=Threat(0.01),
            examples=Examples(count=30, batch_size=size),
            bounds=Bounds(("crown-ibp",)),
        )["models"][0]["certified_accuracy"]
        for size in (7, 30)
    ]
    assert results[0] == results[1]


def test_run_folders(tmp_path):
    save(tmp_path / "model.keras", 0)
    result = evaluate(
        None,
        models=[tmp_path],
        data=DIGITS,
        threat=Threat(0.0),
        examples=Examples(count=5),
        bounds=Bounds(("ibp",)),
    )
    assert result["models"][0]["name"] == str(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.keras", "does not exist"),
        ("notes.txt", "must name a `.keras` file, a `.mat` file or a run folder"),
        ("empty", "holds no finished run"),
        ("junk.keras", "could not be read"),
        ("small.keras", "takes inputs of shape"),
    ],
)
def test_unusable_models_are_named(tmp_path, name, message):
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / "junk.keras").write_text("no model")
    (tmp_path / "empty").mkdir()
    save(tmp_path / "small.keras", 0, shape=(4,))
    with pytest.raises(rt.InputError, match=message):
        evaluate(None, models=[tmp_path / name], data=DIGITS, threat=Threat(0.1))


def test_no_models():
    with pytest.raises(rt.InputError, match="--model"):
        evaluate(None, models=[], data=DIGITS, threat=Threat(0.1))


@pytest.fixture
def launch(monkeypatch, tmp_path):
    """A function that runs `bin/evaluate.py` in this process, and returns a record."""

    def run(*arguments):
        values = flags.FlagValues()
        command_line.define_common_flags(values)
        command_line.define_model_flags(values)
        command_line.parse_flags(["evaluate.py", *arguments], values)
        monkeypatch.setattr(program, "_FLAGS", values)
        assert program.main(["evaluate.py"]) is None
        (record,) = json.loads((tmp_path / "evaluation.json").read_text())["models"]
        return record

    yield run
    gin.clear_config()


def test_the_program_hands_on_its_flags(launch, tmp_path):
    """`--seed` is that of the attack."""
    path = save(tmp_path / "a.keras", 0)
    given = (f"--model={path}", f"--workdir={tmp_path}", "--dataset=digits")
    given += ("--epsilon=0.01", "--count=5", "--start=7", "--split=train")
    given += ("--gin_param=pgd.PGD.steps = 2", "--gin_param=Bounds.methods=('ibp',)")
    record = launch(*given, "--seed=3")
    wanted = {"seed": 3, "start": 7, "examples": 5, "split": "train", "epsilon": 0.01}
    assert {key: record[key] for key in wanted} == wanted
    assert (
        "evaluate.evaluate.seed = 3" in (tmp_path / "evaluation_config.gin").read_text()
    )
    assert launch(*given)["seed"] == 0
