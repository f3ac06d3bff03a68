"""Regularizers that read the bounds before each ReLU.

`BoundTightness`, `ReluBalance` and `CenterSpread` keep bounds tight while the radius
grows (arXiv:2103.17268, section 3.3); their statistics are over the whole batch and all
neurons of a layer. `ReluStability` counts unstable neurons.
"""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from robust_tf import layers
from robust_tf.bounds import IntervalBound
from robust_tf.bounds import flatten_from
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.replicas import count_replicas
from robust_tf.replicas import mean_over_replicas

_LEAST = 1e-12


@dataclasses.dataclass(frozen=True)
class BoundTightness:
    """Holds each layer's mean radius to at most 1 / tolerance of the input's.

    `[batch]`, equal: `mean over ReLUs of relu(1 - r_input / (tolerance r))`.
    """

    tolerance: float = 0.5
    name: str = "tightness_loss"

    def __post_init__(self):
        _check_tolerance(self.tolerance)

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        entrance = forward.intervals[normalized_input(forward.graph)]
        loss = bound_tightness(entrance, before_relus(forward), self.tolerance)
        return tf.fill(tf.shape(forward.labels), loss)


@dataclasses.dataclass(frozen=True)
class ReluBalance:
    """Balances neurons that are always active against those that never are.

    `[batch]`, equal; by the mean and the variance of the centres of either kind.
    """

    tolerance: float = 0.5
    name: str = "balance_loss"

    def __post_init__(self):
        _check_tolerance(self.tolerance)

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        loss = relu_balance(before_relus(forward), self.tolerance)
        return tf.fill(tf.shape(forward.labels), loss)


@dataclasses.dataclass(frozen=True)
class CenterSpread:
    """Holds each layer's standard deviation of centres above the tolerance.

    `[batch]`, equal: `mean over ReLUs of relu(1 - std(c) / tolerance)`, unbiased. The
    published system has it switched off.
    """

    tolerance: float = 0.5
    name: str = "spread_loss"

    def __post_init__(self):
        _check_tolerance(self.tolerance)

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        losses = []
        for bound in before_relus(forward):
            center = bound.center
            count = count_replicas() * tf.size(center)
            count = tf.cast(count, center.dtype)
            variance = _mean(tf.square(center - _mean(center))) * count / (count - 1.0)
            # A root's gradient is infinite at 0.
            losses.append(tf.nn.relu(self.tolerance - tf.sqrt(variance + _LEAST)))
        loss = tf.add_n(losses) / (self.tolerance * len(losses))
        return tf.fill(tf.shape(forward.labels), loss)


@dataclasses.dataclass(frozen=True)
class ReluStability:
    """`sum over neurons of -tanh(1 + l u)`, `[batch]` (RS loss, arXiv:1809.03008).

    Of the bounds before each ReLU; where a published system reads those behind it, this
    is not followed: there every neuron is stable.
    """

    name: str = "stability_loss"

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        return tf.add_n(
            [
                -tf.reduce_sum(flatten_from(tf.tanh(1.0 + b.lower * b.upper), 1), -1)
                for b in before_relus(forward)
            ]
        )


def bound_tightness(
    entrance: IntervalBound, bounds: Sequence[IntervalBound], tolerance: float
) -> tf.Tensor:
    """Returns the mean over layers of `relu(tolerance - r_0 / r) / tolerance`.

    Args:
        entrance: the normalised input; r_0 is its mean radius.
        bounds: of what each ReLU reads, `[batch, *shape]`; r is their mean radius.
        tolerance: share r_0 / r from which nothing is asked, above 0.
    """
    first = _mean(entrance.radius)
    losses = [
        tf.nn.relu(tolerance - first / tf.maximum(_mean(bound.radius), _LEAST))
        for bound in bounds
    ]
    return tf.add_n(losses) / (tolerance * len(losses))


def relu_balance(bounds: Sequence[IntervalBound], tolerance: float) -> tf.Tensor:
    """Returns the mean over layers of the imbalance of active and inactive neurons.

    With centres c, their mean m, A the active (l > 0) and I the inactive neurons
    (u < 0), two ratios are held near 1: the mean of c over A to that of -c over I, and
    the sum of (c - m)^2 over A to that over I. A layer without inactive neurons adds 0.

    Args:
        bounds: of what each ReLU reads, `[batch, *shape]`.
        tolerance: ratio (or its inverse) from which nothing is asked, above 0.
    """
    losses = [_imbalance(bound, tolerance) for bound in bounds]
    return tf.add_n(losses) / (tolerance * len(losses))


def normalized_input(graph: BoundGraph) -> int:
    """Returns the edge of the input, after the data set's normalisation."""
    edge = 0
    while True:
        consumers = graph.consumers(edge)
        scales = (layers.Normalization, layers.Rescaling)
        if len(consumers) != 1 or not isinstance(consumers[0].layer, scales):
            return edge
        edge = consumers[0].output


def _imbalance(bound, tolerance):
    center = bound.center
    active = tf.cast(bound.lower > 0.0, center.dtype)
    inactive = tf.cast(bound.upper < 0.0, center.dtype)
    squares = tf.square(center - _mean(center))
    losses = [
        tf.nn.relu(tolerance - _ratio(_mean(over), _mean(under)))
        for over, under in (
            (center * active, -center * inactive),
            (squares * active, squares * inactive),
        )
    ]
    # Without inactive neurons both ratios are infinite or undefined.
    is_defined = mean_over_replicas(tf.reduce_mean(inactive)) > 0.0
    return tf.where(is_defined, losses[0] + losses[1], 0.0)


def _ratio(over, under):
    """`over / under` or its inverse, whichever is below 1; no NaN in gradients."""
    is_defined = under > 0.0
    ratio = over / tf.where(is_defined, under, tf.ones_like(under))
    ratio = tf.minimum(ratio, 1.0 / tf.maximum(ratio, _LEAST))
    return tf.where(is_defined, ratio, tf.zeros_like(ratio))


def _mean(tensor):
    """Over the whole batch and all neurons."""
    return mean_over_replicas(tf.reduce_mean(tensor))


def before_relus(forward: CertifiedForward) -> list[IntervalBound]:
    """Returns the bounds that ReLU layers read, by IBP.

    Raises:
        InputError: for models without ReLU layers.
    """
    edges = forward.graph.inputs_of(layers.ReLU)
    if not edges:
        raise InputError(
            "Regularizers of bounds need a model with ReLU layers. Received: none"
        )
    return [forward.intervals[edge] for edge in edges]


def _check_tolerance(tolerance):
    if not tolerance > 0.0:
        raise InputError(f"`tolerance` must be above 0. Received: {tolerance}")
