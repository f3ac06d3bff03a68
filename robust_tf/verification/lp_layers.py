"""How layers that are not affine become columns and rows of a program."""

import itertools
import math

import numpy as np

from robust_tf import layers
from robust_tf.layers.convolution import pad_before
from robust_tf.verification.lp_affine import Affine
from robust_tf.verification.lp_affine import entries


def encode_two_pieces(encoding, node, low, high) -> Affine:
    """Adds `h = max(z, leak * z)`, and returns the layer's outputs.

    Unstable neurons get a column h, with `h >= z`, `h >= leak * z`; exact (section 4
    of arXiv:1711.07356, for leak 0) `h <= z - (1 - leak) l (1 - a)` and
    `h <= leak * z + (1 - leak) u a` with a binary `a`; relaxed the chord, which is what
    remains of these where `a` is real, but for `h <= u`.

    Args:
        encoding: the `Encoding` that is being built.
        node: of a ReLU or LeakyReLU.
        low: lower ends of z, `[neurons]`.
        high: upper ends of z, `[neurons]`.
    """
    (edge,) = node.inputs
    leak = node.layer.least_slope
    signs = encoding.splits.get(edge, np.zeros(len(low), int))
    phase = phases(low, high, signs, leak)
    needed = np.flatnonzero((phase >= 0) | (leak > 0.0) | (signs != 0))
    values = encoding.neurons(edge, needed)
    split = signs[needed] != 0
    encoding.add_split(edge, values.take(split).scaled(signs[needed][split]))
    slope = np.where(phase > 0, 1.0, leak) * (phase != 0)
    places = np.arange(len(needed))
    stable = values.combined(entries(needed, places, slope[needed], len(low)))
    unstable = np.flatnonzero(phase == 0)
    if not len(unstable):
        return stable
    ends = low[unstable], high[unstable]
    columns = encoding.add_unstable(node.layer.name, unstable, leak * ends[0], ends[1])
    values = values.take(phase[needed] == 0)
    encoding.note(values)
    _bound_activation(encoding, node.layer.name, Affine.columns(columns), values, ends)
    return stable + Affine(entries(unstable, columns, 1.0, len(low)), 0.0 * low)


def _bound_activation(encoding, name, outputs, values, ends):
    """The rows between unstable neurons and what they read."""
    low, high = ends
    leak = encoding.layer(name).least_slope
    below = values.scaled(leak)
    encoding.at_most((name, "identity"), values - outputs)
    encoding.at_most((name, "leak"), below - outputs)
    if encoding.is_relaxed:
        slope = (high - leak * low) / (high - low)
        chord = values.scaled(slope) + (leak - slope) * low
        encoding.at_most((name, "chord"), outputs - chord)
        return
    binaries = encoding.add_binaries(len(low))
    reach = (1.0 - leak) * low
    active = values + Affine.columns(binaries, reach) + -reach
    encoding.at_most((name, "active"), outputs - active)
    inactive = below + Affine.columns(binaries, (1.0 - leak) * high)
    encoding.at_most((name, "inactive"), outputs - inactive)


def encode_maximum(encoding, node, low, high) -> Affine:
    """Adds the maximum `y` of each group of entries `v`, and returns them.

    Entries that another one always beats are left out, and a group of one entry is that
    entry. Else `y >= v`, `y <= v + (m - l) (1 - a)` with the greatest upper end m of
    the others and a binary `a`, and one `a` of each group is 1.

    Args:
        encoding: the `Encoding` that is being built.
        node: of a pooling layer.
        low: lower ends of the entries, `[neurons]`.
        high: upper ends of the entries, `[neurons]`.
    """
    (edge,) = node.inputs
    groups = _groups(node.layer, encoding.graph.shapes[edge])
    groups = [_winners(group, low, high) for group in groups]
    needed = np.unique(np.concatenate(groups))
    values = encoding.neurons(edge, needed)
    sizes = np.array([len(group) for group in groups])
    decided, undecided = np.flatnonzero(sizes == 1), np.flatnonzero(sizes > 1)
    places = np.searchsorted(needed, [groups[i][0] for i in decided])
    result = values.combined(entries(decided, places, 1.0, len(groups)))
    if not len(undecided):
        return result
    groups = [groups[i] for i in undecided]
    columns = encoding.add_unstable(
        node.layer.name,
        undecided,
        np.array([low[group].max() for group in groups]),
        np.array([high[group].max() for group in groups]),
        is_implied=False,
    )
    encoding.note(values)
    each = values.take(np.searchsorted(needed, np.concatenate(groups)))
    _bound_maxima(encoding, node.layer.name, columns, groups, each, low, high)
    own = entries(undecided, columns, 1.0, len(sizes))
    return result + Affine(own, np.zeros(len(sizes)))


def _bound_maxima(encoding, name, columns, groups, each, low, high):
    """The rows between maxima and their entries, which come group by group."""
    sizes = [len(group) for group in groups]
    number = np.repeat(np.arange(len(sizes)), sizes)
    rivals = np.concatenate(
        [[np.delete(high[one], i).max() for i in range(len(one))] for one in groups]
    )
    binaries = encoding.add_binaries(len(number))
    outputs = Affine.columns(columns[number])
    encoding.at_most((name, "above"), each - outputs)
    reach = rivals - low[np.concatenate(groups)]
    switched = each - Affine.columns(binaries, reach) + reach
    encoding.at_most((name, "below"), outputs - switched)
    chosen = Affine(entries(number, binaries, 1.0, len(sizes)), -np.ones(len(sizes)))
    encoding.at_most((name, "one at most"), chosen)
    encoding.at_most((name, "one at least"), -chosen)


ENCODERS = {
    layers.ReLU: encode_two_pieces,
    layers.LeakyReLU: encode_two_pieces,
    layers.MaxPooling2D: encode_maximum,
    layers.GlobalMaxPooling2D: encode_maximum,
}


def is_encodable_graph(graph) -> bool:
    """Returns whether programs have rows for all layers of a classifier."""
    layers = (node.layer for node in graph.nodes)
    return all(layer.is_affine or type(layer) in ENCODERS for layer in layers)


def phases(low, high, signs, leak: float = 0.0) -> np.ndarray:
    """1 for active neurons, -1 for inactive ones, 0 for unstable ones, `[neurons]`.

    By the bounds; where they leave it open, by the sign of the split. For leak 1 there
    is one piece only.
    """
    if leak == 1.0:
        return np.ones(len(low), int)
    by_bounds = np.where(low >= 0.0, 1, np.where(high <= 0.0, -1, 0))
    return np.where(by_bounds == 0, signs, by_bounds)


def _groups(layer, shape) -> list[np.ndarray]:
    """The entries of each maximum, flat, in the order of the outputs."""
    numbers = np.arange(math.prod(shape)).reshape(shape)
    if isinstance(layer, layers.GlobalMaxPooling2D):
        return list(numbers.reshape(-1, shape[-1]).T)
    spans = []
    for axis in range(2):
        size, pool = shape[axis], layer.pool_size[axis]
        stride = layer.strides[axis]
        first = -pad_before(size, pool, stride, layer.padding)
        last = size - pool if layer.padding == "valid" else size - 1 + first
        starts = range(first, last + 1, stride)
        spans.append([slice(max(start, 0), start + pool) for start in starts])
    return [
        numbers[rows, columns, channel].ravel()
        for rows, columns in itertools.product(*spans)
        for channel in range(shape[-1])
    ]


def _winners(group, low, high) -> np.ndarray:
    """The entries that can be the maximum, at least one."""
    best = group[np.argmax(low[group])]
    return np.unique([best, *group[high[group] > low[best]]])
