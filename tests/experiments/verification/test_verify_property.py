"""Networks against VNN-LIB properties: answers, counterexamples, time, bad input."""

import gin
import keras
import numpy as np
import pytest
from absl import flags

import robust_tf as rt
from bin import verify as program
from robust_tf.attacks.pgd import PGD
from robust_tf.experiments import command_line
from robust_tf.experiments import verification_property
from robust_tf.experiments.verification_property import verify_property
from robust_tf.interchange.vnnlib import read_property
from robust_tf.interchange.witness import Standing
from robust_tf.interchange.witness import check_witness
from robust_tf.interchange.witness import read_witness
from robust_tf.verification import stages
from robust_tf.verification.plan import Plan
from robust_tf.verification.result import ContradictionError
from robust_tf.verification.result import Verdict
from robust_tf.verification.result import VerificationResult
from tests.interchange.graphs import node
from tests.interchange.graphs import run
from tests.interchange.graphs import weights
from tests.interchange.graphs import write as write_network

PLAN = Plan((stages.Clean(), stages.Attack(PGD(steps=20)), stages.Interval()))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Outputs `relu(x0 - x1)` and `relu(x1 - x0)`."""
    return two_sides(tmp_path_factory.mktemp("model") / "two.keras")


@pytest.fixture(scope="module")
def image_net(tmp_path_factory):
    """A convolution, and a kernel over its flattened output; channels first."""
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", "c", "r"),
        node("Flatten", "r", "f"),
        node("Gemm", "f k b", "y"),
    ]
    constants = {"w": weights(3, 2, 3, 3), "k": weights(27, 4), "b": weights(4)}
    file = tmp_path_factory.mktemp("onnx") / "image.onnx"
    return str(write_network(file, nodes, constants))


def two_sides(path, shape=(2,), activation=None):
    inputs = keras.Input(shape)
    hidden = keras.layers.Dense(2, activation="relu")
    last = keras.layers.Dense(2, activation=activation)
    flat = keras.layers.Flatten()(inputs)
    model = keras.Model(inputs, last(hidden(flat)))
    kernel = np.zeros([int(np.prod(shape)), 2], "float32")
    kernel[:2] = [[1.0, -1.0], [-1.0, 1.0]]
    hidden.set_weights([kernel, np.zeros(2, "float32")])
    last.set_weights([np.eye(2, dtype="float32"), np.zeros(2, "float32")])
    model.save(path)
    return str(path)


def write(path, *assertions, inputs=2, outputs=2):
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(outputs)]
    lines = [f"(declare-const {name} Real)" for name in names]
    lines += [f"(assert {assertion})" for assertion in assertions]
    path.write_text("\n".join(lines))
    return str(path)


def box(*ends):
    limits = "".join(
        f" (>= X_{i} {low}) (<= X_{i} {high})" for i, (low, high) in enumerate(ends)
    )
    return f"(and{limits})"


RIGHT = box((0.6, 1.0), (0.0, 0.5))  # x0 above x1.
BOTH = box((0.4, 1.0), (0.0, 0.5))
LEFT = box((0.0, 0.2), (0.5, 0.7))
UNSAFE = "(<= Y_0 Y_1)"


def parts(*boxes):
    return "(or " + " ".join(f"(and {one} {UNSAFE})" for one in boxes) + ")"


@pytest.mark.parametrize(
    ("assertions", "result", "verdicts"),
    [
        ((RIGHT, UNSAFE), "unsat", ["VERIFIED"]),
        ((BOTH, UNSAFE), "sat", ["FALSIFIED"]),
        ((RIGHT, "(>= Y_0 1.1)"), "unsat", ["VERIFIED"]),
        ((RIGHT, "(>= Y_0 0.9)"), "sat", ["FALSIFIED"]),
        ((parts(RIGHT, box((0.8, 0.9), (0.1, 0.2))),), "unsat", 2 * ["VERIFIED"]),
        ((parts(RIGHT, LEFT),), "sat", ["VERIFIED", "FALSIFIED"]),
        ((parts(LEFT, RIGHT),), "sat", ["FALSIFIED", None]),
        # Safe, as one output is 0, but no interval shows it.
        ((BOTH, "(>= Y_0 0.2)", "(>= Y_1 0.05)"), "unknown", ["UNKNOWN"]),
        # No input satisfies it.
        ((RIGHT, parts("(>= X_0 2.0)", "(>= X_0 3.0)")), "unsat", []),
    ],
)
def test_answers(tmp_path, path, assertions, result, verdicts):
    file = write(tmp_path / "a.vnnlib", *assertions)
    answer = verify_property(model=path, property_file=file, plan=PLAN)
    assert (answer.result, list(answer.parts)) == (result, verdicts)
    assert (answer.inputs is not None) == (result == "sat")
    if result == "sat":
        model = keras.models.load_model(path, compile=False)
        outputs = model(answer.inputs[None], training=False).numpy()[0]
        np.testing.assert_array_equal(answer.outputs, outputs)
        held = [
            part
            for part in read_property(file).parts
            if (answer.inputs >= part.lower).all()
            and (answer.inputs <= part.upper).all()
            and part.unsafe.margin(outputs[None].astype("float64")).numpy()[0] <= 0
        ]
        assert held


def test_inputs_are_flat_in_c_order(tmp_path):
    """Of a shape `[3, 2, 1]`, X_0 and X_1 are the first row."""
    model = two_sides(tmp_path / "m.keras", shape=(3, 2, 1))
    rest = ((0.0, 1.0),) * 4
    for ends, result in (((0.6, 1.0), "unsat"), ((0.4, 1.0), "sat")):
        assertions = box(ends, (0.0, 0.5), *rest), UNSAFE
        file = write(tmp_path / "a.vnnlib", *assertions, inputs=6)
        answer = verify_property(model=model, property_file=file, plan=PLAN)
        assert answer.result == result
    assert answer.inputs.shape == (6,)
    assert answer.inputs[0] <= answer.inputs[1]


def test_a_network_in_onnx(tmp_path, image_net):
    """X counts as the file does, channels first; outputs are ONNX Runtime's."""
    point = np.linspace(-1.0, 1.0, 60).astype("float32")
    outputs = run(image_net, [point], (1, 2, 5, 6))[0]
    small = [box(*((x - 1e-4, x + 1e-4) for x in point))]
    best = int(outputs.argmax())
    others = " ".join(f"(<= Y_{best} Y_{k})" for k in range(4) if k != best)
    sizes = {"inputs": 60, "outputs": 4}
    file = write(tmp_path / "a.vnnlib", *small, f"(or {others})", **sizes)
    answer = verify_property(model=image_net, property_file=file, plan=PLAN)
    assert answer.result == "unsat"
    wide = box(*((x - 1.0, x + 1.0) for x in point))
    file = write(tmp_path / "b.vnnlib", wide, f"(or {others})", **sizes)
    answer = verify_property(model=image_net, property_file=file, plan=PLAN)
    assert answer.result == "sat"
    found = run(image_net, [answer.inputs], (1, 2, 5, 6))[0]
    np.testing.assert_array_equal(answer.outputs, found)
    assert found.argmax() != best


