"""Certification of a data set: records, summary, modes, refusals."""

import json
import pathlib

import keras
import numpy as np
import pytest
import scipy.io

import robust_tf as rt
from robust_tf import data as datasets
from robust_tf import files
from robust_tf.experiments import certification_warnings
from robust_tf.experiments.certification_settings import Sampling
from robust_tf.experiments.certification_summary import summarize
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Examples
from robust_tf.experiments.verification_models import load_classifier
from robust_tf.interchange.onnx_writer import write_onnx
from robust_tf.smoothing import Gaussian
from robust_tf.smoothing import metrics
from robust_tf.smoothing import radius as radii
from tests.experiments.certification.cases import ALPHA
from tests.experiments.certification.cases import COUNT
from tests.experiments.certification.cases import INDICES
from tests.experiments.certification.cases import N0
from tests.experiments.certification.cases import SIGMA
from tests.experiments.certification.cases import N
from tests.experiments.certification.cases import certify
from tests.experiments.certification.cases import lines
from tests.experiments.certification.cases import rows
from tests.experiments.certification.cases import save

QUANTISED = "quantised gaussian"


@pytest.fixture(scope="module")
def full(tmp_path_factory, path):
    """A run that leaves nothing out."""
    folder = tmp_path_factory.mktemp("full")
    return folder, certify(folder, path, sampling={"full": True})


def test_rows_and_counts_say_the_same(whole):
    folder, _ = whole
    header, *found = rows(folder)
    assert header == ["idx", "label", "predict", "radius", "correct"]
    first = (folder / "certification.tsv").read_text().split("\n")[0]
    assert first == "idx\tlabel\tpredict\tradius\tcorrect\ttime"
    labels = datasets.load("digits", "test").labels
    assert [int(row[0]) for row in found] == INDICES
    for row, record in zip(found, lines(folder), strict=True):
        index, label, prediction, radius, correct = row
        assert int(label) == labels[int(index)] == record["label"]
        assert int(prediction) == record["prediction"]
        assert radius == repr(record["radius"])
        assert correct == str(int(label == prediction))
        assert sum(record["selection_counts"]) == N0
        assert sum(record["counts"]) == record["samples"] <= N
        assert (record["n0"], record["n"], record["alpha"]) == (N0, N, ALPHA)
        assert (record["sigma"], record["seed"]) == (SIGMA, 0)


def test_all_ends_occur(whole, full):
    """So that the tests below say something."""
    _, summary = whole
    assert min(summary["correct"], summary["skipped"], summary["abstained"]) > 0
    _, summary = full
    assert summary["skipped"] == 0 and summary["wrong"] > 0


def test_radii_follow_from_the_counts(full):
    """The published rule, from what is on record."""
    folder, _ = full
    for record in lines(folder):
        prediction, radius, candidate, lower = radii.decide(
            record["selection_counts"],
            record["counts"],
            ALPHA,
            Gaussian(SIGMA).radius,
        )
        assert record["samples"] == N
        assert record["prediction"] == prediction
        assert record["radius"] == pytest.approx(float(radius), rel=1e-12)
        assert record["candidate"] == candidate
        assert record["lower"] == pytest.approx(float(lower), rel=1e-12)


def test_a_skipped_example_counts_as_an_error_and_says_so(whole):
    folder, summary = whole
    skipped = [record for record in lines(folder) if record["is_skipped"]]
    assert len(skipped) == summary["skipped"]
    for record in skipped:
        assert record["prediction"] == record["candidate"] != record["label"]
        assert record["radius"] == 0.0 and record["samples"] == 0


def test_shortcuts_change_no_number_of_the_summary(whole, full):
    (_, quick), (_, slow) = whole, full
    for name in ("certified_accuracy", "clean_accuracy", "acr", "acr_standard_error"):
        assert quick[name] == slow[name]
    assert quick["high_probability"] == slow["high_probability"]
    assert quick["estimation_samples"] < slow["estimation_samples"] == N * COUNT
    assert quick["mode"] == "exact" and slow["mode"] == "full"


