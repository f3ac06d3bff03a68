"""The language of VNN-LIB 1.0: tokens, nested lists, and linear constraints."""

import gzip
import math
import os
import pathlib
import re
import zlib
from typing import NamedTuple

from robust_tf.errors import InputError

_TOKEN = re.compile(r";[^\n]*|[()]|[^\s();]+")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
VARIABLE = re.compile(r"([XY])_(0|[1-9]\d*)")
# Deeper than any property is, and shallow enough for recursion.
_MAX_DEPTH = 100
_COMPARISONS = {"<=": False, "<": False, ">=": True, ">": True}  # Whether to swap.
_FORMS = "`(<= A B)`, `(>= A B)`, `(and F ...)`, `(or F ...)`"


class Atom(NamedTuple):
    """A word of a file, and the offset at which it starts."""

    text: str
    start: int


class Form(NamedTuple):
    """A list in parentheses, and the offset at which it starts."""

    items: list
    start: int


class InputLimit(NamedTuple):
    """`X_index <= value`, or `>=` where `is_upper` is false."""

    index: int
    is_upper: bool
    value: float
    start: int


class OutputRow(NamedTuple):
    """`sum of coefficients[j] * Y_j <= threshold`."""

    coefficients: dict[int, float]
    threshold: float
    start: int


class Constant(NamedTuple):
    """A comparison without variables."""

    is_true: bool
    start: int


class Formula(NamedTuple):
    """Formulas joined by "and" or by "or"."""

    operator: str
    parts: tuple


