"""Linear and mixed-integer programs: collected row by row, solved by HiGHS."""

import dataclasses
import enum
from collections.abc import Hashable

import numpy as np
from scipy import optimize
from scipy import sparse

from robust_tf.errors import InputError

# HiGHS drops entries of the matrix up to here, without a word, ...
_LEAST_ENTRY = 1e-9
# ... and refuses those above, and takes limits of 1e20 for none.
_GREATEST_NUMBER = 1e15
# What may be taken out of one row: as much as HiGHS allows rows to be broken by.
_MOST_MOVED = 1e-6
# HiGHS takes up to this from `linprog`; `milp` does not hand tolerances on.
_LP_TOLERANCE = 1e-9


class Status(enum.StrEnum):
    """How a solver ended. None of these proves anything by itself."""

    OPTIMAL = "optimal"
    LIMIT = "limit"
    INFEASIBLE = "infeasible"
    UNBOUNDED = "unbounded"
    ERROR = "error"


_STATUS = {
    0: Status.OPTIMAL,
    1: Status.LIMIT,
    2: Status.INFEASIBLE,
    3: Status.UNBOUNDED,
}
# SciPy takes the end of a search at its limit of nodes for an unknown error.
_NODE_LIMIT = "Solution limit reached"


@dataclasses.dataclass(frozen=True)
class SolverOptions:
    """What is handed to HiGHS, which may print even where `disp` is False.

    Attributes:
        time_limit_s: wall-clock seconds for one program; None for no limit.
        node_limit: most nodes of its search; None for no limit.
        mip_rel_gap: relative gap at which it stops; it also stops at an absolute one
            of 1e-6.
        presolve: whether it simplifies programs first.
        disp: whether it reports its progress.

    Raises:
        InputError: for limits or gaps below 0.
    """

    time_limit_s: float | None = None
    node_limit: int | None = None
    mip_rel_gap: float = 0.0
    presolve: bool = True
    disp: bool = False

    def __post_init__(self):
        numbers = (self.time_limit_s, self.node_limit, self.mip_rel_gap)
        if any(number is not None and not number >= 0 for number in numbers):
            raise InputError(
                f"Limits and gaps of a solver must be at least 0. Received: {self}"
            )

    def limits(self) -> dict:
        """The options that both kinds of programs take."""
        limits = {"presolve": self.presolve, "disp": self.disp}
        if self.time_limit_s is not None:
            limits["time_limit"] = float(self.time_limit_s)
        return limits


@dataclasses.dataclass(frozen=True)
class Solution:
    """What a solver found.

    Attributes:
        status: how it ended.
        value: objective at `columns`; inf where there are none.
        dual_bound: lower bound of the optimum, by the solver's word; -inf where it
            has none, as at a limit before it found any columns.
        columns: values of the columns, `[columns]`; None where none were found.
        multipliers: of linear programs: for each block of rows, how much a unit of
            each limit is worth, `[rows]`, at least 0.
    """

    status: Status
    value: float = np.inf
    dual_bound: float = -np.inf
    columns: np.ndarray | None = None
    multipliers: dict[Hashable, np.ndarray] = dataclasses.field(default_factory=dict)