def test_the_summary_counts_what_is_on_record(full):
    folder, summary = full
    found = lines(folder)
    radius = np.array([record["radius"] for record in found])
    correct = np.array([record["prediction"] == record["label"] for record in found])
    assert summary["examples"] == COUNT
    assert summary["clean_accuracy"] == pytest.approx(correct.mean(), abs=1e-6)
    assert summary["certified_accuracy"]["0.00"] == summary["clean_accuracy"]
    assert "abstentions" in summary["clean_accuracy_is"]
    values = metrics.certified_accuracy(radius, correct)
    named = [summary["certified_accuracy"][f"{r:.2f}"] for r in metrics.RADII]
    np.testing.assert_allclose(named, values, atol=1e-6)
    assert named[1] > 0.0
    scores = np.where(correct, radius, 0.0)
    assert summary["acr"] == pytest.approx(scores.mean(), rel=1e-12)
    error = scores.std(ddof=1) / np.sqrt(COUNT)
    assert summary["acr_standard_error"] == pytest.approx(error, rel=1e-12)
    ends = [summary[name] for name in ("correct", "abstained", "wrong", "skipped")]
    assert sum(ends) == COUNT and ends[0] == correct.sum()
    low = summary["high_probability"]["certified_accuracy"]["0.00"]
    expected = metrics.high_probability_certified_accuracy(
        correct.mean(), COUNT, ALPHA, 0.001
    )
    assert low == pytest.approx(max(expected, 0.0), abs=1e-6)
    assert summary["subset"]["first"] == INDICES[0]
    assert summary["subset"]["last"] == INDICES[-1]
    assert summary["largest_radius"] == radii.largest_radius(N, ALPHA, SIGMA)
    assert summary["selection_samples"] == N0 * COUNT
    assert json.loads((folder / "certification_summary.json").read_text()) == summary


def test_the_radius_of_a_wrong_class_counts_as_nothing(full):
    folder, summary = full
    found = lines(folder)
    wrong = [r for r in found if r["prediction"] not in (-1, r["label"])]
    assert any(record["radius"] > 0.0 for record in wrong)
    values = scipy.io.loadmat(folder / "certification.mat")["hard"]
    assert values.shape == (1, COUNT)
    expected = [
        record["radius"] if record["prediction"] == record["label"] else -1.0
        for record in found
    ]
    np.testing.assert_array_equal(values[0], expected)
    assert np.maximum(values, 0.0).mean() == pytest.approx(summary["acr"], rel=1e-12)


def test_soft_certificates_stand_beside_the_vote(tmp_path, path, full):
    folder, hard = full
    summary = certify(tmp_path, path, sampling={"mode": "soft", "temperature": 4.0})
    assert rows(tmp_path) == rows(folder)
    arrays = scipy.io.loadmat(tmp_path / "certification.mat")
    assert arrays["soft"].shape == arrays["hard"].shape == (1, COUNT)
    found = [record["soft"] | {"label": record["label"]} for record in lines(tmp_path)]
    expected = [
        one["radius"] if one["prediction"] == one["label"] else -1.0 for one in found
    ]
    np.testing.assert_array_equal(arrays["soft"][0], expected)
    acr = np.maximum(arrays["soft"], 0.0).mean()
    assert summary["soft"]["acr"] == pytest.approx(acr, rel=1e-12)
    assert summary["acr"] == hard["acr"] != summary["soft"]["acr"] > 0.0
    with pytest.raises(rt.InputError, match="another temperature"):
        certify(tmp_path, path, sampling={"mode": "soft", "temperature": 2.0})


def test_adaptive_certificates_take_fewer_samples(tmp_path, path, whole):
    summary = certify(tmp_path, path, n=2000, sampling={"mode": "adaptive"})
    assert summary["estimation_samples"] < 2000 * summary["correct"]
    assert summary["correct"] > 0
    assert "tolerance" in summary and "tolerance" not in whole[1]


def test_batch_sizes_change_nothing(tmp_path, path, whole):
    certify(tmp_path, path, sampling={"batch_size": 130})
    assert rows(tmp_path) == rows(whole[0])


def test_an_example_is_the_same_in_any_subset(quick, tmp_path, path, whole):
    certify(tmp_path, path, examples=Examples(start=INDICES[4]), skip=1, count=1)
    assert rows(tmp_path)[1] == rows(whole[0])[5]
    summary = json.loads((tmp_path / "certification_summary.json").read_text())
    assert summary["acr_standard_error"] is None  # Of one example.


