"""Properties in VNN-LIB 1.0: boxes of inputs, and the outputs unsafe there."""

import dataclasses
import itertools
import math
import os

import numpy as np
from absl import logging

from robust_tf.errors import InputError
from robust_tf.interchange import vnnlib_syntax as syntax
from robust_tf.specifications import UnsafeSet

_ADVICE_2 = "Write the property in VNN-LIB 1.0: `(declare-const X_0 Real)`."


@dataclasses.dataclass(frozen=True)
class Part:
    """A box of inputs, and the outputs that must not occur for any of them.

    Attributes:
        lower: least inputs, `[inputs]`, float64, finite.
        upper: greatest inputs, the same; nowhere below `lower`.
        unsafe: over the outputs, of one example, float64.
    """

    lower: np.ndarray
    upper: np.ndarray
    unsafe: UnsafeSet

    def outward(self, dtype) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ends of the least box in `dtype` that holds this one.

        What is proved of it holds for this one.
        """
        return _at_most(self.lower, dtype), -_at_most(-self.upper, dtype)

    def inward(self, dtype) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ends of the greatest box in `dtype` within this one.

        A point of it is a point of this one, save for inputs whose interval holds no
        number of `dtype`: both ends are then the number nearest to its middle.
        """
        lower, upper = -_at_most(-self.lower, dtype), _at_most(self.upper, dtype)
        nearest = (self.lower / 2 + self.upper / 2).astype(lower.dtype)
        is_empty = lower > upper
        return np.where(is_empty, nearest, lower), np.where(is_empty, nearest, upper)


@dataclasses.dataclass(frozen=True)
class Property:
    """What a file declares unsafe; a counterexample of any part is one of the whole.

    Attributes:
        path: of the file.
        num_inputs: how many X it declares: the network's input, flattened in C order
            of the shape that the network's file declares.
        num_outputs: how many Y.
        parts: with boxes that all differ; none where no input satisfies the file, and
            the property holds for every network.
    """

    path: str
    num_inputs: int
    num_outputs: int
    parts: tuple[Part, ...]

    def check_sizes(self, num_inputs: int, num_outputs: int, network: str) -> None:
        """Checks that a network has as many inputs and outputs as the property.

        Raises:
            InputError: naming both files and all four numbers.
        """
        if (num_inputs, num_outputs) != (self.num_inputs, self.num_outputs):
            raise InputError(
                f"Property '{self.path}' is about {self.num_inputs} input(s) X and "
                f"{self.num_outputs} output(s) Y. Received: network '{network}' with "
                f"{num_inputs} and {num_outputs}. Use the property with the network "
                "that it was written for."
            )

    @property
    def compares_outputs_only(self) -> bool:
        """Whether all rows are `Y_i <= Y_j`, which a softmax does not change."""
        for part in self.parts:
            rows, thresholds = part.unsafe.rows.numpy(), part.unsafe.thresholds.numpy()
            ends = np.sort(rows[0], -1)
            is_pair = (ends[:, 0] == -ends[:, -1]) & (np.count_nonzero(ends, -1) == 2)
            if thresholds.any() or not is_pair.all():
                return False
        return True


def read_property(path: str | os.PathLike, max_clauses: int = 10_000) -> Property:
    """Reads a property in the part of VNN-LIB 1.0 that competitions use.

    Declarations of `X_i` and `Y_j`, and assertions made of `<=`, `>=` (`<` and `>` are
    taken for them), `and`, `or` and linear terms. They describe the unsafe set: the
    property holds if no input satisfies all of them. Alternatives (`or`) that limit
    inputs give several boxes, each with its own clauses; alternatives that no input
    satisfies, because a limit contradicts another one, are dropped.

    Limits are the float64 numbers nearest to what is written.

    Args:
        path: of the file; compressed by gzip if it ends in `.gz`.
        max_clauses: greatest number of conjunctions when `or` is multiplied out.

    Raises:
        InputError: naming file, line and what stands there: for anything else, for
            limits outside any `or` that contradict each other, for inputs without two
            finite limits, for alternatives that leave all outputs free, and for more
            clauses than allowed.
    """
    source = syntax.Source(path)
    formulas = _formulas(source)
    num_inputs, num_outputs = (_count(source, kind) for kind in "XY")
    plain, choices = [], []
    for formula in formulas:
        _sort_in(formula, plain, choices)
    _check_count(source, choices, max_clauses)
    base = _Conjunction(source, num_inputs, plain)
    base.check()
    groups = {}
    for choice in itertools.product(*map(_alternatives, choices)):
        branch = base.with_literals(itertools.chain.from_iterable(choice))
        if branch is not None:
            groups.setdefault(branch.key(), (branch, []))[1].append(branch.rows)
    if not groups:
        logging.warning("No input satisfies '%s': the property holds.", path)
    parts = (_part(branch, clauses, num_outputs) for branch, clauses in groups.values())
    return Property(os.fspath(path), num_inputs, num_outputs, tuple(parts))


