"""Gradient descent as published systems know it."""

import keras
import tensorflow as tf

from robust_tf.errors import InputError


@keras.saving.register_keras_serializable(package="robust_tf")
class MomentumDescent(keras.optimizers.Optimizer):
    """`v <- momentum v + g + decay w`, then `w <- w - rate v`.

    Keras's own `SGD` keeps the rate within its velocity, so that steps made before a
    drop of the rate go on at the old one; and its `weight_decay` stands beside the
    velocity. Here decay is part of the gradient, of all weights (biases and scales of
    BatchNormalization, too), as in the systems of arXiv:1902.02918 and 2001.02378.

    Args:
        learning_rate: a number or a schedule.
        momentum: in [0, 1).
        decay: at least 0.
        name: of the optimizer.
        **options: of all Keras optimizers, such as `clipnorm`.

    Raises:
        InputError: for values out of range.
    """

    def __init__(
        self,
        learning_rate=0.1,
        momentum=0.9,
        decay=0.0,
        name="momentum_descent",
        **options,
    ):
        super().__init__(learning_rate, name=name, **options)
        if not 0.0 <= momentum < 1.0:
            raise InputError(f"`momentum` must lie in [0, 1). Received: {momentum}")
        if not 0.0 <= decay < float("inf"):
            raise InputError(
                f"`decay` must be finite and at least 0. Received: {decay}"
            )
        self.momentum, self.decay = momentum, decay
        self._velocities = []

    def build(self, variables):
        """Makes a velocity of 0 for each variable."""
        if self.built:
            return
        super().build(variables)
        self._velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient, variable, learning_rate):
        """Moves one variable, and its velocity."""
        velocity = self._velocities[self._get_variable_index(variable)]
        rate = tf.cast(learning_rate, variable.dtype)
        gradient = tf.cast(gradient, variable.dtype)
        gradient += self.decay * tf.convert_to_tensor(variable)
        moved = self.momentum * tf.convert_to_tensor(velocity) + gradient
        self.assign(velocity, moved)
        self.assign_sub(variable, rate * moved)

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "decay": self.decay,
        }
