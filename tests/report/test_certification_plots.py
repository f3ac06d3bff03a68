"""Pictures of certified radii: what is drawn, and how far."""

import numpy as np
import pytest

from robust_tf.errors import InputError
from robust_tf.report import certification_plots

CURVE = (np.array([0.0, 0.2, 0.75]), np.array([0.8, 0.6, 0.2]))
OTHER = (np.array([0.0, 0.5, 0.6]), np.array([0.9, 0.4, 0.0]))


def value_at(line, radius):
    """What a curve of steps shows at a radius."""
    radii, values = line.get_data()
    return values[np.searchsorted(radii, radius)]


def test_steps_hold_up_to_their_radius(figures, tmp_path):
    path = tmp_path / "a.png"
    certification_plots.certified_accuracy({"a": CURVE, "b": OTHER}, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    (axes,) = figures[0].axes
    first, second = axes.lines
    assert first.get_drawstyle() == "steps-pre"
    shown = [value_at(first, radius) for radius in (0.0, 0.1, 0.2, 0.21, 0.75)]
    np.testing.assert_allclose(shown, [80.0, 60.0, 60.0, 20.0, 20.0])
    assert first.get_xydata()[-1].tolist() == [0.75, 0.0]
    assert [line.get_label() for line in axes.lines] == ["a", "b"]
    assert first.get_color() != second.get_color()
    assert "certified accuracy" in axes.get_ylabel() and "L2" in axes.get_xlabel()


@pytest.mark.parametrize(
    ("sigma", "end"), [(0.25, 1.0), (0.5, 2.0), (1.0, 4.0), (None, 0.75)]
)
def test_published_limits(figures, tmp_path, sigma, end):
    certification_plots.certified_accuracy({"a": CURVE}, tmp_path / "a.png", sigma)
    (axes,) = figures[0].axes
    assert axes.get_xlim() == (0.0, end)
    assert axes.get_ylim() == (0.0, 100.0)


def test_nothing_certified_still_has_axes(figures, tmp_path):
    nothing = (np.array([0.0]), np.array([0.0]))
    certification_plots.certified_accuracy({"a": nothing}, tmp_path / "a.png")
    assert figures[0].axes[0].get_xlim() == (0.0, 1.0)


def test_no_curves_are_refused(tmp_path):
    with pytest.raises(InputError, match="There are no radii to draw"):
        certification_plots.certified_accuracy({}, tmp_path / "a.png")
