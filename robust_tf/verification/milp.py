"""Margins of one example by mixed-integer programs (arXiv:1711.07356).

A solver computes within tolerances, so its word proves nothing in real arithmetic:
what is excluded here is excluded by `Claim.TOLERANCE`. Points that it finds lie in the
region, but count only once the model itself was executed there.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from robust_tf.bounds import IntervalBound
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.regions import Region
from robust_tf.verification.encoding import Encoding
from robust_tf.verification.lp_affine import Affine
from robust_tf.verification.lp_program import SolverOptions
from robust_tf.verification.lp_program import Status

# How far above its threshold a margin has to be, relative to what was computed.
_TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class MilpResult:
    """What a mixed-integer program says of an unsafe clause.

    Attributes:
        status: how the solver ended.
        is_excluded: whether no point of the region has an unsafe output, by the word of
            the solver and within its tolerances (`Claim.TOLERANCE`).
        value: margin of the best point that it found, by its own arithmetic; inf where
            it found none. Where only feasibility was asked, the clause's margin there.
        dual_bound: lower bound of the least margin, by its word; -inf where there is
            none.
        tolerance: by which `dual_bound` must pass 0 for `is_excluded`.
        point: a candidate, `[*shape]`, in the region; None where none was found. The
            model must be executed there.
        num_binaries: how many binaries the program has.
    """

    status: Status
    is_excluded: bool
    value: float
    dual_bound: float
    tolerance: float
    point: np.ndarray | None
    num_binaries: int


def minimal_margin(
    graph: BoundGraph,
    region: Region,
    bounds: Mapping[int, IntervalBound],
    row,
    threshold: float = 0.0,
    options: SolverOptions | None = None,
    splits: Mapping[int, np.ndarray] | None = None,
) -> MilpResult:
    """Minimizes `<row, y> - threshold` over the region.

    Exact, up to the solver's tolerances, where it ends with `Status.OPTIMAL`; on a
    limit, `dual_bound` and `point` are the best so far.

    Args:
        graph: the classifier.
        region: one example, `[1, *shape]`, float64; a box, an Linf or an L1 ball.
        bounds: valid intervals of all edges, `[1, *shape]`, by number.
        row: over the outputs, `[outputs]`.
        threshold: outputs are unsafe where `<row, y>` does not pass it.
        options: for the solver.
        splits: as for `Encoding`.

    Raises:
        InputError: as `Encoding`, for a row of another shape, and for numbers that the
            solver would drop or refuse.
    """
    encoding = Encoding(graph, region, bounds, splits=splits)
    margin = _margins(encoding, [row], [threshold])
    objective = margin.matrix.toarray()[0]
    found = encoding.program.minimize(objective, options or SolverOptions())
    tolerance = _tolerance(encoding)
    status, dual_bound = found.status, found.dual_bound + margin.constant[0]
    if status is Status.INFEASIBLE and not encoding.splits:
        status = Status.ERROR  # A region is never empty.
    is_bounded = status in (Status.OPTIMAL, Status.LIMIT) and dual_bound > tolerance
    if status is Status.INFEASIBLE:
        dual_bound = np.inf
    return MilpResult(
        status=status,
        is_excluded=bool(is_bounded or status is Status.INFEASIBLE),
        value=found.value + margin.constant[0],
        dual_bound=float(dual_bound),
        tolerance=tolerance,
        point=None if found.columns is None else encoding.point(found.columns),
        num_binaries=encoding.program.num_integers,
    )


def find_unsafe(
    graph: BoundGraph,
    region: Region,
    bounds: Mapping[int, IntervalBound],
    rows,
    thresholds,
    options: SolverOptions | None = None,
    splits: Mapping[int, np.ndarray] | None = None,
) -> MilpResult:
    """Asks for a point at which all rows of one clause hold.

    That is, `<row, y> <= threshold` for each of them. The adversary gets the tolerance
    for free: the clause is excluded where not even `threshold + tolerance` is met.
    Often faster than `minimal_margin`: it ends at the first point.

    Args:
        graph: the classifier.
        region: one example, `[1, *shape]`, float64; a box, an Linf or an L1 ball.
        bounds: valid intervals of all edges, `[1, *shape]`, by number.
        rows: over the outputs, `[rows, outputs]`.
        thresholds: `[rows]`.
        options: for the solver.
        splits: as for `Encoding`.

    Raises:
        InputError: as `minimal_margin`.
    """
    encoding = Encoding(graph, region, bounds, splits=splits)
    margins = _margins(encoding, rows, thresholds)
    tolerance = _tolerance(encoding)
    encoding.at_most("clause", margins + -tolerance)
    found = encoding.program.minimize([], options or SolverOptions())
    point, value = None, np.inf
    if found.columns is not None:
        width = margins.matrix.shape[1]
        point = encoding.point(found.columns)
        value = (margins.matrix @ found.columns[:width] + margins.constant).max()
    is_excluded = found.status is Status.INFEASIBLE
    return MilpResult(
        status=found.status,
        is_excluded=is_excluded,
        value=float(value),
        dual_bound=tolerance if is_excluded else -np.inf,
        tolerance=tolerance,
        point=point,
        num_binaries=encoding.program.num_integers,
    )


def _margins(encoding: Encoding, rows, thresholds) -> Affine:
    """`<row, y> - threshold` as functions of the columns."""
    rows, thresholds = np.asarray(rows, "float64"), np.asarray(thresholds, "float64")
    shape = encoding.graph.shapes[encoding.graph.output]
    if rows.ndim != 2 or rows.shape[1:] != shape or thresholds.shape != rows.shape[:1]:
        raise InputError(
            f"Rows over the outputs are [rows, {shape[0]}], with one threshold each. "
            f"Received: rows {rows.shape}, thresholds {thresholds.shape}"
        )
    margins = encoding.rows(encoding.graph.output, rows) + -thresholds
    encoding.note(margins)
    return margins


def _tolerance(encoding: Encoding) -> float:
    return float(_TOLERANCE * max(1.0, encoding.scale))
