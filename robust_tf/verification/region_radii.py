"""What the linear region of an input certifies: MMR's own guarantee."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.propagation.linear_regions import LinearRegions
from robust_tf.propagation.linear_regions import hull_radius
from robust_tf.regions import as_batch
from robust_tf.regions import parse_norm
from robust_tf.specifications import checked_labels
from robust_tf.specifications import margin_specification

# Shares of a radius, and lengths, far above what float64 rounds off.
_RELATIVE, _ABSOLUTE = 1e-9, 1e-12


@dataclasses.dataclass(frozen=True)
class RegionRadii:
    """Of each example, `[batch]` each, float64.

    Attributes:
        lower: no input nearer than this has another class; 0 for what is misclassified
            as it is.
        is_exact: whether there is one at that distance (up to rounding), if no range of
            pixels is in the way.
        boundary: distance to the nearest region boundary, d_B.
        decision: signed distance to the nearest decision boundary of the region, d_D.
    """

    lower: np.ndarray
    is_exact: np.ndarray
    boundary: np.ndarray
    decision: np.ndarray


def region_radii(
    model: keras.Model,
    images: tf.Tensor,
    labels: tf.Tensor,
    norm: str | float = "inf",
) -> RegionRadii:
    """Returns what linear regions certify (arXiv:1810.07481, theorem 2.1), in float64.

    The classifier is affine up to d_B; so the least perturbation is `max(d_D, 0)` where
    `|d_D| <= d_B`, and at least d_B where `d_B < d_D`. Radii are lowered by more than
    rounding takes (1e-9 of them, and 1e-12).

    Args:
        model: from `robust_tf.convert`, of affine layers and (leaky) ReLUs.
        images: `[batch, *shape]`.
        labels: integer class indices, `[batch]`.
        norm: "inf", or a number of at least 1.

    Raises:
        InputError: as `LinearRegions.around`, and for images or labels that do not fit.
    """
    images, labels = tf.cast(as_batch(images, "images"), tf.float64), np.asarray(labels)
    classes = model.output_shape[-1]
    labels = checked_labels(labels, classes)
    if labels.shape[0] != images.shape[0]:
        raise InputError(
            f"There must be one label for each of the {images.shape[0]} images. "
            f"Received: {labels.shape[0]}"
        )
    p = parse_norm(norm)
    regions = LinearRegions.around(BoundGraph.from_model(model), images)
    (boundaries,) = regions.boundary_distances([p])
    rows = margin_specification(labels, classes, tf.float64)
    (decisions,) = regions.decision_distances(rows, [p])
    boundary = tf.reduce_min(boundaries, -1).numpy()
    decision = tf.reduce_min(decisions, -1).numpy()
    radius = np.maximum(np.minimum(boundary, decision), 0.0)
    lower = np.maximum(radius * (1.0 - _RELATIVE) - _ABSOLUTE, 0.0)
    return RegionRadii(lower, np.abs(decision) <= boundary, boundary, decision)


def between(
    model: keras.Model, images: tf.Tensor, labels: tf.Tensor, norm: str | float
) -> np.ndarray:
    """Returns radii from those in L1 and Linf (arXiv:1905.11213), `[batch]`.

    `hull_radius` of both: no input nearer than this has another class. Holds as the
    classifier is affine on each of the two balls, and they lie in one region.

    Args:
        model: as for `region_radii`.
        images: `[batch, *shape]`.
        labels: integer class indices, `[batch]`.
        norm: of the result: "inf", or a number of at least 1.
    """
    first = region_radii(model, images, labels, 1.0).lower
    last = region_radii(model, images, labels, "inf").lower
    return hull_radius(first, last, parse_norm(norm)) * (1.0 - _RELATIVE)
