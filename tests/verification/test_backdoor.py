"""Networks whose behaviour a verifier's own rounding would hide.

After Zombori, Banhelyi, Csendes, Megyeri and Jelasity, "Fooling a complete neural
network verifier" (ICLR 2021): a trigger that survives in `W - W + 0.001` alone.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation.alpha_crown import AlphaCrown
from robust_tf.propagation.ascent import Ascent
from robust_tf.propagation.crown import crown_bounds
from robust_tf.propagation.crown import crown_margins
from robust_tf.propagation.interval import interval_bounds
from robust_tf.propagation.interval import interval_margins
from robust_tf.rounding import Rounding
from robust_tf.rounding import largest_magnitude
from robust_tf.specifications import UnsafeSet
from robust_tf.verification import stages
from robust_tf.verification.input_split import InputSplit
from robust_tf.verification.plan import Plan
from robust_tf.verification.prover import Prover
from robust_tf.verification.result import Claim
from robust_tf.verification.result import Verdict
from robust_tf.verification.verify import Verifier

KINDS = {"one_layer": (1e17,), "float32": (1e9,), "spread": (1e6, 1e6, 1e6)}
CLAIMS = (Claim.SOUND, Claim.EXECUTED)
each_kind = pytest.mark.parametrize("kind", KINDS)
each_claim = pytest.mark.parametrize("claim", CLAIMS)


def backdoor(factors):
    """From t to two logits: (1.5, -1.5) while t < 0.05, exchanged from there on.

    Args:
        factors: the weights that cancel, spread over layers; their product is `W`.
    """
    # Each matrix is [outputs, inputs].
    parts = [([[-20.0]], [1.0])]  # h
    parts.append(([[-2.0], [0.0]], [1.0, 1.0]))  # q = 1 - 2h, o = 1
    parts += [(np.diag([factor, factor]), [0.0, 0.0]) for factor in factors[:-1]]
    last = factors[-1]
    parts.append(([[last, -last]], [1e-3]))  # v = Wq - Wo + 0.001
    parts.append(([[1e3], [-2e3]], [0.0, 1.0]))  # w0 = 1000v, w1 = 1 - 2000v
    z = np.array([1.5, -1.5])
    payload = [[-2000.0, 0.0]] * 2 + [[0.0, -2000.0]] * 2
    parts.append((payload, np.concatenate([z, z[::-1]]) + 1e3))
    parts.append((np.hstack([np.eye(2), np.eye(2)]), [-1e3, -1e3]))
    inputs = tensor = keras.Input((1,))
    for place, (_, bias) in enumerate(parts):
        tensor = keras.layers.ReLU()(tensor) if place else tensor
        tensor = keras.layers.Dense(len(bias))(tensor)
    model = keras.Model(inputs, tensor)
    model.set_weights([np.float32(x) for m, b in parts for x in (np.transpose(m), b)])
    return model


def box(dtype="float64", upper=0.2):
    return rt.Box(np.zeros((1, 1), dtype), np.full((1, 1), upper, dtype))


def margins(graph, region, rounding=None):
    """By all incomplete methods, with the ledger or as they are rounded."""
    rows = tf.constant([[[1.0, -1.0]]], region.dtype)
    if rounding is not None:
        rounding.open_input(largest_magnitude(region.box))
    choices = Choices(rounding=rounding)
    found = {}
    bounds = interval_bounds(graph, region, choices)
    found["ibp"] = interval_margins(graph, region, bounds, rows, choices)
    found["crown-ibp"] = crown_margins(graph, region, bounds, rows, choices)
    bounds = crown_bounds(graph, region, (choices,))
    found["crown"] = crown_margins(graph, region, bounds, rows, choices)
    return {name: margin.numpy().item() for name, margin in found.items()}


@each_kind
def test_the_model_itself_is_triggered(kind):
    model = backdoor(KINDS[kind])
    points = np.float32([[0.0], [0.03], [0.05001], [0.1], [0.2]])
    logits = model(points).numpy()
    np.testing.assert_array_equal(logits.argmax(-1), [0, 0, 1, 1, 1])
    np.testing.assert_allclose(abs(logits), 1.5, atol=1e-2)


@each_kind
def test_bounds_without_a_ledger_prove_what_is_wrong(kind):
    """Documented: the arithmetic of each type loses what cancels in it."""
    graph = BoundGraph.from_model(rt.convert(backdoor(KINDS[kind])))
    in_float32 = margins(graph, box("float32"))
    in_float64 = margins(graph, box("float64"))
    assert in_float32["ibp"] > 2.9
    if kind == "float32":  # Too small to be lost in float64.
        assert in_float64["ibp"] < 0.0
    else:
        assert in_float64["ibp"] > 2.9


@each_kind
@pytest.mark.parametrize(
    ("dtype", "executed"), [("float32", False), ("float64", False), ("float64", True)]
)
def test_bounds_with_a_ledger_do_not(kind, dtype, executed):
    graph = BoundGraph.from_model(rt.convert(backdoor(KINDS[kind])))
    for name, margin in margins(graph, box(dtype), Rounding(executed=executed)).items():
        assert not margin > -2.0, name  # In float32 nothing is claimed beyond 1e15.


def test_a_ledger_does_not_hinder_where_nothing_is_lost():
    graph = BoundGraph.from_model(rt.convert(backdoor(KINDS["float32"])))
    assert margins(graph, box(upper=0.0), Rounding())["crown"] > 2.9


@pytest.fixture
def eagerly():
    """Compiling takes longer than all else here."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@each_kind
@each_claim
def test_no_stage_of_the_ladder_verifies(kind, claim, eagerly):
    graph = BoundGraph.from_model(rt.convert(backdoor(KINDS[kind])))
    prover, region = Prover(graph, claim), box()
    unsafe = UnsafeSet.misclassified([0], 2, tf.float64)
    found, bounds, charges = prover.interval(region, unsafe)
    all_margins = {"ibp": found}
    all_margins["crown-ibp"] = prover.crown_ibp(region, unsafe, bounds, charges)
    all_margins["crown"], bounds, charges = prover.crown(region, unsafe, bounds)
    for mode in ("output", "joint") if kind == "float32" else ("output",):
        search = AlphaCrown(mode, Ascent(iterations=3))
        slopes = prover.search(search, region, unsafe, bounds)
        all_margins[mode], _, _ = prover.by_slopes(
            region, unsafe, bounds, charges, slopes
        )
    for name, margin in all_margins.items():
        assert not margin.numpy().max() > -1.0, name


@pytest.mark.parametrize("kind", ["one_layer", "float32"])
@each_claim
def test_a_search_of_the_inputs_finds_the_trigger(kind, claim, eagerly):
    """It lies beyond the middle, and no attack is made."""
    ladder = (
        stages.Clean(),
        stages.Interval(),
        InputSplit(batch_size=2, attack=None),
    )
    verifier = Verifier(backdoor(KINDS[kind]), Plan(ladder, claim=claim))
    found = verifier.verify(box(upper=0.06), [0], 60.0)[0]
    assert found.verdict == Verdict.FALSIFIED
    assert found.method == "input-split"
    assert 0.049 <= found.counterexample.item() <= 0.06


def test_the_whole_ladder_falsifies():
    (found,) = rt.verify(backdoor(KINDS["one_layer"]), box(), [0])
    assert found.verdict == Verdict.FALSIFIED
    assert found.method == "clean"
    assert found.counterexample.item() == pytest.approx(0.1)
