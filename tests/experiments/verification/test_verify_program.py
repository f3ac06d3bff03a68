"""`bin/verify.py` over a data set: flags, plan files, exit status."""

import json
import re

import pytest

from robust_tf import files
from robust_tf.attacks.pgd import PGD
from robust_tf.experiments import configuration
from robust_tf.experiments import verification_records as records
from robust_tf.verification import stages
from robust_tf.verification.plan import Plan
from tests.experiments.verification.cases import PLAN
from tests.experiments.verification.cases import lines

PLANS = configuration.config_root() / "plans"


def test_the_program(launch, quick, tmp_path, path, capsys):
    """A plan file, shards and their merger; flags reach the records."""
    given = (f"--model={path}", "--dataset=digits", "--epsilon=0.06", "--timeout=7")
    given += ("--gin_file=gin_configs/plans/fast.gin", "--seed=3", "--start=1")
    given += ("--count=9", "--gin_param=plan.Plan.batch_size = 5")
    given += ("--gin_param=pgd.PGD.steps = 2",)
    for number in (1, 2):
        assert (
            launch(*given, f"--workdir={tmp_path / str(number)}", f"--shard={number}/2")
            is None
        )
    assert [r["index"] for r in lines(tmp_path / "1")] == [1, 2, 3, 4]
    assert {r["timeout_s"] for r in lines(tmp_path / "1")} == {7.0}
    setting = json.loads((tmp_path / "2" / "verification_setting.json").read_text())
    assert setting["configuration"]["seed"] == 3
    assert setting["configuration"]["stages"][1]["attack"]["steps"] == 2
    assert setting["stages"] == ["clean", "attack", "ibp", "crown-ibp", "crown"]
    assert (setting["start"], setting["stop"], setting["shard"]) == (1, 10, "2/2")
    assert "timeout_s = 7.0" in (tmp_path / "1" / "verify_config.gin").read_text()
    assert json.loads((tmp_path / "1" / "verify_environment.json").read_text())
    capsys.readouterr()
    merged = [f"--merge={tmp_path / n}" for n in "12"]
    assert launch(*merged, f"--workdir={tmp_path / 'all'}") is None
    assert [r["index"] for r in lines(tmp_path / "all")] == list(range(1, 10))
    assert "CROWN-IBP" in capsys.readouterr().out


NAMED = (
    "cnn7_naive",
    "cnn7_naive_lessmem",
    "cnn7_naive_noearly",
    "cnn7_naive_noearly_upb",
    "small",
)


def test_the_plan_with_a_tree_of_maxima():
    configuration.parse([str(PLANS / "cnn7_naive_max_tree.gin")], [])
    tree = configuration.call(Plan).stages[-1]
    assert tree.name == "max-tree"
    assert tree.stages[-1].batch_size == 100


@pytest.mark.parametrize("name", NAMED)
def test_named_plans(name):
    """Branch and bound as published evaluations had it; programs at the end."""
    configuration.parse([str(PLANS / f"{name}.gin")], [])
    made = configuration.call(Plan)
    found = {stage.name: stage for stage in made.stages}
    assert found["bab"].early_terminate == (
        name in ("cnn7_naive", "cnn7_naive_lessmem")
    )
    if name == "small":
        assert made.stages[-1].name == "milp"
        return
    assert found["alpha-crown"].search.mode == "each"
    assert found["bab"].ascent.iterations == 2
    heuristic = "upb" if name.endswith("upb") else "supc"
    assert found["bab"].branching.heuristic == heuristic
    assert found["bab"].batch_size == (60 if name.endswith("lessmem") else 100)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("default", Plan()),
        ("executed", Plan(claim="executed-network")),
        ("fast", Plan((*PLAN.stages, stages.Crown()), 64)),
    ],
)
def test_plan_files(launch, name, expected):
    """Made by gin, a plan has the same digest as one made by hand."""
    assert {file.stem for file in PLANS.glob("*.gin")} == {
        "cnn7_naive_max_tree",
        "default",
        "executed",
        "fast",
        "max_margin",
        *NAMED,
    }
    configuration.parse([str(PLANS / f"{name}.gin")], [])
    if name == "fast":
        attack = stages.Attack(PGD(steps=40, restarts=1))
        changed = [attack if s.name == "attack" else s for s in expected.stages]
        expected = Plan(tuple(changed), 64)
    made = configuration.call(Plan)
    assert records.description(made) == records.description(expected)
    assert made.batch_size == expected.batch_size


