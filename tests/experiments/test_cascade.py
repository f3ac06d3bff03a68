"""Cascades: who decides, on what each stage is trained, what is claimed and refused."""

import json
import pathlib
import shutil

import gin
import keras
import numpy as np
import pytest
from absl import flags

import robust_tf as rt
from bin import evaluate as evaluation_program
from bin import train as program
from robust_tf import data as datasets
from robust_tf import layers
from robust_tf.data import ImageDataset
from robust_tf.data import subset
from robust_tf.experiments import cascade
from robust_tf.experiments import cascade_decisions
from robust_tf.experiments import cascade_folder
from robust_tf.experiments import command_line
from robust_tf.experiments import evaluate
from robust_tf.experiments import family
from robust_tf.experiments import launch as launching
from robust_tf.experiments.cascade_decisions import NO_CLASS
from robust_tf.experiments.cascade_decisions import Predictions
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Exact
from robust_tf.experiments.settings import Examples
from robust_tf.regions import Threat
from robust_tf.report import cascade_tables
from robust_tf.report import experiment_tables
from robust_tf.verification.accuracy import measure

THREAT = Threat(0.02)
BATCH = 128
# A small network on the embedded digits, two epochs.
DIGITS = f"""
include 'gin_configs/base/train.gin'
include 'gin_configs/datasets/digits.gin'
include 'gin_configs/methods/ibp.gin'
from __gin__ import dynamic_registration
from robust_tf import regions
from robust_tf.architectures import cnn
from robust_tf.experiments import cascade
from robust_tf.experiments import settings
from robust_tf.experiments import train

cascade.Cascade:
    stages = 3
    method = 'crown-ibp'
train.train:
    architecture = @cnn.mlp
    test_attack = None
cnn.mlp.hidden = (16,)
regions.Threat.epsilon = {THREAT.epsilon}
settings.Data.batch_size = {BATCH}
settings.Run:
    epochs = 2
    learning_rate = 1e-2
    neuron_examples = 0
"""


@pytest.fixture(autouse=True)
def clear_configuration():
    yield
    gin.clear_config()


