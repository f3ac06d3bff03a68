"""Maximum margin regularization: MMR (arXiv:1810.07481), MMR-Universal (1905.11213)."""

import dataclasses

import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.propagation.linear_regions import NUMERICS
from robust_tf.propagation.linear_regions import LinearRegions
from robust_tf.regions import parse_norm

_POINTS = ("clean", "attacked")


@dataclasses.dataclass(frozen=True)
class Margin:
    """How far away, in one norm, boundaries shall be.

    Attributes:
        norm: "inf", or the p of an Lp norm; None for that of the threat.
        gamma_region: distance of region boundaries from which nothing is asked, in
            pixels in [0, 1], above 0; what a published file name calls 6 is 6/255.
        gamma_decision: the same, of decision boundaries.
        weight: lambda, at least 0.

    Raises:
        InputError: for values out of range.
    """

    gamma_region: float
    gamma_decision: float
    weight: float = 1.0
    norm: str | float | None = None

    def __post_init__(self):
        for name in ("gamma_region", "gamma_decision"):
            value = getattr(self, name)
            if not 0.0 < value < float("inf"):
                raise InputError(
                    f"`{name}` must be finite and above 0, in the unit of pixels in "
                    f"[0, 1]. Received: {value}"
                )
            if self.norm is not None and parse_norm(self.norm) == float("inf"):
                _check_width(name, value)
        if not 0.0 <= self.weight < float("inf"):
            raise InputError(
                f"`weight` must be finite and at least 0. Received: {self.weight}"
            )


