"""Pictures of linear regions and distances: what is drawn, and what is counted."""

import dataclasses

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from robust_tf.errors import InputError
from robust_tf.propagation.plane import Plane
from robust_tf.propagation.plane import Section
from robust_tf.propagation.surroundings import Distances
from robust_tf.report import region_plots

PLANE = Plane.through(np.array([[0.0, 0.0], [4.0, 0.0], [1.0, 2.0]]))
SECTION = Section(
    window=np.array([[-1.0, 5.0], [-2.0, 4.0]]),
    boundaries=np.array([[[0.0, 0.0], [1.0, 1.0]], [[0.0, 1.0], [2.0, 1.0]]]),
    neurons=np.array([7, 7]),
    num_neurons=12,
    decisions=np.array([[[2.0, -2.0], [2.0, 4.0]]]),
    classes=np.array([[3, 3, 8], [3, 8, 8], [8, 8, 8]]),
)
CAPTIONS = ["image 0, label 3", "image 1, label 8", "image 2, label 8"]


def test_linear_regions(figures, tmp_path):
    path = tmp_path / "a.png"
    sections = {"plain": SECTION, "MMR": dataclasses.replace(SECTION, num_neurons=5)}
    region_plots.linear_regions(sections, PLANE, CAPTIONS, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    first, second = figures[0].axes
    assert first.get_title() == "plain\n1 of 12 neurons change sign here"
    assert second.get_title() == "MMR\n1 of 5 neurons change sign here"
    for axes in (first, second):
        assert axes.get_xlim() == (-1.0, 5.0) and axes.get_ylim() == (-2.0, 4.0)
    lines = [one for one in first.collections if isinstance(one, LineCollection)]
    neurons, decisions = lines
    assert len(neurons.get_segments()) == 2 and len(decisions.get_segments()) == 1
    colours = neurons.get_colors()
    np.testing.assert_array_equal(colours[0], colours[1])
    discs = [line.get_xydata()[0] for line in first.lines]
    np.testing.assert_allclose(discs, PLANE.coordinates)
    reds, greens, blues = (line.get_color() for line in first.lines)
    assert (reds, greens, blues) == ("#d40000", "#008a00", "#0000d4")
    (legend,) = figures[0].legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == [*CAPTIONS, "decision", "class 3", "class 8"]


def test_background_has_the_colours_of_classes(figures, tmp_path):
    region_plots.linear_regions({"a": SECTION}, PLANE, CAPTIONS, tmp_path / "a.png")
    (image,) = figures[0].axes[0].images
    pixels = np.asarray(image.get_array())
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) == 2
    np.testing.assert_array_equal(pixels[0, 0], pixels[1, 0])
    assert (pixels[0, 0] != pixels[0, 2]).any()
    assert image.origin == "lower"
    # Points of the grid are the centres of pixels.
    np.testing.assert_allclose(image.get_extent(), [-2.5, 6.5, -3.5, 5.5])


def test_neurons_differ_in_colour(figures, tmp_path):
    section = dataclasses.replace(SECTION, neurons=np.array([3, 4]))
    region_plots.linear_regions({"a": section}, PLANE, CAPTIONS, tmp_path / "a.png")
    first, second = figures[0].axes[0].collections[0].get_colors()
    assert np.abs(first - second).max() > 0.3


def test_sections_of_several_windows_are_refused(tmp_path):
    other = dataclasses.replace(SECTION, window=SECTION.window + 1.0)
    with pytest.raises(InputError, match="several windows"):
        region_plots.linear_regions(
            {"a": SECTION, "b": other}, PLANE, CAPTIONS, tmp_path / "a.png"
        )


def test_distance_histograms(figures, tmp_path):
    plain = Distances(
        region=np.array([0.001, 0.002, np.inf, 0.0]),
        decision=np.array([-0.5, 0.1, 0.3, 0.2]),
    )
    robust = Distances(region=np.full(4, 0.05), decision=np.full(4, 0.4))
    path = tmp_path / "a.png"
    region_plots.distance_histograms({"plain": plain, "MMR": robust}, path, 2, 0.1)
    assert path.read_bytes().startswith(b"\x89PNG")
    region, decision = figures[0].axes
    assert region.get_xscale() == "log" and "L2" in region.get_xlabel()
    texts = [text.get_text() for text in region.get_legend().get_texts()]
    assert "eps 0.1" in texts
    assert "plain, median 0.0015; left out: 1 infinite, 1 not above 0" in texts
    assert "MMR, median 0.05; left out: 0 infinite, 0 not above 0" in texts
    texts = [text.get_text() for text in decision.get_legend().get_texts()]
    assert "plain, median 0.15; left out: 0 infinite, 1 not above 0" in texts
    for axes, counts in ((region, [2, 4]), (decision, [3, 4])):
        assert [_total(patch) for patch in axes.patches] == counts
        np.testing.assert_allclose(axes.lines[-1].get_xdata(), 0.1)


def _total(outline):
    """How many examples an outline of bars holds: one height for each bin."""
    heights = outline.get_path().vertices[:, 1]
    return heights[1::2].sum()


def test_nothing_is_above_zero(tmp_path):
    found = Distances(np.full(3, np.inf), np.full(3, -0.1))
    region_plots.distance_histograms({"a": found}, tmp_path / "a.png", "inf")
    assert (tmp_path / "a.png").exists()


def test_no_models(tmp_path):
    with pytest.raises(InputError, match="no linear regions to draw"):
        region_plots.linear_regions({}, PLANE, CAPTIONS, tmp_path / "a.png")
    with pytest.raises(InputError, match="no distances to draw"):
        region_plots.distance_histograms({}, tmp_path / "a.png", "inf")
    assert not (tmp_path / "a.png").exists()
