"""Properties against their own logic, and everything that is no property."""

import gzip
import itertools
import time

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck
from hypothesis import assume
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

import robust_tf as rt
from robust_tf.interchange.vnnlib import Part
from robust_tf.interchange.vnnlib import read_property
from robust_tf.specifications import UnsafeSet

NAMES = ("X_0", "X_1", "Y_0", "Y_1")
DECLARED = "\n".join(f"(declare-const {name} Real)" for name in NAMES)
BOX = "".join(f"(assert (<= X_{i} 1))(assert (>= X_{i} -1.0))" for i in range(2))
GRID = [-1.0, -0.5, 0.0, 0.5, 1.0]
POINTS = np.array(list(itertools.product(GRID, repeat=4)))


def read(folder, body, declared=DECLARED, box=BOX, **options):
    path = folder / "some.vnnlib"
    path.write_text(f"{declared}\n{box}\n{body}\n")
    return read_property(path, **options)


def refused(folder, body, *parts, **options):
    with pytest.raises(rt.InputError) as caught:
        read(folder, body, **options)
    message = str(caught.value)
    assert "some.vnnlib" in message
    for part in parts:
        assert part in message, message


def unsafe_points(prop):
    """Which points of the grid are counterexamples, by the parsed property."""
    found = np.zeros(len(POINTS), bool)
    for part in prop.parts:
        x, y = POINTS[:, :2], POINTS[:, 2:]
        is_in = ((x >= part.lower) & (x <= part.upper)).all(1)
        found |= is_in & (part.unsafe.margin(tf.constant(y)).numpy() <= 0.0)
    return found


