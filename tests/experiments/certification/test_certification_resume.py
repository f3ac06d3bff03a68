"""Runs that were cut off go on; records of something else are refused."""

import json

import pytest

import robust_tf as rt
from robust_tf import files
from robust_tf.experiments.settings import Examples
from tests.experiments.certification.cases import COUNT
from tests.experiments.certification.cases import COUNTS
from tests.experiments.certification.cases import TABLE
from tests.experiments.certification.cases import certify
from tests.experiments.certification.cases import copy
from tests.experiments.certification.cases import lines
from tests.experiments.certification.cases import rows
from tests.experiments.certification.cases import save
from tests.experiments.certification.cases import timeless
from tests.experiments.certification.cases import truncate

HALF_ROW = b"38\t7\t7\t0.31\t1\t0:00:0"
HALF_LINE = b'{"idx": 38, "lab'


@pytest.mark.parametrize(
    ("table", "counts"), [(0, 0), (1, 0), (1, 1), (4, 6), (6, 4), (COUNT, COUNT)]
)
@pytest.mark.parametrize("half", [True, False])
def test_a_run_that_was_cut_off_goes_on(
    quick, tmp_path, path, whole, table, counts, half, caplog
):
    """From the last whole line that both files have."""
    folder, expected = whole
    copy(folder, tmp_path)
    truncate(tmp_path / TABLE, table + 1, HALF_ROW if half else b"")
    truncate(tmp_path / COUNTS, counts, HALF_LINE if half else b"")
    summary = certify(tmp_path, path)
    assert rows(tmp_path) == rows(folder)
    assert timeless(lines(tmp_path)) == timeless(lines(folder))
    assert timeless(summary) == timeless(expected)
    kept = min(table, counts)
    old = (folder / TABLE).read_bytes().split(b"\n")[: kept + 1]
    assert (tmp_path / TABLE).read_bytes().split(b"\n")[: kept + 1] == old
    assert ("half-written last line of" in caplog.text) == half
    assert ("Dropped 2 example(s) at the end" in caplog.text) == (table in (4, 6))


@pytest.mark.parametrize("name", [TABLE, COUNTS])
def test_a_last_line_without_its_end(quick, tmp_path, path, whole, name):
    """The line break alone is missing."""
    copy(whole[0], tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-1])
    certify(tmp_path, path)
    assert rows(tmp_path) == rows(whole[0])
    assert timeless(lines(tmp_path)) == timeless(lines(whole[0]))


def test_half_a_header(quick, tmp_path, path, whole):
    (tmp_path / TABLE).write_bytes(b"idx\tlab")
    certify(tmp_path, path)
    assert rows(tmp_path) == rows(whole[0])


@pytest.mark.parametrize("at", ["append_json_line", "write_atomically"])
def test_a_kill_after_some_examples(quick, tmp_path, path, whole, monkeypatch, at):
    """Before either of the two files is written."""
    calls = []
    original = getattr(files, at)

    def stop(*arguments):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(arguments)
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(files, at, stop)
        with pytest.raises(KeyboardInterrupt):
            certify(tmp_path, path)
    assert 0 < len(rows(tmp_path)) - 1 < COUNT
    assert not (tmp_path / "certification_summary.json").exists()
    assert timeless(certify(tmp_path, path)) == timeless(whole[1])
    assert rows(tmp_path) == rows(whole[0])
    assert timeless(lines(tmp_path)) == timeless(lines(whole[0]))