class Scripted:
    """A verifier that takes some time on each part, and says what was written."""

    def __init__(self, verdicts, monkeypatch):
        self.verdicts, self.calls, self.now = verdicts, [], 0.0
        monkeypatch.setattr(verification_property, "Verifier", lambda *_: self)
        monkeypatch.setattr(verification_property.time, "monotonic", lambda: self.now)

    def verify(self, _region, _labels, timeout_s, *, seed, **_):
        number = len(self.calls) % len(self.verdicts)
        needed, verdict = self.verdicts[number]
        self.calls.append((number, timeout_s, seed))
        is_late = needed > timeout_s
        self.now += min(needed, timeout_s)
        verdict = Verdict.TIMEOUT if is_late else verdict
        return [VerificationResult(verdict, reason="as written")]


@pytest.mark.parametrize(
    ("script", "result", "times"),
    [
        ([(5.0, "VERIFIED")], "unsat", [60.0]),
        ([(70.0, "VERIFIED")], "timeout", [60.0]),
        ([(1.0, "UNKNOWN")], "unknown", [60.0]),
        ([(1.0, "ERROR")], "unknown", [60.0]),
        # The short first time of the hard part leaves the easy one its own.
        ([(9.0, "TIMEOUT"), (3.0, "VERIFIED")], "timeout", [7.5, 13.125, 49.5]),
        ([(1.0, "VERIFIED"), (2.0, "VERIFIED")], "unsat", [7.5, 14.75]),
        ([(1.0, "VERIFIED"), (2.0, "UNKNOWN")], "unknown", [7.5, 14.75]),
    ],
)
def test_time_is_shared(tmp_path, path, monkeypatch, script, result, times):
    boxes = (RIGHT, LEFT)[: len(script)]
    file = write(tmp_path / "a.vnnlib", parts(*boxes))
    script = [(seconds, Verdict(verdict)) for seconds, verdict in script]
    verifier = Scripted(script, monkeypatch)
    answer = verify_property(model=path, property_file=file, timeout_s=60.0)
    assert answer.result == result
    assert [timeout_s for _, timeout_s, _ in verifier.calls] == pytest.approx(times)
    assert answer.seconds == verifier.now


def test_an_answer_that_comes_late_is_none(tmp_path, path, monkeypatch):
    verifier = Scripted([(1.0, Verdict.VERIFIED)], monkeypatch)
    original = verifier.verify

    def slow(*arguments, **more):
        verifier.now += 60.0
        return original(*arguments, **more)

    verifier.verify = slow
    file = write(tmp_path / "a.vnnlib", RIGHT, UNSAFE)
    answer = verify_property(model=path, property_file=file, timeout_s=60.0)
    assert (answer.result, answer.parts) == ("timeout", ("VERIFIED",))


