"""What `tensorflow_side` times: the library's calls, and nothing else of it."""

import keras
import tensorflow as tf

import robust_tf as rt
from benchmarks import workloads
from robust_tf import schedules
from robust_tf.objectives import terms
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.training.certified_model import CertifiedModel
from robust_tf.training.certified_model import Threat


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
    """Returns a training step, update and metrics included, and what has to agree.

    Args:
        model: a converted model.
        workload: what to compute.
        images: `[batch, height, width, channels]`.
        labels: `[batch]`.
    """
    share = workloads.CROWN_SHARE if workload.kind == "crown_ibp" else None
    objective = terms.robust_natural(workloads.NATURAL_SHARE, share)
    threat = Threat(workload.epsilon)
    trained = CertifiedModel(model, objective, threat, schedules.Constant(1.0))
    trained.compile(
        keras.optimizers.Adam(workloads.LEARNING_RATE, epsilon=workloads.ADAM_EPSILON),
        jit_compile=False,
    )
    trained.optimizer.build(model.trainable_variables)
    train = tf.function(trained.train_step)

    @tf.function
    def forward():
        result = CertifiedForward(
            graph=trained.graph,
            images=images,
            labels=tf.cast(labels, tf.int32),
            region=threat.region(images),
            ramp=tf.constant(1.0),
            seed=tf.constant([0, 0], tf.int64),
            training=True,
        )
        return result.logits, objective.margins(result)

    def step():
        return float(train((images, labels))["loss"])

    def loss_of_step():
        trained.reset_metrics()  # The loss is a mean over steps.
        return step()

    def verify():
        logits, margins = forward()
        return {
            "logits": logits.numpy().tolist(),
            "margins": margins.numpy().tolist(),
            "losses": [loss_of_step() for _ in range(workloads.VERIFIED_STEPS)],
        }

    return step, verify
