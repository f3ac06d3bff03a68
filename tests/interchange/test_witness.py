"""Answers there and back, and the rules by which they are judged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import robust_tf as rt
from robust_tf.interchange.instances import read_instances
from robust_tf.interchange.vnnlib import read_property
from robust_tf.interchange.witness import Standing
from robust_tf.interchange.witness import Witness
from robust_tf.interchange.witness import check_witness
from robust_tf.interchange.witness import read_witness
from robust_tf.interchange.witness import write_result


@pytest.mark.parametrize("width", [32, 64])
def test_numbers_come_back_as_they_were(tmp_path, width):
    finite = st.floats(allow_nan=False, allow_infinity=False, width=width)
    arrays = hnp.arrays(f"float{width}", st.integers(1, 4), elements=finite)

    @given(arrays, arrays)
    @settings(max_examples=60, deadline=None)
    def check(inputs, outputs):
        write_result(tmp_path / "answer.txt", "sat", inputs, outputs)
        witness = read_witness(tmp_path / "answer.txt")
        assert witness.result == "sat"
        assert np.array_equal(witness.inputs.astype(inputs.dtype), inputs)
        assert np.array_equal(witness.outputs.astype(inputs.dtype), outputs)

    check()


def test_form(tmp_path):
    path = tmp_path / "answer.txt"
    write_result(path, "sat", np.float32([0.1, -2]), np.float32([1e-7]))
    assert path.read_text() == (
        "sat\n((X_0 0.100000001)\n (X_1 -2)\n (Y_0 1.00000001e-07))\n"
    )
    write_result(path, "unsat")
    assert path.read_text() == "unsat\n"
    assert read_witness(path) == Witness("unsat")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("SAT",), "'SAT'"),
        (("sat",), "without both"),
        (("sat", np.zeros(2)), "without both"),
        (("unsat", np.zeros(2), np.zeros(1)), "with one"),
        (("sat", np.zeros([1, 2]), np.zeros(1)), "(1, 2)"),
        (("sat", np.array([np.nan, 0.0]), np.zeros(1)), "1 not finite"),
    ],
)
def test_what_is_not_written(tmp_path, arguments, part):
    with pytest.raises(rt.InputError) as caught:
        write_result(tmp_path / "answer.txt", *arguments)
    assert part in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "first line"),
        ("maybe\n", "'maybe'"),
        ("sat\n", "no counterexample"),
        ("sat\n((X_0 1)\n(Y_0 1)", "cut off"),
        ("sat\n((X_0 1)\n(Y_0 1) words)", "words"),
        ("sat\n((X_0 1))", "Y_0"),
        ("sat\n((X_0 1)(X_2 1)(Y_0 1))", "X_2"),
        ("sat\n((X_0 nan)(Y_0 1))", "'nan'"),
        ("sat\n((X_0 one)(Y_0 1))", "'one'"),
    ],
)
def test_broken_answers(tmp_path, text, part):
    path = tmp_path / "answer.txt"
    path.write_text(text)
    with pytest.raises(rt.InputError) as caught:
        read_witness(path)
    assert part in str(caught.value)
    assert "answer.txt" in str(caught.value)


def test_missing_answer(tmp_path):
    with pytest.raises(rt.InputError, match="could not be read"):
        read_witness(tmp_path / "none.txt")


class TestCheck:
    """The network doubles inputs; in [0, 1], outputs up to 1 are unsafe."""

    @pytest.fixture
    def prop(self, tmp_path):
        path = tmp_path / "some.vnnlib"
        path.write_text(
            "(declare-const X_0 Real)(declare-const Y_0 Real)"
            "(assert (or (and (>= X_0 0) (<= X_0 1) (<= Y_0 1))"
            "(and (>= X_0 5) (<= X_0 6) (>= Y_0 11))))"
        )
        return read_property(path)

    def judge(self, prop, x, y):
        witness = Witness("sat", np.array([x]), np.array([y]))
        return check_witness(witness, prop, lambda inputs: 2.0 * inputs)

    @pytest.mark.parametrize(
        ("x", "y", "standing", "part"),
        [
            (0.25, 0.5, Standing.EXACT, 0),
            (0.5, 1.0, Standing.EXACT, 0),
            (0.0, 0.0, Standing.EXACT, 0),
            (5.75, 11.5, Standing.EXACT, 1),
            (-5e-5, -1e-4, Standing.WITHIN_TOLERANCE, 0),
            (-5e-8, -1e-7, Standing.EXACT, 0),
            (0.50003, 1.00006, Standing.WITHIN_TOLERANCE, 0),
            (0.50003, 1.0, Standing.WITHIN_TOLERANCE, 0),  # As computed.
            (0.5, 1.00006, Standing.WITHIN_TOLERANCE, 0),  # As stated.
            (0.4, 0.8004, Standing.EXACT, 0),
            (0.4, 0.802, Standing.INVALID, 0),  # Another output than the network's.
            (-2e-4, -4e-4, Standing.INVALID, 0),
            (0.6, 1.2, Standing.INVALID, 0),
            (5.25, 10.5, Standing.INVALID, 1),
            (3.0, 6.0, Standing.INVALID, 1),
        ],
    )
    def test_standing(self, prop, x, y, standing, part):
        check = self.judge(prop, x, y)
        assert check.standing == standing
        if standing != Standing.INVALID:
            assert check.part == part

    def test_numbers(self, prop):
        check = self.judge(prop, 1.25, 2.0)
        assert check.output_error == pytest.approx(0.25)
        assert check.input_excess == pytest.approx(0.25)
        assert check.row_excess == pytest.approx(1.5)

    def test_no_counterexample(self, prop):
        with pytest.raises(rt.InputError, match="'unsat'"):
            check_witness(Witness("unsat"), prop, None)

    def test_other_sizes(self, prop):
        witness = Witness("sat", np.zeros(2), np.zeros(1))
        with pytest.raises(rt.InputError, match="of the witness"):
            check_witness(witness, prop, None)

    def test_outputs_that_are_not_numbers(self, prop):
        witness = Witness("sat", np.array([0.5]), np.array([0.5]))
        check = check_witness(witness, prop, lambda _: np.array([[np.nan]]))
        assert check.standing == Standing.INVALID


class TestInstances:
    @pytest.fixture
    def folder(self, tmp_path):
        for name in ("net.onnx", "one.vnnlib", "two.vnnlib.gz"):
            (tmp_path / name).write_text("")
        return tmp_path

    def test_read(self, folder):
        path = folder / "instances.csv"
        path.write_text("net.onnx,one.vnnlib,116\n\n./net.onnx, two.vnnlib ,1.5\n")
        first, second = read_instances(path)
        assert first.network == folder / "net.onnx"
        assert first.timeout_s == 116.0
        assert second.property == folder / "two.vnnlib.gz"

    @pytest.mark.parametrize(
        ("line", "part"),
        [
            ("net.onnx,one.vnnlib", "network,property,seconds"),
            ("net.onnx,one.vnnlib,soon", "soon"),
            ("net.onnx,one.vnnlib,0", "positive"),
            ("net.onnx,one.vnnlib,inf", "positive"),
            ("net.onnx,none.vnnlib,1", "none.vnnlib"),
        ],
    )
    def test_broken_lines(self, folder, line, part):
        path = folder / "instances.csv"
        path.write_text(f"net.onnx,one.vnnlib,1\n{line}\n")
        with pytest.raises(rt.InputError, match="Line 2") as caught:
            read_instances(path)
        assert part in str(caught.value)

    def test_missing_list(self, tmp_path):
        with pytest.raises(rt.InputError, match="could not be read"):
            read_instances(tmp_path / "none.csv")
