"""A classifier over one region as a linear or mixed-integer program.

Affine layers are substituted: what an activation reads is a matrix over the inputs and
over the outputs of unstable neurons before it. Those alone get columns.
"""

import math
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from scipy import sparse

from robust_tf.bounds import IntervalBound
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.regions import LpBall
from robust_tf.regions import Region
from robust_tf.verification.lp_affine import Affine
from robust_tf.verification.lp_affine import entries
from robust_tf.verification.lp_affine import widened
from robust_tf.verification.lp_layers import ENCODERS
from robust_tf.verification.lp_program import Program

# Entries of one tensor of a backward pass over many rows, 32 MiB.
_CHUNK_ENTRIES = 2**22


class Encoding:
    """A program whose columns can take the values of every run of the classifier.

    Exact, they can take no others; relaxed, binaries are real and activations lie in
    the triangle of arXiv:1711.00851.

    Args:
        graph: the classifier.
        region: one example, `[1, *shape]`, float64; a box, an Linf or an L1 ball.
        bounds: valid intervals of all edges, `[1, *shape]`, by number.
        is_relaxed: whether binaries are real.
        splits: by edge that an activation reads, `[*shape]` of signs s: only points
            with `s * z >= 0` count, and 0 asks for nothing.
        edge: the last edge that rows are asked for; the outputs by default.
        is_elastic: whether splits may be broken, by the column `elastic` at most.

    Attributes:
        program: all columns and rows. Rows have names `(layer name, kind)`, and
            `("split", edge)` for splits, in the order of their neurons.
        splits: signs by edge, `[neurons]`.
        unstable: by layer name, the flat numbers of the outputs that have columns,
            `[count]`; layers without any are missing.
        scale: the greatest magnitude of a value, or of the terms of a row, that the
            program computes: tolerances of a solver are relative to it.
        elastic: the column by which splits may be broken; None unless `is_elastic`.

    Raises:
        InputError: for other regions and types, layers that are neither affine nor
            piecewise linear, and splits of what no activation reads.
    """

    def __init__(
        self,
        graph: BoundGraph,
        region: Region,
        bounds: Mapping[int, IntervalBound],
        is_relaxed: bool = False,
        splits: Mapping[int, np.ndarray] | None = None,
        edge: int | None = None,
        is_elastic: bool = False,
    ):
        _check_region(graph, region)
        self.graph, self.region, self.bounds = graph, region, bounds
        self.is_relaxed, self.splits = is_relaxed, _checked_splits(graph, splits)
        self.program, self.unstable, self.scale = Program(), {}, 0.0
        self.elastic = None
        self._split_at = set()
        self._inputs = self.program.add_columns(*self._box())
        self._values = {0: Affine.columns(self._inputs)}
        self._distances = None if region.is_box else self._add_distances()
        if is_elastic:
            self._add_elastic()
        self._encode(graph.output if edge is None else edge)

    def rows(self, edge: int, coefficients) -> Affine:
        """Linear functions of an edge's values.

        Args:
            edge: up to which the classifier was encoded.
            coefficients: `[rows, neurons]`, dense or sparse.

        Raises:
            InputError: for coefficients of another shape.
        """
        coefficients, size = sparse.csr_array(coefficients), self._size(edge)
        if coefficients.shape[1:] != (size,):
            raise InputError(
                f"Rows over edge {edge} are [rows, {size}]. Received: shape "
                f"{coefficients.shape}"
            )
        widest = max(map(math.prod, self.graph.shapes[: edge + 1]))
        chunk = max(_CHUNK_ENTRIES // widest, 1)
        starts = range(0, coefficients.shape[0], chunk)
        parts = [coefficients[start : start + chunk].toarray() for start in starts]
        return Affine.join([self._pull_back(edge, part) for part in parts])

    def neurons(self, edge: int, index) -> Affine:
        """The values of some neurons of an edge, by their flat numbers."""
        units = entries(np.arange(len(index)), index, 1.0, len(index))
        return self.rows(edge, widened(units, self._size(edge)))

    def at_most(self, name, values: Affine) -> None:
        """Adds the rows `values <= 0`."""
        self.program.add_rows(name, values.matrix, -values.constant)

    def note(self, values: Affine) -> None:
        """Takes terms that will be computed into account for `scale`."""
        magnitudes = values.magnitude(self.program.reach)
        self.scale = max(self.scale, magnitudes.max(initial=0.0))

    def layer(self, name: str):
        """The layer of this name."""
        (found,) = (n.layer for n in self.graph.nodes if n.layer.name == name)
        return found

    def add_unstable(self, name, index, low, high, is_implied=True) -> np.ndarray:
        """Adds columns for a layer's outputs, and returns their numbers, `[count]`.

        Args:
            name: of the layer.
            index: flat numbers of the outputs, `[count]`.
            low: least values, `[count]`.
            high: greatest values, `[count]`.
            is_implied: whether a relaxation does without these ends.
        """
        self.unstable[name] = index
        is_free = self.is_relaxed and is_implied
        return self.program.add_columns(low, high, is_free=is_free)

    def add_binaries(self, count: int) -> np.ndarray:
        """Adds columns of 0 or 1 (of what lies between, if relaxed), `[count]`."""
        return self.program.add_columns(
            np.zeros(count), np.ones(count), is_integer=not self.is_relaxed
        )

    def add_split(self, edge: int, values: Affine) -> None:
        """Adds the rows `values >= 0`, once for each edge."""
        count = len(values.constant)
        if not count or edge in self._split_at:
            return
        self._split_at.add(edge)
        if self.elastic is not None:
            values = values + Affine.columns([self.elastic] * count)
        self.at_most(("split", edge), -values)

    def add_distance(self) -> np.ndarray:
        """Adds the distance from the ball's centre, and returns it as an objective.

        In the norm of the ball, `[columns]`.

        Raises:
            InputError: for regions that are no balls.
        """
        if not isinstance(self.region, LpBall):
            raise InputError(
                "Distances are taken from the centre of an `LpBall`. Received: "
                f"{type(self.region).__name__}"
            )
        if self.region.is_box:
            furthest = self._furthest().max()
            self._distances = self.program.add_columns([0.0], [furthest])
            self._bound_distances(np.full(len(self._inputs), *self._distances))
        objective = np.zeros(self.program.num_columns)
        objective[self._distances] = 1.0
        return objective

    def point(self, columns) -> np.ndarray:
        """The input that a solution stands for, `[*shape]`, moved into the region."""
        low, high = self._box()
        point = np.clip(np.asarray(columns)[self._inputs], low, high)
        if not self.region.is_box:
            center, radius = _flat(self.region.x), _flat(self.region.radius)[0]
            length = np.abs(point - center).sum()
            if length > radius:  # By less than a solver's tolerance.
                share = radius / length * (1.0 - 1e-12)
                point = np.clip(center + share * (point - center), low, high)
        return point.reshape(self.graph.shapes[0])

    def _size(self, edge) -> int:
        return math.prod(self.graph.shapes[edge])

    def _box(self):
        return _flat(self.region.box.lower), _flat(self.region.box.upper)

    def _furthest(self):
        """How far each input can be from the centre."""
        low, high = self._box()
        center = _flat(self.region.x)
        return np.maximum(high - center, center - low)

    def _add_distances(self):
        """One column for each input's distance; their sum is at most the radius."""
        furthest = self._furthest()
        columns = self.program.add_columns(np.zeros_like(furthest), furthest)
        self._bound_distances(columns)
        total = entries(np.zeros_like(columns), columns, 1.0, 1)
        self.at_most("radius", Affine(total, -_flat(self.region.radius)[:1]))
        return columns

    def _bound_distances(self, columns):
        away = Affine.columns(self._inputs) + -_flat(self.region.x)
        self.at_most("above centre", away - Affine.columns(columns))
        self.at_most("below centre", -away - Affine.columns(columns))

    def _add_elastic(self):
        (self.elastic,) = self.program.add_columns([0.0], [1.0], is_free=True)
        self.at_most("elastic", -Affine.columns([self.elastic]))

    def _encode(self, edge):
        wanted = self._ancestors(edge)
        for node in self.graph.nodes[:edge]:
            if node.output not in wanted or node.layer.is_affine:
                continue
            kind = type(node.layer)
            if kind not in ENCODERS:
                raise InputError(
                    f"Layer '{node.layer.name}' ({kind.__name__}) is not piecewise "
                    "linear, so it has no exact encoding. Layers that have one: "
                    f"{sorted(one.__name__ for one in ENCODERS)}, and affine ones. Use "
                    "bounds instead."
                )
            (source,) = node.inputs
            low, high = (
                _flat(end)
                for end in (self.bounds[source].lower, self.bounds[source].upper)
            )
            self.scale = max(self.scale, np.abs([low, high]).max())
            self._values[node.output] = ENCODERS[kind](self, node, low, high)

    def _ancestors(self, edge) -> set[int]:
        wanted = {edge}
        for node in reversed(self.graph.nodes[:edge]):
            if node.output in wanted:
                wanted.update(node.inputs)
        return wanted

    def _pull_back(self, edge, coefficients) -> Affine:
        """`rows`, for so few that one backward pass holds all of them."""
        count = len(coefficients)
        shape = (1, count, *self.graph.shapes[edge])
        reached, offset = self.graph.propagate_backward(
            tf.constant(coefficients.reshape(shape)),
            edge,
            self.bounds,
            Choices(),
            tuple(self._values),
        )
        constant = np.broadcast_to(offset.numpy(), (1, count))[0]
        total = Affine(sparse.csr_array((count, 0)), constant)
        for source, part in reached.items():
            part = sparse.csr_array(part.numpy().reshape(count, -1))
            total += self._values[source].combined(part)
        return total


def _check_region(graph, region):
    is_encodable = region.is_box or (isinstance(region, LpBall) and region.norm == 1.0)
    if not is_encodable:
        raise InputError(
            "Linear programs take boxes, Linf balls and L1 balls. Received: "
            f"{type(region).__name__} of norm {getattr(region, 'norm', None)}"
        )
    shape = (1, *graph.shapes[0])
    if tuple(region.shape) != shape or region.dtype != tf.float64:
        raise InputError(
            f"Linear programs take one example of shape {shape} in float64. Received: "
            f"{tuple(region.shape)} in {region.dtype.name}"
        )


def _checked_splits(graph, splits) -> dict[int, np.ndarray]:
    read = [edge for n in graph.nodes if n.layer.has_lower_slope for edge in n.inputs]
    checked = {}
    for edge, signs in (splits or {}).items():
        signs = np.asarray(signs)
        is_known = edge in read and signs.shape == graph.shapes[edge]
        if not is_known or not np.isin(signs, (-1, 0, 1)).all():
            raise InputError(
                "Splits are signs -1, 0 and 1 of the neurons that an activation reads, "
                f"`[*shape]` by edge, one of {sorted(set(read))}. Received: shape "
                f"{signs.shape} for edge {edge}"
            )
        checked[edge] = signs.astype(int).ravel()
    return checked


def _flat(tensor) -> np.ndarray:
    return np.asarray(tensor, "float64").reshape(-1)
