"""Pictures in cells: gradients at images, and filters (arXiv:1810.07481).

Scalings and layout are ours: those of published pictures are not documented.
"""

import os
from collections.abc import Mapping
from collections.abc import Sequence

import matplotlib
import numpy as np

from robust_tf.errors import InputError
from robust_tf.report import plots
from robust_tf.report import tiles

_SCALE = (
    "gradient of the cross-entropy; grey is 0, black and white 3 standard deviations "
    "of each"
)
_DIVERGING = "RdBu_r"  # White at 0.


def input_gradients(
    images: np.ndarray,
    labels: Sequence[int],
    gradients: Mapping[str, np.ndarray],
    path: str | os.PathLike,
) -> None:
    """Draws the gradients of the cross-entropy at images: a row for each model.

    Mid-grey is 0, and black and white are three standard deviations of a gradient. The
    scaling is ours: that of published pictures is not documented.

    Args:
        images: `[n, height, width, 1 or 3]` in [0, 1]: the first row.
        labels: `[n]`.
        gradients: of the shape of the images, by name of the model.
        path: of the picture.

    Raises:
        InputError: where there are no gradients, or shapes differ.
    """
    if not gradients:
        raise InputError("There are no gradients to draw. Received: no models")
    shapes = {np.shape(images)} | {np.shape(one) for one in gradients.values()}
    if len(shapes) > 1:
        raise InputError(
            "Gradients must have the shape of the images. Received: shapes "
            f"{sorted(shapes)}"
        )
    pixels = {name: tiles.gradient_pixels(one) for name, one in gradients.items()}
    figure, cells = _table([("image", images), *pixels.items()])
    for axes, label in zip(cells[0], labels, strict=True):
        axes.set_title(f"label {label}", fontsize=9)
    for row, shown in zip(cells, (images, *pixels.values()), strict=True):
        for axes, image in zip(row, shown, strict=True):
            is_grey = image.shape[-1] == 1
            image = image[..., 0] if is_grey else image
            axes.imshow(image, cmap="gray", vmin=0.0, vmax=1.0)
    figure.supxlabel(_SCALE, fontsize=9)
    plots._save(figure, path)


def filters(
    shown: Mapping[str, np.ndarray], path: str | os.PathLike, title: str
) -> None:
    """Draws filters of convolutions or dense layers: a row for each model.

    White is 0. Filters of one shape have one scale, the same on both sides of 0.

    Args:
        shown: `[n, rows, columns]` by name of the model, see `tiles.filter_tiles`;
            rows of one shape come one below the other.
        path: of the picture.
        title: above it.

    Raises:
        InputError: where there are no filters.
    """
    if not shown:
        raise InputError("There are no filters to draw. Received: no models")
    shapes = list(dict.fromkeys(weights.shape[1:] for weights in shown.values()))
    rows = sorted(shown.items(), key=lambda item: shapes.index(item[1].shape[1:]))
    figure, cells = _table(rows)
    figure.suptitle(title)
    pairs = list(zip(cells, (weights for _, weights in rows), strict=True))
    for shape in shapes:
        _draw_filters([pair for pair in pairs if pair[1].shape[1:] == shape])
    plots._save(figure, path)


def _table(rows):
    """A figure with a cell for each picture, and the names of rows beside them."""
    columns = max(len(row) for _, row in rows)
    sizes = [np.shape(row)[1:3] for _, row in rows]
    ratio = max(height / width for height, width in sizes)
    figure = plots._figure(max(1.0 * columns + 1.2, 4.0), ratio * len(rows) + 0.9)
    cells = figure.subplots(len(rows), columns, squeeze=False)
    for row, (name, _) in zip(cells, rows, strict=True):
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for axes in cells.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(plots._PALE)
    return figure, cells


def _draw_filters(pairs):
    """Rows of cells and of filters, with one scale and its bar."""
    most = max(float(np.nanmax(np.abs(weights))) for _, weights in pairs)
    most = most or 1.0  # Where all are 0, the scale is any.
    colours = matplotlib.colormaps[_DIVERGING].with_extremes(bad=plots._PALE)
    for row, weights in pairs:
        for axes, tile in zip(row, weights, strict=False):
            picture = axes.imshow(tile, cmap=colours, vmin=-most, vmax=most)
        for axes in row[len(weights) :]:
            axes.set_axis_off()
    cells = [axes for row, _ in pairs for axes in row]
    row[0].figure.colorbar(picture, ax=cells, label="weight", pad=0.01)
