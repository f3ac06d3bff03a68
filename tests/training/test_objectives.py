"""Losses and gradients against `golden_bounds.json`, cases J and Q."""

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.graph import BoundGraph
from robust_tf.objectives import terms
from robust_tf.objectives.forward import CertifiedForward
from tests import golden_cases

LOSSES = golden_cases.cases()["J_loss_mixture"]
GRADIENTS = golden_cases.cases()["Q_gradients"]


class _GivenForward(CertifiedForward):
    """A forward pass whose margins and logits are given."""

    logits = tf.constant(LOSSES["logits"], tf.float64)
    interval_margins = tf.constant(LOSSES["ibp_margin_lb"], tf.float64)

    def crown_ibp_margins(self):
        return tf.constant(LOSSES["crown_margin_lb"], tf.float64)


def given(row):
    images = tf.zeros([2, 1], tf.float64)
    return _GivenForward(
        graph=None,
        images=images,
        labels=tf.constant(LOSSES["label"]),
        region=rt.LpBall(images, row["eps"]),
        ramp=tf.constant(row["eps"] / row["max_eps"], tf.float64),
        seed=tf.constant([0, 0]),
        training=True,
    )


@pytest.mark.parametrize("row", LOSSES["rows"], ids=lambda row: f"eps{row['eps']}")
def test_losses(row):
    forward = given(row)
    robust = terms.robust(row["final_beta"])
    mixed = terms.robust_natural(row["final_kappa"], row["final_beta"])
    for objective, key in ((robust, "loss_robust"), (mixed, "loss_robust_natural")):
        losses, _ = objective(forward)
        assert float(tf.reduce_mean(losses)) == pytest.approx(row[key], abs=1e-9)
    _, parts = mixed(forward)
    names = {"certified_loss": "robust_ce", "standard_loss": "natural_ce"}
    for name, key in names.items():
        assert float(tf.reduce_mean(parts[name])) == pytest.approx(row[key], abs=1e-9)
    margins = mixed.margins(forward)
    wanted = [
        np.delete(line, label)
        for line, label in zip(row["mixed_margin_lb"], LOSSES["label"], strict=True)
    ]
    np.testing.assert_allclose(margins, wanted, atol=1e-9)
    errors = 1.0 - float(tf.reduce_mean(terms.is_verified(margins)))
    assert errors == pytest.approx(row["robust_error"])


@pytest.mark.parametrize(
    "row", GRADIENTS["rows"], ids=lambda row: f"{row['relu']}-beta{row['beta']}"
)
def test_gradients(row):
    case = golden_cases.cases()[GRADIENTS["base_case"]]
    model = golden_cases.build(case)
    region = golden_cases.region(case)
    forward = CertifiedForward(
        graph=BoundGraph.from_model(model),
        images=region.x,
        labels=tf.constant(case["label"]),
        region=region,
        ramp=tf.constant(1.0, tf.float64),
        seed=tf.constant([0, 0]),
        training=True,
        relaxation=row["relu"],
    )
    with tf.GradientTape() as tape:
        losses, parts = terms.robust_natural(row["kappa"], row["beta"])(forward)
        loss = tf.reduce_mean(losses)
    assert float(loss) == pytest.approx(row["loss"], abs=1e-9)
    assert float(tf.reduce_mean(parts["certified_loss"])) == pytest.approx(
        row["robust_ce"], abs=1e-9
    )
    gradients = tape.gradient(loss, model.trainable_variables)
    wanted = [layer[key] for layer in row["grads"] for key in ("kernel", "bias")]
    for actual, expected in zip(gradients, wanted, strict=True):
        actual = tf.zeros(np.shape(expected)) if actual is None else actual
        np.testing.assert_allclose(actual, expected, atol=1e-9)


def test_confident_certificates_cost_nothing():
    forward = given({"eps": 1.0, "max_eps": 1.0})
    losses = terms.IntervalCrossEntropy()(forward).numpy()
    shares = np.exp(-losses)
    middle = 1.0 - float(np.mean(shares))  # Between the two examples.
    assert shares.min() < 1.0 - middle < shares.max()
    cut = terms.ThresholdedIntervalCrossEntropy(middle)(forward)
    np.testing.assert_allclose(cut, np.where(shares < 1.0 - middle, losses, 0.0))
    whole = terms.ThresholdedIntervalCrossEntropy(0.0)(forward)
    np.testing.assert_allclose(whole, losses)


def test_weights_and_names_are_checked():
    term = terms.StandardCrossEntropy()
    with pytest.raises(rt.InputError, match="one weight for each"):
        terms.WeightedSum((term,), (1.0, 2.0))
    with pytest.raises(rt.InputError, match="one name for each"):
        terms.WeightedSum((term, term), (1.0, 2.0))
    with pytest.raises(rt.InputError, match="final_beta"):
        terms.CrownIbpCrossEntropy(1.5)
