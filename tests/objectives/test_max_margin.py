"""MMR and MMR-Universal, against golden values."""

import numpy as np
import pytest
import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.objectives.forward import Adversary
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.objectives.max_margin import Margin
from robust_tf.objectives.max_margin import MaximumMargin
from robust_tf.objectives.max_margin import nearest
from robust_tf.propagation.linear_regions import LinearRegions
from robust_tf.regions import LpBall
from robust_tf.specifications import margin_specification
from tests.propagation import margin_cases

_CONSTANT = {"epochs": 1, "warm_up": 0}


def test_golden_schedules():
    for entry in margin_cases.golden()["schedules"]:
        shares = (0.2, 0.05) if "univ" in str(entry["arch"]) else (0.1, 0.02)
        term = MaximumMargin((Margin(1.0, 1.0),), entry["n_epochs"], *shares)
        for epoch, expected in entry["k_B"].items():
            most, count = term.neurons(entry["hidden_units"], int(epoch))
            assert int(count) == expected, (entry["arch"], epoch)
            assert most >= expected


@pytest.mark.parametrize("numerics", ["exact", "reference"])
@pytest.mark.parametrize(("net", "name"), margin_cases.names())
def test_golden_values(net, name, numerics):
    case = margin_cases.case_of(net, name)
    regions, rows = margin_cases.regions_of(net, case, numerics)
    for key, norm in margin_cases.NORMS.items():
        expected = case["distances"][numerics][key]
        margin = Margin(expected["gamma_B"], expected["gamma_D"], norm=norm)
        for over_rivals, wanted in (
            (False, "mmr_code_lambda1"),
            (True, "mmr_paper_kD_Kminus1_lambda1"),
        ):
            value = _selecting(
                (margin,), expected["k_B"], regions, over_rivals=over_rivals
            ).value(regions, rows, 1)
            np.testing.assert_allclose(value, [expected[wanted]], rtol=1e-9)


@pytest.mark.parametrize("numerics", ["exact", "reference"])
@pytest.mark.parametrize(("net", "name"), margin_cases.names())
def test_golden_universal_values(net, name, numerics):
    case = margin_cases.case_of(net, name)
    regions, rows = margin_cases.regions_of(net, case, numerics)
    given = case["mmr_universal"]["params"]
    margins = (
        Margin(given["g1"], given["g1"], given["l1"], 1.0),
        Margin(given["ginf"], given["ginf"], given["linf"], "inf"),
    )
    value = _selecting(margins, given["k_B"], regions).value(regions, rows, 1)
    expected = case["mmr_universal"][numerics]
    if expected is None:
        pytest.skip("The published system has no such form for dense networks.")
    np.testing.assert_allclose(value, [expected["code_value"]], rtol=1e-9)
    chosen = nearest(
        regions.boundary_distances([1.0, np.inf]), given["k_B"], given["k_B"]
    )
    assert int(tf.reduce_sum(chosen)) == expected["union_size"]


@pytest.mark.parametrize("number", range(4))
def test_golden_gradients(number):
    entry = margin_cases.golden()["gradients"][number]
    graph = BoundGraph.from_model(margin_cases.network("fc_net"))
    norm = margin_cases.NORMS[entry["p"]]
    inputs, labels = margin_cases.points("fc_net", [entry])
    rows = margin_specification(labels, graph.shapes[graph.output][0], tf.float64)
    layers = [node.layer for node in graph.nodes if node.layer.weights]
    margin = Margin(entry["gamma"], entry["gamma"], norm=norm)
    with tf.GradientTape() as tape:
        regions = LinearRegions.around(graph, inputs)
        value = _selecting((margin,), entry["k_B"], regions).value(regions, rows, 1)
    kernels, biases = tape.gradient(
        value, ([one.kernel for one in layers], [one.bias for one in layers])
    )
    np.testing.assert_allclose(value, [entry["value"]], rtol=1e-9)
    for found, expected in zip(
        kernels + biases, entry["dW"] + entry["db"], strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)


