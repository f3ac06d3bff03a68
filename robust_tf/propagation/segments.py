"""Where affine functions of two variables are 0: lines in windows, and on grids."""

import numpy as np


def clip_lines(lines: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the parts of lines that lie in a window.

    Args:
        lines: (a, b, c) with `a u + b v + c = 0`, `[n, 3]`.
        window: `[[u_low, u_high], [v_low, v_high]]`.

    Returns:
        Segments, `[m, 2, 2]`, and the places of their lines, `[m]`.
    """
    lines, window = np.asarray(lines, "float64"), np.asarray(window, "float64")
    normals, middle = lines[:, :2], window.mean(-1)
    squares = np.square(normals).sum(-1, keepdims=True)
    offsets = lines[:, 2:] + normals @ middle[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        # The point nearest to the middle, and how far from it each side lies.
        base = middle - normals * offsets / squares
        along = normals[:, ::-1] * (-1.0, 1.0) / np.sqrt(squares)
        ends = (window - base[:, :, None]) / along[:, :, None]  # [n, axis, side]
    is_parallel = along == 0.0
    is_within = (window[:, 0] <= base) & (base <= window[:, 1])
    reach = np.where(is_within, np.inf, -np.inf)  # Of a line parallel to an axis.
    first = np.where(is_parallel, -reach, ends.min(-1)).max(-1)
    last = np.where(is_parallel, reach, ends.max(-1)).min(-1)
    kept = np.flatnonzero(first < last)  # Not NaN, as of a = b = 0.
    lengths = np.stack([first, last], -1)[kept]
    segments = base[kept, None] + lengths[:, :, None] * along[kept, None]
    return segments, kept


def zero_segments(
    values: np.ndarray, across: np.ndarray, up: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns where functions on a grid change sign: 0 counts as below.

    Each cell is cut into two triangles, and functions are affine on each of them.

    Args:
        values: at the corners of cells, `[rows, columns, *functions]`.
        across: u of the columns, `[columns]`.
        up: v of the rows, `[rows]`.

    Returns:
        Segments, `[m, 2, 2]`, and the flat place of the function of each, `[m]`.
    """
    values = values.reshape(*values.shape[:2], -1)
    is_above = values > 0.0
    parts, owners = [], []
    for corners in (((0, 0), (0, 1), (1, 0)), ((1, 1), (1, 0), (0, 1))):
        count = sum(_corner(is_above, *corner).astype("int8") for corner in corners)
        rows, columns, functions = np.nonzero((count > 0) & (count < 3))
        places = [(rows + r, columns + c) for r, c in corners]
        heights = np.stack([values[*place, functions] for place in places], -1)
        ends = np.stack([np.stack([across[c], up[r]], -1) for r, c in places], 1)
        parts.append(_crossings(heights.astype("float64"), ends))
        owners.append(functions)
    return np.concatenate(parts), np.concatenate(owners)


def _corner(values, row, column):
    """Of each cell, the value at one of its corners."""
    rows, columns = values.shape[0] - 1, values.shape[1] - 1
    return values[row : row + rows, column : column + columns]


def _crossings(heights, ends):
    """Segments through triangles, from heights `[m, 3]` and corners `[m, 3, 2]`."""
    is_above = heights > 0.0
    is_one_above = is_above.sum(-1, keepdims=True) == 1
    alone = np.argmax(is_above == is_one_above, -1)  # On a side of its own.
    places = np.arange(len(heights))
    parts = []
    for step in (1, 2):
        other = (alone + step) % 3
        low, high = heights[places, alone], heights[places, other]
        share = (low / (low - high))[:, None]
        parts.append((1.0 - share) * ends[places, alone] + share * ends[places, other])
    return np.stack(parts, 1)
