"""Gradients of a whole batch, on one replica and on many."""

import contextlib
import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf

from robust_tf.errors import InputError

# What differentiates the loss of a batch, with respect to the trainable variables:
# called with nothing, or with a function that returns a scope in which the classifier
# has other weights. A pass of the second kind shows in no metric.
Differentiate = Callable[..., list[tf.Tensor | None]]


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

    rho: float | Callable = 0.05
    adaptive: bool = False

    def __post_init__(self):
        if not callable(self.rho) and not 0.0 < self.rho < float("inf"):
            raise InputError(
                f"`rho` must be a finite number above 0. Received: {self.rho}"
            )

    def __call__(
        self, differentiate: Differentiate, classifier: keras.Model, ramp: tf.Tensor
    ) -> list[tf.Tensor | None]:
        """Returns this replica's share of the gradient, for each trainable variable.

        Args:
            differentiate: see `Differentiate`.
            classifier: what is trained.
            ramp: share of the target radius, a scalar.
        """
        # A copy: the first pass moves the variables themselves.
        state = [
            (variable, tf.identity(variable.value))
            for variable in classifier.non_trainable_variables
        ]
        weights = classifier.trainable_variables
        moves = self._moves(sum_over_replicas(differentiate()), weights, ramp)

        @contextlib.contextmanager
        def moved():
            pairs = zip(weights, moves, strict=True)
            there = [(weight, weight + move) for weight, move in pairs]
            with keras.StatelessScope(state + there) as scope:
                yield
            # Micro-batches follow one another, as in the first pass.
            state[:] = [(one, scope.get_current_value(one)) for one, _ in state]

        return differentiate(moved)

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
