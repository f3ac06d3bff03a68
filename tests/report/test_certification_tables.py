"""Tables of certified radii: rows, marks, references, and pairs of runs."""

import json
import pathlib

import numpy as np
import pytest

from robust_tf.errors import InputError
from robust_tf.report import certification_tables as tables
from robust_tf.report.certification_tables import Certified
from robust_tf.smoothing import metrics

GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden/golden_smoothing.json").read_text()
)


def golden_run(name="golden", **more):
    rows = GOLDEN["acr_table"]["rows"]
    return Certified(
        name,
        np.array([row["radius"] for row in rows]),
        np.array([row["correct"] for row in rows], bool),
        np.array([row["idx"] for row in rows]),
        **more,
    )


def cells(text, name):
    """The cells of the row that begins with a name."""
    lines = [line.strip() for line in text.split("\n")]
    (line,) = [line for line in lines if line.startswith(name)]
    return line[len(name) :].split()


def test_the_golden_row():
    golden = GOLDEN["acr_table"]
    row = golden_run(sigma=0.25).row()
    assert row["acr"] == pytest.approx(golden["acr"], rel=1e-12)
    for radius, value in zip(
        golden["grid"], golden["certified_accuracy_ge"], strict=True
    ):
        assert row["certified_accuracy"][f"{radius:.2f}"] == value
    shown = ["62.50", "37.50", "25.00", "12.50"]  # Beyond, nothing is certified.
    # Cut, not rounded: 0.2436 is not 0.244.
    assert cells(tables.render([row]), "golden") == ["0.25", "8", "-", *shown, "0.243"]


def test_the_first_greatest_value_is_marked():
    names = ("0.00", "0.25", "0.50")
    rows = [
        {
            "name": name,
            "sigma": 0.5,
            "norm": "2",
            "examples": 4,
            "samples": 100,
            "alpha": 0.01,
            "certified_accuracy": dict(zip(names, values, strict=True)),
            "acr": acr,
        }
        for name, values, acr in (
            ("a", (0.5, 0.25, 0.0), 0.1999999),
            ("b", (0.75, 0.25, 0.0), 0.2),
            ("c", (0.75, 0.125, 0.0), 0.2),
        )
    ]
    text = tables.render(rows)
    assert cells(text, "a ") == ["0.5", "4", "100", "50.00", "25.00*", "0.199"]
    assert cells(text, "b ") == ["0.5", "4", "100", "75.00*", "25.00", "0.200*"]
    assert cells(text, "c ") == ["0.5", "4", "100", "75.00", "12.50", "0.200"]
    assert "alpha 0.01\n" in text
    rows[0]["alpha"] = 0.001
    assert "alpha 0.001 or 0.01\n" in tables.render(rows)
    assert "0*" not in tables.render(rows[:1])  # Nothing to compare.


def test_rows_of_a_summary_and_of_a_log_share_columns():
    summary = {
        "sigma": 1.0,
        "norm": "2",
        "examples": 9,
        "n": 1000,
        "alpha": 0.001,
        "certified_accuracy": {"0.00": 0.5, "2.50": 0.25},
        "acr": 1.5,
    }
    rows = [tables.row_of("[bold]run", summary), golden_run().row()]
    text = tables.render(rows)
    first = cells(text, "[bold]run")
    assert first == ["1", "9", "1000", "50.00", "-", "-", "-", "25.00*", "1.500*"]
    assert cells(text, "golden")[-2:] == ["-", "0.243"]


def test_curves_without_examples():
    radii = np.arange(0, 2001) * 0.0005
    accuracy = np.where(radii <= 0.6, 0.8 - radii, 0.0)
    row = tables.row_of_curve("curve", radii, accuracy)
    values = list(row["certified_accuracy"].values())
    np.testing.assert_allclose(values[:4], [0.8, 0.55, 0.3, 0.0], atol=1e-9)
    # The area below, from below: 0.6 * 0.8 - 0.18 = 0.3, less half a step.
    assert 0.3 - 0.0005 < row["acr"] < 0.3
    assert cells(tables.render([row]), "curve")[:4] == ["-", "-", "-", "80.00"]
    coarse = tables.row_of_curve("c", np.array([0.0, 0.3]), np.array([0.9, 0.5]))
    values = list(coarse["certified_accuracy"].values())
    assert values[:3] == [0.9, 0.5, 0.0]  # At 0.25 at least what is known of 0.3.


