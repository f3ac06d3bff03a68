"""Linear regions of ReLU classifiers on the plane through three inputs.

As the pictures of arXiv:1810.07481 show them. What a neuron of an affine edge is on the
plane is one straight line; zeros of later neurons are looked for on a grid.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation.linear_regions import LinearRegions
from robust_tf.propagation.segments import clip_lines
from robust_tf.propagation.segments import zero_segments
from robust_tf.propagation.surroundings import compute_dtype

_PARALLEL = 1e-6  # Sine of an angle below which three points are taken for a line.
_VALUES_AT_ONCE = 2**24  # Of all edges, at the points that are worked on together.


@dataclasses.dataclass(frozen=True)
class Plane:
    """The inputs `origin + u e_1 + v e_2`, with e_1 and e_2 orthonormal.

    Attributes:
        origin: the first of three points, `[*shape]`, in the unit of the input.
        directions: e_1 and e_2, `[2, *shape]`.
        coordinates: (u, v) of the three points, `[3, 2]`, in the unit of the input.
    """

    origin: np.ndarray
    directions: np.ndarray
    coordinates: np.ndarray

    @classmethod
    def through(cls, points: np.ndarray) -> "Plane":
        """Returns the plane of three points, by Gram-Schmidt.

        Args:
            points: `[3, *shape]`.

        Raises:
            InputError: for another number of points, or points on one line.
        """
        points = np.asarray(points, "float64")
        if points.shape[:1] != (3,):
            raise InputError(
                "A plane goes through three points. Received: points of shape "
                f"{points.shape}"
            )
        first, last = (points[1:] - points[0]).reshape(2, -1)
        directions = np.zeros((2, first.size))
        if np.any(first):
            directions[0] = first / np.linalg.norm(first)
        rest = last - (last @ directions[0]) * directions[0]
        height = np.linalg.norm(rest)
        if not np.any(first) or height <= _PARALLEL * np.linalg.norm(last):
            raise InputError(
                "Three points span a plane unless they lie on one line. Received: "
                "points that do, or of which two are equal. Choose others."
            )
        directions[1] = rest / height
        coordinates = (points - points[0]).reshape(3, -1) @ directions.T
        directions = directions.reshape(2, *points.shape[1:])
        return cls(points[0], directions, coordinates)

    def points(self, coordinates: np.ndarray) -> np.ndarray:
        """Returns the inputs at (u, v), `[n, 2]`, as `[n, *shape]`."""
        return self.origin + np.tensordot(coordinates, self.directions, 1)

    def window(self, margin: float = 0.3) -> np.ndarray:
        """Returns the square around the three points: lowest and highest u and v.

        Args:
            margin: on each side, over the greatest distance along u or v.

        Returns:
            `[[u_low, u_high], [v_low, v_high]]`, in the unit of the input.
        """
        low, high = self.coordinates.min(0), self.coordinates.max(0)
        half = (0.5 + margin) * (high - low).max()
        middle = (low + high) / 2
        return np.stack([middle - half, middle + half], -1)


@dataclasses.dataclass(frozen=True)
class Section:
    """What a classifier is on a window of a plane.

    Segments are pairs of ends (u, v).

    Attributes:
        window: `[[u_low, u_high], [v_low, v_high]]`, in the unit of the input.
        boundaries: segments on which neurons are 0, `[m, 2, 2]`.
        neurons: whose they are, `[m]`, in the order of the graph.
        num_neurons: of the classifier.
        decisions: segments between two classes, `[k, 2, 2]`.
        classes: predicted on the grid, `[rows, columns]`: v ascends by row, u by
            column, from end to end of the window.
    """

    window: np.ndarray
    boundaries: np.ndarray
    neurons: np.ndarray
    num_neurons: int
    decisions: np.ndarray
    classes: np.ndarray

    @classmethod
    def of(
        cls, graph: BoundGraph, plane: Plane, window=None, resolution: int = 200
    ) -> "Section":
        """Returns where neurons and decisions of a classifier change on the window.

        Neurons of affine edges give one straight line each, exact. The rest is looked
        for on a grid whose cells are cut into two triangles, and is exact where it is
        affine on these; a neuron whose sign agrees at all corners is not seen.

        Args:
            graph: a classifier of affine layers and (leaky) ReLUs.
            plane: of inputs.
            window: as the attribute; None for `plane.window()`.
            resolution: cells of the grid along each side.

        Raises:
            InputError: for other classifiers, those for other inputs, or a resolution
                below 1.
        """
        if resolution < 1:
            raise InputError(f"`resolution` must be at least 1. Received: {resolution}")
        window = plane.window() if window is None else np.asarray(window, "float64")
        lines, starts, num_neurons = _lines(graph, plane)
        clipped = {edge: clip_lines(found, window) for edge, found in lines.items()}
        parts = [segments for segments, _ in clipped.values()]
        owners = [starts[edge] + found for edge, (_, found) in clipped.items()]
        curved = {edge: start for edge, start in starts.items() if edge not in lines}
        decisions, classes = [], []
        for rows, values in _strips(graph, plane, window, resolution):
            for edge, start in curved.items():
                segments, found = zero_segments(values[edge], *rows)
                parts.append(segments)
                owners.append(start + found)
            logits = values[graph.output]
            decisions.append(zero_segments(_leads(logits), *rows)[0])
            # The last row of a strip is the first of the next one.
            classes.append(np.argmax(logits, -1)[1 if classes else 0 :])
        return cls(
            window,
            np.concatenate(parts),
            np.concatenate(owners),
            num_neurons,
            np.concatenate(decisions),
            np.concatenate(classes),
        )


def boundary_lines(graph: BoundGraph, plane: Plane) -> np.ndarray:
    """Returns lines `a u + b v + c = 0` of all neurons that are affine on the plane.

    For a classifier with one hidden layer, these are all.

    Args:
        graph: a classifier of affine layers and (leaky) ReLUs.
        plane: of inputs.

    Returns:
        (a, b, c), `[neurons, 3]`, in the order of the graph; `a u + b v + c` is the
        neuron before its activation.

    Raises:
        InputError: for other classifiers, or those for other inputs.
    """
    lines, _, _ = _lines(graph, plane)
    return np.concatenate(list(lines.values()))


def _strips(graph, plane, window, resolution):
    """Yields (u of columns, v of rows), and values on edges `[rows, columns, size]`.

    From below; the first row of a strip is the last one of the strip before.
    """
    across, up = (np.linspace(*ends, resolution + 1) for ends in window)
    sizes = sum(math.prod(shape) for shape in graph.shapes)
    cells = max(1, _VALUES_AT_ONCE // (sizes * len(across)) - 1)
    for begin in range(0, resolution, cells):
        rows = up[begin : begin + cells + 1]
        grid = np.stack(np.meshgrid(across, rows), -1)
        points = plane.points(grid.reshape(-1, 2))
        values = graph.values(tf.constant(points, compute_dtype(graph)), Choices())
        shape = (*grid.shape[:2], -1)
        yield (
            (across, rows),
            {edge: np.asarray(value).reshape(shape) for edge, value in values.items()},
        )


def _lines(graph, plane):
    """Lines by edge, the number of each edge's first neuron, and how many there are."""
    if plane.origin.shape != graph.shapes[0]:
        raise InputError(
            f"The classifier takes inputs of shape {graph.shapes[0]}. Received: points "
            f"of shape {plane.origin.shape}"
        )
    points = plane.points(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    regions = LinearRegions.around(graph, tf.constant(points, compute_dtype(graph)))
    lines, starts, count = {}, {}, 0
    for edge in regions.boundaries:
        starts[edge] = count
        values = np.asarray(regions.values[edge], "float64").reshape(3, -1)
        count += values.shape[1]
        if edge in regions.shared:
            constant, right, above = values
            lines[edge] = np.stack([right - constant, above - constant, constant], -1)
    return lines, starts, count


def _leads(logits):
    """Each logit less the greatest of the others, `[..., classes]`."""
    ordered = np.sort(logits, -1)
    first, second = ordered[..., -1:], ordered[..., -2:-1]
    return logits - np.where(logits == first, second, first)
