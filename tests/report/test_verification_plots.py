"""Pictures and tables of verification: what is drawn, and that nothing is left out."""

import numpy as np
import pytest

from robust_tf.errors import InputError
from robust_tf.report import tables
from robust_tf.report import verification_plots

SUMMARY = {
    "name": "runs/a",
    "dataset": "digits",
    "epsilon": 0.1,
    "norm": "inf",
    "examples": 20,
    "verdicts": {
        "VERIFIED": 9,
        "FALSIFIED": 7,
        "UNKNOWN": 1,
        "TIMEOUT": 3,
        "ERROR": 0,
    },
    "clean_accuracy": 0.9,
    "attacked_accuracy": 0.65,
    "certified_accuracy": 0.45,
    "certified_accuracy_with_tolerance": 0.45,
    "certified_after": {"clean": 0.0, "attack": 0.0, "ibp": 0.2, "bab": 0.45},
    "verified_by": {"clean": 0, "attack": 0, "ibp": 4, "bab": 5},
    "falsified_by": {"clean": 2, "attack": 4, "ibp": 0, "bab": 1},
    "seconds": {"mean": 1.5, "median": 0.25, "max": 12.0, "total": 30.0},
}
RECORDS = [
    {"verdict": verdict, "seconds": seconds}
    for verdict, seconds in (
        ("VERIFIED", 0.5),
        ("VERIFIED", 0.1),
        ("FALSIFIED", 0.0),
        ("TIMEOUT", 60.0),
    )
]


def test_decided_over_time(figures, tmp_path):
    path = tmp_path / "a.png"
    verification_plots.decided_over_time({"a": RECORDS}, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    (axes,) = figures[0].axes
    lines = {line.get_label(): line for line in axes.lines}
    verified = lines["verified"].get_xydata().tolist()
    assert verified == [[1e-3, 0], [0.1, 1], [0.5, 2], [60.0, 2]]
    assert lines["falsified"].get_ydata()[-1] == 1
    assert lines["tried: 4"].get_ydata()[0] == 4
    assert "seconds" in axes.get_xlabel() and axes.get_xscale() == "log"
    verification_plots.decided_over_time({"a": RECORDS, "b": RECORDS[:1]}, path)
    labels = [line.get_label() for line in figures[1].axes[0].lines]
    assert labels == ["a: verified", "a: falsified", "b: verified", "tried: 4"]


def test_accuracy_by_stage(figures, tmp_path):
    runs = {"a": SUMMARY, "b": SUMMARY | {"epsilon": 0.2}, "c": SUMMARY}
    verification_plots.accuracy_by_stage(runs, tmp_path / "a.png")
    panels = [axes for axes in figures[0].axes if axes.axison]
    assert [axes.get_title().split("\n")[0] for axes in panels] == ["a", "b", "c"]
    assert "eps 0.2, norm inf" in panels[1].get_title()
    above, below = (line.get_ydata() for line in panels[0].lines)
    np.testing.assert_allclose(above, [90.0, 70.0, 70.0, 65.0])
    np.testing.assert_allclose(below, [0.0, 0.0, 20.0, 45.0])
    assert below[-1] == 100.0 * SUMMARY["certified_accuracy"]
    names = [label.get_text() for label in panels[0].get_xticklabels()]
    assert names == ["clean", "attack", "IBP", "branch and bound"]


def test_verdict_counts(figures, tmp_path):
    verification_plots.verdict_counts({"a": SUMMARY, "b": SUMMARY}, tmp_path / "a.png")
    (axes,) = figures[0].axes
    widths = [bar.get_width() for bar in axes.patches[:5]]
    np.testing.assert_allclose(widths, [45.0, 35.0, 5.0, 15.0, 0.0])
    assert [text.get_text() for text in axes.texts[:4]] == ["9", "7", "1", "3"]
    colours = {bar.get_facecolor() for bar in axes.patches}
    assert len(colours) == 5


@pytest.mark.parametrize(
    ("draw", "nothing"),
    [
        (verification_plots.decided_over_time, {"a": []}),
        (verification_plots.accuracy_by_stage, {}),
        (verification_plots.verdict_counts, {}),
    ],
)
def test_nothing_to_draw(tmp_path, draw, nothing):
    with pytest.raises(InputError, match="There are no (records|summaries) to draw"):
        draw(nothing, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_the_table():
    other = SUMMARY | {"certified_after": {"ibp": 0.2, "milp": 0.4}}
    other |= {"name": "[b]", "certified_accuracy_with_tolerance": 0.5}
    text = tables.render_verification([SUMMARY, other])
    rows = [line.split() for line in text.split("\n")]
    assert rows[1][:7] == ["model", "data", "eps", "norm", "n", "clean", "not"]
    numbers = ["90.00", "65.00", "20.00", "45.00", "-", "45.00", "-"]
    assert rows[3] == ["runs/a", "digits", "0.1", "inf", "20", *numbers]
    numbers = ["90.00", "65.00", "20.00", "-", "40.00", "45.00", "50.00"]
    assert rows[4] == ["[b]", "digits", "0.1", "inf", "20", *numbers]
    assert "branch and bound" in text and "and within tolerance" in text
    verdicts = ["9", "7", "1", "3", "0", "1.5", "0.25", "12"]
    assert ["runs/a", *verdicts] in rows
    assert "attack" not in text
