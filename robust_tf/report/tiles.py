"""Gradients and filters of convolutions as pixels of pictures."""

import math

import numpy as np

from robust_tf import layers
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.layers.base import KernelLayer

_DEVIATIONS = 3.0  # Of a gradient, to the darkest and to the brightest grey.


def gradient_pixels(gradients: np.ndarray) -> np.ndarray:
    """Returns gradients as pixels in [0, 1]; mid-grey (0.5) is 0.

    `0.5 + g / (6 std)`, with g cut at 3 standard deviations of the image it belongs to.
    The scaling is ours: that of published pictures (arXiv:1810.07481) is not known.

    Args:
        gradients: `[n, height, width, channels]`.

    Returns:
        The same shape; 0.5 throughout for a gradient that is constant.
    """
    gradients = np.asarray(gradients, "float64")
    # In units of the greatest entry, as squares of small ones would be 0.
    axes = tuple(range(1, gradients.ndim))
    unit = np.abs(gradients).max(axes, keepdims=True)
    relative = gradients / np.where(unit > 0.0, unit, 1.0)
    deviation = relative.std(axes, keepdims=True)
    reach = _DEVIATIONS * np.where(deviation > 0.0, deviation, np.inf)
    return 0.5 + 0.5 * np.clip(relative / reach, -1.0, 1.0)


def filter_tile(kernel: np.ndarray, columns: int) -> np.ndarray:
    """Returns one filter as a picture: its channels side by side, row by row.

    Args:
        kernel: `[height, width, channels]`.
        columns: channels beside one another. With all of them, a kernel of 4x4x3 is 4
            rows of 12; with 4, one of 4x4x16 is 16 rows of 16.

    Returns:
        `[rows * height, columns * width]`; NaN where there are no channels left.
    """
    height, width, channels = kernel.shape
    rows = -(-channels // columns)
    filled = np.full((height, width, rows * columns), np.nan)
    filled[..., :channels] = kernel
    grid = filled.reshape(height, width, rows, columns).transpose(2, 0, 3, 1)
    return grid.reshape(rows * height, columns * width)


def filter_tiles(graph: BoundGraph, place: int, count: int) -> np.ndarray | None:
    """Returns the first filters of one layer as pictures, `[n, rows, columns]`.

    Those of a dense first layer are images of the weights of one neuron each. Channels
    are side by side in the first layer, and in a square in later ones. Scalings and
    layout are ours: those of published pictures (arXiv:1810.07481) are not documented.

    Args:
        graph: a classifier of images.
        place: 0 for the first of the layers with weights for products, and so on.
        count: how many, at most.

    Returns:
        None where there is no such layer, or it is dense and not the first.

    Raises:
        InputError: for a first layer that is no convolution of images, nor reads all
            their pixels.
    """
    nodes = [node for node in graph.nodes if isinstance(node.layer, KernelLayer)]
    layer = nodes[place].layer if place < len(nodes) else None
    if isinstance(layer, layers.Conv2D):
        kernels = np.moveaxis(np.asarray(layer.kernel), -1, 0)[:count]
        channels = kernels.shape[-1]
        columns = math.ceil(math.sqrt(channels)) if place else channels
        return np.stack([filter_tile(kernel, columns) for kernel in kernels])
    if place:
        return None
    shape = graph.shapes[0]
    is_of_pixels = isinstance(layer, layers.Dense) and len(shape) == 3
    if not is_of_pixels or layer.kernel.shape[0] != math.prod(shape):
        raise InputError(
            "Filters are drawn of classifiers of images whose first layer with weights "
            f"is a Conv2D, or a Dense that reads all pixels. Received: {_said(layer)}, "
            f"for inputs of shape {shape}. Leave the filters out."
        )
    weights = np.asarray(layer.kernel).T[:count].reshape(-1, *shape)
    return np.stack([filter_tile(kernel, shape[-1]) for kernel in weights])


def _said(layer) -> str:
    if layer is None:
        return "no layer with weights"
    return f"layer '{layer.name}' ({type(layer).__name__})"
