"""Training by the convex adversarial polytope."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.objectives.terms import ConvexAdversarialCrossEntropy
from robust_tf.objectives.terms import CrownCrossEntropy
from robust_tf.objectives.terms import EstimatedConvexAdversarialCrossEntropy
from robust_tf.objectives.terms import WeightedSum
from robust_tf.regions import LpBall
from tests.propagation import margin_cases
from tests.training import small


@pytest.mark.parametrize("norm", ["inf", 2])
@pytest.mark.parametrize("net", margin_cases.NETS)
def test_loss_is_that_of_the_golden_bound(net, norm):
    cases = [one for one in margin_cases.golden()[net]["cases"] if "kw" in one]
    inputs, labels = margin_cases.points(net, cases)
    model = margin_cases.network(net)
    forward = _forward(model, inputs, labels, 0.05, norm)
    term = ConvexAdversarialCrossEntropy()
    rows = rt.margin_specification(labels, model.output_shape[-1], tf.float64)
    region = LpBall(inputs, 0.05, norm, None)
    margins = rt.compute_bounds(model, region, "convex-adversarial", rows).lower
    np.testing.assert_allclose(term.margins(forward), margins, atol=1e-12)
    worst = np.log(1.0 + np.exp(-margins.numpy()).sum(-1))
    np.testing.assert_allclose(term(forward), worst, rtol=1e-9)


@pytest.mark.parametrize(
    "term",
    [
        ConvexAdversarialCrossEntropy(),
        EstimatedConvexAdversarialCrossEntropy(3),
        CrownCrossEntropy(),
    ],
    ids=["exact", "projections", "crown"],
)
def test_gradients_are_differences(term):
    case = margin_cases.case_of("conv_net_2", "A")
    inputs, labels = margin_cases.points("conv_net_2", [case])
    model = margin_cases.network("conv_net_2")
    kernel = model.layers[1].kernel

    def loss():
        return tf.reduce_sum(term(_forward(model, inputs, labels, 0.02, "inf")))

    with tf.GradientTape() as tape:
        value = loss()
    gradient = tape.gradient(value, kernel).numpy()
    start, step = kernel.numpy(), 1e-6
    for place in [(0, 0, 0, 0), (2, 1, 0, 1), (3, 3, 0, 0)]:
        ends = []
        for sign in (1.0, -1.0):
            moved = start.copy()
            moved[place] += sign * step
            kernel.assign(moved)
            ends.append(float(loss()))
        kernel.assign(start)
        slope = (ends[0] - ends[1]) / (2.0 * step)
        np.testing.assert_allclose(gradient[place], slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("relaxation", ["adaptive", "zero-lb", "same-slope"])
def test_crown_loss_is_that_of_the_bound(relaxation):
    cases = [one for one in margin_cases.golden()["conv_net_1"]["cases"] if "kw" in one]
    inputs, labels = margin_cases.points("conv_net_1", cases)
    model = margin_cases.network("conv_net_1")
    rows = rt.margin_specification(labels, model.output_shape[-1], tf.float64)
    margins = rt.compute_bounds(
        model,
        LpBall(inputs, 0.05, "inf", None),
        "crown",
        rows,
        relaxation=relaxation,
        intersect_intermediates=False,
    ).lower
    term = CrownCrossEntropy(relaxation)
    forward = _forward(model, inputs, labels, 0.05, "inf")
    np.testing.assert_allclose(term.margins(forward), margins, atol=1e-12)
    worst = np.log(1.0 + np.exp(-margins.numpy()).sum(-1))
    np.testing.assert_allclose(term(forward), worst, rtol=1e-9)


def test_projections_belong_to_training():
    case = margin_cases.case_of("conv_net_2", "A")
    inputs, labels = margin_cases.points("conv_net_2", [case])
    model = margin_cases.network("conv_net_2")
    exact = ConvexAdversarialCrossEntropy()
    estimated = EstimatedConvexAdversarialCrossEntropy(2)
    training = _forward(model, inputs, labels, 0.05, "inf")
    validation = dataclasses.replace(training, training=False)
    losses = {
        name: estimated(one).numpy()
        for name, one in [("training", training), ("validation", validation)]
    }
    np.testing.assert_allclose(losses["validation"], exact(validation), rtol=1e-12)
    assert np.abs(losses["training"] - exact(training)).max() > 1e-3
    # What is called margins is proved, in training too.
    np.testing.assert_allclose(
        estimated.margins(training), exact.margins(training), rtol=1e-12
    )


def test_estimates_are_not_called_certified():
    term = EstimatedConvexAdversarialCrossEntropy(20)
    objective = WeightedSum((term,), (1.0,), "convex-adversarial")
    model = small.certified_model(small.cnn(), objective)
    data = small.batches()
    history = model.fit(data, validation_data=data, shuffle=False, verbose=0).history
    assert not any("certified" in name for name in history if name[:3] != "val")
    assert np.isfinite(history["estimated_loss"]).all()
    images, labels = small.images_and_labels()
    rows = rt.margin_specification(labels, small.CLASSES)
    region = rt.LpBall(images, 0.05)
    bound = rt.compute_bounds(model.classifier, region, "convex-adversarial", rows)
    wanted = (bound.lower.numpy() > 0).all(-1).mean()
    assert history["val_certified_accuracy"] == pytest.approx([wanted], abs=1e-6)


@pytest.mark.parametrize("projections", [0, True, "50"])
def test_projections_are_counted(projections):
    with pytest.raises(InputError, match="`projections` must be an integer"):
        EstimatedConvexAdversarialCrossEntropy(projections)


def test_relaxations_are_named():
    with pytest.raises(InputError, match="`relaxation` must be one of"):
        CrownCrossEntropy("best")


def _forward(model, inputs, labels, radius, norm):
    return CertifiedForward(
        graph=BoundGraph.from_model(model),
        images=inputs,
        labels=labels,
        region=LpBall(inputs, radius, norm, None),
        ramp=tf.ones([]),
        seed=tf.zeros([2], tf.int64),
        training=True,
    )
