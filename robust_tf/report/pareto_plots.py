"""Pictures of the trade between natural and certified accuracy."""

import os
from collections.abc import Sequence

from matplotlib.text import Text
from matplotlib.transforms import Bbox

from robust_tf.errors import InputError
from robust_tf.report import plots

_GREY = "#8a8a8a"
_FONT = 8
# Where a label may stand, in points from its marker; the nearest that is free.
_PLACES = [
    (distance * across, distance * up)
    for distance in (7, 14, 24, 36, 50)
    for across, up in (
        *((1, 0), (1, 1), (1, -1), (0, 1), (0, -1)),
        *((-1, 0), (-1, 1), (-1, -1)),
    )
]


def pareto_front(
    points: Sequence[dict],
    published: Sequence[dict],
    path: str | os.PathLike,
    title: str,
    label: str = "measured",
) -> None:
    """Draws certified against natural accuracy, the efficient points joined.

    Args:
        points: with `name`, `clean_accuracy`, `certified_accuracy` (fractions) and
            `is_efficient`.
        published: with `method`, `clean_accuracy` and `certified_accuracy`; drawn
            behind, in grey.
        path: of the picture, such as `pareto.png`.
        title: above it.
        label: what the legend calls the points.

    Raises:
        InputError: where there are no points.
    """
    if not points:
        raise InputError("There are no points to draw. Received: none")
    figure = plots._figure(8.4, 5.6)
    axes = figure.add_subplot()
    if published:
        axes.plot(
            *_columns(published),
            linestyle="none",
            marker="s",
            markersize=4,
            color=_GREY,
            zorder=2,
            label="published: test split, full-size networks, each by a verifier "
            "of its own",
        )
    _draw_points(axes, points, label)
    axes.set(
        title=title, xlabel="natural accuracy (%)", ylabel="certified accuracy (%)"
    )
    axes.margins(0.12)
    plots._finish(axes)
    figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=9)
    texts = [(point, point["name"], "black") for point in points]
    texts += [(one, one["method"], _GREY) for one in published]
    _label(figure, axes, texts)
    plots._save(figure, path)


def _draw_points(axes, points, label):
    """Filled markers on a line for what is efficient, hollow ones for the rest."""
    efficient = [point for point in points if point["is_efficient"]]
    efficient.sort(key=lambda point: point["clean_accuracy"])
    style = {"color": plots._BLUE, "marker": "o", "zorder": 3}
    axes.plot(*_columns(efficient), label=f"{label}, efficient", **style)
    dominated = [point for point in points if not point["is_efficient"]]
    if dominated:
        axes.plot(
            *_columns(dominated),
            linestyle="none",
            markerfacecolor="white",
            label=f"{label}, dominated",
            **style,
        )


def _label(figure, axes, texts):
    """Writes each label at the first place where it covers no other and no marker."""
    figure.canvas.draw()  # Lays out: from here on, places are in pixels.
    figure.set_layout_engine("none")
    renderer = figure.canvas.get_renderer()
    spots = [_spot(record) for record, _, _ in texts]
    pixels = axes.transData.transform(spots)
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in pixels]
    for spot, (_, text, colour) in zip(spots, texts, strict=True):
        for place in _PLACES:
            note = _annotated(axes, text, spot, place, colour)
            box = _extent(note, renderer)
            is_inside = axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)
            if is_inside and not box.count_overlaps(taken):
                break
            note.remove()
        else:  # All places are taken: one label covers another.
            note = _annotated(axes, text, spot, _PLACES[0], colour)
            box = _extent(note, renderer)
        taken.append(box)


def _extent(note, renderer) -> Bbox:
    """The pixels that a label covers, without its line."""
    note.update_positions(renderer)
    return Text.get_window_extent(note, renderer)


def _columns(records):
    """Natural and certified accuracies, in percent."""
    return zip(*map(_spot, records), strict=True)


def _spot(record) -> tuple[float, float]:
    """Where a record is drawn, in percent."""
    keys = ("clean_accuracy", "certified_accuracy")
    return tuple(100.0 * record[key] for key in keys)


def _annotated(axes, text, spot, place, colour):
    """A label, `place` points off its marker, with a thin line to it."""
    across, up = place
    return axes.annotate(
        text,
        spot,
        place,
        textcoords="offset points",
        ha=("center", "left", "right")[(across > 0) - (across < 0)],
        va=("center", "bottom", "top")[(up > 0) - (up < 0)],
        fontsize=_FONT,
        color=colour,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.4},
        zorder=4,
    )