def test_float32_is_near():
    case = margin_cases.case_of("conv_net_2", "A")
    regions, rows = margin_cases.regions_of("conv_net_2", case, dtype="float32")
    expected = case["distances"]["exact"]["inf"]
    margin = Margin(expected["gamma_B"], expected["gamma_D"], norm="inf")
    value = _selecting((margin,), expected["k_B"], regions).value(regions, rows, 1)
    np.testing.assert_allclose(value, [expected["mmr_code_lambda1"]], rtol=1e-4)


def test_exactly_k_of_equal_distances_count():
    distances = tf.constant([[1.0, 1.0, 1.0, 0.5], [np.inf, np.inf, np.inf, np.inf]])
    np.testing.assert_array_equal(
        nearest([distances], 3, tf.constant(2)), [[1, 0, 0, 1], [1, 1, 0, 0]]
    )


def test_warm_up_norm_of_the_threat_and_attacked_half():
    graph = BoundGraph.from_model(margin_cases.network("fc_net"))
    case = margin_cases.case_of("fc_net", "A")
    inputs, labels = margin_cases.points("fc_net", [case] * 5)
    moved = []

    def attack(logits_fn, region, labels, seed):
        moved.append(region.x.shape[0])
        return region.x + 0.01

    def forward(epoch, norm, adversary=None):
        return CertifiedForward(
            graph=graph,
            images=inputs,
            labels=labels,
            region=LpBall(inputs, 0.1, norm),
            ramp=tf.ones([]),
            seed=tf.zeros([2], tf.int64),
            training=True,
            adversary=adversary,
            epoch=epoch,
        )

    term = MaximumMargin((Margin(0.3, 0.3, 2.0),), epochs=1, warm_up=10)
    full = term(forward(10, "inf"))
    np.testing.assert_allclose(term(forward(1, "inf")), 0.1 * full, rtol=1e-6)
    np.testing.assert_allclose(term(forward(25, "inf")), full)
    assert np.all(term(forward(10, 2)) != full)
    term = MaximumMargin((Margin(0.3, 0.3),), points="attacked", **_CONSTANT)
    mixed = term(forward(1, "inf", Adversary(attack, share=0.5)))
    clean = term(forward(1, "inf", Adversary(lambda _, region, *__: region.x)))
    assert moved == [2]
    np.testing.assert_allclose(mixed[2:], clean[2:])
    assert np.all(mixed[:2] != clean[:2])


@pytest.mark.parametrize(
    ("kind", "values", "text"),
    [
        (
            Margin,
            {"gamma_region": 6.0, "gamma_decision": 0.1, "norm": "inf"},
            "6 / 255",
        ),
        (Margin, {"gamma_region": 0.0, "gamma_decision": 0.1}, "gamma_region"),
        (Margin, {"gamma_region": 0.1, "gamma_decision": 0.1, "weight": -1}, "weight"),
        (MaximumMargin, {"by_norm": (), "epochs": 1}, "by_norm"),
        (
            MaximumMargin,
            {"by_norm": (Margin(0.1, 0.1),), "epochs": 1, "final_share": 0.5},
            "final_share",
        ),
        (MaximumMargin, {"by_norm": (Margin(0.1, 0.1),), "epochs": 0}, "epochs"),
        (
            MaximumMargin,
            {"by_norm": (Margin(0.1, 0.1),), "epochs": 1, "points": "noisy"},
            "points",
        ),
    ],
)
def test_refusals(kind, values, text):
    with pytest.raises(InputError, match=text):
        kind(**values)


def test_a_gamma_for_other_norms_is_refused_where_the_threat_is_linf():
    case = margin_cases.case_of("fc_net", "A")
    regions, rows = margin_cases.regions_of("fc_net", case)
    term = MaximumMargin((Margin(6.0, 6.0),), **_CONSTANT)
    term.value(regions, rows, 1, norm=1.0)
    with pytest.raises(InputError, match="6 / 255"):
        term.value(regions, rows, 1, norm=np.inf)


def _selecting(margins, count, regions, **options):
    """A term of which exactly `count` region boundaries count."""
    total = sum(
        int(np.prod(regions.values[edge].shape[1:])) for edge in regions.boundaries
    )
    share = (count + 0.5) / total
    return MaximumMargin(margins, 1, min(share, 1.0), min(share, 1.0), 0, **options)