def test_a_point_that_the_network_does_not_confirm(tmp_path, path, monkeypatch):
    verifier = Scripted([(1.0, Verdict.FALSIFIED)], monkeypatch)
    wrong = np.array([0.9, 0.1], "float32")
    verifier.verify = lambda *_, **__: [
        VerificationResult(Verdict.FALSIFIED, "bab", counterexample=wrong)
    ]
    file = write(tmp_path / "a.vnnlib", RIGHT, UNSAFE)
    answer = verify_property(model=path, property_file=file, timeout_s=60.0)
    assert (answer.result, answer.inputs) == ("unknown", None)


def test_a_softmax_carries_comparisons_alone(tmp_path):
    model = two_sides(tmp_path / "m.keras", activation="softmax")
    file = write(tmp_path / "a.vnnlib", RIGHT, UNSAFE)
    answer = verify_property(model=model, property_file=file, plan=PLAN)
    assert answer.result == "unsat"
    file = write(tmp_path / "b.vnnlib", RIGHT, "(>= Y_0 0.9)")
    with pytest.raises(rt.InputError, match="b.vnnlib' limits outputs by numbers"):
        verify_property(model=model, property_file=file, plan=PLAN)


@pytest.fixture
def launch(monkeypatch, tmp_path, capsys):
    """A function that runs `bin/verify.py` in this process: status, output, errors."""

    def run(*arguments):
        values = flags.FlagValues()
        program.define_flags(values)
        command_line.parse_flags(["verify.py", *arguments], values)
        monkeypatch.setattr(program, "_FLAGS", values)
        capsys.readouterr()
        status = command_line.guarded(program.main, ["verify.py"])
        return status, *capsys.readouterr()

    yield run
    gin.clear_config()


def test_the_program(launch, tmp_path, path):
    fast = "--gin_file=gin_configs/plans/fast.gin"
    witness = tmp_path / "witness.txt"
    given = (f"--model={path}", "--timeout=100", f"--witness={witness}", fast)
    sat = write(tmp_path / "sat.vnnlib", BOTH, UNSAFE)
    status, output, _ = launch(*given, f"--property={sat}")
    assert (status, output.splitlines()[-1]) == (None, "sat")
    found, prop = read_witness(witness), read_property(sat)
    model = keras.models.load_model(path, compile=False)
    check = check_witness(found, prop, lambda at: model(at.astype("float32")).numpy())
    assert check.standing == Standing.EXACT
    unsat = write(tmp_path / "unsat.vnnlib", RIGHT, UNSAFE)
    more = (f"--property={unsat}", f"--workdir={tmp_path / 'run'}", "--seed=4")
    status, output, _ = launch(*given, *more)
    assert (status, output.splitlines()[-1]) == (None, "unsat")
    assert read_witness(witness).result == "unsat"  # The old one is gone.
    config = (tmp_path / "run" / "verify_config.gin").read_text()
    assert "seed = 4" in config and "timeout_s = 100.0" in config
    witness.unlink()
    assert launch(*given, f"--property={unsat}")[0] is None
    assert not witness.exists()


def test_a_contradiction_ends_with_status_1(launch, tmp_path, path, monkeypatch):
    def contradict(**_):
        raise ContradictionError("One of the two is wrong.")

    monkeypatch.setattr(program.configuration, "call", lambda *_, **__: contradict())
    file = write(tmp_path / "a.vnnlib", RIGHT, UNSAFE)
    status, output, _ = launch(f"--model={path}", f"--property={file}")
    assert (status, output) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model=MODEL", "--property=DIR/none.vnnlib"), "none.vnnlib"),
        (("--model=MODEL", "--property=DIR/three.vnnlib"), "about 3 input"),
        (("--model=DIR/none.keras", "--property=DIR/a.vnnlib"), "does not exist"),
        (("--model=DIR/none.onnx", "--property=DIR/a.vnnlib"), "none.onnx"),
        (("--property=DIR/a.vnnlib",), "`--model` must name one"),
        (
            ("--model=MODEL", "--property=DIR/a.vnnlib", "--witness=DIR/no/w.txt"),
            "`--witness` must name a file in a folder that exists",
        ),
        (
            ("--model=MODEL", "--property=DIR/a.vnnlib", "--timeout=-1"),
            "`--timeout` must be a number of seconds above 0. Received: -1",
        ),
        (
            ("--model=MODEL", "--property=DIR/a.vnnlib", "--epsilon=0.1"),
            "`--epsilon` means nothing with --property. Received: --epsilon=0.1",
        ),
    ],
)
def test_bad_input(launch, tmp_path, path, arguments, message):
    write(tmp_path / "a.vnnlib", RIGHT, UNSAFE)
    limits = box(*((0.0, 1.0),) * 3)
    write(tmp_path / "three.vnnlib", limits, UNSAFE, inputs=3)
    given = [a.replace("MODEL", path).replace("DIR", str(tmp_path)) for a in arguments]
    status, output, errors = launch(*given)
    assert (status, output) == (2, "")
    assert message in errors
    assert "Traceback" not in errors


def test_an_onnx_network_of_another_size(launch, tmp_path, image_net):
    file = write(tmp_path / "a.vnnlib", RIGHT, UNSAFE)
    status, _, errors = launch(f"--model={image_net}", f"--property={file}")
    assert status == 2 and "with 60 and 4" in errors
