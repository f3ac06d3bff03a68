"""L2 distances in mixed-integer programs: from below, and exact on one linear region.

HiGHS takes no quadratic rows. A column that linear rows keep at or below the distance
takes its place, and cuts raise it where solutions turn out to be further away.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from scipy import optimize
from scipy import sparse

from robust_tf.bounds import IntervalBound
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.regions import Region
from robust_tf.verification.encoding import Encoding
from robust_tf.verification.lp_affine import Affine

# Steps from 0 to 90 degrees for each pair; one pair is at most 0.5 % too short.
_ANGLES = 8
# By which rows of unit length may be broken.
_ROUNDING = 1e-9


class EuclideanColumn:
    """A column that is at most the L2 distance of the inputs from a centre.

    Lengths are added in pairs, `w >= a cos(angle) + b sin(angle)` at some angles, up to
    one column for all inputs (as Ben-Tal and Nemirovski, 2001, approximate cones).
    Wherever the inputs lie, it can be as small as their distance and no row excludes
    them, so that bounds of it are bounds of the distance at each stage.

    Args:
        encoding: whose program gets the columns and rows.
        center: `[*shape]`.
        radius: inputs further away may be excluded.

    Attributes:
        objective: the column, `[columns]`.
        num_cuts: how many rows `cut` has added.
    """

    def __init__(self, encoding: Encoding, center: np.ndarray, radius: float):
        self._program, self._encoding = encoding.program, encoding
        self._center, self._radius = center.ravel(), radius
        inputs = encoding.neurons(0, np.arange(len(self._center)))
        self._away = inputs + -self._center
        self._column = self._sum_of(self._lengths())
        self.objective = np.zeros(self._program.num_columns)
        self.objective[self._column] = 1.0
        self.num_cuts = 0

    def distance(self, point: np.ndarray) -> float:
        """The L2 distance of a point, `[*shape]`, from the centre."""
        return float(np.linalg.norm(point.ravel() - self._center))

    def cut(self, point: np.ndarray) -> None:
        """Lets the column be no less than the distance at a point, `[*shape]`.

        The row is `<e / ||e||, x - center> <= column`, for e from the centre to it.
        """
        away = point.ravel() - self._center
        length = np.linalg.norm(away)
        if length == 0.0:
            return
        along = self._away.combined(sparse.csr_array((away / length)[None]))
        column = Affine.columns([self._column])
        self._encoding.at_most(("cut", self.num_cuts), along - column)
        self.num_cuts += 1

    def _lengths(self):
        """One column for the distance along each input."""
        columns = self._columns(len(self._center))
        for name, away in (("above", self._away), ("below", -self._away)):
            self._encoding.at_most(f"{name} centre", away - Affine.columns(columns))
        return columns

    def _sum_of(self, columns):
        """One column for the length of all of them."""
        while len(columns) > 1:
            count = len(columns) // 2
            first, second = columns[:count], columns[count : 2 * count]
            rest, longer = columns[2 * count :], self._columns(count)
            for step in range(_ANGLES + 1):
                angle = np.pi / 2 * step / _ANGLES
                turned = Affine.columns(first, np.cos(angle))
                turned += Affine.columns(second, np.sin(angle))
                name = ("length", len(columns), step)
                self._encoding.at_most(name, turned - Affine.columns(longer))
            columns = np.concatenate([longer, rest])
        return columns[0]

    def _columns(self, count):
        return self._program.add_columns(np.zeros(count), np.full(count, self._radius))


def nearest_unsafe(
    graph: BoundGraph,
    region: Region,
    bounds: Mapping[int, IntervalBound],
    row: np.ndarray,
    point: np.ndarray,
    center: np.ndarray,
) -> np.ndarray | None:
    """Returns the unsafe point nearest to a centre in L2, of one linear region.

    Up to rounding: least distance programming by non-negative least squares (Lawson and
    Hanson, 1974, chapter 23).

    Args:
        graph: the classifier.
        region: a box, `[1, *shape]`, float64.
        bounds: valid intervals of all edges, `[1, *shape]`, by number.
        row: over the outputs, `[outputs]`; unsafe is `<row, y> <= 0`.
        point: in the linear region, `[*shape]`.
        center: `[*shape]`.

    Returns:
        `[*shape]`; None where the region holds no unsafe point, where the answer is not
        accurate, and for classifiers with MaxPooling.
    """
    encoding = Encoding(graph, region, bounds, splits=_signs(graph, point))
    encoding.at_most("unsafe", encoding.rows(graph.output, row[None]))
    if encoding.program.num_columns != center.size:
        return None
    _, matrix, limit = encoding.program.assembled([])
    unit = np.eye(center.size)
    low, high = (np.ravel(end) for end in (region.box.lower, region.box.upper))
    away = _least_norm(
        np.concatenate([matrix.toarray(), -unit, unit]),
        np.concatenate([limit, -low, high]),
        center.ravel(),
    )
    if away is None:
        return None
    return np.clip(center.ravel() + away, low, high).reshape(center.shape)


def _signs(graph, point) -> dict[int, np.ndarray]:
    """Of what activations read at a point, by edge, `[*shape]` each."""
    value = tf.constant(point[None], tf.float64)
    values = graph.propagate_interval(IntervalBound(value, value), Choices())
    read = [
        e for node in graph.nodes if node.layer.has_lower_slope for e in node.inputs
    ]
    return {e: np.where(values[e].center.numpy()[0] >= 0.0, 1, -1) for e in read}


def _least_norm(matrix, limit, center):
    """The least `e` with `matrix @ (center + e) <= limit`; None where none is found."""
    lengths = np.linalg.norm(matrix, axis=1)
    is_used = lengths > 0.0
    matrix = -matrix[is_used] / lengths[is_used, None]
    limit = -limit[is_used] / lengths[is_used] - matrix @ center
    target = np.zeros(len(center) + 1)
    target[-1] = 1.0
    stacked = np.concatenate([matrix.T, limit[None]])
    try:
        weights, _ = optimize.nnls(stacked, target)
    except RuntimeError:  # At its limit of iterations.
        return None
    rest = stacked @ weights - target
    if -rest[-1] <= _ROUNDING:  # Of no rest: there is no such point.
        return None
    away = -rest[:-1] / rest[-1]
    return away if (matrix @ away >= limit - _ROUNDING).all() else None