class Source:
    """The text of a property file, and what is where in it.

    Attributes:
        path: of the file.
        text: all of it.
        declared: where each variable is declared, by its name.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self.text = _read(self.path)
        self.declared = {}

    def error(self, where: Atom | Form | int, problem: str, advice: str) -> InputError:
        """Returns an error that names the file, the line and what stands there."""
        start = where if isinstance(where, int) else where.start
        line = self.text.count("\n", 0, start) + 1
        if isinstance(where, Atom):
            token = where.text
        else:
            token = self.text[start : start + 60].partition("\n")[0].rstrip()
        return InputError(
            f"'{self.path}', line {line}: {problem}. Received: `{token}`. {advice}"
        )

    def statements(self) -> list[Form]:
        """Returns the file as nested lists.

        Raises:
            InputError: for parentheses that do not match, or words outside of them.
        """
        whole = Form([], 0)
        open_forms = [whole]
        for match in _TOKEN.finditer(self.text):
            word, start = match.group(), match.start()
            if word == "(":
                form = Form([], start)
                open_forms[-1].items.append(form)
                open_forms.append(form)
                if len(open_forms) > _MAX_DEPTH:
                    raise self.error(
                        start,
                        f"parentheses are nested more than {_MAX_DEPTH} deep",
                        "Flatten nested `and` and `or`.",
                    )
            elif word == ")":
                open_forms.pop()
            elif word[0] != ";":
                open_forms[-1].items.append(Atom(word, start))
            if not open_forms or (len(open_forms) == 1 and word[0] not in "();"):
                raise self.error(
                    Atom(word, start),
                    "this stands outside of any statement",
                    "Statements stand in parentheses; comments begin with `;`.",
                )
        if len(open_forms) > 1:
            raise self.error(
                open_forms[1],
                "a statement is not closed before the file ends",
                "Add the missing closing parenthesis; the file may be cut off.",
            )
        return whole.items

    def formula(self, node) -> Formula | InputLimit | OutputRow | Constant:
        """Returns a statement's formula; an `or` of one formula is that formula.

        Raises:
            InputError: for what is not of the subset that competitions use.
        """
        head = self.head(node)
        if head in _COMPARISONS:
            return self._comparison(node, head)
        if head not in ("and", "or"):
            raise self.error(node, f"`{head}` is no formula", f"Use {_FORMS}.")
        if len(node.items) == 1:
            raise self.error(node, f"an empty `{head}`", "Give at least one formula.")
        parts = tuple(self.formula(part) for part in node.items[1:])
        return parts[0] if len(parts) == 1 else Formula(head, parts)

    def head(self, node) -> str:
        """Returns the word that a list begins with."""
        if isinstance(node, Atom):
            raise self.error(node, "a formula is expected", f"Use {_FORMS}.")
        if not node.items or not isinstance(node.items[0], Atom):
            raise self.error(node, "a list must begin with a word", f"Use {_FORMS}.")
        return node.items[0].text

    def _comparison(self, node, head):
        if len(node.items) != 3:
            raise self.error(
                node,
                f"`{head}` compares two terms, not {len(node.items) - 1}",
                "Write chains as several comparisons.",
            )
        left, right = (self._linear(term) for term in node.items[1:])
        if _COMPARISONS[head]:
            left, right = right, left
        total = _sum(left, _scaled(right, -1.0))
        constant = total.pop("", 0.0)
        if not math.isfinite(constant) or not all(map(math.isfinite, total.values())):
            raise self.error(node, "numbers overflow", "Scale the constraint down.")
        names = {name: factor for name, factor in total.items() if factor}
        if not names:
            return Constant(constant <= 0.0, node.start)
        kinds = {name[0] for name in names}
        if kinds == {"Y"}:
            rows = {int(name[2:]): factor for name, factor in names.items()}
            return OutputRow(rows, 0.0 - constant, node.start)
        if len(names) > 1:
            what = "inputs and outputs" if len(kinds) == 2 else "several inputs"
            raise self.error(
                node,
                f"one comparison has {what}",
                "Inputs are limited one by one, by numbers: the set must be a box.",
            )
        ((name, factor),) = names.items()
        return _limit(int(name[2:]), factor, constant, node.start)

    def _linear(self, node) -> dict[str, float]:
        """A term as factors by variable; that of "" is the constant."""
        if isinstance(node, Atom):
            return self._atom(node)
        head = node.items[0].text if node.items and _is_atom(node.items[0]) else ""
        terms = [self._linear(term) for term in node.items[1:]] if head else []
        if head == "+" and terms:
            return _sum(*terms)
        if head == "-" and len(terms) == 1:
            return _scaled(terms[0], -1.0)
        if head == "-" and terms:
            return _sum(terms[0], *(_scaled(term, -1.0) for term in terms[1:]))
        if head == "*" and terms:
            return self._product(node, terms)
        raise self.error(
            node, "this is no linear term", "Use numbers, X_i, Y_j, `+`, `-` and `*`."
        )

    def _product(self, node, terms):
        factors = [term.get("", 0.0) for term in terms if not term.keys() - {""}]
        others = [term for term in terms if term.keys() - {""}]
        if len(others) > 1:
            raise self.error(
                node, "a product of variables", "Constraints must be linear."
            )
        return _scaled(others[0] if others else {"": 1.0}, math.prod(factors))

    def _atom(self, node) -> dict[str, float]:
        if node.text in self.declared:
            return {node.text: 1.0}
        if not _NUMBER.fullmatch(node.text):
            raise self.error(
                node,
                "neither a decimal number nor a declared variable",
                "Declare variables first: `(declare-const X_0 Real)`.",
            )
        value = float(node.text)
        if not math.isfinite(value):
            raise self.error(node, "the number overflows", "Use finite numbers.")
        return {"": value}


def _is_atom(node) -> bool:
    return isinstance(node, Atom)


def _sum(*terms) -> dict[str, float]:
    total = {}
    for term in terms:
        for name, factor in term.items():
            total[name] = total[name] + factor if name in total else factor
    return total


def _scaled(term, factor) -> dict[str, float]:
    return {name: factor * value for name, value in term.items()}


def _limit(index, factor, constant, start) -> InputLimit:
    """`factor * X + constant <= 0` as a limit, not tighter for the division."""
    value, is_upper = -constant / factor, factor > 0.0
    if abs(factor) != 1.0:
        value = math.nextafter(value, math.inf if is_upper else -math.inf)
    return InputLimit(index, is_upper, value + 0.0, start)  # No negative zero.


def _read(path: pathlib.Path) -> str:
    """The text of a file, which may be compressed."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8")
    except FileNotFoundError as error:
        raise InputError(f"There is no property file. Received: '{path}'") from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(
            f"'{path}' could not be read as text. Received: {error}. A property is a "
            "text file in VNN-LIB, or one compressed by gzip that ends in `.gz`."
        ) from error