def test_a_finished_run_changes_nothing(quick, tmp_path, path, whole, monkeypatch):
    folder, expected = whole
    copy(folder, tmp_path)
    before = (folder / TABLE).read_bytes(), (folder / COUNTS).read_bytes()
    assert certify(tmp_path, path) == expected
    after = (tmp_path / TABLE).read_bytes(), (tmp_path / COUNTS).read_bytes()
    assert after == before
    names = ("certification.mat", "certification_summary.json")
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_more_examples_go_on_with_what_is_there(quick, tmp_path, path, whole):
    for count in (2, COUNT, 3):  # Fewer than on record: all of them stay.
        summary = certify(tmp_path, path, count)
    assert timeless(summary) == timeless(whole[1])
    assert rows(tmp_path) == rows(whole[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": True}, "another model. Received: model_digest"),
        ({"examples": Examples("train", 27)}, "another data set. Received: data_dig"),
        ({"sigma": 0.5}, "another sigma. Received: sigma 0.5, recorded is 0.3"),
        ({"n": 300}, "another n. Received: n 300, recorded is 250"),
        ({"n0": 40}, "another n0. Received: n0 40, recorded is 30"),
        ({"alpha": 0.001}, "another alpha. Received: alpha 0.001, recorded is 0.01"),
        ({"seed": 1, "n0": 9}, "another n0 and another seed.*another --workdir"),
        ({"sampling": {"full": True}}, "another mode. Received: mode full, recorded"),
        ({"sampling": {"block_size": 50}}, "another block_size"),
        ({"sampling": {"noise": "quantised gaussian"}}, "another noise"),
        ({"skip": 4}, "other examples. Received: row 2 is example 30, not 31"),
        ({"examples": Examples(start=28)}, "row 1 is example 27, not 28"),
    ],
)
def test_records_of_something_else_are_refused(
    quick, tmp_path, path, whole, change, message
):
    copy(whole[0], tmp_path)
    before = (tmp_path / TABLE).read_bytes(), (tmp_path / COUNTS).read_bytes()
    if "model" in change:
        path, change = save(tmp_path / "other.keras", seed=1, epochs=1), {}
    with pytest.raises(rt.InputError, match=message):
        certify(tmp_path, path, **change)
    assert before == ((tmp_path / TABLE).read_bytes(), (tmp_path / COUNTS).read_bytes())


def test_files_that_do_not_belong_together(quick, tmp_path, path, whole):
    copy(whole[0], tmp_path)
    text = (tmp_path / TABLE).read_text().split("\n")
    cells = text[2].split("\t")
    changed = "\t".join([*cells[:3], repr(float(cells[3]) + 0.25), *cells[4:]])
    (tmp_path / TABLE).write_text("\n".join([*text[:2], changed, *text[3:]]))
    with pytest.raises(rt.InputError, match="contradict each other.*example 30"):
        certify(tmp_path, path)
    copy(whole[0], tmp_path)
    (tmp_path / COUNTS).unlink()
    with pytest.raises(rt.InputError, match="14 example.*Received: no certification_c"):
        certify(tmp_path, path)
    copy(whole[0], tmp_path)
    (tmp_path / TABLE).unlink()
    with pytest.raises(rt.InputError, match="14 example.*Received: no certification.t"):
        certify(tmp_path, path)


def test_broken_lines_in_the_middle_are_named(quick, tmp_path, path, whole):
    copy(whole[0], tmp_path)
    content = (tmp_path / COUNTS).read_bytes()
    (tmp_path / COUNTS).write_bytes(b"{broken\n" + content)
    with pytest.raises(rt.InputError, match="Line 1 of .*certification_counts.jsonl"):
        certify(tmp_path, path)
    (tmp_path / COUNTS).write_bytes(b'{"idx": 27}\n' + content)
    with pytest.raises(rt.InputError, match="Line 1 of .* is no record of certificati"):
        certify(tmp_path, path)
    (tmp_path / COUNTS).write_bytes(content)
    table = (tmp_path / TABLE).read_bytes()
    (tmp_path / TABLE).write_bytes(table.replace(b"\n30\t", b"\nten\t"))
    with pytest.raises(rt.InputError, match="Line 3 of .*certification.tsv"):
        certify(tmp_path, path)


def test_records_hold_digests(whole):
    (first, *_), summary = lines(whole[0]), whole[1]
    assert first["model_digest"] == summary["model_digest"]
    assert first["data_digest"] == summary["data_digest"]
    assert len(json.dumps(first["model_digest"])) == 66
