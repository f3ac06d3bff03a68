"""Pictures of the linear regions of classifiers (arXiv:1810.07481).

On a plane, and distances from examples to the ends of their regions and decisions.
Colours and layout are ours.
"""

import os
from collections.abc import Mapping
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import hsv_to_rgb
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from robust_tf.errors import InputError
from robust_tf.propagation.plane import Plane
from robust_tf.propagation.plane import Section
from robust_tf.propagation.surroundings import Distances
from robust_tf.report import plots

_DISCS = ("#d40000", "#008a00", "#0000d4")  # Red, green and blue, as published.
_GOLDEN = 0.61803398875  # Hues so far apart differ from all of their neighbours.
_PALENESS = 0.8  # Share of white in the colours of classes.
_INK = 350.0  # Points: the width of all lines together; a line is 0.15 to 0.9 wide.
_COLUMNS = 3
_BINS = 40


def linear_regions(
    sections: Mapping[str, Section],
    plane: Plane,
    captions: Sequence[str],
    path: str | os.PathLike,
) -> None:
    """Draws where neurons change sign on the plane through three points.

    Each neuron has a colour of its own, the background that of the predicted class, and
    decisions change on black lines. The three points are discs in red, green and blue.

    Args:
        sections: by name of the model; one panel each.
        plane: that they are of.
        captions: of the three points.
        path: of the picture.

    Raises:
        InputError: where there are no sections, or they are of several windows.
    """
    _check_some(sections, "linear regions")
    windows = [section.window for section in sections.values()]
    if any(not np.array_equal(window, windows[0]) for window in windows):
        raise InputError(
            "Linear regions are compared on one window. Received: several windows"
        )
    columns = min(len(sections), _COLUMNS)
    rows = -(-len(sections) // columns)
    handles = _handles(sections.values(), captions)
    beside = min(len(handles), 3 * columns)  # In each line of the legend.
    below = -(-len(handles) // beside)
    figure = plots._figure(4.8 * columns, 5.3 * rows + 0.2 * below + 0.2)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (name, section) in zip(panels, sections.items(), strict=False):
        _draw_section(axes, name, section, plane)
    for axes in panels[len(sections) :]:
        axes.set_axis_off()
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=beside,
        fontsize=9,
        frameon=False,
    )
    plots._save(figure, path)


def distance_histograms(
    distances: Mapping[str, Distances],
    path: str | os.PathLike,
    norm: str | float,
    epsilon: float | None = None,
) -> None:
    """Draws how far examples are from the ends of their regions and decisions.

    Distances that are infinite, or not above 0 (as of decisions that are wrong), have
    no place on the logarithmic axis; the legend counts them.

    Args:
        distances: by name of the model.
        path: of the picture.
        norm: of the distances, for the axis.
        epsilon: where a line is drawn; None for none.

    Raises:
        InputError: where there are no distances.
    """
    _check_some(distances, "distances")
    figure = plots._figure(10.4, 5.2)
    panels = figure.subplots(1, 2, sharey=True)
    region = {name: one.region for name, one in distances.items()}
    decision = {name: one.decision for name, one in distances.items()}
    parts = (
        ("nearest boundary of the linear region", region),
        ("nearest decision boundary of the region's map", decision),
    )
    for axes, (title, found) in zip(panels, parts, strict=True):
        _draw_histograms(axes, found, epsilon)
        axes.set(title=title, xlabel=f"L{norm} distance (pixels in [0, 1])")
        plots._finish(axes)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)
    panels[0].set_ylabel("examples")
    plots._save(figure, path)


def _check_some(given, what):
    if not given:
        raise InputError(f"There are no {what} to draw. Received: no models")


def _handles(sections, captions):
    """What the legend shows: the points, decisions, and the classes seen."""
    handles = [
        Line2D([], [], color=colour, marker="o", linestyle="", label=caption)
        for colour, caption in zip(_DISCS, captions, strict=True)
    ]
    handles.append(Line2D([], [], color="black", linewidth=1.8, label="decision"))
    seen = np.unique(np.concatenate([s.classes.ravel() for s in sections]))
    patches = [Patch(facecolor=_class_colour(k), label=f"class {k}") for k in seen]
    return handles + patches


def _draw_section(axes, name, section, plane):
    (left, right), (low, high) = section.window
    seen, places = np.unique(section.classes, return_inverse=True)
    palette = np.array([_class_colour(k) for k in seen])
    axes.imshow(
        palette[places.reshape(section.classes.shape)],
        # Pixels are centred on the points of the grid.
        extent=_widened(left, right, section.classes.shape[1])
        + _widened(low, high, section.classes.shape[0]),
        origin="lower",
        interpolation="nearest",
    )
    hues = (_GOLDEN * section.neurons) % 1.0
    strength = np.full_like(hues, 0.75)
    colours = hsv_to_rgb(np.stack([hues, strength, strength], -1))
    count = len(np.unique(section.neurons))
    width = np.clip(_INK / max(count, 1), 0.15, 0.9)
    axes.add_collection(
        LineCollection(section.boundaries, colors=colours, linewidths=width)
    )
    axes.add_collection(
        LineCollection(section.decisions, colors="black", linewidths=1.8)
    )
    for place, colour in zip(plane.coordinates, _DISCS, strict=True):
        axes.plot(*place, "o", color=colour, markersize=9, markeredgecolor="white")
    axes.set_box_aspect(1)
    axes.set(
        title=f"{name}\n{count} of {section.num_neurons} neurons change sign here",
        xlim=(left, right),
        ylim=(low, high),
        xticks=[],
        yticks=[],
    )


def _widened(low, high, points):
    half = 0.5 * (high - low) / max(points - 1, 1)
    return [low - half, high + half]


def _class_colour(number):
    """A pale colour; those of ten classes differ."""
    colour = np.array(to_rgb(matplotlib.colormaps["tab10"](int(number) % 10)))
    return tuple(_PALENESS + (1.0 - _PALENESS) * colour)


def _draw_histograms(axes, found, epsilon):
    """Outlines over bins of one width on a logarithmic axis, and what is left out."""
    drawn = {name: one[np.isfinite(one) & (one > 0.0)] for name, one in found.items()}
    everything = np.concatenate(list(drawn.values()))
    ends = [*everything, *([epsilon] if epsilon else [])] or [1.0]
    bins = np.geomspace(0.9 * min(ends), 1.1 * max(ends), _BINS + 1)
    for number, (name, values) in enumerate(drawn.items()):
        middle = f", median {np.median(found[name]):.2g}" if len(values) else ""
        infinite = int(np.isinf(found[name]).sum())
        axes.hist(
            values,
            bins,
            histtype="step",
            color=plots._CYCLE[number % len(plots._CYCLE)],
            linewidth=1.6,
            label=f"{name}{middle}; left out: {infinite} infinite, "
            f"{len(found[name]) - infinite - len(values)} not above 0",
        )
    if epsilon:
        axes.axvline(epsilon, color="black", linestyle=":", label=f"eps {epsilon:.4g}")
    axes.set_xscale("log")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
