"""Flags, exit status, and the record of the environment."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from absl import app
from absl import flags
from absl.testing import parameterized

from robust_tf import files
from robust_tf.errors import InputError
from robust_tf.experiments import command_line

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import sys
from robust_tf.errors import InputError
from robust_tf.experiments import command_line

def main(argv):
    mode = command_line.flags.FLAGS.workdir
    if mode == "bad":
        raise InputError("`radius` must be at least 0. Received: -1")
    if mode == "fails":
        raise ZeroDivisionError("a failure of the run")

command_line.define_common_flags()
command_line.run(main, required=["workdir"])
"""


class EpsilonTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("number", "0.1", 0.1),
        ("fraction", "8/255", 8 / 255),
        ("spaces", " 8 / 255 ", 8 / 255),
        ("exponent", "1e-3", 1e-3),
        ("zero", "0", 0.0),
        ("whole", "2", 2.0),
    )
    def test_parses(self, text, expected):
        self.assertEqual(command_line.parse_epsilon(text), expected)

    @parameterized.parameters(
        "", "junk", "8/255px", "8/0", "0/0", "nan", "inf", "-0.1", "-8/255", "8/-255",
        "1/inf", "nan/1", "1/2/3", "/", "8/", "/255", "1e999", "1e300/1e-300", "8//255",
    )  # fmt: skip
    def test_refuses(self, text):
        with self.assertRaisesRegex(InputError, r"`--epsilon` .* Received: .*8/255"):
            command_line.parse_epsilon(text)


class NumbersTest(parameterized.TestCase):
    def test_parses(self):
        numbers = command_line.parse_numbers("values", "0, 0.01,1e-3,1.0,-2")
        expected = {"0": 0, "0.01": 0.01, "1e-3": 1e-3, "1.0": 1.0, "-2": -2.0}
        self.assertEqual(numbers, expected)
        self.assertEqual(list(numbers), list(expected))
        self.assertIsInstance(numbers["0"], int)

    @parameterized.parameters("", ",", "1,", "a", "0.1;0.2", "nan", "inf", "8/255")
    def test_refuses(self, text):
        with self.assertRaisesRegex(InputError, r"`--values` .* Received: '"):
            command_line.parse_numbers("values", text)

    @parameterized.parameters("1,1", "0.1,0.10", "1,1.0")
    def test_each_once(self, text):
        with self.assertRaisesRegex(InputError, "each number once. Received: "):
            command_line.parse_numbers("values", text)


class FlagsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.flags = flags.FlagValues()
        command_line.define_common_flags(self.flags)

    @pytest.fixture(autouse=True)
    def _capture(self, capsys):
        self.capsys = capsys

    def test_values(self):
        rest = command_line.parse_flags(
            ["train", "--gin_file=a.gin", "--gin_file=b.gin", "--gin_param=N=[1,2]"]
            + [
                "--workdir=w",
                "--data_dir=d",
                "--seed=3",
                "--epsilon=8/255",
                "--norm=2",
            ],
            self.flags,
        )
        self.assertEqual(rest, ["train"])
        self.assertEqual(self.flags.gin_file, ["a.gin", "b.gin"])
        self.assertEqual(self.flags.gin_param, ["N=[1,2]"])
        self.assertEqual((self.flags.workdir, self.flags.data_dir), ("w", "d"))
        self.assertEqual((self.flags.seed, self.flags.norm), (3, "2"))
        self.assertEqual(self.flags.epsilon, "8/255")

    def test_defaults_leave_it_to_the_configuration(self):
        command_line.parse_flags(["train"], self.flags)
        self.assertEqual((self.flags.gin_file, self.flags.gin_param), ([], []))
        for name in ("workdir", "data_dir", "seed", "epsilon", "norm"):
            self.assertIsNone(self.flags[name].value)

    def test_the_seed_is_that_of_what_the_program_names(self):
        command_line.parse_flags(["train", "--seed=3"], self.flags)
        self.assertEqual(
            command_line.bindings(self.flags),
            ["robust_tf.experiments.settings.Run.seed = 3"],
        )
        self.assertEqual(
            command_line.bindings(self.flags, ["a.seed", "b.seed"]),
            ["robust_tf.a.seed = 3", "robust_tf.b.seed = 3"],
        )

    def test_all_say_what_they_mean(self):
        for name in self.flags:
            self.assertGreater(len(self.flags[name].help), 30)

    @parameterized.named_parameters(
        ("unknown", ["--gin_fil=a"], "gin_fil.*gin_file"),
        ("value", ["--seed=x"], "--seed=x"),
        ("missing", [], "workdir must have a value"),
    )
    def test_mistakes_end_with_status_2(self, argv, message):
        flags.mark_flag_as_required("workdir", self.flags)
        with self.assertRaises(SystemExit) as context:
            command_line.parse_flags(["train", *argv], self.flags)
        self.assertEqual(context.exception.code, 2)
        self.assertRegex(self.capsys.readouterr().err, f"(?s){message}")

    def test_help_ends_with_status_0(self):
        class Help(flags.BooleanFlag):
            def parse(self, arg):
                del arg
                sys.exit(1)

        flags.DEFINE_flag(Help("help", False, "Help."), self.flags)
        with self.assertRaises(SystemExit) as context:
            command_line.parse_flags(["train", "--help"], self.flags)
        self.assertEqual(context.exception.code, 0)


