"""Gradients of a whole batch, on one replica and on many."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import ClassVar
from typing import Protocol

import keras
import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.objectives.forward import CertifiedForward


@dataclasses.dataclass(frozen=True)
class Batch:
    """What a `GradientRule` may do with the batch in hand.

    Attributes:
        differentiate: returns this replica's share of the gradient of the objective,
            for each trainable variable, None where there is none. Its options:
            `elsewhere`, a function that returns a scope in which the classifier has
            other weights; `losses_of`, one loss per example of a forward pass, instead
            of the objective. A pass with either shows in no metric.
        classifier: what is trained.
        optimizer: its `apply` takes shares of replicas, and sums them.
        ramp: share of the target radius, a scalar.
    """

    differentiate: Callable[..., list[tf.Tensor | None]]
    classifier: keras.Model
    optimizer: keras.Optimizer
    ramp: tf.Tensor


class GradientRule(Protocol):
    """Decides by which gradients a step moves the weights.

    Attributes:
        updates: how often a step applies the optimizer: once with what the rule
            returns, and before with what it applies itself. Each is a step of the
            optimizer's own count and of its learning rate's schedule.
    """

    updates: int

    def __call__(self, batch: Batch) -> list[tf.Tensor | None]:
        """Returns this replica's share of the gradient to apply."""


@dataclasses.dataclass(frozen=True)
class SharpnessAware:
    """The gradient where the loss is worst nearby (SAM, arXiv:2010.01412).

    Taken at `w + rho g / ||g||`, g being the gradient of the whole batch at w: a step
    costs two. Both passes begin in one state, so that attacks, dropout and the moving
    statistics that attacks see are the same; those statistics are moved by the first.

    Attributes:
        rho: length of the move; a number, or a function of the ramp of the radius,
            such as `terms.FollowsRadius`.
        adaptive: measure lengths relative to each weight's magnitude (ASAM,
            arXiv:2102.11600): the move is `rho w^2 g / ||w g||`.

    Raises:
        InputError: for a number that is not above 0.
    """

    updates: ClassVar[int] = 1
    rho: float | Callable = 0.05
    adaptive: bool = False

    def __post_init__(self):
        if not callable(self.rho) and not 0.0 < self.rho < float("inf"):
            raise InputError(
                f"`rho` must be a finite number above 0. Received: {self.rho}"
            )

    def __call__(self, batch: Batch) -> list[tf.Tensor | None]:
        """Returns this replica's share of the gradient to apply."""
        # A copy: the first pass moves the variables themselves.
        state = [
            (variable, tf.identity(variable.value))
            for variable in batch.classifier.non_trainable_variables
        ]
        weights = batch.classifier.trainable_variables
        gradients = sum_over_replicas(batch.differentiate())
        moves = self._moves(gradients, weights, batch.ramp)

        @contextlib.contextmanager
        def moved():
            pairs = zip(weights, moves, strict=True)
            there = [(weight, weight + move) for weight, move in pairs]
            with keras.StatelessScope(state + there) as scope:
                yield
            # Micro-batches follow one another, as in the first pass.
            state[:] = [(one, scope.get_current_value(one)) for one, _ in state]

        return batch.differentiate(moved)

    def _moves(self, gradients, weights, ramp):
        """One tensor for each weight; 0 where there is no gradient."""
        scales = [
            tf.abs(tf.convert_to_tensor(weight)) if self.adaptive else 1.0
            for weight in weights
        ]
        directions = [
            tf.zeros(weight.shape, weight.dtype) if gradient is None else s * gradient
            for s, gradient, weight in zip(scales, gradients, weights, strict=True)
        ]
        rho = self.rho(ramp) if callable(self.rho) else self.rho
        factor = tf.math.divide_no_nan(
            tf.cast(rho, tf.float32),
            tf.cast(tf.linalg.global_norm(directions), tf.float32),
        )
        return [
            scale * tf.cast(factor, direction.dtype) * direction
            for scale, direction in zip(scales, directions, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class LessCertain:
    """A step towards less certain attacked predictions first (EDAC, arXiv:2310.04539).

    An extra-gradient method in two updates of the weights. The first descends
    `step_size` times the mean over the batch of the standard deviation over the classes
    of the logits at attacked images (with K - 1 in its denominator), through the run's
    own optimizer, and unclipped, as published. Then the batch is attacked anew at the
    weights found, and the step taken as without. Any objective with an `adversary`
    will do. Moving statistics move in both halves, and metrics are the second's.

    Adam ignores the scale of all its gradients, so there `step_size` weighs the first
    half against the second in the moments that they share.

    Attributes:
        step_size: of the first half, above 0. Published: 0.3, with ARoW and for
            TinyImageNet 0.1 (in the benchmark of arXiv:2406.04848).

    Raises:
        InputError: for a number that is not above 0; when called, for objectives
            without an adversary.
    """

    updates: ClassVar[int] = 2
    step_size: float = 0.3

    def __post_init__(self):
        if not 0.0 < self.step_size < float("inf"):
            raise InputError(
                "`step_size` must be a finite number above 0. Received: "
                f"{self.step_size}"
            )

    def __call__(self, batch: Batch) -> list[tf.Tensor | None]:
        """Makes the first update; returns the share of the gradient to apply next."""
        gradients = batch.differentiate(losses_of=self._certainty)
        batch.optimizer.apply(gradients, batch.classifier.trainable_variables)
        return batch.differentiate()

    def _certainty(self, forward: CertifiedForward) -> tf.Tensor:
        return self.step_size * deviation(forward.adversarial_logits)


def deviation(logits: tf.Tensor) -> tf.Tensor:
    """Returns the unbiased standard deviation over the classes, `[batch]`.

    Its gradient is 0 where all logits are equal.

    Args:
        logits: `[batch, classes]`, of at least two classes.
    """
    offset = logits - tf.reduce_mean(logits, -1, keepdims=True)
    variance = tf.reduce_sum(tf.square(offset), -1) / (logits.shape[-1] - 1)
    is_zero = variance == 0.0
    # The root of 0 has no gradient, and one that is not taken must not be NaN either.
    root = tf.sqrt(tf.where(is_zero, tf.ones_like(variance), variance))
    return tf.where(is_zero, tf.zeros_like(root), root)


def sum_over_replicas(gradients):
    """Sums each gradient over the replicas; None stays None."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return gradients
    known = [gradient for gradient in gradients if gradient is not None]
    sums = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, known))
    return [None if gradient is None else next(sums) for gradient in gradients]


def clip_across_replicas(gradients, max_norm: float):
    """Clips the norm of the whole batch's gradient, not of each replica's share.

    Keras clips before it sums over replicas. This sums, clips once, and returns
    shares that sum to the clipped gradient again inside `optimizer.apply`.
    """
    count = tf.distribute.get_replica_context().num_replicas_in_sync
    clipped, _ = tf.clip_by_global_norm(sum_over_replicas(gradients), max_norm)
    if count == 1:
        return clipped
    return [None if gradient is None else gradient / count for gradient in clipped]
