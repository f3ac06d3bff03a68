"""The area of ReLU relaxations: regularizers of IBP-R (arXiv:2206.14772) and COLT."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.bounds import flatten_from
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.objectives.regularizers import before_relus


@dataclasses.dataclass(frozen=True)
class ReluRelaxationArea:
    """Mean over layers of `sum_i relu(-l_i) relu(u_i)`, by IBP, `[batch]`.

    That is twice the area between a ReLU's convex relaxations over [l, u], and 0 where
    it is stable. Bounds are over the region of training: of the attack too, where both
    are enlarged together, as published.

    Attributes:
        with_logits: whether the bounds of the logits count as one more layer, as in the
            authors' implementation.
    """

    with_logits: bool = True
    name: str = "relaxation_area_loss"

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        bounds = before_relus(forward)
        if self.with_logits:
            bounds.append(forward.intervals[forward.graph.output])
        return relaxation_area(bounds)


@dataclasses.dataclass(frozen=True)
class ReluRelaxationMean:
    """Sum over layers of `mean_i relu(-l_i) relu(u_i)`, by IBP, `[batch]` (COLT)."""

    name: str = "relaxation_mean_loss"

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        areas = _areas(before_relus(forward))
        return tf.add_n([tf.reduce_mean(area, -1) for area in areas])


def relaxation_area(bounds: Sequence[IntervalBound]) -> tf.Tensor:
    """Returns the mean over layers of `sum_i relu(-l_i) relu(u_i)`, `[batch]`.

    Args:
        bounds: of what each layer's ReLU reads, `[batch, *shape]`; at least one.
    """
    areas = _areas(bounds)
    return tf.add_n([tf.reduce_sum(area, -1) for area in areas]) / len(areas)


def _areas(bounds):
    """Twice the area of each neuron's relaxation, `[batch, neurons]` for each layer."""
    return [
        flatten_from(tf.nn.relu(-bound.lower) * tf.nn.relu(bound.upper), 1)
        for bound in bounds
    ]
