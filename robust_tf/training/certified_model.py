"""A `keras.Model` whose `fit` minimises a certified objective."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable

import keras
import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.objectives.terms import WeightedSum
from robust_tf.objectives.terms import is_verified
from robust_tf.regions import LpBall
from robust_tf.regions import Threat
from robust_tf.training.gradients import Batch
from robust_tf.training.gradients import GradientRule
from robust_tf.training.gradients import clip_across_replicas


class CertifiedModel(keras.Model):
    """Trains `classifier` through `compile` and `fit`; save that, not this wrapper.

    Args:
        classifier: from `robust_tf.convert`, or built of `robust_tf.layers`.
        objective: loss of each example over one shared forward pass.
        threat: the perturbations at the end of the ramp.
        ramp: share of the target radius as a function of the optimizer step, such as
            `schedules.LinearRamp`.
        radius_factor: radius of the bounds in training, over the ramp's; validation is
            at the target itself.
        min_radius: least radius in training, in pixels in [0, 1]: bounds that
            regularizers need exist while the ramp is at 0 (arXiv:2103.17268: 1e-6).
        max_gradient_norm: clips the norm of the whole batch's gradient; None: not.
        micro_batches: parts that a batch is worked through in, one after the other;
            their gradients are averaged, and applied once.
        gradient_rule: by which gradients weights are moved, such as
            `gradients.SharpnessAware`; None: by the objective's own, at the weights
            themselves.
        relaxation: lower slopes of backward passes in training.
        steps_per_epoch: batches in one epoch, for losses that count epochs.
        seed: of the attacks.
    """

    def __init__(
        self,
        classifier: keras.Model,
        objective: WeightedSum,
        threat: Threat,
        ramp: Callable,
        *,
        radius_factor: float = 1.0,
        min_radius: float = 0.0,
        max_gradient_norm: float | None = None,
        micro_batches: int = 1,
        gradient_rule: GradientRule | None = None,
        relaxation: str = "adaptive",
        steps_per_epoch: int = 1,
        seed: int = 0,
    ):
        super().__init__()
        if micro_batches < 1:
            raise InputError(
                f"`micro_batches` must be at least 1. Received: {micro_batches}"
            )
        self.classifier = classifier
        self.graph = BoundGraph.from_model(classifier)
        self.objective = objective
        self.threat = threat
        self.ramp = ramp
        self.radius_factor = radius_factor
        self.min_radius = min_radius
        self.max_gradient_norm = max_gradient_norm
        self.micro_batches = micro_batches
        self.gradient_rule = gradient_rule
        self.relaxation = relaxation
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed
        names = ["loss", *objective.names, *self._accuracies(training=False)]
        self._means = {name: keras.metrics.Mean(name=name) for name in names}
        self._means["epsilon"] = keras.metrics.Mean(name="epsilon")
        self.built = True

    def call(self, images, training=False):
        return self.classifier(images, training=training)

    @property
    def metrics(self):
        return list(self._means.values())

    @property
    def updates_per_step(self) -> int:
        """How often the optimizer is applied to each batch."""
        return 1 if self.gradient_rule is None else self.gradient_rule.updates

    @property
    def step(self) -> tf.Tensor:
        """Batches trained on so far, an integer scalar; what schedules are asked at."""
        count = tf.convert_to_tensor(self.optimizer.iterations)
        return count // self.updates_per_step

    def train_step(self, data):
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        if weights is not None:
            raise InputError(
                "Training takes no weights of examples or classes. Received: batches "
                "of (images, labels, weights). Leave the weights out."
            )
        ramp = self.ramp(self.step)
        differentiate = functools.partial(
            self._differentiate, self._split(images, labels), ramp
        )
        if self.gradient_rule is None:
            gradients = differentiate()
        else:
            gradients = self.gradient_rule(
                Batch(differentiate, self.classifier, self.optimizer, ramp)
            )
        if self.max_gradient_norm is not None:
            gradients = clip_across_replicas(gradients, self.max_gradient_norm)
        self.optimizer.apply(gradients, self.classifier.trainable_variables)
        return self.training_results()

    def training_results(self) -> dict[str, tf.Tensor]:
        """Means since they were reset, of what training works out."""
        results, known = self.get_metrics_result(), self._accuracies(training=True)
        for name in self._accuracies(training=False).keys() - known.keys():
            results.pop(name)
        return results

    def test_step(self, data):
        """Measures at the target radius, with moving statistics."""
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        step = tf.constant(0, tf.int64)
        forward = self._forward(images, labels, 1.0, step, 0, training=False)
        losses, parts = self._penalized(forward)
        self._update(forward, losses, parts, weights)
        return self.get_metrics_result()

    def training_region(self, images: tf.Tensor, ramp: tf.Tensor) -> LpBall:
        """What bounds in training are over, at a share `ramp` of the target radius."""
        ball = self.threat.region(images, tf.cast(ramp, images.dtype))
        radius = tf.maximum(self.radius_factor * ball.radius, self.min_radius)
        return LpBall(ball.x, radius, ball.norm, ball.valid_range)

    def _differentiate(self, parts, ramp, elsewhere=None, losses_of=None):
        """Gradients of the batch, summed over its parts; see `gradients.Batch`.

        Args:
            parts: pairs of images and labels, or of images and a dictionary with
                labels and soft targets.
            ramp: share of the target radius.
            elsewhere: returns a scope in which the classifier has other weights, made
                of the trainable variables.
            losses_of: losses of a forward pass, `[batch]`, instead of the objective.
        """
        variables = self.classifier.trainable_variables
        update = self.optimizer.iterations  # Another one after each application.
        total = None
        for number, part in enumerate(parts):
            with tf.GradientTape() as tape, (elsewhere or contextlib.nullcontext)():
                forward = self._forward(*part, ramp, update, number)
                forward = dataclasses.replace(
                    forward, is_at_variables=elsewhere is None
                )
                if losses_of is None:
                    losses, terms = self._penalized(forward)
                else:
                    losses = losses_of(forward)
                # Over the global batch: `optimizer.apply` sums over replicas.
                loss = tf.nn.compute_average_loss(losses) / self.micro_batches
            gradients = tape.gradient(loss, variables)
            if elsewhere is None and losses_of is None:
                self._update(forward, losses, terms)
            total = gradients if total is None else _sum(total, gradients)
        return total

    def _accuracies(self, training: bool) -> dict[str, Callable]:
        """By name, functions of a forward pass to one value per example.

        In training only what the objective works out anyway, and margins only where
        they hold over the region, not over a part of it.
        """
        objective, found = self.objective, {}
        if not training or objective.noise is None:
            found["clean_accuracy"] = lambda forward: forward.is_correct
        if objective.noise is not None:
            found["noisy_accuracy"] = lambda forward: forward.noisy.is_correct
        is_certified = objective.is_certified
        if objective.is_certified_in_training if training else is_certified:
            found["certified_accuracy"] = lambda forward: is_verified(
                objective.margins(forward)
            )
        return found

    def _penalized(self, forward):
        """The objective, plus what regularizers of the classifier's layers add."""
        losses, parts = self.objective(forward)
        return losses + sum(self.classifier.losses), parts

    def _split(self, images, labels):
        if self.micro_batches == 1:
            return [(images, labels)]
        size = images.shape[0]
        if size is None or size % self.micro_batches:
            raise InputError(
                f"Batches must be of one size, a multiple of {self.micro_batches} "
                f"micro-batches. Received: {size}. Batch with `drop_remainder=True`."
            )
        whole = (images, labels)
        parts = (tf.split(one, self.micro_batches) for one in tf.nest.flatten(whole))
        return [
            tf.nest.pack_sequence_as(whole, part) for part in zip(*parts, strict=True)
        ]

    def _forward(self, images, labels, ramp, step, number, training=True):
        ramp, targets = tf.cast(ramp, images.dtype), None
        if isinstance(labels, dict):
            labels, targets = labels["label"], labels["target"]
        if training:
            region = self.training_region(images, ramp)
        else:
            region = self.threat.region(images, ramp)
        return CertifiedForward(
            graph=self.graph,
            images=images,
            labels=tf.cast(labels, tf.int32),
            region=region,
            ramp=ramp,
            seed=self._seed(step, number),
            training=training,
            relaxation=self.relaxation,
            adversary=self.objective.adversary,
            noise=self.objective.noise,
            targets=targets,
            epoch=self._epoch(training),
        )

    def _epoch(self, training):
        """The epoch that is trained, or that validation comes after, from 1."""
        if self.optimizer is None:
            return 1
        step = self.step if training else tf.maximum(self.step - 1, 0)
        return step // self.steps_per_epoch + 1

    def _seed(self, step, number):
        """Another one for each step, micro-batch and replica."""
        context = tf.distribute.get_replica_context()
        replica = 0 if context is None else context.replica_id_in_sync_group
        seed = tf.stack([tf.cast(self.seed, tf.int64), tf.cast(step, tf.int64)])
        fold = tf.random.experimental.stateless_fold_in
        return fold(fold(seed, tf.cast(replica, tf.int64)), number)

    def _update(self, forward, losses, parts, weights=None):
        values = dict(parts, loss=losses)
        for name, accuracy in self._accuracies(forward.training).items():
            values[name] = accuracy(forward)
        for name, value in values.items():  # One `Mean` for every name.
            self._means[name].update_state(value, weights)
        self._means["epsilon"].update_state(forward.epsilon)


def _sum(first, second):
    return [
        one if other is None else one + other
        for one, other in zip(first, second, strict=True)
    ]