# Formulas as nested tuples, with a meaning of their own for the grid.
halves = st.sampled_from([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
x_literals = st.tuples(
    st.sampled_from(["<=", ">="]), st.sampled_from(NAMES[:2]), halves
)
y_literals = st.tuples(
    st.sampled_from(["<=", ">="]),
    st.sampled_from(NAMES[2:]),
    st.one_of(halves, st.sampled_from(NAMES[2:])),
)
formulas = st.recursive(
    st.one_of(x_literals, y_literals, y_literals),
    lambda inner: st.tuples(
        st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3)
    ),
    max_leaves=8,
)


def text_of(formula):
    if formula[0] in ("and", "or"):
        return f"({formula[0]} {' '.join(map(text_of, formula[1]))})"
    return f"({' '.join(map(str, formula))})"


def holds(formula):
    """Where on the grid."""
    if formula[0] in ("and", "or"):
        join = np.logical_and if formula[0] == "and" else np.logical_or
        return join.reduce([holds(part) for part in formula[1]])
    left, right = (
        POINTS[:, NAMES.index(term)] if isinstance(term, str) else term
        for term in formula[1:]
    )
    return left <= right if formula[0] == "<=" else left >= right


@given(st.lists(formulas, min_size=1, max_size=3))
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_formulas_mean_what_they_say(tmp_path, drawn):
    wanted = np.logical_and.reduce([holds(formula) for formula in drawn])
    body = "\n".join(f"(assert {text_of(formula)})" for formula in drawn)
    try:
        prop = read(tmp_path, body)
    except rt.InputError as error:
        assume("leaves all outputs free" not in str(error))
        assert "contradicts line" in str(error) or "never holds" in str(error)
        assert not wanted.any()
        return
    np.testing.assert_array_equal(unsafe_points(prop), wanted)
    boxes = {(*part.lower, *part.upper) for part in prop.parts}
    assert len(boxes) == len(prop.parts)
    for part in prop.parts:
        assert (part.lower <= part.upper).all()


class TestClauses:
    def test_single_clause_of_two_rows(self, tmp_path):
        prop = read(tmp_path, "(assert (<= Y_0 Y_1))(assert (>= Y_0 0.5))")
        (part,) = prop.parts
        np.testing.assert_array_equal(part.unsafe.rows, [[[1, -1], [-1, 0]]])
        np.testing.assert_array_equal(part.unsafe.thresholds, [[0, -0.5]])
        assert part.unsafe.clauses == (0, 0)
        assert part.unsafe.rows.dtype == tf.float64

    def test_three_clauses(self, tmp_path):
        body = "(assert (or (and (>= Y_0 Y_1)) (<= Y_0 0) (and (<= Y_1 1) (>= Y_1 0))))"
        (part,) = read(tmp_path, body).parts
        assert part.unsafe.clauses == (0, 1, 2, 2)

    def test_two_boxes(self, tmp_path):
        body = """(assert (or
            (and (<= X_0 0) (>= Y_0 1))
            (and (>= X_0 0.5) (>= Y_1 1))
            (and (<= Y_0 Y_1) (<= X_0 0.0) (<= X_1 7))))"""
        first, second = read(tmp_path, body).parts
        np.testing.assert_array_equal([first.lower, first.upper], [[-1, -1], [0, 1]])
        np.testing.assert_array_equal([second.lower, second.upper], [[0.5, -1], [1, 1]])
        assert (first.unsafe.clauses, second.unsafe.clauses) == ((0, 1), (0,))

    def test_boxes_in_alternatives_alone(self, tmp_path):
        box = "(>= X_0 -1) (<= X_0 1) (>= X_1 0) (<= X_1 0)"
        body = f"(assert (or (and {box} (>= Y_0 9))))"
        (part,) = read(tmp_path, body, box="").parts
        np.testing.assert_array_equal([part.lower, part.upper], [[-1, 0], [1, 0]])

    def test_impossible_alternatives_are_dropped(self, tmp_path):
        never = "(and (>= X_0 2) (<= Y_0 0)) (and (<= 1 0) (<= Y_0 0))"
        body = f"(assert (or {never} (<= Y_1 0)))"
        (part,) = read(tmp_path, body).parts
        np.testing.assert_array_equal(part.unsafe.rows, [[[0, 1]]])

    def test_no_possible_alternative(self, tmp_path):
        body = "(assert (or (and (>= X_0 2) (<= Y_0 0)) (and (<= X_0 -2) (<= Y_0 0))))"
        prop = read(tmp_path, body)
        assert prop.parts == ()
        assert prop.compares_outputs_only

    def test_linear_terms(self, tmp_path):
        body = (
            "(assert (<= (+ (* 2 Y_0) (- Y_1) (* -0.5 3 Y_0) 1) (- 4 (* Y_1 2) 1e-1)))"
        )
        (part,) = read(tmp_path, body).parts
        np.testing.assert_allclose(part.unsafe.rows, [[[0.5, 1.0]]])
        np.testing.assert_allclose(part.unsafe.thresholds, [[2.9]])

    def test_linear_limits_of_an_input(self, tmp_path):
        limits = "(<= (* 4 X_0) (- 3)) (>= (* -2 X_1) -1.5)"
        body = f"(assert (and {limits} (<= Y_0 0)))"
        (part,) = read(tmp_path, body).parts
        np.testing.assert_allclose(part.upper, [-0.75, 0.75], rtol=1e-15)
        assert (part.upper >= [-0.75, 0.75]).all()  # Rounded outwards.

    def test_numbers_and_layout(self, tmp_path):
        body = """; a comment ( with parentheses
            (assert(<= X_0 1e-05))( assert ( >= X_0
              -2.5E-1 ) ) ; another
            (assert (> X_1 +.5)) (assert (< X_1 1.))
            (assert (<= -3 Y_0))"""
        (part,) = read(tmp_path, body, box="").parts
        np.testing.assert_array_equal(
            [part.lower, part.upper], [[-0.25, 0.5], [1e-5, 1]]
        )
        np.testing.assert_array_equal(part.unsafe.rows, [[[-1, 0]]])
        np.testing.assert_array_equal(part.unsafe.thresholds, [[3]])

    def test_tightest_limit_counts(self, tmp_path):
        body = "(assert (<= X_0 0.5))(assert (<= X_0 0.75))(assert (<= Y_0 0))"
        (part,) = read(tmp_path, body).parts
        assert part.upper[0] == 0.5

    def test_true_comparisons_of_numbers(self, tmp_path):
        body = "(assert (<= 1 2))(assert (or (<= Y_0 0) (and (<= Y_0 Y_0) (<= Y_1 0))))"
        (part,) = read(tmp_path, body).parts
        assert part.unsafe.clauses == (0, 1)

    def test_compressed(self, tmp_path):
        prop = read(tmp_path, "(assert (<= Y_0 0))")
        path = tmp_path / "some.vnnlib.gz"
        path.write_bytes(gzip.compress((tmp_path / "some.vnnlib").read_bytes()))
        again = read_property(path)
        np.testing.assert_array_equal(again.parts[0].upper, prop.parts[0].upper)

    def test_sizes_are_compared(self, tmp_path):
        prop = read(tmp_path, "(assert (<= Y_0 0))")
        prop.check_sizes(2, 2, "net.onnx")
        for sizes in ((3, 2), (2, 3)):
            with pytest.raises(rt.InputError, match=r"some\.vnnlib.*net\.onnx"):
                prop.check_sizes(*sizes, "net.onnx")


class TestRounding:
    @given(
        st.lists(st.floats(-1e30, 1e30), min_size=2, max_size=2),
    )
    def test_outward_and_inward(self, drawn):
        ends = np.array(sorted(drawn))
        unsafe = UnsafeSet.from_clauses([([[1.0]], [0.0])])
        part = Part(ends[:1], ends[1:], unsafe)
        lower, upper = part.outward("float32")
        assert lower.dtype == upper.dtype == np.float32
        assert lower <= ends[0] <= ends[1] <= upper
        assert np.nextafter(lower, np.float32(np.inf)) > ends[0]
        assert np.nextafter(upper, np.float32(-np.inf)) < ends[1]
        inner_lower, inner_upper = part.inward("float32")
        assert inner_lower <= inner_upper
        if (inner_lower < ends[0]) or (inner_upper > ends[1]):
            assert inner_lower == inner_upper == np.float32(ends.sum() / 2)

    def test_float64_is_left_alone(self):
        unsafe = UnsafeSet.from_clauses([([[1.0]], [0.0])])
        part = Part(np.array([0.1]), np.array([0.3]), unsafe)
        for ends in (part.outward("float64"), part.inward("float64")):
            np.testing.assert_array_equal(ends, [[0.1], [0.3]])

    def test_no_number_in_between(self):
        unsafe = UnsafeSet.from_clauses([([[1.0]], [0.0])])
        part = Part(np.array([0.1]), np.array([0.1]), unsafe)
        np.testing.assert_array_equal(part.inward("float32"), [[np.float32(0.1)]] * 2)
        lower, upper = part.outward("float32")
        assert upper == np.nextafter(lower, np.float32(1))


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "parts"),
        [
            ("(assert (<= Y_0 0)", ["line 6", "not closed"]),
            ("(assert (<= Y_0 0)))", ["line 6", "`)`", "outside"]),
            ("assert", ["line 6", "`assert`", "outside"]),
            ("\n(assert (<= Y_7 0))", ["line 7", "`Y_7`", "declared"]),
            ("(assert (<= Y_0 1e))", ["`1e`", "decimal number"]),
            ("(assert (<= Y_0 nan))", ["`nan`"]),
            ("(assert (<= Y_0 inf))", ["`inf`"]),
            ("(assert (<= Y_0 0x1))", ["`0x1`"]),
            ("(assert (<= Y_0 1_0))", ["`1_0`"]),
            ("(assert (<= Y_0 1e999))", ["`1e999`", "overflows"]),
            ("(assert (<= (* 1e308 1e308) Y_0))", ["overflow"]),
            ("(assert (<= X_0 Y_0))", ["inputs and outputs", "(<= X_0 Y_0)"]),
            ("(assert (or (<= (+ X_0 Y_0) 1)))", ["inputs and outputs"]),
            ("(assert (<= X_0 X_1))", ["several inputs", "box"]),
            ("(assert (<= (* Y_0 Y_1) 1))", ["product of variables", "linear"]),
            ("(assert (<= (/ Y_0 2) 1))", ["no linear term", "(/ Y_0 2)"]),
            ("(assert (<= (+) 1))", ["no linear term"]),
            ("(assert (<= () 1))", ["no linear term"]),
            ("(assert (= Y_0 1))", ["`=` is no formula"]),
            ("(assert (not (<= Y_0 1)))", ["`not` is no formula"]),
            ("(assert (<= Y_0 1 2))", ["compares two terms, not 3"]),
            ("(assert (<= Y_0))", ["compares two terms, not 1"]),
            ("(assert (or))", ["empty `or`"]),
            ("(assert (and))", ["empty `and`"]),
            ("(assert Y_0)", ["`Y_0`", "formula is expected"]),
            ("(assert ())", ["begin with a word"]),
            ("()", ["begin with a word"]),
            ("(assert)", ["one formula, not 0"]),
            ("(assert (<= Y_0 0) (<= Y_1 0))", ["one formula, not 2"]),
            ("(check-sat)", ["`check-sat` is no statement"]),
            ("(declare-const X_1 Real)", ["second time", "`X_1`"]),
            ("(declare-const Z_1 Real)", ["names X_i or Y_j"]),
            ("(declare-const X_01 Real)", ["names X_i or Y_j"]),
            ("(declare-const X_2 Int)", ["type Real"]),
            ("(declare-const X_2)", ["type Real"]),
            ("(declare-const X_3 Real)", ["X_2 is not declared"]),
            ("(declare-fun X_2 () Real)", ["not VNN-LIB 1.0"]),
            ("(vnnlib-version <2.0>)", ["not VNN-LIB 1.0", "VNN-LIB 1.0:"]),
            ("(declare-network f (declare-input X Real [1, 5]))", ["not VNN-LIB 1.0"]),
            ("(assert (>= X_0 1.5))", ["line 6", "contradicts line 5", "X_0"]),
            ("(assert (or (and (>= X_0 1.5) (<= Y_0 0))))", ["contradicts", "X_0"]),
            ("(assert (<= 1 0))", ["never holds"]),
            ("(assert (<= Y_0 (- Y_0 1)))", ["never holds"]),
            ("", ["leaves all outputs free"]),
            ("(assert (or (<= Y_0 0) (<= X_0 0)))", ["leaves all outputs free"]),
            ("(assert " + "(and " * 200 + "(<= Y_0 0)" + ")" * 201, ["100 deep"]),
        ],
    )  # fmt: skip
    def test_bodies(self, tmp_path, body, parts):
        refused(tmp_path, body, *parts)

    def test_inputs_without_limits(self, tmp_path):
        body = "(assert (<= Y_0 0))"
        box = "(assert (<= X_0 1))(assert (>= X_0 0))(assert (>= X_1 0))"
        refused(tmp_path, body, "line 2", "X_1 has no upper limit", box=box)
        box = "(assert (<= X_0 1))(assert (<= X_1 1))(assert (>= X_1 0))"
        refused(tmp_path, body, "line 1", "X_0 has no lower limit", box=box)

    def test_inputs_without_limits_in_one_alternative(self, tmp_path):
        body = "(assert (or (and (>= X_0 0) (<= Y_0 0)) (and (<= X_1 0) (<= Y_0 0))))"
        box = "(assert (<= X_0 1))(assert (<= X_1 1))(assert (>= X_1 0))"
        refused(tmp_path, body, "X_0 has no lower limit in one", box=box)

    @pytest.mark.parametrize("kind", ["X", "Y"])
    def test_missing_declarations(self, tmp_path, kind):
        declared = "\n".join(
            line for line in DECLARED.split("\n") if f"{kind}_" not in line
        )
        refused(tmp_path, "", "declares no", declared=declared, box="")

    def test_explosion(self, tmp_path):
        choice = "(assert (or (<= Y_0 0) (<= Y_1 0)))"
        start = time.perf_counter()
        refused(tmp_path, choice * 60, "1,152,921,504,606,846,976 alternatives")
        pairs = "(or (<= Y_0 0) (<= Y_1 0)) (or (<= Y_0 1) (<= Y_1 1))"
        nested = f"(or (and {pairs}) (<= Y_0 2))"
        refused(tmp_path, f"(assert {nested})", "5 alternatives", max_clauses=4)
        assert time.perf_counter() - start < 5.0
        (part,) = read(tmp_path, f"(assert {nested})", max_clauses=5).parts
        assert part.unsafe.num_clauses == 5

    def test_unreadable_files(self, tmp_path):
        with pytest.raises(rt.InputError, match="no property file"):
            read_property(tmp_path / "none.vnnlib")
        (tmp_path / "binary.vnnlib").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(rt.InputError, match=r"binary\.vnnlib.*read as text"):
            read_property(tmp_path / "binary.vnnlib")
        (tmp_path / "cut.vnnlib.gz").write_bytes(gzip.compress(b"(assert )")[:-6])
        with pytest.raises(rt.InputError, match=r"cut\.vnnlib\.gz"):
            read_property(tmp_path / "cut.vnnlib.gz")
        (tmp_path / "damaged.vnnlib.gz").write_bytes(b"\x1f\x8b\x08" + b"\x00" * 30)
        with pytest.raises(rt.InputError, match=r"damaged\.vnnlib\.gz"):
            read_property(tmp_path / "damaged.vnnlib.gz")


def test_large_files_are_fast(tmp_path):
    """As many inputs as a colour image of 32 x 32 pixels has."""
    declared = "\n".join(f"(declare-const X_{i} Real)" for i in range(3072))
    declared += "\n".join(f"(declare-const Y_{i} Real)" for i in range(10))
    box = "\n".join(
        f"(assert (<= X_{i} {0.1 + i}))\n(assert (>= X_{i} {i}))" for i in range(3072)
    )
    rows = " ".join(f"(and (>= Y_{i} Y_0))" for i in range(1, 10))
    start = time.process_time()
    prop = read(tmp_path, f"(assert (or {rows}))", declared, box)
    assert time.process_time() - start < 2.0  # 0.1 s, on an idle machine.
    (part,) = prop.parts
    np.testing.assert_array_equal(part.lower, np.arange(3072.0))
    np.testing.assert_array_equal(part.upper, 0.1 + np.arange(3072.0))
    assert part.unsafe.num_clauses == 9
    assert prop.compares_outputs_only
