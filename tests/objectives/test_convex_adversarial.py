"""Training by the convex adversarial polytope."""

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.graph import BoundGraph
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.objectives.terms import ConvexAdversarialCrossEntropy
from robust_tf.regions import LpBall
from tests.propagation import margin_cases


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


def test_gradients_are_differences():
    case = margin_cases.case_of("conv_net_2", "A")
    inputs, labels = margin_cases.points("conv_net_2", [case])
    model = margin_cases.network("conv_net_2")
    kernel = model.layers[1].kernel
    term = ConvexAdversarialCrossEntropy()

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
