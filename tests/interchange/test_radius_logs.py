"""Logs of radii: the published formats, what is no log, and how rows are written."""

import json
import pathlib

import numpy as np
import pytest

from robust_tf import matlab
from robust_tf.errors import InputError
from robust_tf.interchange import radius_logs
from robust_tf.smoothing import metrics

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden/golden_smoothing.json").read_text()
)
HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
# What the published logs look like: three significant digits and a time of day; four
# decimals; plain seconds; and further columns before the radius.
THREE_DIGITS = HEADER + (
    "0\t3\t-1\t0.0\t0\t0:00:13.736080\n"
    "20\t7\t7\t0.0734\t1\t0:00:13.771528\n"
    "40\t4\t4\t0.457\t1\t0:00:14\n"
    "60\t5\t3\t0.161\t0\t1:02:03.5\n"
)
FOUR_DECIMALS = (
    HEADER + "0\t3\t3\t0.6123\t1\t1 day, 0:00:14.5\n5\t1\t1\t1.0\t1\t0:01:00\n"
)
SECONDS = HEADER + "0\t3\t3\t1.65\t1\t90.2754\n100\t8\t2\t0.5\t0\t89\n"
MORE_COLUMNS = (
    "idx\tlabel\tpredict\tpA\tsamplesize\tradius\tcorrect\ttime\n"
    "7\t1\t1\t0.9\t1000\t0.32\t1\t0:00:01.000000\n"
)


def write(folder, text, name="sigma_0.25"):
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "indices", "radius", "seconds"),
    [
        (
            THREE_DIGITS,
            [0, 20, 40, 60],
            [0.0, 0.0734, 0.457, 0.161],
            [13.73608, 13.771528, 14.0, 3723.5],
        ),
        (FOUR_DECIMALS, [0, 5], [0.6123, 1.0], [86414.5, 60.0]),
        (SECONDS, [0, 100], [1.65, 0.5], [90.2754, 89.0]),
        (MORE_COLUMNS, [7], [0.32], [1.0]),
        (MORE_COLUMNS.replace("\n", "\r\n"), [7], [0.32], [1.0]),
    ],
    ids=["three_digits", "four_decimals", "seconds", "more_columns", "windows"],
)
def test_tables(tmp_path, text, indices, radius, seconds):
    path = tmp_path / "log"
    path.write_bytes(text.encode())
    rows = radius_logs.read_rows(path)
    assert [row.index for row in rows] == indices
    assert [row.radius for row in rows] == radius
    np.testing.assert_allclose([row.seconds for row in rows], seconds, rtol=1e-12)
    log = radius_logs.read_log(path)
    np.testing.assert_array_equal(log.indices, indices)
    assert log.is_correct.sum() == sum(row.prediction == row.label for row in rows)


def test_abstentions_and_errors_are_told_apart(tmp_path):
    log = radius_logs.read_log(write(tmp_path, THREE_DIGITS))
    assert log.is_correct.tolist() == [False, True, True, False]
    assert log.is_abstention.tolist() == [True, False, False, False]


def test_a_table_without_times(tmp_path):
    text = "idx\tlabel\tpredict\tradius\tcorrect\n3\t1\t1\t0.5\t1\n"
    (row,) = radius_logs.read_rows(write(tmp_path, text))
    assert np.isnan(row.seconds) and row.radius == 0.5


