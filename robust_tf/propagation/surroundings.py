"""What a ReLU classifier does around images: how far its region reaches, gradients."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation.linear_regions import LinearRegions
from robust_tf.specifications import margin_specification

_EXAMPLES_AT_ONCE = 20  # Each has a row over the inputs for each of its neurons.


@dataclasses.dataclass(frozen=True)
class Distances:
    """From each example to what is nearest, in pixels in [0, 1] (arXiv:1810.07481).

    Attributes:
        region: to a hyperplane on which a neuron changes its sign, `[n]`; infinite
            where all neurons are constant.
        decision: to one on which another logit reaches that of the label, `[n]`: of the
            affine map around the example. Below 0 for one that is misclassified.
    """

    region: np.ndarray
    decision: np.ndarray


def nearest_distances(
    graph: BoundGraph,
    images: np.ndarray,
    labels: np.ndarray,
    norm: float,
    progress: Callable[[int], None] = lambda _: None,
) -> Distances:
    """Returns how far examples are from the ends of their regions and decisions.

    Args:
        graph: a classifier of affine layers and (leaky) ReLUs.
        images: `[n, *shape]`.
        labels: `[n]`.
        norm: p of the distances, at least 1.
        progress: told of examples that are done.

    Raises:
        InputError: for other classifiers, no images, or another number of labels.
    """
    _check_counts(images, labels)
    parts = []
    for start in range(0, len(images), _EXAMPLES_AT_ONCE):
        chosen = slice(start, start + _EXAMPLES_AT_ONCE)
        batch = tf.constant(images[chosen], compute_dtype(graph))
        regions = LinearRegions.around(graph, batch)
        classes = graph.shapes[graph.output][0]
        rows = margin_specification(labels[chosen], classes, batch.dtype)
        (region,) = regions.boundary_distances([norm])
        (decision,) = regions.decision_distances(rows, [norm])
        parts.append((np.min(region, -1), np.min(decision, -1)))
        progress(len(batch))
    return Distances(*map(np.concatenate, zip(*parts, strict=True)))


def input_gradients(
    graph: BoundGraph, images: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Returns the gradient of each example's cross-entropy, `[n, *shape]`, float64.

    Args:
        graph: a classifier.
        images: `[n, *shape]`.
        labels: `[n]`.

    Raises:
        InputError: for no images, or another number of labels.
    """
    _check_counts(images, labels)
    inputs = tf.constant(images, compute_dtype(graph))
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        logits = graph.values(inputs, Choices())[graph.output]
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return np.asarray(tape.gradient(losses, inputs), "float64")


def compute_dtype(graph: BoundGraph) -> str:
    """Returns the floating-point type that a classifier computes in."""
    return graph.nodes[0].layer.compute_dtype


def _check_counts(images, labels):
    if len(images) != len(labels) or not len(images):
        raise InputError(
            "There must be a label for each image, and at least one image. Received: "
            f"{len(images)} images, {len(labels)} labels"
        )