def test_a_contradiction_ends_with_status_1(launch, shard_folders, tmp_path, whole):
    for record in lines(whole[0])[:1]:
        answer = {"VERIFIED": "FALSIFIED"}.get(record["verdict"], "VERIFIED")
        lie = record | {"verdict": answer, "counterexample": "x", "claim": "tolerance"}
        files.append_json_line(shard_folders[1] / "verification.jsonl", lie)
    merged = [f"--merge={folder}" for folder in shard_folders]
    assert launch(*merged, f"--workdir={tmp_path / 'all'}") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "`--model` must name one"),
        (("--model=a.keras", "--model=b.keras"), "Received: a.keras, b.keras"),
        (("--model=MODEL",), "`--workdir` must name"),
        (("--model=MODEL", "--workdir=W"), "`--epsilon` must give the radius"),
        (
            ("--model=MODEL", "--workdir=W", "--epsilon=0.1"),
            "`--dataset` must name the data set",
        ),
        (("--model=a.pt", "--workdir=W", "--dataset=digits"), "`--epsilon`"),
        (
            ("--model=a.pt", "--workdir=W", "--dataset=digits", "--epsilon=0.1"),
            "Received: 'a.pt', which does not exist",
        ),
        (("--model=MODEL", "--workdir=W", "--shard=0/3"), "`--shard` must be"),
        (("--model=MODEL", "--workdir=W", "--shard=2"), "Received: '2'"),
        (
            ("--model=MODEL", "--workdir=W", "--timeout=0"),
            "`--timeout` must be a number of seconds above 0. Received: 0",
        ),
        (
            ("--model=MODEL", "--workdir=W", "--witness=a.txt"),
            "`--witness` means nothing without --property. Received: --witness=a.txt",
        ),
        (
            ("--model=MODEL", "--property=p", "--shard=1/2"),
            "`--shard` means nothing with --property. Received: --shard=1/2",
        ),
        (("--merge=DIR", "--model=a"), "`--model` means nothing with --merge"),
        (("--merge=DIR",), "`--workdir` must name"),
        (("--merge=DIR", "--workdir=W"), "must name folders with verification.jsonl"),
        (
            (
                *("--model=MODEL", "--workdir=W", "--dataset=digits", "--epsilon=0.1"),
                "--retry=later",
            ),
            "`--retry` must name verdicts .* Received: later",
        ),
    ],
)
def test_bad_flags(launch, tmp_path, path, capsys, arguments, message):
    def filled(text):
        text = text.replace("MODEL", path).replace("=W", f"={tmp_path / 'new'}")
        return text.replace("DIR", str(tmp_path))

    assert launch(*map(filled, arguments)) == 2
    shown = capsys.readouterr().err
    assert re.search(message, shown.replace("\n", " ")), shown
    assert not (tmp_path / "new").exists()


def test_the_plan_of_maximum_margin_regularization(launch):
    configuration.parse([str(PLANS / "max_margin.gin")], [])
    made = configuration.call(Plan)
    first, again = (s for s in made.stages if s.name.startswith("attack"))
    assert [stage.name for stage in made.stages] == [
        *("clean", "attack", "convex-adversarial", "attack-restarts", "crown"),
        *("alpha-crown", "bab", "milp"),
    ]
    published = PGD(40, 1, 0.05, objective="cross_entropy", step_decay=())
    assert first.attack == published
    assert again.attack == PGD(steps=100, restarts=5)
    assert made.stages[-1].max_unstable == 200
