"""Pictures of losses against the coefficient of an expressive loss."""

import os
from collections.abc import Sequence

import numpy as np

from robust_tf.errors import InputError
from robust_tf.report import plots
from robust_tf.report.loss_tables import TITLES

# Told apart by shape as well as by colour.
_LINES = {
    "cc-ibp": (plots._BLUE, "o"),
    "mtl-ibp": (plots._VERMILION, "s"),
    "exp-ibp": (plots._GREEN, "^"),
    "sabr": (plots._PURPLE, "D"),
}
_LEVELS = {"natural": ":", "adversarial": "--", "crown": "-.", "ibp": "-"}
_COLUMNS = 3
_DECADES = 30.0  # Losses further apart than this factor are drawn on a log scale.


def losses_against_coefficient(
    records: Sequence[dict], path: str | os.PathLike
) -> None:
    """Draws one panel for each model: a curve for each method, levels for the rest.

    Args:
        records: of `losses.json`.
        path: of the picture, such as `losses.png`.

    Raises:
        InputError: where there are no records.
    """
    if not records:
        raise InputError("There are no losses to draw. Received: no records")
    columns = min(len(records), _COLUMNS)
    rows = -(-len(records) // columns)
    figure = plots._figure(4.6 * columns + 2.0, 4.2 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).flat
    for axes, record in zip(panels, records, strict=False):
        _draw(axes, record)
    for axes in panels[len(records) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    plots._save(figure, path)


def _draw(axes, record):
    for name, dashes in _LEVELS.items():
        axes.axhline(
            record["losses"][name],
            color="black",
            linestyle=dashes,
            linewidth=0.9,
            label=TITLES[name],
        )
    for name, (colour, marker) in _LINES.items():
        if name in record["by_method"]:
            axes.plot(
                record["coefficients"],
                record["by_method"][name],
                color=colour,
                marker=marker,
                markersize=4,
                label=TITLES[name],
            )
    axes.set(
        title=f"{record['name']}\n{record['dataset']}, eps {record['epsilon']:g}",
        xlabel="coefficient (0: adversarial, 1: IBP)",
        ylabel="mean loss (nats)",
    )
    drawn = np.concatenate([line.get_ydata() for line in axes.lines]).astype(float)
    drawn = drawn[np.isfinite(drawn)]
    if drawn.size and drawn.min() > 0.0 and drawn.max() > _DECADES * drawn.min():
        axes.set_yscale("log")
    plots._finish(axes)
