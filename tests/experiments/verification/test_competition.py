"""Instances of the competition with known answers, where its files are at hand."""

import csv
import os
import pathlib

import pytest

from robust_tf import Plan
from robust_tf.experiments.verification_property import verify_property

_BESIDE = pathlib.Path(__file__).parents[4] / "shared" / "data" / "vnncomp"
FOLDER = pathlib.Path(os.environ.get("ROBUST_TF_VNNCOMP", _BESIDE))
LIST = FOLDER / "instances.csv"
pytestmark = pytest.mark.skipif(
    not LIST.is_file(), reason=f"no competition files in '{FOLDER}' (ROBUST_TF_VNNCOMP)"
)
QUICK = (
    ("test_nano.onnx", "test_nano.vnnlib"),
    ("test_sat.onnx", "test_prop.vnnlib"),
    ("ACASXU_run2a_1_1_batch_2000.onnx", "prop_3.vnnlib"),
    ("mnist-net_256x2.onnx", "prop_2_0.03.vnnlib"),
    ("mnist-net_256x2.onnx", "prop_1_0.05.vnnlib"),
)


def instances():
    if not LIST.is_file():
        return []
    with open(LIST, newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["expected"] != "open"]


def case(row):
    is_quick = (row["network"], row["property"]) in QUICK
    marks = [] if is_quick else [pytest.mark.slow]
    name = f"{row['network'].removesuffix('.onnx')}-{row['property']}"
    return pytest.param(row, id=name, marks=marks)


@pytest.mark.parametrize("row", [case(row) for row in instances()])
def test_answers(row):
    """Never a wrong one; quick instances get the right one."""
    folder = FOLDER / row["category"]
    answer = verify_property(
        model=str(folder / row["network"]),
        property_file=str(folder / row["property"]),
        plan=Plan(),
        timeout_s=float(row["timeout_seconds"]),
        seed=0,
    )
    wrong = {"sat": "unsat", "unsat": "sat"}[row["expected"]]
    assert answer.result != wrong
    if (row["network"], row["property"]) in QUICK:
        assert answer.result == row["expected"]
