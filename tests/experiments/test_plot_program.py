"""`bin/plot.py`: pictures and a table from run folders."""

import os
import pathlib
import subprocess
import sys

from absl import flags

from bin import plot as program
from robust_tf import files
from robust_tf.experiments import command_line
from robust_tf.report import results

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "bin/plot.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_draws_and_shows(tmp_path):
    folder = tmp_path / "digits"
    folder.mkdir()
    for epoch in range(2):
        record = {"epoch": epoch, "loss": 1.0, "clean_accuracy": 0.5, "epsilon": 0.1}
        record |= {"active/1": 0.5, "inactive/1": 0.25, "unstable/1": 0.25}
        files.append_json_line(folder / "metrics.jsonl", record)
    files.write_json(folder / "summary.json", {"clean_accuracy": 0.5, "epsilon": 0.1})
    done = run(f"--run={folder}", f"--out={tmp_path / 'a' / 'b'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tmp_path / "a" / "b" / "results.txt").read_text()
    assert done.stdout.split("\n")[3].split() == ["digits", "0.1", "50.00"]
    for name in ("training_curves.png", "neuron_shares_digits.png"):
        picture = (tmp_path / "a" / "b" / name).read_bytes()
        assert picture.startswith(b"\x89PNG")


def test_bad_input_ends_with_status_2(tmp_path):
    done = run(f"--run={tmp_path / 'none'}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 2, done.stderr
    assert "plot.py: `--run` must name a folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_folders_of_verification(tmp_path):
    folder = tmp_path / "verified"
    folder.mkdir()
    for index, verdict in enumerate(("UNKNOWN", "FALSIFIED")):
        record = {"index": index, "verdict": verdict, "seconds": 0.5}
        files.append_json_line(folder / "verification.jsonl", record)
    retried = {"index": 0, "verdict": "VERIFIED", "seconds": 2.5}
    files.append_json_line(folder / "verification.jsonl", retried)
    found = results.read_verification(folder)
    assert found is None  # It has not ended.
    summary = {
        "dataset": "digits",
        "epsilon": 0.1,
        "norm": "inf",
        "examples": 20,
        "verdicts": dict.fromkeys(
            ["VERIFIED", "FALSIFIED", "UNKNOWN", "TIMEOUT", "ERROR"], 4
        ),
        "clean_accuracy": 0.8,
        "attacked_accuracy": 0.8,
        "certified_accuracy": 0.2,
        "certified_accuracy_with_tolerance": 0.2,
        "certified_after": {"clean": 0.0, "ibp": 0.2},
        "verified_by": {"clean": 0, "ibp": 4},
        "falsified_by": {"clean": 4, "ibp": 0},
        "seconds": {"mean": 1.5, "median": 0.25, "max": 12.0},
    }
    files.write_json(folder / "verification_summary.json", summary)
    records, summary = results.read_verification(folder)
    assert records[0] == retried and len(records) == 2
    assert summary["clean_accuracy"] == 0.8
    done = run(f"--run={folder}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tmp_path / "out" / "verification.txt").read_text()
    for name in ("decided_over_time", "accuracy_by_stage", "verdicts"):
        picture = (tmp_path / "out" / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
    assert "WARNING" not in done.stderr.replace("WARNING: All log", "")


def launch(monkeypatch, *arguments):
    """Runs the program in this process; returns its status."""
    values = flags.FlagValues()
    program.define_flags(values)
    command_line.parse_flags(["plot.py", *arguments], values)
    monkeypatch.setattr(program, "_FLAGS", values)
    return command_line.guarded(program.main, ["plot.py"])


def test_all_experiments(monkeypatch, capsys, tmp_path):
    run = tmp_path / "mnist_eps0.1_mmr_fc1"
    run.mkdir()
    files.write_json(run / "summary.json", {"clean_accuracy": 0.5, "examples": 10})
    given = (f"--run={run}", f"--out={tmp_path / 'out'}")
    assert launch(monkeypatch, "--experiments", *given) is None
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "out" / "experiments.txt").read_text()
    (line,) = [
        line
        for line in printed.splitlines()
        if line.startswith(" mnist_eps0.1_mmr_fc1 ")
    ]
    assert "2.11 / 50.00" in line


def test_flags_that_do_not_go_together(monkeypatch, capsys):
    assert launch(monkeypatch, "--experiments", "--model=a") == 2
    assert "Received: `--model` or `--log` beside it" in capsys.readouterr().err
    assert launch(monkeypatch, "--run=a") == 2
    assert "`--out` must name a folder" in capsys.readouterr().err