@pytest.mark.parametrize(
    ("examples", "skip", "most", "indices"),
    [
        (Examples(start=5, count=4), 1, None, [5, 6, 7, 8]),
        (Examples(start=5, count=4), 2, None, [5, 7]),
        (Examples(start=5, count=5), 2, 2, [5, 7]),
        (Examples(start=5, count=4), 9, 3, [5]),
        (Examples(start=355), 2, None, [355, 357, 359]),  # To the end of the split.
        (Examples("train", 1), 100, 2, [1, 101]),
    ],
)
def test_which_examples(quick, tmp_path, path, examples, skip, most, indices):
    summary = certify(tmp_path, path, most, examples=examples, skip=skip)
    assert [int(row[0]) for row in rows(tmp_path)[1:]] == indices
    assert summary["subset"]["rule"].startswith("start + i * skip")
    assert (summary["subset"]["skip"], summary["split"]) == (skip, examples.split)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0.0}, "`--sigma` must be a number above 0. Received: 0.0"),
        ({"sigma": float("nan")}, "`--sigma` must be"),
        ({"n0": 0}, "`--n0` must be a whole number"),
        ({"n": N0 - 1}, r"`--n` must be .*, and of n0 \(30\). Received: 29"),
        ({"n": 250.0}, "`--n` must be a whole number"),
        ({"n0": 1, "n": 6}, "6 samples certify nothing at alpha = 0.01.* at least 7"),
        ({"alpha": 1.0}, r"`--alpha` must be in \(0, 1\)"),
        ({"seed": -1}, "`--seed` must be"),
        ({"skip": 0}, "`--skip` must be"),
        ({"examples": Examples(start=4000)}, "has .* examples. Received: start 4000"),
        ({"examples": Examples(count=4000)}, "Received: start 0, count 4000"),
        ({"examples": Examples(count=0)}, "count 0"),
        ({"data": Data("mnist", data_dir="/none")}, "mnist"),
        ({"sampling": {"noise": QUANTISED}}, "Quantised noise needs images in steps"),
    ],
)
def test_bad_values_are_refused(tmp_path, path, change, message):
    folder = tmp_path / "new"
    with pytest.raises(rt.InputError, match=message):
        certify(folder, path, **change)
    assert not (folder / "certification_counts.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "hard"}, "`mode` must be one of"),
        ({"batch_size": 0}, "`batch_size` must be a whole number"),
        ({"block_size": True}, "`block_size` must be a whole number"),
        ({"max_examples": 0}, "`max_examples` must be .*, or None"),
        ({"temperature": 0.0}, "`temperature` must be above 0"),
        ({"tolerance": -0.1}, "`tolerance` must be at least 0"),
        ({"mode": "adaptive", "full": True}, "Adaptive certification never draws"),
        ({"noise": "laplace"}, "`noise` must be one of .'gaussian', 'quantised gauss"),
        ({"norm": 3}, "`norm` must be one of .1, 2, 'inf'"),
        ({"radii": (0.1, -0.1)}, "`radii` must be finite numbers of at least 0"),
        ({"radii": (float("nan"),)}, "`radii` must be"),
        ({"radii": 0.5}, "`radii` must be"),
        ({"radii": (0.1,), "full": True}, "All samples are drawn.* full=True"),
        ({"radii": (0.1,), "mode": "soft"}, "All samples are drawn.* mode soft"),
    ],
)
def test_bad_ways_to_sample_are_refused(change, message):
    with pytest.raises(rt.InputError, match=message):
        Sampling(**change)


def test_listed_radii_are_those_of_all_samples(tmp_path, path):
    """Fewer samples, and certified accuracy at these radii as if none were saved."""
    listed, blocks = (0.4, 0.1), {"block_size": 10}
    whole = [tmp_path / "whole"]
    whole.append(certify(whole[0], path, sampling=blocks))
    summary = certify(tmp_path, path, sampling=blocks | {"radii": listed})
    assert list(summary["certified_accuracy"]) == ["0.00", "0.10", "0.40"]
    radius = np.array([record["radius"] for record in lines(whole[0])])
    correct = [one["label"] == one["prediction"] for one in lines(whole[0])]
    expected = metrics.certified_accuracy(radius, correct, (0.0, *sorted(listed)))
    found = list(summary["certified_accuracy"].values())
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert 0.0 < expected[2] < expected[0]
    assert {record["radius"] for record in lines(tmp_path)} <= {0.0, *listed}
    assert summary["estimation_samples"] < whole[1]["estimation_samples"]
    assert 0.0 < summary["acr"] < whole[1]["acr"]
    assert "and the ACR a lower bound" in summary["warnings"][0]
    with pytest.raises(rt.InputError, match="another radii"):
        certify(tmp_path, path, sampling=blocks | {"radii": (0.2,)})


