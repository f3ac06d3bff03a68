"""Robust error from below and from above, against what the files beside it say."""

import dataclasses
import json

import gin
import keras
import numpy as np
import pytest
from absl import flags

import robust_tf as rt
from bin import evaluate as program
from robust_tf import data as datasets
from robust_tf import files
from robust_tf import matlab
from robust_tf.attacks.pgd import PGD
from robust_tf.errors import InputError
from robust_tf.experiments import command_line
from robust_tf.experiments import robust_error
from robust_tf.experiments import verification
from robust_tf.experiments.evaluate import evaluate
from robust_tf.experiments.settings import Bounds
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Exact
from robust_tf.experiments.settings import Examples
from robust_tf.regions import Threat
from robust_tf.report import tables
from robust_tf.verification import stages
from robust_tf.verification.plan import Plan
from robust_tf.verification.result import ContradictionError

EPSILON, START, COUNT = 0.05, 4, 30
PLAN = Plan(
    (
        stages.Clean(),
        stages.Attack(PGD(steps=10)),
        stages.ConvexAdversarial(),
    ),
    batch_size=COUNT,
)
EXACT = Exact(PLAN, timeout_s=60.0, distance_limit=0.2, distance_steps=6)
PASSING = ("seconds", "seconds_per_example")


def train(path, seed=0, epochs=4, pool=False):
    """Few epochs: some digits are misclassified, some are proved, some are left."""
    keras.utils.set_random_seed(seed)
    tensor = inputs = keras.Input((8, 8, 1))
    if pool:
        tensor = keras.layers.MaxPooling2D(2)(tensor)
    tensor = keras.layers.Flatten()(tensor)
    tensor = keras.layers.Dense(16, activation="relu")(tensor)
    model = keras.Model(inputs, keras.layers.Dense(10)(tensor))
    images = datasets.load("digits", "train")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.005), loss)
    model.fit(images.floats(), images.labels, epochs=epochs, verbose=0)
    model.save(path)
    return str(path)


def measure(workdir, *paths, **more):
    """All records of an evaluation."""
    arguments = {
        "data": Data("digits"),
        "threat": Threat(EPSILON),
        "examples": Examples(start=START, count=COUNT),
        "bounds": Bounds(()),
        "exact": EXACT,
    }
    return evaluate(workdir, models=paths, **(arguments | more))["models"]


def timeless(found):
    return {key: value for key, value in found.items() if key not in PASSING}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return train(tmp_path_factory.mktemp("model") / "model.keras")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, path):
    """A folder of a run without interruption, and its record."""
    folder = tmp_path_factory.mktemp("whole")
    (record,) = measure(folder, path)
    return folder, record


@pytest.fixture
def copied(tmp_path, whole):
    """A folder with the same content, to go on from."""
    for file in whole[0].rglob("*"):
        if file.is_file():
            target = tmp_path / file.relative_to(whole[0])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return tmp_path


@pytest.fixture
def idle(monkeypatch):
    """Fails where anything is computed anew."""

    def refuse(*_args, **_options):
        raise AssertionError("computed anew")

    monkeypatch.setattr(robust_error, "_block_distances", refuse)
    monkeypatch.setattr(verification.Verifier, "verify", refuse)


def lines(folder, name):
    found = files.read_json_lines(folder / "exact" / name)
    return {line["index"]: line for line in found}


def rewrite(file, change):
    """Each line of a file after `change`."""
    found = files.read_json_lines(file)
    file.unlink()
    for line in found:
        files.append_json_line(file, change(line))


def counted(folder):
    """Errors, from records and distances one after the other."""
    records = lines(folder, "verification.jsonl")
    distances = lines(folder, "distances.jsonl")
    assert sorted(records) == sorted(distances) == list(range(START, START + COUNT))
    names = ("clean_error", "pgd_error", "lower_bound", "upper_bound", "undecided")
    names += ("upper_bound_without_tolerance", "convex_upper_bound")
    found = dict.fromkeys((*names, "region_upper_bound"), 0)
    for index, one in records.items():
        is_unsafe, is_proved = (
            one["verdict"] == verdict for verdict in ("FALSIFIED", "VERIFIED")
        )
        found["clean_error"] += one["prediction"] != one["label"]
        found["pgd_error"] += is_unsafe and one["method"] in ("clean", "attack")
        found["lower_bound"] += is_unsafe
        found["upper_bound"] += not is_proved
        found["undecided"] += not (is_proved or is_unsafe)
        is_firm = is_proved and one["claim"] == "float64-sound"
        found["upper_bound_without_tolerance"] += not is_firm
        for name in ("convex", "region"):
            is_within = distances[index][name] <= EPSILON
            found[f"{name}_upper_bound"] += is_within
            assert is_within or not is_unsafe
    return found