class GuardedTest(parameterized.TestCase):
    @pytest.fixture(autouse=True)
    def _capture(self, capsys):
        self.capsys = capsys

    def test_the_status_is_what_the_program_returns(self):
        self.assertEqual(command_line.guarded(len, ["train"]), 1)

    @parameterized.named_parameters(
        ("input", InputError("what to do"), 2, "what to do"),
        ("usage", app.UsageError("two flags"), 2, "two flags"),
        ("interrupt", KeyboardInterrupt(), 130, "Interrupted."),
    )
    def test_one_message(self, error, status, message):
        def main(argv):
            raise error

        self.assertEqual(command_line.guarded(main, ["train"]), status)
        text = self.capsys.readouterr().err
        self.assertEndsWith(text, f": {message}\n")
        self.assertEqual(text.count("\n"), 1)

    def test_unexpected_arguments(self):
        status = command_line.guarded(self.fail, ["train", "a", "b"])
        self.assertEqual(status, 2)
        self.assertIn("Unexpected arguments: a b.", self.capsys.readouterr().err)

    def test_failures_pass_through(self):
        def main(argv):
            raise ValueError("a failure of the run")

        with self.assertRaisesRegex(ValueError, "a failure"):
            command_line.guarded(main, ["train"])


class EnvironmentTest(parameterized.TestCase):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path, monkeypatch):
        self.folder, self.monkeypatch = tmp_path, monkeypatch

    def test_record(self):
        record = command_line.environment(["bin/train.py", "--seed=1"])
        files.write_json(self.folder / "environment.json", record)
        record = json.loads((self.folder / "environment.json").read_text())
        self.assertEqual(record["command_line"], ["bin/train.py", "--seed=1"])
        self.assertContainsSubset(
            {"robust_tf", "python", "tensorflow", "keras", "numpy"}, record["versions"]
        )
        self.assertIn("CPU", record["devices"][0]["name"])
        self.assertNotEmpty(record["platform"])

    def test_no_git_is_no_failure(self):
        def fail(*args, **kwargs):
            raise FileNotFoundError("git")

        self.monkeypatch.setattr(subprocess, "run", fail)
        self.assertIsNone(command_line.environment([])["commit"])


@pytest.mark.parametrize(
    ("argument", "status", "shown", "hidden"),
    [
        ("--workdir=bad", 2, "-c: `radius` must be at least 0.", "Traceback"),
        ("--workdir=fails", 1, "ZeroDivisionError: a failure of the run", "-c: "),
        ("--help", 0, "", "Traceback"),
    ],
)
def test_program(argument, status, shown, hidden):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, argument],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == status, done.stderr
    assert shown in done.stderr
    assert hidden not in done.stderr
    # The shared flags are shown as the program's own.
    assert (argument == "--help") == ("--epsilon" in done.stdout)


def test_installed_scripts_show_the_help_of_their_program():
    """A console script only imports the program and calls its `run`."""
    script = "import sys; from bin.train import run; sys.exit(run())"
    done = subprocess.run(
        [sys.executable, "-c", script, "--help"],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Trains what the gin files describe" in done.stdout
    assert "--gin_file" in done.stdout and "--workdir" in done.stdout
