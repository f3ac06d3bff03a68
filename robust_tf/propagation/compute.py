"""The bounds of a classifier's outputs over a set of inputs."""

import dataclasses
import numbers

import keras
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.layers.activations import RELAXATIONS
from robust_tf.propagation.alpha_crown import AlphaCrown
from robust_tf.propagation.ascent import Ascent
from robust_tf.propagation.backward import DEFAULT_MEMORY_BUDGET_MB
from robust_tf.propagation.crown import crown_bounds
from robust_tf.propagation.crown import crown_margins
from robust_tf.propagation.interval import interval_bounds
from robust_tf.propagation.interval import interval_margins
from robust_tf.propagation.random_projections import EstimatedBound
from robust_tf.propagation.random_projections import estimated_bounds
from robust_tf.regions import Region
from robust_tf.regions import as_tensor
from robust_tf.regions import is_eager

METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown", "convex-adversarial")
# Of which intermediate bounds come by backward passes of their own.
_BY_PASSES = ("crown", "alpha-crown", "convex-adversarial")
_SEARCH = Ascent(iterations=20)


@dataclasses.dataclass(frozen=True)
class _Query:
    """A checked call of `compute_bounds`."""

    graph: BoundGraph
    region: Region
    method: str
    rows: tf.Tensor
    relaxations: tuple[str, ...]
    keeps_best: bool
    intersect: bool
    memory_budget_mb: float

    @property
    def choices(self) -> tuple[Choices, ...]:
        return tuple(Choices(relaxation) for relaxation in self.relaxations)

    def intervals(self) -> dict[int, IntervalBound]:
        """Bounds on all edges, by the method's own rule."""
        if self.method not in _BY_PASSES:
            return interval_bounds(
                self.graph, self.region, self.choices[0], self.memory_budget_mb
            )
        return crown_bounds(
            self.graph, self.region, self.choices, self.intersect, self.memory_budget_mb
        )

    def lower_bounds(self, rows, bounds) -> tf.Tensor:
        """Lower bounds of rows, `[batch, rows]`."""
        by_interval = self.method == "ibp" or self.keeps_best
        arguments = (self.graph, self.region, bounds, rows)
        candidates = []
        if by_interval:
            candidates.append(interval_margins(*arguments, self.choices[0]))
        if self.method != "ibp":
            candidates += [crown_margins(*arguments, one) for one in self.choices]
        if self.method == "alpha-crown":
            search = AlphaCrown(ascent=_SEARCH, memory_budget_mb=self.memory_budget_mb)
            found, _, _ = search.search(*arguments)
            candidates.append(found)
        best = candidates[0]
        for other in candidates[1:]:
            best = tf.maximum(best, other)
        return best


def compute_bounds(
    model: keras.Model,
    region: Region,
    method: str = "crown",
    specification: tf.Tensor | None = None,
    intermediate: bool = False,
    relaxation: str = "adaptive",
    intersect_intermediates: bool = True,
    memory_budget_mb: float | None = None,
):
    """Bounds linear functions of the logits over a set of inputs.

    Runs eagerly and inside `tf.function`, in the type of the region.

    Args:
        model: a classifier from `robust_tf.convert`.
        region: the input set of each example, `[batch, *shape]`.
        method: "ibp" (arXiv:1810.12715, last layer elided), "crown-ibp"
            (arXiv:1906.06316: intervals by IBP, one backward pass), "crown"
            (arXiv:1811.00866: every intermediate bound by a backward pass),
            "alpha-crown" (arXiv:2011.13824: over CROWN's intermediate bounds, the lower
            slopes of unstable neurons, and both lines of smooth activations, are
            searched for each end of each row, in 20 iterations) or
            "convex-adversarial" (arXiv:1711.00851: as "crown", with "same-slope" alone
            and without the interval rule; the published bound over a ball without
            `valid_range`; with exact norms, see `estimate_bounds`).
        specification: rows over the logits, `[batch, rows, classes]` (a leading 1
            shares them); None for the logits themselves.
        intermediate: whether to return the bounds of all layers too.
        relaxation: lower slope of unstable ReLUs: "adaptive", "same-slope",
            "zero-lb", "one-lb", or "best": the element-wise best of the bounds that
            these four and IBP give. For "alpha-crown", of intermediate bounds; the
            search always begins at "adaptive", and its bounds are never looser than
            those that "crown" gives. "convex-adversarial" has no choice.
        intersect_intermediates: whether intermediate bounds of "crown" and
            "alpha-crown" are intersected with those of the interval rule.
        memory_budget_mb: for the coefficients of a chunk of rows, in MiB; default
            1024.

    Returns:
        An `IntervalBound`, `[batch, rows]`; with `intermediate` a pair of it and
        `{layer name: IntervalBound}`, bounds of the layers' outputs.

    Raises:
        InputError: for a model that is not converted, a region or specification of
            another shape, NaN weights (eagerly), or an unknown name.
    """
    query = _query(
        BoundGraph.from_model(model),
        region,
        method,
        specification,
        relaxation,
        intersect_intermediates,
        memory_budget_mb,
    )
    bounds = query.intervals()
    # Two passes, not one over both: a graph that reads one end computes one.
    result = IntervalBound(
        query.lower_bounds(query.rows, bounds),
        -query.lower_bounds(-query.rows, bounds),
    )
    if not intermediate:
        return result
    layers = {node.layer.name: bounds[node.output] for node in query.graph.nodes}
    return result, layers