def check_counts(folder, found):
    for name, count in counted(folder).items():
        assert found[name] == pytest.approx(count / COUNT, abs=1e-6), name
    assert 0.0 < found["clean_error"] < found["pgd_error"] <= found["lower_bound"]
    assert found["lower_bound"] <= found["upper_bound"] < 1.0
    assert found["convex_upper_bound"] < 1.0
    assert found["examples"] == COUNT


def test_counts(whole):
    folder, record = whole
    found = record["robust_error"]
    assert found == json.loads((folder / "exact" / "robust_error.json").read_text())
    check_counts(folder, found)
    assert record["examples"] == len(datasets.load("digits", "test"))


def test_counts_of_every_kind(copied, path, idle):
    """An attack by restarts, a proof within a tolerance, and one that is missing."""
    known = lines(copied, "verification.jsonl").values()
    attacked = [one["index"] for one in known if one["method"] == "attack"]
    proved = [one["index"] for one in known if one["verdict"] == "VERIFIED"]
    changes = {
        attacked[0]: {"method": "attack-restarts"},
        proved[0]: {"method": "milp", "claim": "tolerance"},
        proved[1]: {"verdict": "UNKNOWN", "method": None, "claim": None},
    }
    rewrite(
        copied / "exact" / "verification.jsonl",
        lambda line: line | changes.get(line["index"], {}),
    )
    (record,) = measure(copied, path)
    found = record["robust_error"]
    check_counts(copied, found)
    one = pytest.approx(1.0 / COUNT, abs=2e-6)
    assert found["lower_bound"] - found["pgd_error"] == one
    assert found["upper_bound_without_tolerance"] - found["upper_bound"] == one
    assert found["undecided"] > 0.0


def test_points_of_each_example(whole):
    folder, record = whole
    found, known = record["robust_error"], lines(folder, "distances.jsonl")
    points = matlab.read_arrays(folder / "exact" / "robust_error.mat")
    names = [field.name for field in dataclasses.fields(robust_error.Points)]
    assert sorted(points) == sorted(names)
    assert all(value.shape == (1, COUNT) for value in points.values())
    rows = {name: value[0] for name, value in points.items()}
    assert rows["index"].tolist() == sorted(known)
    for name in ("convex", "region"):
        wanted = [known[index][name] for index in rows["index"]]
        assert rows[f"{name}_distance"].tolist() == wanted
    is_clean, is_broken = rows["is_clean"] > 0, rows["is_broken"] > 0
    assert is_broken[~is_clean].all()
    assert not (is_broken & (rows["is_robust"] > 0)).any()
    assert found["clean_error"] == pytest.approx((~is_clean).mean(), abs=1e-6)
    assert found["lower_bound"] == pytest.approx(is_broken.mean(), abs=1e-6)
    assert (rows["convex_distance"][~is_clean] == 0.0).all()


def test_a_second_call_computes_nothing(copied, path, whole, idle):
    (again,) = measure(copied, path)
    assert again["robust_error"] == whole[1]["robust_error"]


@pytest.mark.parametrize("kept", [0, 7, COUNT - 1])
def test_a_cut_file_of_distances_is_completed(copied, path, whole, kept):
    file = copied / "exact" / "distances.jsonl"
    content = file.read_bytes()
    whole_lines = content.split(b"\n")[:kept]
    file.write_bytes(b"".join(line + b"\n" for line in whole_lines) + b'{"index": 1')
    (again,) = measure(copied, path)
    assert again["robust_error"] == whole[1]["robust_error"]
    assert lines(copied, "distances.jsonl") == lines(whole[0], "distances.jsonl")


@pytest.mark.parametrize(
    "change",
    [
        {"distance_limit": 0.3},
        {"distance_limit": None},
        {"distance_steps": 5},
        {"has_regions": False},
    ],
)
def test_distances_of_another_setting_are_refused(copied, path, idle, change):
    with pytest.raises(rt.InputError, match="another model or setting.*--workdir"):
        measure(copied, path, exact=dataclasses.replace(EXACT, **change))


