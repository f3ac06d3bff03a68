"""Verification of a data set: records, retries, contradictions, summaries."""

import json

import keras
import numpy as np
import pytest

import robust_tf as rt
from robust_tf import data as datasets
from robust_tf.experiments import verification_records as records
from robust_tf.experiments.settings import Examples
from robust_tf.experiments.verification_models import load_classifier
from robust_tf.experiments.verification_summary import summarize
from robust_tf.verification import stages
from robust_tf.verification.plan import Plan
from robust_tf.verification.result import Claim
from robust_tf.verification.result import ContradictionError
from robust_tf.verification.result import Verdict
from tests.experiments.verification.cases import COUNT
from tests.experiments.verification.cases import INDICES
from tests.experiments.verification.cases import PLAN
from tests.experiments.verification.cases import lines
from tests.experiments.verification.cases import result
from tests.experiments.verification.cases import truncate
from tests.experiments.verification.cases import verify


def test_records_and_summary_are_complete(whole, path):
    folder, summary = whole
    found = lines(folder)
    assert [record["index"] for record in found] == INDICES
    images = datasets.load("digits", "test")
    model = keras.models.load_model(path, compile=False)
    for record in found:
        index = record["index"]
        assert record["label"] == images.labels[index]
        logits = model(images.floats([index]), training=False).numpy()
        assert record["prediction"] == logits.argmax()
        assert (record["epsilon"], record["norm"]) == (0.06, "inf")
        spent = sum(record["stage_seconds"].values())
        assert record["seconds"] == pytest.approx(spent, abs=1e-5)
        for name in ("model_digest", "data_digest", "config_digest", "code_version"):
            assert record[name]
        assert (record["counterexample"] is None) == (record["verdict"] != "FALSIFIED")
        if record["verdict"] == "FALSIFIED":
            point = np.load(folder / record["counterexample"])
            assert point.dtype == np.float32
            offset = point.astype("float64") - images.floats([index])[0]
            assert np.abs(offset).max() <= 0.06 + 1e-15
            assert model(point[None]).numpy().argmax() != record["label"]
        elif record["verdict"] == "VERIFIED":
            assert record["claim"] == "float64-sound"
            assert record["lower_bound"] > 0.0
            assert record["method"] in ("ibp", "crown-ibp")
        else:
            assert record["lower_bound"] <= 0.0 <= record["upper_bound"]
    assert json.loads((folder / "verification_summary.json").read_text()) == summary


def test_the_summary_counts_what_is_on_record(whole):
    folder, summary = whole
    found = lines(folder)
    verdicts = [record["verdict"] for record in found]
    # All three occur, so that the test says something.
    assert min(verdicts.count(v) for v in ("VERIFIED", "FALSIFIED", "UNKNOWN")) > 0
    assert summary["verdicts"] == {v.value: verdicts.count(v.value) for v in Verdict}
    clean = np.mean([record["label"] == record["prediction"] for record in found])
    assert summary["clean_accuracy"] == pytest.approx(clean, abs=1e-6)
    assert clean < 1.0
    falsified = verdicts.count("FALSIFIED") / COUNT
    assert summary["attacked_accuracy"] == pytest.approx(1.0 - falsified, abs=1e-6)
    certified = verdicts.count("VERIFIED") / COUNT
    assert summary["certified_accuracy"] == pytest.approx(certified, abs=1e-6)
    after = list(summary["certified_after"].values())
    assert list(summary["certified_after"]) == ["clean", "attack", "ibp", "crown-ibp"]
    assert after == sorted(after) and after[-1] == summary["certified_accuracy"]
    assert sum(summary["verified_by"].values()) == verdicts.count("VERIFIED")
    assert sum(summary["falsified_by"].values()) == verdicts.count("FALSIFIED")
    assert summary["claims"]["float64-sound"] == verdicts.count("VERIFIED")
    seconds = [record["seconds"] for record in found]
    assert summary["seconds"]["median"] == pytest.approx(np.median(seconds), abs=1e-6)
    assert summary["seconds"]["max"] == max(seconds)
    assert summary["examples"] == COUNT