class _Conjunction:
    """Limits of inputs and rows over outputs that hold together."""

    def __init__(self, source, num_inputs, literals):
        self.source = source
        self.lower = np.full(num_inputs, -np.inf)
        self.upper = np.full(num_inputs, np.inf)
        self.changes = {}  # Limits of single inputs that differ from the arrays.
        self.rows = []
        self.contradiction = None
        self._starts = {}
        for literal in literals:
            if isinstance(literal, syntax.InputLimit):
                self._limit(literal)
            elif isinstance(literal, syntax.OutputRow):
                self.rows.append(literal)
            elif not literal.is_true:
                self.contradiction = literal.start

    def check(self):
        """Refuses what no input can satisfy."""
        if self.contradiction is not None:
            raise self.source.error(
                self.contradiction, "this never holds", "Correct the numbers."
            )
        for index in np.flatnonzero(self.lower > self.upper):
            first, last = sorted(self._starts[index, end] for end in (False, True))
            line = self.source.text.count("\n", 0, first) + 1
            raise self.source.error(
                last,
                f"contradicts line {line}: X_{index} would lie between "
                f"{self.lower[index]!s} and {self.upper[index]!s}",
                "Exchange or correct the limits.",
            )

    def with_literals(self, literals):
        """Returns the conjunction with more of them, or None if none satisfies it."""
        branch = _Conjunction.__new__(_Conjunction)
        branch.source, branch.lower, branch.upper = self.source, self.lower, self.upper
        branch.changes, branch.rows = {}, list(self.rows)
        for literal in literals:
            if isinstance(literal, syntax.OutputRow):
                branch.rows.append(literal)
            elif isinstance(literal, syntax.Constant):
                if not literal.is_true:
                    return None
            else:
                index, value = literal.index, literal.value
                low, high = branch.changes.get(
                    index, (self.lower[index], self.upper[index])
                )
                if literal.is_upper:
                    high = min(high, value)
                else:
                    low = max(low, value)
                if low > high:
                    return None
                branch.changes[index] = (low, high)
        return branch

    def key(self):
        """The same for conjunctions of equal boxes."""
        return tuple(
            (index, ends)
            for index, ends in sorted(self.changes.items())
            if ends != (self.lower[index], self.upper[index])
        )

    def box(self):
        """The ends of all inputs, `[inputs]` each; all must be finite."""
        lower, upper = self.lower.copy(), self.upper.copy()
        for index, (low, high) in self.changes.items():
            lower[index], upper[index] = low, high
        for name, ends in (("lower", lower), ("upper", upper)):
            for index in np.flatnonzero(~np.isfinite(ends)):
                raise self.source.error(
                    self.source.declared[f"X_{index}"],
                    f"X_{index} has no {name} limit"
                    + (" in one of the alternatives" if self.changes else ""),
                    "Limit every input from both sides: `(assert (>= X_0 0.0))`.",
                )
        return lower, upper

    def _limit(self, literal):
        """Takes the tighter limit, and remembers where it stands."""
        ends = self.upper if literal.is_upper else self.lower
        index, value = literal.index, literal.value
        if value < ends[index] if literal.is_upper else value > ends[index]:
            ends[index] = value
            self._starts[index, literal.is_upper] = literal.start