class Program:
    """Columns `v` with their bounds, and blocks of rows `A v <= limit`."""

    def __init__(self):
        self._ends = np.zeros([0, 2])
        self._ranges = np.zeros([0, 2])
        self._is_integer = np.zeros([0], bool)
        self._blocks = {}

    @property
    def num_columns(self) -> int:
        """How many columns there are."""
        return len(self._ends)

    @property
    def num_integers(self) -> int:
        """How many of them are integers."""
        return int(self._is_integer.sum())

    @property
    def reach(self) -> np.ndarray:
        """The greatest magnitude that each column can have, `[columns]`."""
        return np.abs(self._ranges).max(-1)

    def copy(self) -> "Program":
        """Returns a program of its own with the same columns and rows so far."""
        program = Program()
        program._ends, program._ranges = self._ends, self._ranges
        program._is_integer, program._blocks = self._is_integer, dict(self._blocks)
        return program

    def add_columns(self, low, high, is_free=False, is_integer=False) -> np.ndarray:
        """Adds columns, and returns their numbers, `[count]`.

        Args:
            low: least values, `[count]`; finite.
            high: greatest values, `[count]`; finite.
            is_free: whether the solver is not told of these ends, because rows imply
                what it needs of them.
            is_integer: whether they are integers.
        """
        ranges = np.stack([low, high], -1)
        ends = np.broadcast_to([-np.inf, np.inf], ranges.shape) if is_free else ranges
        numbers = np.arange(len(ranges)) + self.num_columns
        self._ends = np.concatenate([self._ends, ends])
        self._ranges = np.concatenate([self._ranges, ranges])
        kinds = np.full(len(ranges), is_integer)
        self._is_integer = np.concatenate([self._is_integer, kinds])
        return numbers

    def add_rows(self, name: Hashable, matrix, limit) -> None:
        """Adds a block of rows `matrix @ v <= limit`.

        Args:
            name: of the block; blocks of one name are no block.
            matrix: sparse, `[rows, columns]`; columns that come later count as 0.
            limit: `[rows]`.
        """
        if name in self._blocks:
            raise InputError(f"Rows have names of their own. Received twice: {name}")
        self._blocks[name] = (sparse.csr_array(matrix), np.asarray(limit, "float64"))

    def minimize(self, objective, options: SolverOptions) -> Solution:
        """Minimizes over all columns, those of integers included.

        Args:
            objective: one number for each column, `[columns]` or fewer.
            options: for the solver.

        Raises:
            InputError: for numbers that HiGHS would drop or refuse.
        """
        objective, matrix, limit = self.assembled(objective)
        limits = options.limits() | {"mip_rel_gap": options.mip_rel_gap}
        if options.node_limit is not None:
            limits["node_limit"] = options.node_limit
        found = optimize.milp(
            objective,
            integrality=self._is_integer.astype(int),
            bounds=optimize.Bounds(*self._ends.T),
            constraints=optimize.LinearConstraint(matrix, -np.inf, limit),
            options=limits,
        )
        status = _status(found)
        bound = found.mip_dual_bound
        if not self.num_integers:  # Then it is a linear program, and has none.
            bound = found.fun if status is Status.OPTIMAL else None
        if bound is None or np.isnan(bound):
            bound = -np.inf
        return _solution(status, found, bound)

    def minimize_relaxed(self, objective, options: SolverOptions) -> Solution:
        """Minimizes with all columns real; the multipliers are filled in.

        Args:
            objective: one number for each column, `[columns]` or fewer.
            options: for the solver.

        Raises:
            InputError: for numbers that HiGHS would drop or refuse.
        """
        objective, matrix, limit = self.assembled(objective)
        tolerances = {
            "primal_feasibility_tolerance": _LP_TOLERANCE,
            "dual_feasibility_tolerance": _LP_TOLERANCE,
        }
        found = optimize.linprog(
            objective,
            A_ub=matrix if len(limit) else None,
            b_ub=limit if len(limit) else None,
            bounds=self._ends,
            method="highs",
            options=options.limits() | tolerances,
        )
        status = _status(found)
        if status is not Status.OPTIMAL:
            return _solution(status, found, -np.inf)
        worth = np.maximum(-found.ineqlin.marginals, 0.0)
        multipliers, start = {}, 0
        for name, (_, ends) in self._blocks.items():
            multipliers[name] = worth[start : start + len(ends)]
            start += len(ends)
        return _solution(status, found, found.fun, multipliers)

    def assembled(self, objective):
        """Returns objective, matrix and limits of the rows, as HiGHS can take them.

        What it would drop is taken out of the rows beforehand, each entry at its
        least value, so that no point is cut off.

        Args:
            objective: one number for each column, `[columns]` or fewer.

        Raises:
            InputError: for numbers that HiGHS would drop or refuse.
        """
        count = self.num_columns
        padded = np.zeros(count)
        padded[: len(objective)] = objective
        parts = [_widened(matrix, count) for matrix, _ in self._blocks.values()]
        matrix = sparse.vstack([sparse.csr_array((0, count)), *parts], "csr")
        limit = np.concatenate([[], *(ends for _, ends in self._blocks.values())])
        for name, values in (
            ("objective", padded),
            ("matrix", matrix.data),
            ("limits", limit),
            ("ranges", self._ranges),
        ):
            _check_size(name, values)
        is_small = np.abs(matrix.data) <= _LEAST_ENTRY
        least = np.where(is_small[:, None], matrix.data[:, None], 0.0)
        least = (least * self._ranges[matrix.indices]).min(-1)
        moved = sparse.csr_array((least, matrix.indices, matrix.indptr), matrix.shape)
        moved = moved.sum(1)
        if len(moved) and np.abs(moved).max() > _MOST_MOVED:
            raise InputError(
                f"Entries of up to {_LEAST_ENTRY:g} would be dropped from a linear "
                f"program, worth up to {np.abs(moved).max():.3g} in one row. The "
                "network's weights are too unequal in size for it: use bounds instead."
            )
        matrix.data = np.where(is_small, 0.0, matrix.data)
        matrix.eliminate_zeros()
        return padded, sparse.csc_matrix(matrix), limit - moved


def _widened(matrix, count):
    """The same rows over more columns."""
    return sparse.csr_array(
        (matrix.data, matrix.indices, matrix.indptr), (matrix.shape[0], count)
    )


def _check_size(name, values):
    if not np.all(np.abs(values) < _GREATEST_NUMBER):  # NaN is refused too.
        worst = np.abs(values).max()
        raise InputError(
            "Numbers of a linear program must be finite and below "
            f"{_GREATEST_NUMBER:g}. Received: {worst:.3g} in its {name}. The network's "
            "weights or bounds are too large for a solver: use bounds instead."
        )


def _status(found) -> Status:
    if _NODE_LIMIT in found.message:
        return Status.LIMIT
    return _STATUS.get(found.status, Status.ERROR)


def _solution(status, found, bound, multipliers=None):
    if found.x is None:
        return Solution(status, dual_bound=bound)
    return Solution(
        status, float(found.fun), float(bound), np.asarray(found.x), multipliers or {}
    )
