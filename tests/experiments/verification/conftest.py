"""Runs that several files of tests look at."""

import functools

import gin
import pytest
from absl import flags

from bin import verify as program
from robust_tf import files
from robust_tf.experiments import command_line
from robust_tf.experiments import verification
from robust_tf.verification.verify import Verifier
from tests.experiments.verification.cases import Scripted
from tests.experiments.verification.cases import lines
from tests.experiments.verification.cases import save
from tests.experiments.verification.cases import verify


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model") / "model.keras")


@pytest.fixture(scope="module")
def verifier_of(path):
    """One verifier for each plan: tracing its graphs takes longer than the work."""
    return functools.cache(lambda plan: Verifier(path, plan))


@pytest.fixture
def quick(monkeypatch, verifier_of):
    monkeypatch.setattr(verification, "Verifier", lambda _, plan: verifier_of(plan))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, path):
    """The records and the summary of a run without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, verify(folder, path)


@pytest.fixture
def shard_folders(tmp_path, whole):
    """Two folders made from the records of the whole run."""
    folder, _ = whole
    folders = [tmp_path / "a", tmp_path / "b"]
    for place, target in enumerate(folders):
        (target / "counterexamples").mkdir(parents=True)
        for file in (*folder.glob("*.json"), *folder.glob("counterexamples/*")):
            (target / file.relative_to(folder)).write_bytes(file.read_bytes())
        for record in lines(folder)[place::2]:
            files.append_json_line(target / "verification.jsonl", record)
    return folders


@pytest.fixture
def scripted(monkeypatch):
    def use(script):
        verifier = Scripted(script)
        monkeypatch.setattr(verification, "Verifier", verifier)
        return verifier

    return use


@pytest.fixture
def launch(monkeypatch):
    """A function that runs `bin/verify.py` in this process, and returns the status."""

    def run(*arguments):
        values = flags.FlagValues()
        program.define_flags(values)
        command_line.parse_flags(["verify.py", *arguments], values)
        monkeypatch.setattr(program, "_FLAGS", values)
        return command_line.guarded(program.main, ["verify.py"])

    yield run
    gin.clear_config()
