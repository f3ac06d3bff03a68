"""What `tensorflow_side` times: the library's calls, and nothing else of it."""

import keras
import tensorflow as tf

import robust_tf as rt
from benchmarks import workloads
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation.crown import crown_margins
from robust_tf.propagation.interval import interval_bounds
from robust_tf.propagation.interval import interval_margins


def bounds(model: keras.Model, workload, images, labels) -> tuple:
    """Returns a CROWN step, and what has to agree.

    Args:
        model: a converted model.
        workload: what to compute.
        images: `[batch, height, width, channels]`.
        labels: `[batch]`.
    """

    @tf.function
    def margins(images, labels):
        return rt.compute_bounds(
            model,
            rt.LpBall(images, workload.epsilon),
            method="crown",
            specification=rt.margin_specification(labels, workloads.NUM_CLASSES),
            intersect_intermediates=False,
        ).lower

    def step():
        return margins(images, labels).numpy()

    return step, lambda: {"margins": step().tolist()}


def training(model: keras.Model, workload, images, labels) -> tuple:
    """Returns a training step, update included, and what has to agree.

    Args:
        model: a converted model.
        workload: what to compute.
        images: `[batch, height, width, channels]`.
        labels: `[batch]`.
    """
    graph = BoundGraph.from_model(model)
    optimizer = keras.optimizers.Adam(
        workloads.LEARNING_RATE, epsilon=workloads.ADAM_EPSILON
    )
    optimizer.build(model.trainable_variables)

    def forward():
        logits, moments = graph.forward(images, training=True)
        region, choices = rt.LpBall(images, workload.epsilon), Choices(moments=moments)
        rows = rt.margin_specification(labels, workloads.NUM_CLASSES)
        intervals = interval_bounds(graph, region, choices)
        margins = interval_margins(graph, region, intervals, rows, choices)
        if workload.kind == "crown_ibp":
            crown = crown_margins(graph, region, intervals, rows, choices)
            share = workloads.CROWN_SHARE
            margins = share * crown + (1 - share) * margins
        return logits, margins

    @tf.function
    def train():
        with tf.GradientTape() as tape:
            logits, margins = forward()
            natural = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            own = tf.zeros_like(margins[:, :1])
            robust = tf.reduce_logsumexp(tf.concat([own, -margins], 1), 1)
            share = workloads.NATURAL_SHARE
            loss = tf.reduce_mean(share * natural + (1 - share) * robust)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    def step():
        return float(train())

    def verify():
        logits, margins = tf.function(forward)()
        return {
            "logits": logits.numpy().tolist(),
            "margins": margins.numpy().tolist(),
            "losses": [step() for _ in range(workloads.VERIFIED_STEPS)],
        }

    return step, verify