def test_uniform_noise_certifies_l1_radii(tmp_path, path):
    """As wide as its deviation says, on record with its norm (arXiv:2002.08118)."""
    summary = certify(tmp_path, path, sampling={"noise": "uniform", "full": True})
    width = np.sqrt(3.0) * SIGMA
    for record in lines(tmp_path):
        lower = radii.clopper_pearson_lower(
            record["counts"][record["candidate"]], N, ALPHA
        )
        expected = 2.0 * width * max(lower - 0.5, 0.0)
        assert record["radius"] == pytest.approx(expected, rel=1e-12)
        assert (record["noise"], record["norm"]) == ("uniform", 1)
    assert (summary["norm"], summary["is_converted"]) == ("1", False)
    least = radii.clopper_pearson_lower(N, N, ALPHA)
    assert summary["largest_radius"] == pytest.approx(2.0 * width * (least - 0.5))


def test_converted_radii(quick, tmp_path, path, whole):
    """Linf radii of Gaussian noise: those of L2, over the root of the pixels."""
    summary = certify(tmp_path, path, sampling={"norm": "inf"})
    for found, expected in zip(lines(tmp_path), lines(whole[0]), strict=True):
        assert found["radius"] == pytest.approx(expected["radius"] / 8.0, rel=1e-12)
        assert found["counts"] == expected["counts"] and found["norm"] == "inf"
        assert "norm" not in expected
    assert (summary["norm"], summary["is_converted"]) == ("inf", True)
    assert summary["acr"] == pytest.approx(whole[1]["acr"] / 8.0, rel=1e-12)
    accuracy = summary["certified_accuracy"]
    assert list(accuracy)[:3] == ["0.00", "1/255", "2/255"]
    radius = np.array([record["radius"] for record in lines(tmp_path)])
    correct = [one["prediction"] == one["label"] for one in lines(tmp_path)]
    expected = np.mean((radius >= 2 / 255) & correct)
    assert accuracy["2/255"] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(rt.InputError, match="another norm"):
        certify(tmp_path, path, sampling={"norm": 1})


def test_devices_share_the_samples(tmp_path, path, whole):
    """Two logical devices: the very rows of one."""
    summary = certify(tmp_path, path, sampling={"devices": ("CPU:0", "CPU:1")})
    assert rows(tmp_path) == rows(whole[0])
    assert summary["arithmetic"]["devices"] == ["CPU:0", "CPU:1"]


def test_networks_of_other_frameworks(tmp_path, path, whole):
    """An ONNX file of the same classifier gives the very rows."""
    pytest.importorskip("onnx")
    file = tmp_path / "model.onnx"
    write_onnx(path, file)
    summary = certify(tmp_path / "onnx", str(file))
    assert rows(tmp_path / "onnx") == rows(whole[0])
    assert summary["model"] == str(file)


def test_models_of_other_images_are_refused(tmp_path, path):
    with pytest.raises(rt.InputError, match="does not exist"):
        certify(tmp_path, str(tmp_path / "none.keras"))
    with pytest.raises(rt.InputError, match="There are no records to summarize"):
        summarize(None, [], {})


def test_noise_of_training_is_compared(quick, tmp_path, path, caplog):
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.keras").write_bytes(pathlib.Path(path).read_bytes())
    files.write_json(run / "summary.json", {"sigma": 0.25, "dataset": "digits"})
    for given in (run, run / "model.keras"):
        summary = certify(tmp_path / given.name, str(given), count=1)
        (warning,) = summary["warnings"]
        assert "trained with noise of sigma 0.25" in warning and "0.3" in warning
        assert warning in caplog.text
    noise = {"noise": "uniform"}
    _, warning = certify(tmp_path / "c", str(run), count=1, sampling=noise)["warnings"]
    assert "trained with Gaussian noise, and is certified with uniform" in warning
    files.write_json(run / "summary.json", {"sigma": SIGMA})
    assert certify(tmp_path / "b", str(run), count=1)["warnings"] == []
    for content in ({}, [1], {"sigma": "x"}):
        files.write_json(run / "summary.json", content)
        assert certification_warnings.training_sigma(str(run)) is None


@pytest.mark.parametrize(
    ("name", "warns"),
    [
        ("cifar10", True),
        ("cifar10:3.0.2", True),
        ("imagenet_resized/64x64", True),
        ("mnist", False),
    ],
)
def test_a_missing_normalisation_is_said(tmp_path, path, name, warns):
    images = datasets.ImageDataset(
        name, np.zeros((2, 8, 8, 1), "uint8"), np.zeros(2, int), 10, "test"
    )
    plain, values = load_classifier(path), {"sigma": 0.25, "noise": "gaussian"}
    found = certification_warnings.of(plain, images, values)
    assert ["normalises" in text for text in found] == [True] * warns
    layer = keras.layers.Normalization(mean=[0.5], variance=[0.04])
    normalised = save(tmp_path / "a.keras", epochs=0, first=[layer])
    assert certification_warnings.of(load_classifier(normalised), images, values) == []