@pytest.mark.parametrize("name", ["model_digest", "data_digest", "norm"])
def test_distances_of_something_else_are_refused(copied, path, idle, name):
    file = copied / "exact" / "distances.jsonl"
    rewrite(file, lambda line: line | {name: "other"})
    with pytest.raises(rt.InputError, match="another model or setting"):
        measure(copied, path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("convex", "convex adversarial polytope"), ("region", "its linear region")],
)
def test_a_distance_against_a_counterexample(copied, path, idle, name, message):
    broken = [
        index
        for index, line in lines(copied, "verification.jsonl").items()
        if line["verdict"] == "FALSIFIED"
    ]
    forged = max(broken)
    file = copied / "exact" / "distances.jsonl"
    rewrite(
        file,
        lambda line: line | ({name: 0.06} if line["index"] == forged else {}),
    )
    result = copied / "exact" / "robust_error.json"
    result.unlink()
    with pytest.raises(ContradictionError, match=rf"\[{forged}\].*{message}"):
        measure(copied, path)
    assert not result.exists()


def test_a_proof_against_a_wrong_prediction(copied, path, idle):
    records = copied / "exact" / "verification.jsonl"
    proved = [
        index
        for index, line in lines(copied, "verification.jsonl").items()
        if line["verdict"] == "VERIFIED"
    ]
    forged = max(proved)

    def change(line):
        other = (line["label"] + 1) % 10
        return line | ({"prediction": other} if line["index"] == forged else {})

    rewrite(records, change)
    with pytest.raises(InputError, match=f"example {forged} is verified, but"):
        measure(copied, path)


def test_what_is_not_asked_for_is_left_out(tmp_path, path):
    exact = Exact(PLAN, has_regions=False)
    examples = Examples(start=START, count=5)
    (record,) = measure(tmp_path, path, exact=exact, examples=examples)
    missing = {"convex_upper_bound", "region_upper_bound", "mean_region_distance"}
    assert not missing & set(record["robust_error"])
    arrays = matlab.read_arrays(tmp_path / "exact" / "robust_error.mat")
    assert np.isnan(arrays["convex_distance"]).all()
    assert np.isnan(arrays["region_distance"]).all()
    with pytest.raises(rt.InputError, match="needs a `workdir`"):
        measure(None, path)
    for wrong in ({"distance_limit": 0.0}, {"distance_steps": 0}):
        with pytest.raises(rt.InputError, match=next(iter(wrong))):
            Exact(**wrong)


def test_several_models_one_without_linear_regions(tmp_path, path, capsys, caplog):
    """Folders of their own; pooling has no linear regions here, and says so."""
    pooled = train(tmp_path / "pooled.keras", 1, pool=True)
    caplog.set_level("INFO", logger="absl")
    examples = Examples(start=START, count=6)
    records = measure(tmp_path, path, pooled, examples=examples)
    assert "No distances by linear regions" in caplog.text
    for number, record in enumerate(records, 1):
        file = tmp_path / "exact" / str(number) / "robust_error.json"
        assert json.loads(file.read_text()) == record["robust_error"]
        assert record["robust_error"]["convex_upper_bound"] <= 1.0
    assert "region_upper_bound" in records[0]["robust_error"]
    assert "region_upper_bound" not in records[1]["robust_error"]
    tables.show_robust_errors(records)
    shown = capsys.readouterr().out
    for title in ("PGD", "lower", "upper", "CAP", "region", "errors in percent"):
        assert title in shown
    tables.show_robust_errors([{"name": "without"}])
    assert capsys.readouterr().out == ""


@pytest.fixture
def launch(monkeypatch):
    """A function that runs `bin/evaluate.py` in this process."""

    def run(*arguments):
        values = flags.FlagValues()
        command_line.define_common_flags(values)
        command_line.define_model_flags(values)
        command_line.parse_flags(["evaluate.py", *arguments], values)
        monkeypatch.setattr(program, "_FLAGS", values)
        assert program.main(["evaluate.py"]) is None

    yield run
    gin.clear_config()


def test_the_program_with_the_published_plan(launch, tmp_path, path, capsys):
    launch(
        f"--model={path}",
        f"--workdir={tmp_path}",
        "--dataset=digits",
        f"--epsilon={EPSILON}",
        "--count=6",
        "--gin_file=gin_configs/base/evaluate_max_margin.gin",
        "--gin_param=settings.Exact.distance_steps = 4",
    )
    (record,) = json.loads((tmp_path / "evaluation.json").read_text())["models"]
    found = record["robust_error"]
    assert found["timeout_s"] == 120.0
    assert found["undecided"] == 0.0
    assert found["lower_bound"] == found["upper_bound"]
    setting = json.loads((tmp_path / "exact/verification_setting.json").read_text())
    assert setting["stages"][:4] == [
        "clean",
        "attack",
        "convex-adversarial",
        "attack-restarts",
    ]
    assert record["examples"] == len(datasets.load("digits", "test"))
    assert "errors in percent" in capsys.readouterr().out
