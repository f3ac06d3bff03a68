"""The same step repeats bit for bit, on all cores."""

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.architectures.cnn import cnn_4layer
from robust_tf.architectures.cnn7 import cnn7
from robust_tf.attacks import PGD
from robust_tf.graph import BoundGraph
from robust_tf.objectives import terms
from robust_tf.objectives.certified_training import certified_training
from robust_tf.objectives.expressive import MtlIbp
from robust_tf.objectives.forward import Adversary
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.training.determinism import sum_in_fixed_order


def _expressive():
    attack = PGD(1, relative_step_size=10.0, step_decay=(), keep="last")
    return certified_training(
        MtlIbp(0.3),
        "mtl-ibp",
        adversary=Adversary(attack, statistics="adversarial"),
        regularizer_weight=0.5,
        l1_weight=1e-5,
    )


@pytest.mark.parametrize(
    ("architecture", "objective"),
    [(cnn_4layer, terms.robust_natural()), (cnn7, _expressive())],
    ids=["crown_ibp", "mtl_ibp_with_batch_normalization"],
)
def test_gradients_repeat(architecture, objective):
    """Without a fixed order some of these steps differ in a bit."""
    sum_in_fixed_order()
    classifier = architecture((28, 28, 1), 10, width=2, linear_size=64)
    random = np.random.default_rng(0)
    images = tf.constant(random.uniform(size=(64, 28, 28, 1)).astype("float32"))
    labels = tf.constant(random.integers(0, 10, 64).astype("int32"))
    graph = BoundGraph.from_model(classifier)
    start = [variable.numpy() for variable in classifier.variables]

    @tf.function
    def step(ramp):
        with tf.GradientTape() as tape:
            forward = CertifiedForward(
                graph=graph,
                images=images,
                labels=labels,
                region=rt.LpBall(images, 0.1 * ramp),
                ramp=ramp,
                seed=tf.constant([0, 0]),
                training=True,
                adversary=objective.adversary,
            )
            losses, _ = objective(forward)
            loss = tf.reduce_mean(losses)
        return losses, *tape.gradient(loss, classifier.trainable_variables)

    def run():
        for variable, value in zip(classifier.variables, start, strict=True):
            variable.assign(value)  # A step moves the statistics.
        return [tensor.numpy().tobytes() for tensor in step(tf.constant(0.4))]

    first = run()
    assert all(run() == first for _ in range(25))