def needs_time(index, label, point, timeout_s):
    """1 is proved in 5 s, 2 falls in 50 s, 3 never ends, 4 fails, 5 gives up."""
    verdict = {
        1: Verdict.VERIFIED if timeout_s >= 5 else Verdict.TIMEOUT,
        2: Verdict.FALSIFIED if timeout_s >= 50 else Verdict.TIMEOUT,
        3: Verdict.TIMEOUT,
        4: Verdict.ERROR,
        5: Verdict.UNKNOWN,
    }.get(index, Verdict.VERIFIED)
    return result(verdict, label, point)


def test_retries(scripted, tmp_path, path, caplog):
    verifier = scripted(needs_time)
    examples = Examples(count=8)

    def run(timeout_s, retry=()):
        verifier.calls.clear()
        summary = verify(
            tmp_path, path, examples=examples, timeout_s=timeout_s, retry=retry
        )
        return summary["verdicts"], [indices for indices, *_ in verifier.calls]

    def counts(verified, falsified, unknown, timeout, error):
        values = (verified, falsified, unknown, timeout, error)
        return dict(zip([v.value for v in Verdict], values, strict=True))

    assert run(1.0) == (counts(3, 0, 1, 3, 1), [[0, 1, 2, 3], [4, 5, 6, 7]])
    first_seeds = [seed for *_, seed in verifier.calls]
    assert run(1.0) == (counts(3, 0, 1, 3, 1), [])
    assert run(1.0, ("timeout",)) == (counts(3, 0, 1, 3, 1), [])
    assert "3 example(s) had 1 seconds already" in caplog.text
    assert run(10.0, ("timeout",)) == (counts(4, 0, 1, 2, 1), [[1, 2, 3]])
    assert verifier.calls[0][2] not in first_seeds  # Another attack than before.
    assert run(60.0, ("timeout", "unknown")) == (counts(4, 1, 1, 1, 1), [[2, 3, 5]])
    assert run(60.0, ("error",)) == (counts(4, 1, 1, 1, 1), [[4]])
    assert len(lines(tmp_path)) == 8 + 3 + 3 + 1  # Older records stay.


def test_a_contradiction_stops_the_run(scripted, tmp_path, path):
    calls = []

    def script(index, label, point, timeout_s):
        if index == 6:
            raise ContradictionError("Example 2: one of the two is wrong.")
        calls.append(index)
        return result(Verdict.VERIFIED, label, point)

    scripted(script)
    (tmp_path / "verification_summary.json").write_text("{}")
    with pytest.raises(ContradictionError, match="examples 4 to 7.*contradiction.json"):
        verify(tmp_path, path, examples=Examples(count=12))
    assert calls == [0, 1, 2, 3, 4, 5]
    assert [record["index"] for record in lines(tmp_path)] == calls
    report = json.loads((tmp_path / "contradiction.json").read_text())
    assert report["indices"] == [4, 5, 6, 7]
    assert "one of the two is wrong" in report["message"]
    assert not (tmp_path / "verification_summary.json").exists()


def test_a_repetition_must_not_contradict_the_record(scripted, tmp_path, path):
    verdict = Verdict.VERIFIED
    scripted(lambda _index, label, point, _: result(verdict, label, point))
    verify(tmp_path, path, examples=Examples(count=4))
    truncate(tmp_path, 3)
    verdict = Verdict.FALSIFIED
    with pytest.raises(ContradictionError, match="Example 0 is both"):
        verify(tmp_path, path, examples=Examples(count=4))
    assert (tmp_path / "contradiction.json").exists()