def test_golden_rows(tmp_path):
    """Certified accuracy and ACR of rows worked by hand, through a file and back."""
    golden = GOLDEN["acr_table"]
    rows = [
        radius_logs.Row(one["idx"], one["label"], one["predict"], one["radius"], 0.5)
        for one in golden["rows"]
    ]
    assert [row.is_correct for row in rows] == [r["correct"] for r in golden["rows"]]
    path = write(tmp_path, HEADER + "".join(row.line() for row in rows))
    assert radius_logs.read_rows(path) == rows
    log = radius_logs.read_log(path)
    values = metrics.certified_accuracy(log.radius, log.is_correct, golden["grid"])
    np.testing.assert_array_equal(values, golden["certified_accuracy_ge"])
    average = metrics.average_certified_radius(log.radius, log.is_correct)
    assert average == pytest.approx(golden["acr"], rel=1e-12)
    assert log.is_correct.mean() == golden["clean_accuracy"]
    assert log.is_abstention.mean() == golden["abstain_rate"]
    radius_logs.write_matlab(tmp_path / "a.mat", hard=log)
    written = matlab.read_arrays(tmp_path / "a.mat")["hard"]
    assert written.shape == (1, len(rows))
    np.testing.assert_array_equal(written[0], golden["mat_vector"])
    again = radius_logs.read_log(tmp_path / "a.mat")
    np.testing.assert_array_equal(again.is_correct, log.is_correct)
    np.testing.assert_array_equal(again.radius, np.maximum(golden["mat_vector"], 0.0))
    assert again.indices is None and again.is_abstention is None


@pytest.mark.parametrize("case", GOLDEN["radius_print_format"])
def test_radii_are_written_in_full(tmp_path, case):
    row = radius_logs.Row(0, 1, 1, case["radius"], 0.0)
    assert row.line().split("\t")[3] == case["repr"]
    path = write(tmp_path, HEADER + row.line())
    assert radius_logs.read_rows(path) == [row]
    short = HEADER + row.line().replace(case["repr"], case["three_significant"])
    (read,) = radius_logs.read_rows(write(tmp_path, short))
    assert read.radius == float(case["three_significant"])


def test_the_rule_of_reference_logs(tmp_path):
    """Rows made up so that their counts are those of a published log, scaled down."""
    golden = GOLDEN["reference_logs"]["logs"][0]
    counts = [count // 100 for count in golden["certified_count"]] + [0]
    lines = []
    for radius, (more, fewer) in zip(
        golden["grid"], zip(counts, counts[1:], strict=False), strict=True
    ):
        lines += [(radius, 1)] * (more - fewer)
    lines += [(0.9, 0)] * (golden["wrong"] // 100)
    lines += [(0.0, 0)] * (100 - len(lines))
    text = HEADER
    for number, (radius, correct) in enumerate(lines):
        prediction = 1 if correct else 2 if radius else -1
        text += f"{number}\t1\t{prediction}\t{radius}\t{correct}\t0:00:01\n"
    log = radius_logs.read_log(write(tmp_path, text))
    values = metrics.certified_accuracy(log.radius, log.is_correct, golden["grid"])
    np.testing.assert_allclose(values * 100, counts[:-1], rtol=1e-12)
    assert len(log.radius) == golden["rows"] // 100
    expected = sum(radius for radius, correct in lines if correct) / 100
    average = metrics.average_certified_radius(log.radius, log.is_correct)
    assert average == pytest.approx(expected, rel=1e-12)


def test_curves(tmp_path):
    text = "0.00000\t0.64340\n0.00500\t0.64230\n0.01000\t0.64230\n"
    for ended in (text, text.rstrip("\n"), text.replace("\t", "  ")):
        curve = radius_logs.read_log(write(tmp_path, ended, "noise_0.50_acc"))
        np.testing.assert_array_equal(curve.radii, [0.0, 0.005, 0.01])
        np.testing.assert_array_equal(curve.accuracy, [0.6434, 0.6423, 0.6423])


def test_macer_rows(tmp_path):
    """`hard` alone from training, both from tests; radii of wrong examples are -1."""
    path = tmp_path / "400.mat"
    matlab.write_arrays(path, {"soft": [[0.1, -1.0]], "hard": [[-1.0, 0.3]]})
    assert radius_logs.read_log(path).radius.tolist() == [0.0, 0.3]
    soft = radius_logs.read_matlab(path, "soft")
    assert soft.radius.tolist() == [0.1, 0.0]
    assert soft.is_correct.tolist() == [True, False]
    matlab.write_arrays(path, {"soft": [[0.1, -1.0]]})
    assert radius_logs.read_log(path).radius.tolist() == [0.1, 0.0]
    with pytest.raises(InputError, match="must hold `hard`. Received: soft"):
        radius_logs.read_matlab(path, "hard")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0.1, -0.5], [0.2, 0.3]], "must be a row of radii"),
        ([[0.1, -2.0]], "must be a row of radii"),
        ([[0.1, float("nan")]], "must be a row of radii"),
        (np.zeros((0, 0)), "must be a row of radii"),
    ],
)
def test_rows_of_something_else_are_refused(tmp_path, values, message):
    matlab.write_arrays(tmp_path / "a.mat", {"hard": values})
    with pytest.raises(InputError, match=message):
        radius_logs.read_log(tmp_path / "a.mat")


