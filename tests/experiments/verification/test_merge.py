"""Shards, and what joins their records."""

import json

import pytest

import robust_tf as rt
from robust_tf import files
from robust_tf.experiments.verification_merge import merge
from robust_tf.verification.result import ContradictionError
from tests.experiments.verification.cases import COUNT
from tests.experiments.verification.cases import lines
from tests.experiments.verification.cases import timeless
from tests.experiments.verification.cases import verify


@pytest.mark.parametrize("shards", [2, 3])
def test_merged_shards_equal_the_whole(quick, tmp_path, path, whole, shards):
    folders = []
    for number in range(shards, 0, -1):
        folders.append(tmp_path / str(number))
        summary = verify(folders[-1], path, shard=(number, shards))
        assert 0 < summary["examples"] < COUNT
    merged = merge(tmp_path / "all", folders)
    folder, expected = whole
    assert timeless(merged) == timeless(expected)
    assert timeless(lines(tmp_path / "all")) == timeless(lines(folder))
    points = [(f / "counterexamples") for f in (folder, tmp_path / "all")]
    one, other = ({p.name: p.read_bytes() for p in each.iterdir()} for each in points)
    assert one == other
    assert merge(tmp_path / "all", folders) == merged  # Again, over the earlier one.
    with pytest.raises(rt.InputError, match="holds records that were merged"):
        verify(tmp_path / "all", path)


def test_conflicting_shards_are_rejected(shard_folders, tmp_path, whole):
    record = next(r for r in lines(whole[0]) if r["verdict"] == "VERIFIED")
    lie = record | {"verdict": "FALSIFIED", "counterexample": "counterexamples/x.npy"}
    (holder,) = [f for f in shard_folders if record in lines(f)]
    (other,) = [f for f in shard_folders if f != holder]
    files.append_json_line(other / "verification.jsonl", lie)
    with pytest.raises(ContradictionError, match=f"Example {record['index']} is both"):
        merge(tmp_path / "all", shard_folders)
    assert not (tmp_path / "all").exists()


def test_of_several_records_one_with_an_answer_counts(shard_folders, tmp_path, whole):
    record = next(r for r in lines(whole[0]) if r["verdict"] == "VERIFIED")
    open_one = record | {"verdict": "TIMEOUT", "method": None, "claim": None}
    for folder in shard_folders:
        if record not in lines(folder):
            files.append_json_line(folder / "verification.jsonl", open_one)
    for folders in (shard_folders, shard_folders[::-1]):
        assert timeless(merge(tmp_path / "all", folders)) == timeless(whole[1])


def test_merges_that_cannot_be(shard_folders, tmp_path, whole):
    first, second = shard_folders
    with pytest.raises(rt.InputError, match=r"7 of the examples 3 to 17 have no rec"):
        merge(tmp_path / "all", [first])
    assert merge(tmp_path / "all", [first], allow_missing=True)["examples"] == 8
    with pytest.raises(rt.InputError, match="another folder than those of the shards"):
        merge(first, shard_folders)
    with pytest.raises(rt.InputError, match="which holds the records of a run"):
        merge(second, [first])
    with pytest.raises(rt.InputError, match="must name folders with verification.json"):
        merge(tmp_path / "all", [first, tmp_path])
    next((second / "counterexamples").iterdir()).unlink()
    setting = json.loads((second / "verification_setting.json").read_text())
    changed = [record | {"model_digest": "0" * 64} for record in lines(second)]
    (second / "verification.jsonl").unlink()
    for record in changed:
        files.append_json_line(second / "verification.jsonl", record)
    with pytest.raises(rt.InputError, match="another model. Received: model_digest"):
        merge(tmp_path / "new", [first, second])
    assert setting["model_digest"] != "0" * 64
    assert not (tmp_path / "new").exists()