def test_points_that_are_unsafe_in_float64_alone_are_no_counterexamples(
    scripted, tmp_path, path
):
    scripted(
        lambda _index, label, point, _: result(
            Verdict.UNKNOWN, label, point, counterexample=point
        )
    )
    summary = verify(tmp_path, path, examples=Examples(count=1))
    (record,) = lines(tmp_path)
    assert record["counterexample"] is None
    assert np.load(tmp_path / record["suspect"]).shape == (8, 8, 1)
    assert summary["reasons"] == {"as written": 1}


def test_a_tie_of_the_clean_image_is_no_right_prediction(scripted, tmp_path, path):
    def script(index, label, point, _):
        if index == 0:  # The label comes first among two greatest logits.
            return result(Verdict.FALSIFIED, label, point, method="clean")
        return result(Verdict.VERIFIED, label, point)

    scripted(script)
    summary = verify(tmp_path, path, examples=Examples(count=4))
    assert summary["clean_accuracy"] == summary["attacked_accuracy"] == 0.75


def test_proofs_by_tolerance_are_counted_apart(scripted, tmp_path, path):
    def script(index, label, point, _):
        more = {"claim": Claim.TOLERANCE, "method": "milp"} if index < 2 else {}
        return result(Verdict.VERIFIED, label, point, **more)

    scripted(script)
    summary = verify(tmp_path, path, examples=Examples(count=8))
    assert summary["certified_accuracy"] == 0.75
    assert summary["certified_accuracy_with_tolerance"] == 1.0
    assert summary["claims"]["tolerance"] == 2
    assert summary["certified_after"]["crown-ibp"] == 0.75
    assert summary["verified_by"] | {"ibp": 6, "milp": 2} == summary["verified_by"]


@pytest.mark.parametrize(
    ("verdict", "change", "message"),
    [
        ("VERIFIED", {"prediction": 99}, "verified, but classified as another class"),
        ("VERIFIED", {"claim": None}, "verified, without a claim"),
        ("FALSIFIED", {"counterexample": None}, "without a counterexample"),
        ("UNKNOWN", {"counterexample": "a.npy"}, "but is not falsified"),
        ("VERIFIED", {"method": None}, "decided, by no method"),
        ("UNKNOWN", {"method": "ibp"}, "not decided, but by a method"),
    ],
)
def test_records_that_contradict_themselves(whole, verdict, change, message):
    folder, _ = whole
    setting = records.Setting.read(folder)
    found = {record["index"]: record for record in lines(folder)}
    index = next(i for i, one in found.items() if one["verdict"] == verdict)
    with pytest.raises(rt.InputError, match=f"example {index} .*{message}"):
        summarize(setting, found | {index: found[index] | change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": Plan((stages.Interval(),))}, r"must hold `stages.Clean\(\)`"),
        ({"retry": ("timeout", "verified")}, "`--retry` .* Received: verified"),
        ({"shard": (3, 9)}, "`--shard` .* 4/4 at most: 15 examples make 4 block"),
        ({"examples": Examples(start=350, count=20)}, "Received: start 350, count 20"),
    ],
)
def test_bad_arguments(quick, tmp_path, path, change, message):
    if "shard" in change:
        change |= {"plan": Plan(PLAN.stages, 5)}
    with pytest.raises(rt.InputError, match=message):
        verify(tmp_path / "new", path, **change)
    assert not (tmp_path / "new").exists()


def test_the_digest_of_a_model_is_that_of_its_layers_and_weights(tmp_path, path):
    one = load_classifier(path)
    one.model.compile("sgd")
    one.model.save(tmp_path / "again.keras")
    assert load_classifier(tmp_path / "again.keras").digest == one.digest
    kernel = one.model.layers[-1].kernel
    kernel.assign(kernel + 1e-6)
    one.model.save(tmp_path / "other.keras")
    assert load_classifier(tmp_path / "other.keras").digest != one.digest
    one.model.layers[-2].activation = keras.activations.tanh
    kernel.assign(kernel - 1e-6)
    one.model.save(tmp_path / "third.keras")
    digests = {load_classifier(p).digest for p in tmp_path.glob("*.keras")}
    assert len(digests) == 3
