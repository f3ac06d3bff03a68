"""Metrics against golden values, worked by hand or from published logs."""

import numpy as np
import pytest

from robust_tf.errors import InputError
from robust_tf.smoothing import metrics
from tests.smoothing import golden


@pytest.fixture(name="table")
def fixture_table():
    return golden.content()["acr_table"]


def columns(table):
    rows = table["rows"]
    return [row["radius"] for row in rows], [row["correct"] for row in rows]


def test_certified_accuracy(table):
    found = metrics.certified_accuracy(*columns(table), table["grid"])
    np.testing.assert_array_equal(found, table["certified_accuracy_ge"])
    assert found[0] == table["clean_accuracy"]


def test_average_certified_radius(table):
    found = metrics.average_certified_radius(*columns(table))
    np.testing.assert_allclose(found, table["acr"], rtol=1e-12)
    error = metrics.acr_standard_error(*columns(table))
    np.testing.assert_allclose(error, table["acr_standard_error"], rtol=1e-12)


def test_it_is_the_area_under_the_curve(table):
    fine = np.linspace(0.0, 1.0, 10_001)
    curve = metrics.certified_accuracy(*columns(table), fine[1:])
    found = metrics.average_certified_radius(*columns(table))
    np.testing.assert_allclose(curve.mean(), found, atol=1e-4)


@pytest.mark.parametrize("case", golden.cases("high_probability_certified_accuracy"))
def test_high_probability(case):
    found = metrics.high_probability_certified_accuracy(
        case["mean"], case["N"], case["alpha"], case["rho"]
    )
    np.testing.assert_allclose(found, case["lower"], rtol=1e-10)


def test_grid():
    assert metrics.RADII == (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25)
    assert metrics.radii_up_to(0.9529) == (0.0, 0.25, 0.5, 0.75)
    assert metrics.radii_up_to(0.75)[-1] == 0.75


def test_paired_difference():
    first = metrics.scores([0.5, 0.4, 0.3], [1, 1, 0])
    second = metrics.scores([0.4, 0.2, 0.3], [1, 1, 1])
    mean, error = metrics.paired_difference(first, second)
    # Differences 0.1, 0.2, -0.3: mean 0, variance 0.14 / 2.
    np.testing.assert_allclose(mean, 0.0, atol=1e-15)
    np.testing.assert_allclose(error, (0.07 / 3) ** 0.5, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.certified_accuracy([0.1], [1, 0]), "one value for each"),
        (lambda: metrics.certified_accuracy([], []), "at least one"),
        (lambda: metrics.scores([-1.0], [1]), "from 0"),
        (lambda: metrics.scores([float("nan")], [1]), "finite"),
        (lambda: metrics.scores([0.1], [2]), "truth values"),
        (lambda: metrics.acr_standard_error([0.1], [1]), "at least 2"),
        (lambda: metrics.paired_difference([1.0], [1.0, 2.0]), "same examples"),
        (
            lambda: metrics.high_probability_certified_accuracy(0.5, 0, 0.001),
            "at least 1",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