@pytest.mark.parametrize("rest", ["5", "80\t1\t1\t0.3", "80\t1\t1\t0.3\t1\t0:0"])
def test_a_half_written_last_line_is_dropped(tmp_path, rest, caplog):
    rows = radius_logs.read_rows(write(tmp_path, THREE_DIGITS + rest))
    assert [row.index for row in rows] == [0, 20, 40, 60]
    assert "half-written last line" in caplog.text


def test_a_last_line_without_an_end(tmp_path, caplog):
    """Published logs may end so; of our own it may be half a time."""
    path = write(tmp_path, THREE_DIGITS.rstrip("\n"))
    assert len(radius_logs.read_rows(path)) == 4
    assert "half-written" not in caplog.text
    assert len(radius_logs.read_rows(path, keep_unended=False)) == 3
    assert "half-written" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no log of radii. Received: a first line ''"),
        ("idx label predict\n", "is no log of radii"),
        ("idx\tlabel\tpredict\tcorrect\ttime\n", "is no log of radii"),
        (HEADER, "has no rows"),
        (THREE_DIGITS.replace("0.0734", "x"), "Line 3 of .* is no row of a log"),
        (THREE_DIGITS.replace("0:00:14\n", "soon\n"), "Line 4 of .* is no row"),
        (THREE_DIGITS.replace("20\t7", "20"), "Line 3 of .* is no row"),
        (THREE_DIGITS.replace("0.0734", "-0.1"), "Line 3 of .* contradicts itself"),
        (THREE_DIGITS.replace("0.0734", "nan"), "Line 3 of .* contradicts itself"),
        (THREE_DIGITS.replace("0.457\t1", "0.457\t0"), "Line 4 .* contradicts itself"),
        (THREE_DIGITS.replace("20\t7\t7", "0\t7\t7"), "Received: example 0, 2 times"),
        ("0.0 0.5\n0.1 1.5\n", "Line 2 of .* must be a radius and a certified acc"),
        ("0.0 0.5\n0.1\n", "Line 2 of .* must be a radius"),
        ("0.0 0.5\n0.0 0.5\n", "must list radii that ascend"),
        ("0.0 0.5\n0.1 0.6\n", "and accuracies that do not"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        radius_logs.read_log(write(tmp_path, text))


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read as text"):
        radius_logs.read_log(tmp_path / "none")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as text"):
        radius_logs.read_log(tmp_path / "bytes")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0:00:00.000000"),
        (14.0, "0:00:14.000000"),
        (59.9999999, "0:01:00.000000"),
        (3723.5, "1:02:03.500000"),
        (360000.25, "100:00:00.250000"),
    ],
)
def test_times_are_written_with_microseconds(seconds, text):
    assert radius_logs.format_time(seconds) == text
    assert radius_logs.parse_time(text) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize("text", ["", "1:2:3", "-1", "nan", "0:61:00", "1 2"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(InputError, match="A time must be H:MM:SS"):
        radius_logs.parse_time(text)
