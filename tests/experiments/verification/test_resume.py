"""Runs that were cut off go on; records of something else are refused."""

import pytest

import robust_tf as rt
from robust_tf import files
from robust_tf.experiments.settings import Examples
from robust_tf.regions import Threat
from robust_tf.verification import stages
from robust_tf.verification.plan import Plan
from robust_tf.verification.result import Claim
from tests.experiments.verification.cases import BLOCK
from tests.experiments.verification.cases import COUNT
from tests.experiments.verification.cases import INDICES
from tests.experiments.verification.cases import PLAN
from tests.experiments.verification.cases import START
from tests.experiments.verification.cases import lines
from tests.experiments.verification.cases import save
from tests.experiments.verification.cases import timeless
from tests.experiments.verification.cases import truncate
from tests.experiments.verification.cases import verify


@pytest.mark.parametrize("kept", [0, 1, 6, 14])
def test_a_run_that_was_cut_off_goes_on(quick, tmp_path, path, whole, kept, caplog):
    """Also in the middle of a block, and after a half-written line."""
    verify(tmp_path, path)
    truncate(tmp_path, kept, rest=b'{"index": 7, "verd')
    (tmp_path / "verification_summary.json").unlink()
    summary = verify(tmp_path, path)
    folder, expected = whole
    assert timeless(summary) == timeless(expected)
    assert timeless(lines(tmp_path)) == timeless(lines(folder))
    assert "half-written last line" in caplog.text


def test_a_kill_after_some_records(quick, tmp_path, path, whole, monkeypatch):
    written = []
    append = files.append_json_line

    def stop(file, record):
        if len(written) == 6:
            raise KeyboardInterrupt
        written.append(record["index"])
        append(file, record)

    with monkeypatch.context() as patch:
        patch.setattr(files, "append_json_line", stop)
        with pytest.raises(KeyboardInterrupt):
            verify(tmp_path, path)
    assert [record["index"] for record in lines(tmp_path)] == sorted(written)
    assert len(written) == 6
    assert not (tmp_path / "verification_summary.json").exists()
    assert timeless(verify(tmp_path, path)) == timeless(whole[1])
    assert [record["index"] for record in lines(tmp_path)] == INDICES


def test_a_broken_line_in_the_middle_is_named(quick, tmp_path, path):
    verify(tmp_path, path, examples=Examples(count=2))
    file = tmp_path / "verification.jsonl"
    file.write_bytes(b"{broken\n" + file.read_bytes())
    with pytest.raises(rt.InputError, match="Line 1 of .*verification.jsonl"):
        verify(tmp_path, path, examples=Examples(count=2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": True}, "another model. Received: model_digest"),
        ({"examples": Examples("train", 0, 4)}, "another data set. Received: data_dig"),
        (
            {"threat": Threat(0.07)},
            "configuration.*threat.epsilon is 0.07, was 0.06.*another --workdir",
        ),
        ({"seed": 1}, "configuration.*seed is 1, was 0"),
        (
            {"plan": Plan(PLAN.stages, BLOCK, claim=Claim.EXECUTED)},
            "configuration.*claim is executed-network, was float64-sound",
        ),
        (
            {"plan": Plan((*PLAN.stages, stages.Crown()), BLOCK)},
            "configuration.*stages.4.class is Crown, was None",
        ),
        ({"timeout_s": 50.0}, "Received: --timeout=50. Give --timeout=60"),
        ({"timeout_s": 70.0}, "--retry=timeout,unknown"),
    ],
)
def test_records_of_something_else_are_refused(
    quick, tmp_path, path, whole, change, message
):
    folder, _ = whole
    for name in ("verification.jsonl", "verification_setting.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    before = (tmp_path / "verification.jsonl").read_bytes()
    if "model" in change:
        path, change = save(tmp_path / "other.keras", seed=1, epochs=1), {}
    with pytest.raises(rt.InputError, match=message):
        verify(tmp_path, path, **change)
    assert (tmp_path / "verification.jsonl").read_bytes() == before


def test_batch_size_and_memory_are_no_part_of_the_configuration(
    quick, tmp_path, path, whole
):
    folder, summary = whole
    for file in (*folder.glob("*.json*"),):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    other = Plan(PLAN.stages, 2 * BLOCK, memory_budget_mb=10.0)
    assert timeless(verify(tmp_path, path, plan=other)) == timeless(summary)


def test_a_larger_range_goes_on_with_what_is_there(quick, tmp_path, path, whole):
    for count in (6, COUNT):
        summary = verify(tmp_path, path, examples=Examples(start=START, count=count))
    assert timeless(summary) == timeless(whole[1])
