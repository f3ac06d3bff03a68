"""The same step repeats bit for bit, on all cores."""

import numpy as np
import tensorflow as tf

import robust_tf as rt
from robust_tf.architectures import cnn
from robust_tf.graph import BoundGraph
from robust_tf.objectives import terms
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.training.determinism import sum_in_fixed_order


def test_gradients_repeat():
    """Without a fixed order some of these steps differ in a bit."""
    sum_in_fixed_order()
    classifier = cnn.cnn_4layer((28, 28, 1), 10, width=2)
    random = np.random.default_rng(0)
    images = tf.constant(random.uniform(size=(64, 28, 28, 1)).astype("float32"))
    labels = tf.constant(random.integers(0, 10, 64).astype("int32"))
    graph, objective = BoundGraph.from_model(classifier), terms.robust_natural()

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
            )
            losses, _ = objective(forward)
            loss = tf.reduce_mean(losses)
        return losses, *tape.gradient(loss, classifier.trainable_variables)

    def run():
        return [tensor.numpy().tobytes() for tensor in step(tf.constant(0.4))]

    first = run()
    assert all(run() == first for _ in range(25))
