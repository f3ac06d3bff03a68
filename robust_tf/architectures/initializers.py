"""Initial weights of the published model families."""

import math

import keras


def fan_in_uniform(
    fan_in: int, seed: int | None = None
) -> keras.initializers.Initializer:
    """Returns `U(-1 / sqrt(fan_in), 1 / sqrt(fan_in))`, for a kernel or its bias.

    Args:
        fan_in: inputs of one neuron: channels times the kernel's area.
        seed: of the draw; None for the global one.
    """
    limit = 1.0 / math.sqrt(fan_in)
    return keras.initializers.RandomUniform(-limit, limit, seed)
