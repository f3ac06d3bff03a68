"""Answers as files: verdicts and counterexamples, as competitions read them."""

import dataclasses
import enum
import math
import os
import pathlib
import re

import numpy as np

from robust_tf.errors import InputError
from robust_tf.files import write_atomically
from robust_tf.interchange.vnnlib import Property

RESULTS = ("sat", "unsat", "unknown", "timeout", "error")
_DIGITS = {"float32": 9, "float64": 17}  # As many as tell all numbers apart.
_PAIR = re.compile(r"\(\s*([XY])_(\d+)\s+([^\s()]+)\s*\)")
# Of competitions: of the outputs' norm, of the inputs, of the rows over outputs.
_OUTPUT_TOLERANCE = 1e-3
_LIMIT_TOLERANCE = 1e-4
_EXACT = 1e-7  # What exceeds a limit by more holds by the tolerance alone.


@dataclasses.dataclass(frozen=True)
class Witness:
    """What an answer's file says.

    Attributes:
        result: one of `RESULTS`.
        inputs: the counterexample, flat, float64; None without one.
        outputs: of the network at it, as the file states them.
    """

    result: str
    inputs: np.ndarray | None = None
    outputs: np.ndarray | None = None


class Standing(enum.StrEnum):
    """What a counterexample is worth to competitions."""

    EXACT = "exact"
    WITHIN_TOLERANCE = "within tolerance"  # No penalty, but refutes nobody.
    INVALID = "invalid"


@dataclasses.dataclass(frozen=True)
class Check:
    """How a counterexample was judged.

    Attributes:
        standing: the judgement.
        output_error: greatest difference between stated and computed outputs, over
            the greatest stated one.
        input_excess: by how much an input leaves the box, at most.
        row_excess: by how much a row of the best clause exceeds its threshold, by the
            stated outputs or the computed ones, whichever is worse.
        part: the part of the property that it violates best.
    """

    standing: Standing
    output_error: float
    input_excess: float
    row_excess: float
    part: int | None


def write_result(path: str | os.PathLike, result: str, inputs=None, outputs=None):
    """Writes an answer, atomically: a line, and the counterexample for "sat".

    Numbers have 9 digits for float32 and 17 for float64, so that they are read back
    as they were.

    Args:
        path: of the file; its folder must exist.
        result: one of `RESULTS`.
        inputs: `[inputs]` in C order of the shape that the network's file declares.
        outputs: `[outputs]` there, as ONNX Runtime computes them.

    Raises:
        InputError: for another result, or a counterexample missing, superfluous or not
            finite.
    """
    if result not in RESULTS:
        raise InputError(f"A result is one of {RESULTS}. Received: {result!r}")
    if (result == "sat") != (inputs is not None and outputs is not None):
        raise InputError(
            "A counterexample, inputs and outputs, belongs to the result 'sat', and to "
            f"it alone. Received: {result!r} "
            + ("without both" if result == "sat" else "with one")
        )
    lines = [result]
    if inputs is not None:
        pairs = _pairs("X", inputs) + _pairs("Y", outputs)
        lines += ["(" + "\n ".join(pairs) + ")"]
    write_atomically(path, "\n".join(lines) + "\n")


def read_witness(path: str | os.PathLike) -> Witness:
    """Reads an answer.

    Raises:
        InputError: for a missing file, another result, or a counterexample that is cut
            off, not numbered from 0, or not of finite numbers.
    """
    path = pathlib.Path(path)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"'{path}' could not be read. Received: {error}. Give the file of an "
            "answer."
        ) from error
    first, _, rest = text.partition("\n")
    result, rest = first.strip(), rest.strip()
    if result not in RESULTS:
        raise InputError(
            f"The first line of '{path}' must be one of {RESULTS}. Received: "
            f"{result[:60]!r}"
        )
    if result != "sat":
        return Witness(result)
    between = _PAIR.sub("", rest)
    if between.split() not in (["()"], ["(", ")"]):
        raise InputError(
            f"'{path}' holds no counterexample of the form `((X_0 0.5) ... (Y_0 "
            f"1.0))`. Received: {between.strip()[:60]!r} beside its pairs. The "
            "file may be cut off."
        )
    values = {"X": {}, "Y": {}}
    for kind, index, number in _PAIR.findall(rest):
        values[kind][int(index)] = _finite(path, number)
    return Witness(result, *(_in_order(path, kind, values[kind]) for kind in "XY"))


def check_witness(witness: Witness, prop: Property, run) -> Check:
    """Judges a counterexample by the rules of competitions (of 2025).

    Computed outputs may differ from the stated ones by 1e-3 of the greatest of these;
    inputs may leave the box, and rows over outputs exceed their thresholds, by 1e-4.
    What exceeds one by more than 1e-7 is valid by tolerance alone.

    Args:
        witness: with a counterexample.
        prop: the property.
        run: the network, from `[1, inputs]` to `[1, outputs]`, such as `Session.run`.

    Raises:
        InputError: for a witness without counterexample, or of other sizes.
    """
    if witness.inputs is None:
        raise InputError(
            f"Only 'sat' has a counterexample to check. Received: {witness.result!r}"
        )
    prop.check_sizes(len(witness.inputs), len(witness.outputs), "of the witness")
    computed = np.asarray(run(witness.inputs[None]), "float64")[0]
    norm = np.abs(witness.outputs).max()
    difference = np.abs(computed - witness.outputs).max()
    output_error = difference / norm if norm > 0.0 else difference
    best = (math.inf, math.inf, None)
    for number, part in enumerate(prop.parts):
        beyond = np.maximum(part.lower - witness.inputs, witness.inputs - part.upper)
        margins = part.unsafe.margin(np.stack([computed, witness.outputs])).numpy()
        excess = (max(beyond.max(), 0.0), max(margins.max(), 0.0), number)
        best = min(best, excess, key=lambda one: max(one[:2]))
    input_excess, row_excess, number = best
    worst = max(input_excess, row_excess)
    standing = Standing.WITHIN_TOLERANCE if worst > _EXACT else Standing.EXACT
    if not (output_error <= _OUTPUT_TOLERANCE and worst <= _LIMIT_TOLERANCE):
        standing = Standing.INVALID
    return Check(
        standing, float(output_error), float(input_excess), float(row_excess), number
    )


def _pairs(kind, values) -> list[str]:
    values = np.asarray(values)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise InputError(
            f"A counterexample has finite numbers {kind}, one after the other. "
            f"Received: shape {values.shape}, {np.sum(~np.isfinite(values))} not finite"
        )
    digits = _DIGITS.get(values.dtype.name, 17)
    return [f"({kind}_{i} {value:.{digits}g})" for i, value in enumerate(values)]


def _finite(path, number) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"Numbers of '{path}' must be finite decimals. Received: {number!r}"
        )
    return value


def _in_order(path, kind, values) -> np.ndarray:
    if not values or max(values) != len(values) - 1:
        raise InputError(
            f"'{path}' must state all of {kind}_0, {kind}_1, ... up to the last. "
            f"Received: {len(values)} of them"
            + (f", the last {kind}_{max(values)}" if values else "")
        )
    return np.asarray([values[i] for i in range(len(values))])
