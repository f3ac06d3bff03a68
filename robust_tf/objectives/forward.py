"""What one training batch yields, each part computed at most once."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation.crown import crown_margins
from robust_tf.propagation.interval import interval_bounds
from robust_tf.propagation.interval import interval_margins
from robust_tf.regions import LpBall
from robust_tf.specifications import margin_specification

# Below this weight the backward pass is left out (arXiv:1906.06316).
_LEAST_BETA = 1e-5


class ComputedOnce:
    """A property that is computed when first asked for, and kept.

    Before Python 3.12 `functools.cached_property` holds a lock while it computes: a
    replica that waits for the others in a reduction would keep them out for ever.
    """

    def __init__(self, function: Callable):
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        value = self._function(instance)
        instance.__dict__[self._function.__name__] = value  # Found before this is.
        return value


@dataclasses.dataclass(frozen=True)
class CertifiedForward:
    """Lazy results that objective terms share.

    Attributes:
        graph: the classifier.
        images: `[batch, *shape]`, in the valid range.
        labels: class indices, `[batch]`.
        region: what the images range over, at the current radius.
        ramp: scalar from 0 to 1, the current radius as a share of the target; kappa,
            beta and other weights follow it.
        seed: `[2]` integers, for attacks: another in each step and replica.
        training: whether batch statistics are used, and moved.
        relaxation: lower slopes of backward passes.
    """

    graph: BoundGraph
    images: tf.Tensor
    labels: tf.Tensor
    region: LpBall
    ramp: tf.Tensor
    seed: tf.Tensor
    training: bool
    relaxation: str = "adaptive"

    @property
    def epsilon(self) -> tf.Tensor:
        """The current radius, a scalar."""
        return self.region.radius

    @property
    def logits(self) -> tf.Tensor:
        """Of the clean images, `[batch, classes]`."""
        return self._clean[0]

    @property
    def choices(self) -> Choices:
        """Bounds use the statistics of the clean batch."""
        return Choices(self.relaxation, moments=self._clean[1])

    @ComputedOnce
    def rows(self) -> tf.Tensor:
        """`e_label - e_other`, `[batch, classes - 1, classes]`."""
        classes = self.logits.shape[-1]
        return margin_specification(self.labels, classes, self.images.dtype)

    @ComputedOnce
    def intervals(self) -> dict[int, IntervalBound]:
        """Bounds on every edge by IBP."""
        return interval_bounds(self.graph, self.region, self.choices)

    @ComputedOnce
    def interval_margins(self) -> tf.Tensor:
        """Lower bounds of the margins by IBP, last layer elided, `[batch, K - 1]`."""
        return interval_margins(
            self.graph, self.region, self.intervals, self.rows, self.choices
        )

    def crown_ibp_margins(self) -> tf.Tensor:
        """Lower bounds of the margins by CROWN-IBP, `[batch, K - 1]`."""
        return crown_margins(
            self.graph, self.region, self.intervals, self.rows, self.choices
        )

    def mixed_margins(self, final_beta: float) -> tf.Tensor:
        """`beta * CROWN-IBP + (1 - beta) * IBP`, `[batch, K - 1]`.

        beta follows the radius from 1 to `final_beta` (arXiv:1906.06316, eq. 11);
        where it has come to 0 the backward pass is left out.
        """
        if final_beta not in self._mixed:
            self._mixed[final_beta] = self._mix(final_beta)
        return self._mixed[final_beta]

    def _mix(self, final_beta):
        beta = tf.cast(1.0 - self.ramp * (1.0 - final_beta), self.images.dtype)
        by_interval = self.interval_margins
        return tf.cond(
            beta < _LEAST_BETA,
            lambda: by_interval,
            lambda: beta * self.crown_ibp_margins() + (1.0 - beta) * by_interval,
        )

    def attacked_logits(self, attack: Callable) -> tf.Tensor:
        """Logits of attacked images, `[batch, classes]`.

        The attack sees the classifier at inference; its result is then classified
        like a training batch of its own.
        """
        _ = self.logits  # The clean batch moves the statistics first.
        points = attack(
            lambda images: self.graph.forward(images)[0],
            self.region,
            self.labels,
            self.seed,
        )
        return self.graph.forward(points, self.training)[0]

    @ComputedOnce
    def is_correct(self) -> tf.Tensor:
        """1.0 where the clean prediction is right, `[batch]`."""
        predictions = tf.argmax(self.logits, -1, output_type=self.labels.dtype)
        return tf.cast(predictions == self.labels, tf.float32)

    @ComputedOnce
    def _mixed(self):
        """What `mixed_margins` has computed: a loss and a metric ask for the same."""
        return {}

    @ComputedOnce
    def _clean(self):
        """Logits of the clean images, and the statistics of the batch."""
        return self.graph.forward(self.images, self.training)
