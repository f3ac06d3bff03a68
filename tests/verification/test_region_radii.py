"""Certificates of linear regions, against exact perturbations."""

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.errors import InputError
from robust_tf.verification.radii import certified_radii
from robust_tf.verification.region_radii import between
from robust_tf.verification.region_radii import region_radii
from tests.propagation import margin_cases

WITH_BOUNDS = [
    (net, name)
    for net, name in margin_cases.names()
    if "kw" in margin_cases.case_of(net, name)
]


def least(case, norm, box):
    """The golden least perturbation, to the precision that it has."""
    found = case["min_adv"][box][norm]
    return found["enumeration"]


@pytest.mark.parametrize(("net", "name"), margin_cases.names())
def test_radii_are_below_the_least_perturbation(net, name):
    case = margin_cases.case_of(net, name)
    model = margin_cases.network(net)
    inputs, labels = margin_cases.points(net, [case])
    is_right = case["label"] == case["predicted"]
    for key, p in margin_cases.NORMS.items():
        found = region_radii(model, inputs, labels, p)
        expected = case["distances"]["exact"][key]
        np.testing.assert_allclose(found.boundary, [expected["d_B"]], rtol=1e-9)
        np.testing.assert_allclose(found.decision, [expected["d_D"]], rtol=1e-9)
        if not is_right:
            assert found.lower[0] == 0.0
            continue
        exact = least(case, key, "no_box")
        if found.is_exact[0]:
            np.testing.assert_allclose(found.lower, [exact], rtol=1e-6)
        assert 0.0 < found.lower[0] <= exact
        assert between(model, inputs, labels, p)[0] <= exact


def test_some_golden_case_is_exact_in_every_norm():
    case = margin_cases.case_of("fc_net", "G_flat_region_exact")
    inputs, labels = margin_cases.points("fc_net", [case])
    for p in margin_cases.NORMS.values():
        model = margin_cases.network("fc_net")
        assert region_radii(model, inputs, labels, p).is_exact[0]


def test_between_is_above_what_one_norm_alone_implies():
    case = margin_cases.case_of("conv_net_2", "A")
    inputs, labels = margin_cases.points("conv_net_2", [case])
    model = margin_cases.network("conv_net_2")
    last = region_radii(model, inputs, labels, "inf").lower
    for p in (1.5, 2.0, 4.0):
        assert between(model, inputs, labels, p)[0] >= 0.999 * last[0]


@pytest.mark.parametrize(("net", "name"), WITH_BOUNDS)
def test_golden_convex_adversarial_distances(net, name):
    case = margin_cases.case_of(net, name)
    inputs, _ = margin_cases.points(net, [case])
    predicted = tf.constant([case["predicted"]])
    model = margin_cases.network(net)
    for key in margin_cases.NORMS:
        expected = case["kw"][key]["distance"]
        found = certified_radii(
            model,
            inputs,
            predicted,
            key,
            "convex-adversarial",
            upper=1.0 if key == "inf" else 4.0,
            steps=50,
            valid_range=None,
        )
        np.testing.assert_allclose(found, [expected], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("net", "name"), WITH_BOUNDS)
def test_golden_convex_adversarial_bounds(net, name):
    case = margin_cases.case_of(net, name)
    expected = case["kw"]["at_linf_eps"]
    inputs, _ = margin_cases.points(net, [case])
    model = margin_cases.network(net)
    region = rt.LpBall(inputs, expected["eps"], "inf", None)
    rows = rt.margin_specification([case["predicted"]], model.output_shape[-1])
    bounds, layers = rt.compute_bounds(
        model,
        region,
        "convex-adversarial",
        tf.cast(rows, tf.float64),
        intermediate=True,
    )
    np.testing.assert_allclose(bounds.lower[0], expected["margin_lower"], atol=1e-9)
    hidden = [
        layers[layer.name]
        for layer in model.layers
        if layer.weights and layer is not model.layers[-1]
    ]
    for found, wanted in zip(hidden, expected["bounds"], strict=True):
        low, high = (np.ravel(end) for end in wanted)
        np.testing.assert_allclose(np.ravel(found.lower), low, atol=1e-9)
        np.testing.assert_allclose(np.ravel(found.upper), high, atol=1e-9)


def test_labels_must_fit():
    case = margin_cases.case_of("fc_net", "A")
    inputs, _ = margin_cases.points("fc_net", [case])
    with pytest.raises(InputError, match="one label for each"):
        region_radii(margin_cases.network("fc_net"), inputs, [0, 1])