def launch(folder, *arguments, text=DIGITS, module=program):
    """Runs a program in this process; returns its status."""
    values = flags.FlagValues()
    given = [f"--workdir={folder}", *arguments]
    if module is program:
        file = folder.parent / "digits.gin"
        file.write_text(text)
        program.define_flags(values)
        given.append(f"--gin_file={file}")
    else:
        command_line.define_common_flags(values)
        command_line.define_model_flags(values)
    command_line.parse_flags(["program.py", *given], values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FLAGS", values)
        return command_line.guarded(module.main, ["program.py"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a cascade, interrupted in both of its stages, and gone on with.

    Beside it, in `half`, what the second interruption has left.
    """
    folder = tmp_path_factory.mktemp("cascade") / "run"
    train_configured = launching.train_configured
    begun = []

    def interrupted(workdir, arguments):
        begun.append(workdir.name)
        if workdir.name == "stage_2":
            raise KeyboardInterrupt
        result = train_configured(workdir, arguments)
        if begun == ["stage_1"]:  # Done, and not recorded yet.
            raise KeyboardInterrupt
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launching, "train_configured", interrupted)
        assert launch(folder) == command_line.EXIT_INTERRUPTED
        assert kept(folder)["trained"] == []
        assert launch(folder) == command_line.EXIT_INTERRUPTED
        assert begun == ["stage_1", "stage_1", "stage_2"]
    shutil.copytree(folder, folder.with_name("half"))
    assert launch(folder) is None
    gin.clear_config()
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of that folder to break."""
    return pathlib.Path(shutil.copytree(trained, tmp_path / "copy"))


def kept(folder):
    return json.loads((folder / "cascade.json").read_text())


def change(folder, **values):
    (folder / "cascade.json").write_text(json.dumps(kept(folder) | values))


def certified_by_labels(folder, images):
    """Predictions, and certificates by the measurement with predictions as labels."""
    model = rt.convert(folder / "model.keras")
    labels = model.predict(images.floats(), verbose=0).argmax(-1)
    guessed = ImageDataset("guessed", images.images, labels, 10, "train")
    batches = datasets.evaluation_batches(guessed, 300)
    found = measure(model, batches, THREAT, methods=("crown-ibp",))
    return Predictions(labels, found.certified["crown-ibp"])


def test_a_stage_is_trained_on_what_those_before_leave(trained):
    record, images = kept(trained), Data("digits").load("train")
    left = np.arange(len(images))
    for number, stage in enumerate(record["trained"], 1):
        folder = trained / f"stage_{number}"
        assert stage["name"] == folder.name and stage["examples"] == len(left)
        assert stage["seed"] == family.seed_of(0, stage["name"])
        if number > 1:
            chosen = subset.read(folder / cascade_folder.EXAMPLES)
            np.testing.assert_array_equal(chosen.positions, left)
            before = [one["digest"] for one in record["trained"][: number - 1]]
            assert list(chosen.models) == before
        found = certified_by_labels(folder, images.select(left))
        left = left[~found.certified]
    # The third stage would have had no batch.
    assert len(record["trained"]) == 2 and 0 < len(left) < BATCH
    assert (record["left"], record["is_done"]) == (len(left), True)
    assert not (trained / "stage_3").exists()
    wanted = {"stages": 3, "method": "crown-ibp", "epsilon": 0.02, "norm": "inf"}
    assert {key: record[key] for key in wanted} == wanted


def test_an_interruption_leaves_the_choice_and_the_first_stage(trained):
    half = trained.with_name("half")
    assert [one["name"] for one in kept(half)["trained"]] == ["stage_1"]
    assert not kept(half)["is_done"]
    assert [one.name for one in (half / "stage_2").iterdir()] == ["examples.npz"]
    first, second = (
        (one / "stage_2" / "examples.npz").read_bytes() for one in (half, trained)
    )
    assert first == second
    with pytest.raises(
        rt.InputError, match="not trained to the end. Received: stage_1"
    ):
        cascade_folder.load(half)


def test_done_stages_are_not_trained_again(copy, capsys):
    marks = [copy / f"stage_{number}" / "metrics.jsonl" for number in (1, 2)]
    for mark in marks:
        mark.write_text("Nobody comes here again.")
    before = kept(copy)
    assert launch(copy, "--gin_param=cascade.Cascade.stages = 4") is None
    assert kept(copy) == before | {"stages": 4}
    assert all(mark.read_text() == "Nobody comes here again." for mark in marks)
    words = capsys.readouterr().out.split()
    assert [word for word in words if "stage" in word] == ["stage_1", "stage_2"]


def test_a_stage_that_was_not_recorded_ends_as_it_was(copy):
    before = kept(copy)
    change(copy, trained=before["trained"][:1], left=None, is_done=False)
    (copy / "stage_2" / "model.keras").unlink()
    assert launch(copy) is None
    assert kept(copy) == before


def test_a_stage_goes_on_with_the_same_examples_alone(copy, capsys):
    before = kept(copy)["trained"][:1]
    change(copy, trained=before, left=None, is_done=False)
    file = copy / "stage_2" / "examples.npz"
    positions, images = subset.read(file).positions, Data("digits").load("train")
    digests = [before[0]["digest"]]
    file.write_bytes(subset.packed(images, positions[1:], digests))
    assert launch(copy) == command_line.EXIT_BAD_INPUT
    assert "belongs to another run:\n  data: " in capsys.readouterr().err
    file.write_bytes(subset.packed(images, positions, ["another"]))
    assert launch(copy) == command_line.EXIT_BAD_INPUT
    assert "were chosen by other stages" in capsys.readouterr().err


def some_predictions(count, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(NO_CLASS, 3, count).astype(np.int32)
    return Predictions(labels, (labels > NO_CLASS) & (random.random(count) < 0.4))


@pytest.mark.parametrize("number", [1, 2, 4])
def test_the_rule_of_decision(number):
    """Against a loop over images and stages."""
    stages = [some_predictions(300, seed) for seed in range(number)]
    labels = np.random.default_rng(9).integers(0, 3, 300)
    wanted = [dict.fromkeys(("decided", "right", "certified", "certified_right"), 0)
              for _ in stages]  # fmt: skip
    by_all = 0
    for image, label in enumerate(labels):
        place = 0
        while place < number - 1 and not stages[place].certified[image]:
            place += 1
        said, proved = stages[place].labels[image], stages[place].certified[image]
        wanted[place]["decided"] += 1
        wanted[place]["right"] += int(said == label)
        wanted[place]["certified"] += int(proved)
        wanted[place]["certified_right"] += int(proved and said == label)
        by_all += all(one.certified[image] and one.labels[image] == label
                      for one in stages)  # fmt: skip
    found = cascade_decisions.summary(stages, labels)
    assert found["stages"] == wanted
    right = sum(one["right"] for one in wanted) / 300
    verified = sum(one["certified_right"] for one in wanted) / 300
    assert found["clean_accuracy"] == round(right, 6)
    assert found["verified_as_received"] == round(verified, 6)
    assert found["certified_by_all_stages"] == round(by_all / 300, 6)
    assert by_all / 300 <= verified <= right


def threshold(weight, bias):
    """One pixel, two classes; the margin of class 1 is `weight * pixel + bias`."""
    inputs = keras.Input((1, 1, 1))
    dense = layers.Dense(2)
    model = keras.Model(inputs, dense(layers.Flatten()(inputs)))
    dense.set_weights([np.array([[0.0, weight]]), np.array([0.0, bias])])
    return model


def pixels(*values):
    images = np.reshape(np.array(values, np.float32), (-1, 1, 1, 1))
    return ImageDataset("pixels", images, np.zeros(len(values), int), 2, "test")


def predicted(model, values, epsilon=0.1, size=2):
    batches = datasets.evaluation_batches(pixels(*values), size)
    return cascade_decisions.predict(model, batches, Threat(epsilon), method="crown")


def test_predictions_are_certified_whatever_the_label():
    found = predicted(threshold(1.0, -0.35), [0.1, 0.3, 0.35, 0.44, 0.54])
    assert found.labels.tolist() == [0, 0, NO_CLASS, 1, 1]
    assert found.certified.tolist() == [True, False, False, False, True]
    no_class = predicted(threshold(float("inf"), float("-inf")), [0.5], epsilon=0.0)
    assert no_class.labels.tolist() == [NO_CLASS] and not no_class.certified.any()


def test_verified_as_received_is_no_bound_under_attack():
    """Another stage decides at the perturbed image, and certifies what is wrong."""
    stages = [threshold(1.0, -0.35), threshold(0.0, -1.0)]  # The second says 0.
    clean, attacked = 0.44, 0.54
    assert abs(attacked - clean) <= 0.1 + 1e-9
    found = [predicted(model, [clean]) for model in stages]
    assert cascade_decisions.deciding_stages(found).tolist() == [1]
    result = cascade_decisions.summary(found, np.array([0]))
    assert result["verified_as_received"] == result["clean_accuracy"] == 1.0
    assert result["certified_by_all_stages"] == 0.0
    moved = [predicted(model, [attacked]) for model in stages]
    assert cascade_decisions.deciding_stages(moved).tolist() == [0]
    assert cascade_decisions.summary(moved, np.array([0]))["clean_accuracy"] == 0.0


def test_certified_by_all_stages_is_a_bound_under_attack():
    stages = [threshold(1.0, -0.35), threshold(1.0, -0.6)]
    values = np.linspace(0.0, 1.0, 41)
    found = [predicted(model, values, size=41) for model in stages]
    by_all = [one.certified & (one.labels == 0) for one in found]
    is_safe = np.logical_and(*by_all)
    assert 0 < is_safe.sum() < len(values)
    around = values[is_safe][:, None] + np.linspace(-0.1, 0.1, 41)
    around = np.clip(around, 0.0, 1.0).ravel()
    moved = [predicted(model, around, size=500) for model in stages]
    right = cascade_decisions.summary(moved, np.zeros(len(around)))
    assert right["clean_accuracy"] == 1.0
    # Neither stage decides all of them.
    assert set(cascade_decisions.deciding_stages(moved)) == {0, 1}


def test_evaluation(trained, tmp_path, capsys):
    arguments = [f"--model={trained}", "--epsilon=0.02", "--count=150"]
    status = launch(tmp_path / "out", *arguments, module=evaluation_program)
    assert status is None
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    (record,) = result["cascades"]
    assert result["models"] == [] and "family" not in result
    test = Data("digits").load("test").select(slice(150))
    found = [certified_by_labels(trained / f"stage_{n}", test) for n in (1, 2)]
    wanted = cascade_decisions.summary(found, test.labels)
    names = ("examples", "clean_accuracy", "verified_as_received")
    names += ("certified_by_all_stages",)
    assert {name: record[name] for name in names} == {n: wanted[n] for n in names}
    for stage, counts, kept_of in zip(
        record["stages"], wanted["stages"], kept(trained)["trained"], strict=True
    ):
        assert stage == counts | {
            "name": kept_of["name"],
            "trained_on": kept_of["examples"],
        }
    assert 0.0 < record["certified_by_all_stages"] < record["verified_as_received"]
    assert "no bound on the error under attack" in record["note"]
    assert not {"certified_accuracy", "certified_by"} & set(record)
    shown = capsys.readouterr().out
    assert "verified as received" in shown and "bound by all stages" in shown
    assert evaluate.dataset_of(trained) == "digits"
    assert evaluate.members_of(trained) == [trained]
    check_reports(record, tmp_path / "out")


def check_reports(record, folder):
    lines = cascade_tables.render([record, record]).splitlines()
    names = ("clean_accuracy", "verified_as_received", "certified_by_all_stages")
    errors = [100.0 * (1.0 - record[name]) for name in names]
    (row, _) = [line for line in lines if "CROWN-IBP" in line]
    assert row.split()[-3:] == [f"{error:.2f}" for error in errors]
    assert any("NO bound on the error under attack" in line for line in lines)
    measured = experiment_tables.measured(folder)
    assert 100.0 * measured["verified"] == pytest.approx(errors[1])
    assert f"as received ({errors[2]:.2f} by all stages)" in measured["by"]


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        (lambda f: change(f, is_done=False), "not trained to the end"),
        (
            lambda f: (f / "stage_2" / "model.keras").unlink(),
            "lacks the model.*stage_2",
        ),
        (
            lambda f: shutil.copy(f / "stage_1/model.keras", f / "stage_2/model.keras"),
            "Stage 'stage_2' .* is not the model",
        ),
        (lambda f: (f / "cascade.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / "cascade.json").write_text("{}"), "no record of a cascade"),
    ],
)
def test_what_is_not_whole_is_not_evaluated(copy, breakage, message):
    breakage(copy)
    options = {"data": Data("digits"), "threat": THREAT}
    with pytest.raises(rt.InputError, match=message):
        evaluate.evaluate(None, models=[str(copy)], **options)


def test_what_takes_single_models_refuses_cascades(trained, tmp_path):
    options = {"data": Data("digits"), "threat": THREAT, "exact": Exact()}
    with pytest.raises(rt.InputError, match="single models. Received: the cascade"):
        evaluate.evaluate(tmp_path / "new", models=[str(trained)], **options)
    with pytest.raises(rt.InputError, match="single ones here. Received: the cascade"):
        evaluate.load_all([str(trained)], Data("digits"), Examples())


POSITIONS = {
    "float": ([0.0, 1.0], "int64"),
    "table": (np.zeros((1, 1), np.int64), "int64"),
    "empty": (np.zeros(0, np.int64), "at least one"),
    "descending": (np.array([5, 3]), r"ascending order, each once. Received: \[5, 3\]"),
    "twice": (np.array([1, 4, 4]), r"each once. Received: \[4, 4\]"),
    "negative": (np.array([-1, 4]), "from 0 to 1436"),
    "too_large": (np.array([0, 1437]), "from 0 to 1436.*from 0 to 1437"),
}


@pytest.mark.parametrize("case", POSITIONS)
def test_positions_are_checked_when_written_and_when_read(tmp_path, case):
    positions, message = POSITIONS[case]
    images = Data("digits").load("train")
    with pytest.raises(rt.InputError, match=message):
        subset.packed(images, positions, [])
    path = tmp_path / "examples.npz"
    fields = {"digest": images.digest, "split": "train", "models": np.array(["a"])}
    np.savez(path, positions=positions, **fields)
    with pytest.raises(rt.InputError, match=message):
        Data("digits", subset=str(path)).load("train")


def test_files_of_other_images_are_refused(tmp_path):
    images, path = Data("digits").load("train"), tmp_path / "examples.npz"
    path.write_bytes(subset.packed(images, np.array([2, 9]), ["a", "b"]))
    data = Data("digits", subset=str(path))
    assert data.load("train").digest != images.digest
    np.testing.assert_array_equal(data.load("train").labels, images.labels[[2, 9]])
    assert len(data.load("test")) == 360
    path.write_bytes(subset.packed(images.select(slice(20)), np.array([2]), []))
    with pytest.raises(rt.InputError, match="chosen from other images or labels"):
        data.load("train")
    path.write_text("nothing")
    with pytest.raises(rt.InputError, match="no file of chosen examples"):
        data.load("train")
    with pytest.raises(rt.InputError, match="no file of chosen examples"):
        subset.read(tmp_path / "none.npz")
    with pytest.raises(rt.InputError, match="chosen examples have none"):
        Data("digits", subset="a", soft_targets="b")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": 0}, "`stages` of a cascade must be a whole number of at least 1"),
        ({"stages": 2.0}, "Received: 2.0"),
        ({"method": "crown_ibp"}, "must be one of .*Received: 'crown_ibp'"),
        ({"relaxation": "none"}, "`relaxation` of a cascade"),
        ({"memory_budget_mb": 0.0}, "above 0, or None"),
        ({"batch_size": 0}, "`batch_size` of a cascade"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(rt.InputError, match=message):
        cascade.Cascade(**settings)


BINDINGS = {
    "soft_targets": ("settings.Data.soft_targets = 'a.npz'", "Data.soft_targets`"),
    "subset": ("settings.Data.subset = 'a.npz'", "Data.subset`. Leave it out"),
    "best": ("settings.Run.keep = 'best'", "keep the last weights"),
    "stages": ("cascade.Cascade.stages = 0", "`stages` of a cascade"),
    "batch_size": ("settings.Data.batch_size = 2000", "1437 examples.* 2000"),
}


@pytest.mark.parametrize("case", BINDINGS)
def test_what_no_cascade_can_be_trained_with(tmp_path, capsys, case):
    binding, message = BINDINGS[case]
    share = "--gin_param=settings.Data.validation_share = 0.2"
    options = [share] if case == "best" else []
    status = launch(tmp_path / "new", f"--gin_param={binding}", *options)
    assert status == command_line.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert all(part in error for part in message.split(".*")), error


TEXTS = {
    "smoothing": (
        DIGITS.replace("methods/ibp", "methods/gaussian"),
        ["--gin_param=robust_tf.objectives.noise.Noise.sigma = 0.25"],
        "to be smoothed has none. Received: the objective 'gaussian'",
    ),
    "family": (
        DIGITS + "from robust_tf.experiments import family\n"
        "family.Family.members = (('a', @cnn.mlp),)\n",
        [],
        "one architecture, and a family has many",
    ),
    "model_subset": (DIGITS, ["--model_subset=0"], "a configuration of one cascade"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_configurations_that_no_cascade_can_have(tmp_path, capsys, case):
    text, arguments, message = TEXTS[case]
    status = launch(tmp_path / "new", *arguments, text=text)
    assert status == command_line.EXIT_BAD_INPUT
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_several_workers_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cascade, "count_workers", lambda: 2)
    assert launch(tmp_path / "new") == command_line.EXIT_BAD_INPUT
    assert "trained by one worker. Received: 2" in capsys.readouterr().err


def test_folders_of_something_else_are_refused(copy, capsys):
    before = kept(copy)
    assert launch(copy, "--epsilon=0.03") == command_line.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert "belongs to another cascade" in error
    assert "only there: regions.Threat.epsilon = 0.02" in error
    assert "only here: regions.Threat.epsilon = 0.03" in error
    fewer = "--gin_param=cascade.Cascade.stages = 1"
    assert launch(copy, fewer) == command_line.EXIT_BAD_INPUT
    assert "has 2 trained stages. Received: stages = 1" in capsys.readouterr().err
    head, _, tail = DIGITS.partition("cascade.Cascade:")
    plain = head.replace("cascade\n", "settings\n", 1) + tail.partition("'\n")[2]
    assert launch(copy, text=plain) == command_line.EXIT_BAD_INPUT
    assert "holds a cascade, and the configuration is of none" in (
        capsys.readouterr().err
    )
    assert kept(copy) == before
    assert launch(copy / "stage_1") == command_line.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert "holds another run, and no cascade" in error and "model.keras" in error


def test_a_refused_call_leaves_no_cascade(tmp_path, capsys):
    """Another configuration may take the folder that the first one was refused for."""
    folder = tmp_path / "run"
    wrong = "--gin_param=settings.Data.batch_size = 100000"
    assert launch(folder, wrong) == command_line.EXIT_BAD_INPUT
    capsys.readouterr()
    assert kept(folder)["trained"] == []
    record = kept(folder) | {"configuration": ["another = 1"]}
    assert cascade_folder.accepted(folder, record) == record
    (folder / "stage_1" / "checkpoints").mkdir(parents=True)
    with pytest.raises(rt.InputError, match="belongs to another cascade"):
        cascade_folder.accepted(folder, record)


def test_a_stage_is_a_run_that_replays(trained):
    """Its own configuration names its examples and its seed, and no cascade."""
    folder = trained / "stage_2"
    config = (folder / "operative_config.gin").read_text().replace("\\\n    ", "")
    assert f"Data.subset = '{folder.resolve() / 'examples.npz'}'" in config
    assert f"Run.seed = {family.seed_of(0, 'stage_2')}" in config
    assert "Cascade" not in config
    assert (folder / "summary.json").is_file()
