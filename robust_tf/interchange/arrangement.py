"""Orders of entries: what chains of reshapes and transposes do to a tensor.

An order is an integer array of the shape that a tensor has in one framework; each entry
is the place, in C order, of that number in the tensor as another framework holds it.
"""

import math

import numpy as np


def in_place(shape) -> np.ndarray:
    """Returns the order of a tensor of that shape that is held as it is."""
    return np.arange(math.prod(shape)).reshape(shape)


def is_in_place(order: np.ndarray) -> bool:
    """Whether entries have the same C order on both sides."""
    return np.array_equal(order.reshape(-1), np.arange(order.size))


def channels_last(shape) -> np.ndarray:
    """Returns the order of `[1, channels, *spatial]` held as `[*spatial, channels]`."""
    _, channels, *spatial = shape
    held = np.arange(math.prod(shape)).reshape(*spatial, channels)
    return np.moveaxis(held, -1, 0)[None]


def channels_first(shape) -> np.ndarray:
    """Returns the order of `[*spatial, channels]` held as `[channels, *spatial]`."""
    *spatial, channels = shape
    held = np.arange(math.prod(shape)).reshape(channels, *spatial)
    return np.moveaxis(held, 0, -1)


def between(held: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns where each number of a wanted order is now, `[size]`.

    Args:
        held: the order of a tensor.
        wanted: another order of the same tensor, of the same shape.
    """
    places = np.empty(held.size, np.int64)
    places[wanted.reshape(-1)] = held.reshape(-1)
    return places


def scatter(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Returns constants of the order's shape as the tensor is held, `[size]`."""
    held = np.empty(order.size, values.dtype)
    held[order.reshape(-1)] = values.reshape(-1)
    return held


def factor(places: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Writes a permutation as one transpose.

    Returns:
        Sizes and axes with `x.reshape(sizes).transpose(axes).ravel() == x[places]` for
        `x` of shape `[size]`, or None where one transpose does not do it.
    """
    sizes, strides, heads = [], [], places
    while heads.size > 1:
        steps = np.diff(heads)
        breaks = np.flatnonzero(steps != steps[0])
        run = int(breaks[0]) + 1 if breaks.size else heads.size
        if heads.size % run:
            return None
        sizes.insert(0, run)
        strides.insert(0, int(steps[0]))
        heads = heads[::run]
    before = sorted(range(len(sizes)), key=lambda axis: -strides[axis])
    shape = tuple(sizes[axis] for axis in before)
    axes = tuple(before.index(axis) for axis in range(len(sizes)))
    moved = np.arange(places.size).reshape(shape).transpose(axes)
    return (shape, axes) if np.array_equal(moved.reshape(-1), places) else None
