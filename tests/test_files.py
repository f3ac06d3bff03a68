"""Whole files and whole lines, whatever interrupts."""

import json
import os
import pathlib

import numpy as np
import pytest
from absl import logging
from absl.testing import parameterized

from robust_tf import files
from robust_tf.errors import InputError


class WriteTest(parameterized.TestCase):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path, monkeypatch):
        self.folder, self.monkeypatch = tmp_path, monkeypatch

    def test_replaces_the_content(self):
        path = self.folder / "a.txt"
        files.write_atomically(path, "old, and longer")
        files.write_atomically(str(path), b"new")
        self.assertEqual(path.read_bytes(), b"new")
        self.assertEqual(os.listdir(self.folder), ["a.txt"])

    def test_text_is_utf8(self):
        files.write_atomically(self.folder / "a.txt", "ε")
        self.assertEqual((self.folder / "a.txt").read_bytes(), "ε".encode())

    def test_a_failure_leaves_the_old_content_and_nothing_else(self):
        path = self.folder / "a.txt"
        files.write_atomically(path, "old")

        def fail(source, target):
            self.assertEqual(pathlib.Path(source).parent, path.parent)
            self.assertEqual(pathlib.Path(source).read_text(), "new")
            raise OSError("no space")

        self.monkeypatch.setattr(os, "replace", fail)
        with self.assertRaisesRegex(OSError, "no space"):
            files.write_atomically(path, "new")
        self.assertEqual(path.read_text(), "old")
        self.assertEqual(os.listdir(self.folder), ["a.txt"])

    def test_content_is_synced_before_it_gets_its_name(self):
        events = []
        sync, replace = os.fsync, os.replace
        self.monkeypatch.setattr(
            os, "fsync", lambda fd: (events.append("sync"), sync(fd))
        )
        self.monkeypatch.setattr(
            os, "replace", lambda a, b: (events.append("rename"), replace(a, b))
        )
        files.write_atomically(self.folder / "a.txt", "new")
        self.assertEqual(events, ["sync", "rename", "sync"])

    @parameterized.named_parameters(
        ("numpy_number", np.float32(0.5), "0.5"),
        ("numpy_count", np.int64(3), "3"),
        ("array", np.array([[1, 2]]), "[[1, 2]]"),
        ("path", pathlib.PurePosixPath("a/b"), '"a/b"'),
        ("nan", float("nan"), "null"),
        ("infinity_inside", {"a": [np.inf, (1.0,)]}, '{"a": [null, [1.0]]}'),
        ("nan_in_array", np.array([np.nan, 1.0]), "[null, 1.0]"),
        ("flag", True, "true"),
        ("none", None, "null"),
    )
    def test_json_conventions(self, value, expected):
        self.assertEqual(files.to_json(value), expected)

    def test_what_json_cannot_hold_is_an_error(self):
        with self.assertRaisesRegex(TypeError, "not JSON serializable"):
            files.write_json(self.folder / "a.json", {"a": object()})
        self.assertEqual(os.listdir(self.folder), [])

    def test_writes_json(self):
        files.write_json(self.folder / "a.json", {"a": 1})
        self.assertEqual(json.loads((self.folder / "a.json").read_text()), {"a": 1})


class WholeFolderTest(parameterized.TestCase):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = tmp_path

    def test_it_has_its_name_once_it_is_whole(self):
        with files.whole_folder(str(self.folder / "a")) as folder:
            folder.mkdir()
            (folder / "part.txt").write_text("1")
            self.assertFalse((self.folder / "a").exists())
        self.assertEqual((self.folder / "a" / "part.txt").read_text(), "1")
        self.assertEqual(os.listdir(self.folder), ["a"])

    def test_a_failure_leaves_nothing(self):
        full = self.assertRaisesRegex(OSError, "no space")
        with full, files.whole_folder(self.folder / "a") as folder:
            folder.mkdir()
            (folder / "part.txt").write_text("1")
            raise OSError("no space")
        self.assertEqual(os.listdir(self.folder), [])

    def test_what_is_there_is_refused_and_left(self):
        (self.folder / "a").mkdir()
        refused = self.assertRaisesRegex(InputError, "'.*a' exists already. Give")
        with refused, files.whole_folder(self.folder / "a"):
            self.fail("The block must not run.")
        self.assertEqual(os.listdir(self.folder), ["a"])

    def test_what_a_kill_left_is_removed_and_nothing_else(self):
        def killed(source, target):
            raise KeyboardInterrupt

        (self.folder / "a.tmp").write_text("mine")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", killed)
            patch.setattr(pathlib.Path, "unlink", lambda *_, **__: None)
            with self.assertRaises(KeyboardInterrupt):
                files.write_atomically(self.folder / "b.txt", "half")
        self.assertLen(os.listdir(self.folder), 2)
        files.remove_unfinished(self.folder)
        self.assertEqual(os.listdir(self.folder), ["a.tmp"])


class JsonLinesTest(parameterized.TestCase):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path, monkeypatch):
        self.path = tmp_path / "records.jsonl"
        self.warnings = []
        monkeypatch.setattr(
            logging, "warning", lambda text, *args: self.warnings.append(text % args)
        )

    def test_reads_what_was_appended(self):
        for index in range(3):
            files.append_json_line(self.path, {"index": index})
        self.assertEqual(self.path.read_text().count("\n"), 3)
        self.assertEqual(
            files.read_json_lines(self.path), [{"index": i} for i in range(3)]
        )
        self.assertEqual(self.warnings, [])

    def test_an_empty_file_holds_no_records(self):
        self.path.touch()
        self.assertEqual(files.read_json_lines(self.path), [])

    def test_every_cut_of_the_last_line_is_dropped_then_continued(self):
        first, last = b'{"a": 1}\n', b'{"b": "2"}'
        for length in range(1, len(last)):
            self.warnings.clear()
            self.path.write_bytes(first + last[:length])
            self.assertEqual(files.read_json_lines(self.path), [{"a": 1}])
            self.assertIn("half-written last line", self.warnings[0])
            files.append_json_line(self.path, {"c": 3})
            self.assertEqual(files.read_json_lines(self.path), [{"a": 1}, {"c": 3}])

    def test_a_last_line_without_its_break_is_kept(self):
        self.path.write_bytes(b'{"a": 1}\n{"b": 2}')
        self.assertEqual(files.read_json_lines(self.path), [{"a": 1}, {"b": 2}])
        files.append_json_line(self.path, {"c": 3})
        expected = [{"a": 1}, {"b": 2}, {"c": 3}]
        self.assertEqual(files.read_json_lines(self.path), expected)
        self.assertEqual(self.warnings, [])

    @parameterized.named_parameters(
        ("cut", b'{"a": 1'),
        ("no_object", b"[1]"),
        ("blank", b""),
        ("no_text", b"\xff\xfe"),
    )
    def test_a_broken_line_in_the_middle_is_an_error(self, line):
        self.path.write_bytes(b'{"a": 1}\n' + line + b'\n{"c": 3}\n')
        with self.assertRaisesRegex(InputError, "Line 2 of .*records.jsonl"):
            files.read_json_lines(self.path)

    def test_a_missing_file_is_an_error(self):
        with self.assertRaisesRegex(InputError, "no file .*records.jsonl"):
            files.read_json_lines(self.path)
