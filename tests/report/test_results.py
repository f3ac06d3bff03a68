"""Run folders, their names and their records."""

import json

import pytest
from absl.testing import parameterized

from robust_tf.errors import InputError
from robust_tf.report import results

RECORD = {"clean_accuracy": 0.9, "epsilon": 0.1, "certified_by": {"ibp": 0.5}}


class ResultsTest(parameterized.TestCase):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path, monkeypatch):
        self.folder = tmp_path
        monkeypatch.chdir(tmp_path)

    def make(self, path, name="summary.json", content=RECORD):
        (self.folder / path).mkdir(parents=True, exist_ok=True)
        (self.folder / path / name).write_text(json.dumps(content))
        return self.folder / path

    def test_folders_are_called_by_their_names(self):
        self.make("a/x"), self.make("a/y", "metrics.jsonl")
        self.assertEqual(list(results.run_folders(["a/x/", "a/y", "a/y"])), ["x", "y"])

    def test_or_by_their_paths_where_names_are_alike(self):
        self.make("a/x"), self.make("b/x")
        self.assertEqual(list(results.run_folders(["a/x", "b/x"])), ["a/x", "b/x"])

    @parameterized.named_parameters(
        ("missing", "none", "Received: 'none', which is no folder"),
        ("empty", "empty", "metrics.jsonl, summary.json or .* Received: 'empty'"),
    )
    def test_refuses(self, path, message):
        (self.folder / "empty").mkdir()
        with self.assertRaisesRegex(InputError, message):
            results.run_folders([path])

    @parameterized.named_parameters(
        # name, content, names of the records
        ("one", RECORD, ["run"]),
        ("list", [RECORD, RECORD | {"name": "b"}], ["run", "b"]),
        ("evaluated", {"models": [RECORD], "family": {}}, ["run"]),
        ("by_name", {"a": RECORD, "b": RECORD, "seed": 0}, ["a", "b"]),
    )
    def test_records(self, content, names):
        folder = self.make("a", "evaluation.json", content)
        records = results.read_results(folder, "run")
        self.assertEqual([record["name"] for record in records], names)
        for record in records:
            self.assertEqual(record["certified_by"], {"ibp": 0.5})

    def test_training_comes_first(self):
        self.make("a", "evaluation.json", RECORD | {"name": "later"})
        records = results.read_results(self.make("a"), "run")
        self.assertEqual([record["name"] for record in records], ["run", "later"])

    @parameterized.parameters('{"a": 1', "[1]", '{"epsilon": 0.1}', "3")
    def test_broken_files_are_named(self, text):
        folder = self.make("a")
        (folder / "summary.json").write_text(text)
        with self.assertRaisesRegex(InputError, "summary.json' (cannot|must)"):
            results.read_results(folder, "run")
