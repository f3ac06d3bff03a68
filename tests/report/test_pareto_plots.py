"""Fronts and losses in pictures, and the published results behind them."""

import csv
import pathlib

import numpy as np
import pytest
from matplotlib import figure as figures

from robust_tf.errors import InputError
from robust_tf.report import loss_plots
from robust_tf.report import pareto_plots
from robust_tf.report import published

FILE = pathlib.Path(published.__file__).with_name("published.tsv")
POINTS = [
    {"name": "1", "clean_accuracy": 0.6, "certified_accuracy": 0.5},
    {"name": "0.01", "clean_accuracy": 0.8, "certified_accuracy": 0.4},
    {"name": "0.5", "clean_accuracy": 0.6, "certified_accuracy": 0.4},
]
POINTS = [one | {"is_efficient": one["name"] != "0.5"} for one in POINTS]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    found, save = [], figures.Figure.savefig

    def keep(figure, *arguments, **options):
        found.append(figure)
        return save(figure, *arguments, **options)

    monkeypatch.setattr(figures.Figure, "savefig", keep)
    return found


def test_the_front_joins_what_is_efficient(tmp_path, drawn):
    others = published.published("cifar10", 2 / 255)
    pareto_plots.pareto_front(POINTS, others, tmp_path / "a.png", "Title", "measured")
    (figure,) = drawn
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    front, dominated = lines["measured, efficient"], lines["measured, dominated"]
    np.testing.assert_allclose(front.get_xydata(), [[60, 50], [80, 40]])
    assert front.get_linestyle() == "-"
    np.testing.assert_allclose(dominated.get_xydata(), [[60, 40]])
    assert dominated.get_linestyle() == "None"
    assert dominated.get_markerfacecolor() == "white"
    (grey,) = [line for label, line in lines.items() if label.startswith("published")]
    assert "test split, full-size networks" in grey.get_label()
    assert len(grey.get_xdata()) == len(others) == 12
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == set(lines)
    names = [text.get_text() for text in axes.texts]
    assert sorted(names) == sorted(
        [point["name"] for point in POINTS] + [one["method"] for one in others]
    )
    assert axes.get_xlabel() == "natural accuracy (%)"
    assert axes.get_ylabel() == "certified accuracy (%)"


def test_labels_cover_no_other(tmp_path, drawn):
    others = published.published("cifar10", 2 / 255)
    pareto_plots.pareto_front(POINTS, others, tmp_path / "a.png", "Title")
    (figure,) = drawn
    renderer = figure.canvas.get_renderer()
    boxes = [pareto_plots._extent(text, renderer) for text in figure.axes[0].texts]
    assert all(box.count_overlaps(boxes) == 1 for box in boxes)  # Itself.


@pytest.mark.parametrize("count", [1, 2])
def test_few_points_and_nothing_published(tmp_path, drawn, count):
    pareto_plots.pareto_front(POINTS[:count], [], tmp_path / "a.png", "Title")
    (axes,) = drawn[0].axes
    assert [line.get_label() for line in axes.lines] == ["measured, efficient"]
    assert list(tmp_path.iterdir()) == [tmp_path / "a.png"]


def test_nothing_to_draw(tmp_path):
    with pytest.raises(InputError, match="no points"):
        pareto_plots.pareto_front([], [], tmp_path / "a.png", "Title")
    with pytest.raises(InputError, match="no losses"):
        loss_plots.losses_against_coefficient([], tmp_path / "a.png")


@pytest.mark.parametrize(
    ("epsilon", "count"), [(2 / 255, 12), (0.00784, 12), (8 / 255, 4), (0.008, 0)]
)
def test_published_radii_are_rounded(epsilon, count):
    assert len(published.published("cifar10", epsilon)) == count


def test_published_results_of_one_setting():
    (first, second) = published.published("mnist:3.0.1", 0.1)
    assert first["method"] == "IBP"
    assert first["clean_accuracy"] == 0.9894
    assert first["certified_accuracy"] == 0.9708
    assert second["method"] == "SABR"
    assert published.published("mnist", 0.1, 2) == []
    assert published.published("digits", 0.1) == []


def test_all_that_is_published_has_a_source():
    with FILE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for row in rows:
        assert all(row.values()), row
        assert 0.0 < float(row["certified"]) < float(row["clean"]) < 100.0, row
    settings = [(row["dataset"], row["epsilon"], row["method"]) for row in rows]
    assert len(set(settings)) == len(settings)


def loss_record(name, ibp):
    methods = ("cc-ibp", "mtl-ibp", "exp-ibp", "sabr")
    return {
        "name": name,
        "dataset": "digits",
        "epsilon": 0.1,
        "losses": {"natural": 0.5, "adversarial": 0.6, "crown": 0.8, "ibp": ibp},
        "coefficients": [0.0, 0.5, 1.0],
        "by_method": {method: [0.6, 0.7, ibp] for method in methods},
    }


def test_losses_have_a_panel_for_each_model(tmp_path, drawn):
    records = [loss_record(f"model {number}", 1.0) for number in range(4)]
    loss_plots.losses_against_coefficient(records, tmp_path / "a.png")
    panels = drawn[0].axes
    assert [axes.get_title().split("\n")[0] for axes in panels if axes.lines] == [
        f"model {number}" for number in range(4)
    ]
    lines = {line.get_label(): line for line in panels[0].lines}
    assert set(lines) >= {"IBP", "CROWN", "CC-IBP", "MTL-IBP", "Exp-IBP", "SABR"}
    np.testing.assert_allclose(lines["SABR"].get_xdata(), [0.0, 0.5, 1.0])
    assert panels[0].get_yscale() == "linear"


def test_losses_far_apart_are_on_a_log_scale(tmp_path, drawn):
    record = loss_record("model", 1e4)
    del record["by_method"]["sabr"]
    record["by_method"]["exp-ibp"][1] = float("inf")
    loss_plots.losses_against_coefficient([record], tmp_path / "a.png")
    (axes,) = drawn[0].axes
    assert axes.get_yscale() == "log"
    assert "SABR" not in {line.get_label() for line in axes.lines}
