"""Pictures of certified radii: how much of a data set is certified to how far."""

import os
from collections.abc import Mapping

import numpy as np

from robust_tf.errors import InputError
from robust_tf.report import plots

# Published pictures end at 1, 2 and 4 for sigmas of 0.25, 0.5 and 1 (arXiv:2001.02378).
_SIGMAS_SHOWN = 4.0


def certified_accuracy(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    path: str | os.PathLike,
    sigma: float | None = None,
    norm: str = "2",
) -> None:
    """Draws certified accuracy against the radius; the area below a curve is the ACR.

    Args:
        curves: radii in ascending order, `[m]`, in pixels in [0, 1], and the fraction
            certified at each, `[m]`, by name. It is that fraction from the radius
            before (or 0) up to this one, and nothing beyond the last.
        path: of the picture.
        sigma: of the noise; the axis ends at four times that, as in published
            pictures of L2 radii. None for where the last curve ends.
        norm: of the radii.

    Raises:
        InputError: where there are no curves.
    """
    if not curves:
        raise InputError("There are no radii to draw. Received: none")
    figure = plots._figure(7.2, 4.6)
    axes = figure.add_subplot()
    for number, (name, (radii, accuracy)) in enumerate(curves.items()):
        axes.step(
            np.concatenate([[0.0], radii, radii[-1:]]),
            100.0 * np.concatenate([accuracy[:1], accuracy, [0.0]]),
            where="pre",
            color=plots._CYCLE[number % len(plots._CYCLE)],
            linestyle=plots._DASHES[number % len(plots._DASHES)],
            label=name,
        )
    is_shown_whole = sigma is None or norm != "2"
    end = _end(curves) if is_shown_whole else _SIGMAS_SHOWN * sigma
    axes.set(
        xlabel=f"L{norm} radius (pixels in [0, 1])",
        ylabel="certified accuracy (%)",
        xlim=(0.0, end),
        ylim=(0.0, 100.0),
    )
    plots._finish(axes)
    axes.legend(loc="upper right", frameon=False)
    plots._save(figure, path)


def _end(curves) -> float:
    """The greatest radius to which anything is certified; 1 for none."""
    ends = [
        radii[accuracy > 0.0].max(initial=0.0) for radii, accuracy in curves.values()
    ]
    return float(max(ends)) or 1.0