def estimate_bounds(
    model: keras.Model,
    region: Region,
    specification: tf.Tensor | None = None,
    projections: int = 50,
    seed: tuple[int, int] = (0, 0),
) -> EstimatedBound:
    """Estimates "convex-adversarial" bounds by random projections; proves nothing.

    The norms in the bounds of hidden layers are estimated (arXiv:1805.12514, section
    3.2), so what comes out may lie within the true range. It is for training and for
    looking at networks whose exact bounds cost too much.

    Args:
        model: a classifier from `robust_tf.convert`, of affine layers and ReLUs.
        region: a box, or a ball in Linf or L2, `[batch, *shape]`.
        specification: rows over the logits, `[batch or 1, rows, classes]`; None for the
            logits themselves.
        projections: random vectors for each norm.
        seed: two integers; the same ones give the same estimates.

    Returns:
        `[batch, rows]` each.

    Raises:
        InputError: as `compute_bounds`, and for other layers, norms or projections.
    """
    graph = BoundGraph.from_model(model)
    query = _query(
        graph, region, "convex-adversarial", specification, "same-slope", False, None
    )
    (choices,) = query.choices
    seed = tf.convert_to_tensor(seed, tf.int64)
    bounds = estimated_bounds(graph, region, choices, projections, seed)
    return EstimatedBound(
        query.lower_bounds(query.rows, bounds),
        -query.lower_bounds(-query.rows, bounds),
    )


def _query(
    graph, region, method, specification, relaxation, intersect, memory_budget_mb
) -> _Query:
    _check_name("method", method, METHODS)
    _check_name("relaxation", relaxation, (*RELAXATIONS, "best"))
    checked_region(graph, region)
    _check_weights(graph)
    if memory_budget_mb is None:
        memory_budget_mb = DEFAULT_MEMORY_BUDGET_MB
    if not isinstance(memory_budget_mb, numbers.Real) or not memory_budget_mb > 0:
        raise InputError(
            f"`memory_budget_mb` must be a positive number. Received: "
            f"{memory_budget_mb!r}"
        )
    if method == "convex-adversarial":
        relaxation, intersect = "same-slope", False
    keeps_best = relaxation == "best"
    return _Query(
        graph=graph,
        region=region,
        method=method,
        rows=_rows(graph, region, specification),
        relaxations=RELAXATIONS if keeps_best else (relaxation,),
        keeps_best=keeps_best,
        intersect=intersect or keeps_best,
        memory_budget_mb=memory_budget_mb,
    )


def _check_name(what, name, known):
    if name not in known:
        raise InputError(f"`{what}` must be one of {known}. Received: {name!r}")


def checked_region(graph: BoundGraph, region: Region) -> None:
    """Says what is wrong where a region does not fit a classifier."""
    if not isinstance(region, Region):
        raise InputError(
            "`region` must be an `LpBall` or a `Box`. Received: "
            f"{type(region).__name__}"
        )
    shape = tuple(region.shape[1:])
    if shape != graph.shapes[0]:
        raise InputError(
            f"The model takes inputs of shape {graph.shapes[0]}. Received: a region "
            f"of shape {shape}, without its batch axis"
        )
    if len(graph.shapes[graph.output]) != 1:
        raise InputError(
            "A classifier's output is [batch, classes]. Received: a model whose output "
            f"has shape {graph.shapes[graph.output]}, without its batch axis"
        )


def _check_weights(graph):
    if not tf.executing_eagerly():
        return
    for node in graph.nodes:
        for variable in node.layer.weights:
            value = tf.convert_to_tensor(variable)
            if value.dtype.is_floating and is_eager(value):
                total = tf.reduce_sum(value * 0.0)  # NaN and infinity stay NaN.
                if not float(total) == 0.0:
                    raise InputError(
                        f"Weights must be finite. Received: NaN or infinity in "
                        f"'{variable.path}'. Load a sound checkpoint, or train again "
                        "with a lower learning rate."
                    )


def _rows(graph, region, specification) -> tf.Tensor:
    (classes,) = graph.shapes[graph.output]
    if specification is None:
        return tf.eye(classes, dtype=region.dtype)[None]
    rows = as_tensor(specification, "specification", dtype_hint=region.dtype)
    if not (rows.dtype.is_floating or rows.dtype.is_integer):
        raise InputError(
            f"`specification` must hold numbers. Received: {rows.dtype.name}"
        )
    rows = tf.cast(rows, region.dtype)
    if rows.shape.rank != 3 or rows.shape[-1] != classes:
        raise InputError(
            f"`specification` must be [batch, rows, {classes}], rows over the logits. "
            f"Received: shape {rows.shape}"
        )
    batches = {rows.shape[0], region.shape[0]} - {1, None}
    if len(batches) > 1:
        raise InputError(
            f"`specification` must have the batch size of the region, "
            f"{region.shape[0]}, or 1. Received: {rows.shape[0]}"
        )
    if is_eager(rows) and not bool(tf.reduce_all(tf.math.is_finite(rows))):
        raise InputError("`specification` must be finite. Received: NaN or infinity")
    return rows