@dataclasses.dataclass(frozen=True)
class MaximumMargin:
    """Pushes the nearest region boundaries, and decision boundaries, away, `[batch]`.

    In one norm `lambda (rb / k + db / K)`: rb sums `max(0, 1 - d / gamma)` over the k
    nearest region boundaries of all layers, db over all K - 1 decision boundaries,
    whose distance is below 0 where the label loses. With several norms, the sum of
    these values, each over all boundaries that are among the k nearest in one norm.
    (The paper divides db by K - 1; the published system by K, and so does this, unless
    `over_rivals`.)

    In epoch e, from 1, `k = floor(n_0 + (n_1 - n_0) min(e / epochs, 1))`, n_0 and n_1
    being `floor` of both shares of all neurons, and at least 1; and lambda is `min(e /
    warm_up, 1)` of its value.

    Attributes:
        by_norm: one for each norm.
        epochs: until `final_share` is reached.
        initial_share: of all neurons before activations, above 0.
        final_share: not above `initial_share`, above 0.
        warm_up: epochs until lambda is reached; 0: from the start.
        points: "clean" images, or "attacked" ones, as the adversary leaves them.
        numerics: of `linear_regions.LinearRegions`.
        over_rivals: divide db by K - 1.

    Raises:
        InputError: for values out of range.
    """

    by_norm: tuple[Margin, ...]
    epochs: int
    initial_share: float = 0.1
    final_share: float = 0.02
    warm_up: int = 10
    points: str = "clean"
    numerics: str = "exact"
    over_rivals: bool = False
    name: str = "margin_loss"

    def __post_init__(self):
        if not self.by_norm or not all(isinstance(m, Margin) for m in self.by_norm):
            raise InputError(
                f"`by_norm` must hold one `Margin` or more. Received: {self.by_norm!r}"
            )
        if not 0.0 < self.final_share <= self.initial_share <= 1.0:
            raise InputError(
                "Shares must satisfy 0 < final_share <= initial_share <= 1. Received: "
                f"final_share {self.final_share}, initial_share {self.initial_share}"
            )
        if self.epochs < 1 or self.warm_up < 0:
            raise InputError(
                "`epochs` must be at least 1, `warm_up` at least 0. Received: "
                f"{self.epochs} and {self.warm_up}"
            )
        for name, value, known in (
            ("points", self.points, _POINTS),
            ("numerics", self.numerics, NUMERICS),
        ):
            if value not in known:
                raise InputError(
                    f"`{name}` must be one of {known}. Received: {value!r}"
                )

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        is_clean = self.points == "clean"
        regions = LinearRegions.around(
            forward.graph,
            forward.images if is_clean else forward.attacked,
            forward.choices,
            self.numerics,
        )
        share = tf.cast(forward.epoch, tf.float32) / max(self.warm_up, 1)
        warmth = tf.minimum(share, 1.0) if self.warm_up else tf.ones([])
        loss = self.value(regions, forward.rows, forward.epoch, forward.region.norm)
        return tf.cast(warmth, loss.dtype) * loss

    def value(
        self, regions: LinearRegions, rows: tf.Tensor, epoch, norm: float = 0.0
    ) -> tf.Tensor:
        """Returns the regularizer at full lambda, `[batch]`.

        Args:
            regions: around the points.
            rows: `e_label - e_other`, `[batch, K - 1, K]`.
            epoch: that decides on k, from 1.
            norm: p where a `Margin` leaves it open.
        """
        norms = [norm if m.norm is None else parse_norm(m.norm) for m in self.by_norm]
        for margin, p in zip(self.by_norm, norms, strict=True):
            if p == float("inf"):
                _check_width("gamma_region", margin.gamma_region)
                _check_width("gamma_decision", margin.gamma_decision)
        boundaries = regions.boundary_distances(norms)
        decisions = regions.decision_distances(rows, norms)
        most, count = self.neurons(boundaries[0].shape[-1], epoch)
        chosen = nearest(boundaries, most, count)
        divisor = rows.shape[-1] - 1 if self.over_rivals else rows.shape[-1]
        parts = []
        for margin, d_region, d_decision in zip(
            self.by_norm, boundaries, decisions, strict=True
        ):
            rb = tf.reduce_sum(chosen * _hinge(d_region, margin.gamma_region), -1)
            db = tf.reduce_sum(_hinge(d_decision, margin.gamma_decision), -1)
            value = rb / tf.cast(count, rb.dtype) + db / divisor
            parts.append(margin.weight * value)
        return tf.add_n(parts)

    def neurons(self, total: int, epoch) -> tuple[int, tf.Tensor]:
        """Returns the greatest number of region boundaries that count, and that now.

        Args:
            total: neurons before activations.
            epoch: from 1, a number or an integer scalar.
        """
        first, last = int(self.initial_share * total), int(self.final_share * total)
        done = tf.minimum(tf.cast(epoch, tf.float64) / self.epochs, 1.0)
        count = tf.cast(first + (last - first) * done, tf.int32)  # Truncates.
        return max(first, 1), tf.maximum(count, 1)


def nearest(distances: list[tf.Tensor], most: int, count: tf.Tensor) -> tf.Tensor:
    """Returns 1.0 for boundaries among the nearest ones in some norm, 0.0 elsewhere.

    Args:
        distances: for each norm, `[batch, neurons]`.
        most: what `count` does not exceed.
        count: of the nearest ones of each norm; of equal ones the first are taken.

    Returns:
        `[batch, neurons]`, without gradient.
    """
    chosen = tf.zeros_like(distances[0])
    taken = tf.cast(tf.range(most) < count, chosen.dtype)
    for distance in distances:
        order = tf.math.top_k(-tf.stop_gradient(distance), most).indices
        examples = tf.broadcast_to(
            tf.range(tf.shape(order)[0])[:, None], tf.shape(order)
        )
        places = tf.stack([examples, order], -1)
        updates = tf.broadcast_to(taken, tf.shape(order))
        chosen = tf.tensor_scatter_nd_max(chosen, places, updates)
    return tf.stop_gradient(chosen)


def _hinge(distances, gamma):
    return tf.nn.relu(1.0 - distances / tf.constant(gamma, distances.dtype))


def _check_width(name, value):
    if value >= 1.0:
        raise InputError(
            f"`{name}` for the Linf norm must be below 1, the width of the range of "
            f"pixels. Received: {value}. Published file names give 6 for 6/255: write "
            f"{value:g} / 255 if that is meant."
        )