def test_curve_of_a_run():
    radii, values = golden_run().curve()
    np.testing.assert_array_equal(radii, [0.0, 0.249, 0.25, 0.5, 0.95])
    np.testing.assert_array_equal(values, [0.625, 0.5, 0.375, 0.25, 0.125])
    area = (np.diff(radii) * values[1:]).sum()
    assert area == pytest.approx(GOLDEN["acr_table"]["acr"], rel=1e-12)


def test_pairs_on_the_same_images():
    first, second = golden_run("first", data_digest="d"), golden_run("second")
    better = Certified(
        "better", second.radius + 0.1, second.is_correct, second.indices, 0.25, "d"
    )
    # Two images less, and in another order.
    fewer = Certified(
        "fewer", second.radius[5::-1], second.is_correct[5::-1], second.indices[5::-1]
    )
    same, more, less = tables.differences([first, second, better, fewer])
    assert same["difference"] == 0.0 and same["standard_error"] == 0.0
    gains = np.where(second.is_correct, 0.1, 0.0)
    assert more["difference"] == pytest.approx(gains.mean(), rel=1e-9)
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    assert more["standard_error"] == pytest.approx(error, rel=1e-9)
    assert less["examples"] == 6 and less["difference"] == 0.0
    text = tables.render([first.row(), better.row()], compared=[more])
    compared = cells(text.split("ACR difference")[1], "better")
    assert compared == ["first", "8", "+0.0625", f"{error:.4f}"]


def test_runs_that_are_no_pairs_are_left_out():
    first = golden_run("first", data_digest="d")
    values = (first.radius, first.is_correct)
    assert (
        tables.differences(
            [
                first,
                Certified("of other data", *values, first.indices, None, "e"),
                Certified("of unknown images", *values),
                Certified("of other images", *values, first.indices + 100),
            ]
        )
        == []
    )


def test_published_rows():
    rows = tables.published("cifar10")
    macer = next(row for row in rows if row["name"] == "MACER (images 500 to 999)")
    assert (macer["sigma"], macer["acr"]) == (0.25, 0.556)
    assert list(macer["certified_accuracy"]) == [f"{r:.2f}" for r in metrics.RADII]
    assert macer["certified_accuracy"]["0.75"] == 0.43
    best = {
        sigma: max(
            row["acr"]
            for row in tables.published("cifar10", [sigma])
            if row["name"].endswith("(test split)")
        )
        for sigma in (0.25, 0.5, 1.0)
    }
    assert best == {0.25: 0.564, 0.5: 0.76, 1.0: 0.844}
    assert {row["sigma"] for row in tables.published("mnist", [1.0])} == {1.0}
    text = tables.render([golden_run().row()], tables.published("cifar10", [1.0]))
    shown = cells(text, "MACER (images 500 to 999)")
    assert shown[:5] == ["1", "-", "-", "45", "41"] and shown[-1] == "0.792"
    assert "README of RuntianZ/macer" in text


def test_the_area_below_published_curves_fits_their_averages():
    """A slip of a digit would show: accuracy falls, and its area is the ACR."""
    for row in tables.published("cifar10"):
        values = list(row["certified_accuracy"].values())
        if not values:
            continue
        assert values == sorted(values, reverse=True)
        assert 0.25 * sum(values[1:]) - 0.02 < row["acr"] < 0.25 * sum(values) + 0.35


def test_unknown_data_sets_are_refused():
    with pytest.raises(InputError, match="known of cifar10, mnist. Received: 'svhn'"):
        tables.published("svhn")