def _formulas(source):
    """The formulas of all assertions; declarations are noted in the source."""
    found = []
    for statement in source.statements():
        head = source.head(statement)
        if head == "declare-const":
            _declare(source, statement)
        elif head == "assert":
            if len(statement.items) != 2:
                raise source.error(
                    statement,
                    f"`assert` takes one formula, not {len(statement.items) - 1}",
                    "Join formulas by `and`, or assert each by itself.",
                )
            found.append(source.formula(statement.items[1]))
        elif head == "vnnlib-version" or head.startswith("declare-"):
            raise source.error(statement, "this is not VNN-LIB 1.0", _ADVICE_2)
        else:
            raise source.error(
                statement,
                f"`{head}` is no statement of a property",
                "Use `declare-const` and `assert`.",
            )
    return found


def _declare(source, statement):
    words = [item for item in statement.items if isinstance(item, syntax.Atom)]
    is_valid = len(words) == len(statement.items) == 3 and words[2].text == "Real"
    if not is_valid or not syntax.VARIABLE.fullmatch(words[1].text):
        raise source.error(
            statement,
            "a declaration names X_i or Y_j, counted from 0, and the type Real",
            "Write `(declare-const X_0 Real)`.",
        )
    name = words[1]
    if name.text in source.declared:
        raise source.error(name, "declared a second time", "Remove one of the two.")
    source.declared[name.text] = name.start


def _count(source, kind) -> int:
    """How many variables of a kind there are; they must count up from 0."""
    indices = sorted(int(name[2:]) for name in source.declared if name[0] == kind)
    if not indices:
        what = "inputs X_i" if kind == "X" else "outputs Y_j"
        raise InputError(
            f"'{source.path}' declares no {what}. Received: {len(source.declared)} "
            "declaration(s). The file may be empty, cut off or no property."
        )
    if indices[-1] != len(indices) - 1:
        missing = next(i for i, index in enumerate(indices) if i != index)
        raise source.error(
            source.declared[f"{kind}_{indices[-1]}"],
            f"{kind}_{missing} is not declared, but {kind}_{indices[-1]} is",
            "Declare all variables from 0 on.",
        )
    return len(indices)


def _sort_in(formula, plain, choices):
    """Takes conjunctions apart: single comparisons, and what offers a choice."""
    if not isinstance(formula, syntax.Formula):
        plain.append(formula)
    elif formula.operator == "or":
        choices.append(formula)
    else:
        for part in formula.parts:
            _sort_in(part, plain, choices)


def _check_count(source, choices, max_clauses):
    count = math.prod(map(_num_alternatives, choices))
    if count > max_clauses:
        raise InputError(
            f"'{source.path}' has {count:,} alternatives when `or` is multiplied out; "
            f"at most {max_clauses:,} are allowed. Split the property into several "
            "files, or raise `max_clauses`."
        )


def _num_alternatives(formula) -> int:
    if not isinstance(formula, syntax.Formula):
        return 1
    counts = map(_num_alternatives, formula.parts)
    return sum(counts) if formula.operator == "or" else math.prod(counts)


def _alternatives(formula) -> list[tuple]:
    """The formula as a list of conjunctions, each a tuple of comparisons."""
    if not isinstance(formula, syntax.Formula):
        return [(formula,)]
    parts = map(_alternatives, formula.parts)
    if formula.operator == "or":
        return list(itertools.chain.from_iterable(parts))
    return [
        tuple(itertools.chain.from_iterable(one)) for one in itertools.product(*parts)
    ]


def _part(branch, clauses, num_outputs) -> Part:
    if not all(clauses):
        raise InputError(
            f"'{branch.source.path}' leaves all outputs free for some inputs, each of "
            "which would be a counterexample. State which outputs are unsafe: `(assert "
            "(<= Y_0 Y_1))`."
        )
    pairs = []
    for clause in clauses:
        rows = np.zeros([len(clause), num_outputs])
        for row, literal in zip(rows, clause, strict=True):
            row[list(literal.coefficients)] = list(literal.coefficients.values())
        pairs.append((rows, [literal.threshold for literal in clause]))
    return Part(*branch.box(), UnsafeSet.from_clauses(pairs))


def _at_most(values, dtype):
    """The greatest numbers of a type that are not above the values."""
    rounded = values.astype(dtype)
    below = np.nextafter(rounded, rounded.dtype.type(-np.inf))
    return np.where(rounded.astype("float64") > values, below, rounded)
