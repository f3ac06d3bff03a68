"""What `tensorflow_side` times: the library's calls, and nothing else of it."""

import keras
import tensorflow as tf

import robust_tf as rt
from benchmarks import workloads
from robust_tf import schedules
from robust_tf.attacks.pgd import PGD
from robust_tf.objectives import terms
from robust_tf.objectives.certified_training import certified_training
from robust_tf.objectives.expressive import MtlIbp
from robust_tf.objectives.forward import Adversary
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
    trained = _trained(model, _objective(workload, _attack(workload)), workload)
    train = tf.function(trained.train_step)

    def step():
        return float(train((images, labels))["loss"])

    def loss_of_step(verified, train):
        verified.reset_metrics()  # The loss is a mean over steps.
        return float(train((images, labels))["loss"])

    def verify():
        values = {}
        if workload.kind == "mtl_ibp":
            # No random start: the frameworks draw different points.
            attack = _attack(workload, random_start=False)
            searching = _trained(model, _objective(workload, attack), workload)
            attacked = tf.function(lambda: _forward(searching, images, labels).attacked)
            values["attacked"] = attacked().numpy().ravel().tolist()
        # Given points from here on: a slope near 0 can turn by rounding.
        points = workloads.corners(workloads.NETWORKS[workload.network], workload)
        objective = _objective(workload, lambda *_: tf.constant(points))
        verified = _trained(model, objective, workload)

        @tf.function
        def forward():
            result = _forward(verified, images, labels)
            return result.logits, objective.margins(result)

        logits, margins = forward()
        train = tf.function(verified.train_step)
        steps = range(workloads.VERIFIED_STEPS)
        return {
            **values,
            "logits": logits.numpy().tolist(),
            "margins": margins.numpy().tolist(),
            "losses": [loss_of_step(verified, train) for _ in steps],
        }

    return step, verify


def _forward(trained, images, labels):
    """A training batch of a `CertifiedModel` at the whole radius."""
    return CertifiedForward(
        graph=trained.graph,
        images=images,
        labels=tf.cast(labels, tf.int32),
        region=trained.threat.region(images),
        ramp=tf.constant(1.0),
        seed=tf.constant([0, 0], tf.int64),
        training=True,
        adversary=trained.objective.adversary,
    )


def _trained(model, objective, workload):
    """The model in training, with an optimizer of its own."""
    is_mtl_ibp = workload.kind == "mtl_ibp"
    trained = CertifiedModel(
        model,
        objective,
        Threat(workload.epsilon),
        schedules.Constant(1.0),
        max_gradient_norm=workloads.MAX_GRADIENT_NORM if is_mtl_ibp else None,
    )
    trained.compile(
        keras.optimizers.Adam(workloads.LEARNING_RATE, epsilon=workloads.ADAM_EPSILON),
        jit_compile=False,
    )
    trained.optimizer.build(model.trainable_variables)
    return trained


def _objective(workload, attack):
    if workload.kind != "mtl_ibp":
        share = workloads.CROWN_SHARE if workload.kind == "crown_ibp" else None
        return terms.robust_natural(workloads.NATURAL_SHARE, share)
    return certified_training(
        MtlIbp(workloads.CERTIFIED_SHARE),
        "mtl-ibp",
        adversary=Adversary(attack, statistics="adversarial"),
        l1_weight=workloads.L1_WEIGHT,
    )


def _attack(workload, random_start=True):
    """The attack on training batches; None for workloads without one."""
    if workload.attack_steps is None:
        return None
    return PGD(
        steps=workload.attack_steps,
        relative_step_size=workload.step_size,
        random_start=random_start,
        objective="cross_entropy",
        step_decay=(),
        keep="last" if workload.attack_steps == 1 else "best_iterate",
    )
