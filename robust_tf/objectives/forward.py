"""What one training batch yields, each part computed at most once."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.objectives.computed_once import ComputedOnce
from robust_tf.objectives.idle_gradient import without_idle_gradient
from robust_tf.objectives.noise import Noise
from robust_tf.objectives.noise import NoisyForward
from robust_tf.objectives.shrinking import ShrinkingChoices
from robust_tf.objectives.small_boxes import small_box
from robust_tf.propagation.crown import crown_bounds
from robust_tf.propagation.crown import crown_margins
from robust_tf.propagation.interval import interval_bounds
from robust_tf.propagation.interval import interval_margins
from robust_tf.propagation.random_projections import estimated_bounds
from robust_tf.regions import LpBall
from robust_tf.regions import Region
from robust_tf.specifications import margin_specification

# Below this weight the backward pass is left out (arXiv:1906.06316).
_LEAST_BETA = 1e-5
_STATISTICS = ("clean", "adversarial")


@dataclasses.dataclass(frozen=True)
class Adversary:
    """The attack on each training batch, and what the bounds take from it.

    Attributes:
        attack: such as `attacks.pgd.PGD`: `(logits_fn, region, labels, seed)` to
            images.
        radius_factor: the radius that is attacked, over that of the bounds.
        box_share: None, or lambda of SABR (arXiv:2210.04871): bounds in training are
            over boxes of this share of the attacked radius, around the attacked
            images, and certify nothing.
        unstable_share: what unstable ReLUs keep of their upper bounds in such boxes, in
            (0, 1]; 1 for all (`shrinking.ShrinkingChoices`).
        statistics: what BatchNormalization uses in the bounds: those of the "clean"
            batch (arXiv:2103.17268), or of the "adversarial" one (arXiv:2305.13991).
        share: of each batch (and replica) that is attacked, its first examples, in
            (0, 1]; the rest stays as it is (arXiv:1810.07481).

    Raises:
        InputError: for values out of range.
    """

    attack: Callable
    radius_factor: float = 1.0
    box_share: float | None = None
    statistics: str = "clean"
    unstable_share: float = 1.0
    share: float = 1.0

    def __post_init__(self):
        if not 0.0 < self.radius_factor < float("inf"):
            raise InputError(
                f"`radius_factor` must be above 0. Received: {self.radius_factor}"
            )
        if self.box_share is not None and not 0.0 <= self.box_share <= 1.0:
            raise InputError(
                f"`box_share` must lie in [0, 1], or be None. Received: "
                f"{self.box_share}"
            )
        if not 0.0 < self.unstable_share <= 1.0:
            raise InputError(
                f"`unstable_share` must lie in (0, 1]. Received: {self.unstable_share}"
            )
        if self.unstable_share < 1.0 and self.box_share is None:
            raise InputError(
                "`unstable_share` belongs to small boxes, as with it bounds prove "
                f"nothing. Received: {self.unstable_share}, and no `box_share`. Set "
                "both, or neither."
            )
        if not 0.0 < self.share <= 1.0:
            raise InputError(f"`share` must lie in (0, 1]. Received: {self.share}")
        if self.share < 1.0 and self.box_share is not None:
            raise InputError(
                "Small boxes lie around attacked images; `share` leaves some clean. "
                f"Received: `share` {self.share} and `box_share` {self.box_share}. Set "
                "one of them."
            )
        if self.statistics not in _STATISTICS:
            raise InputError(
                f"`statistics` must be one of {_STATISTICS}. Received: "
                f"{self.statistics!r}"
            )


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
        adversary: attacks the batch, where a term asks for it.
        noise: on copies of the batch, where a term asks for them.
        targets: probabilities of the classes, `[batch, classes]`, or None.
        epoch: number of the current epoch, from 1, an integer scalar.
        is_at_variables: whether the weights are the classifier's variables, not tensors
            in their place (as in `keras.StatelessScope`).
    """

    graph: BoundGraph
    images: tf.Tensor
    labels: tf.Tensor
    region: LpBall
    ramp: tf.Tensor
    seed: tf.Tensor
    training: bool
    relaxation: str = "adaptive"
    adversary: Adversary | None = None
    noise: Noise | None = None
    targets: tf.Tensor | None = None
    epoch: int | tf.Tensor = 1
    is_at_variables: bool = True

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
        """Bounds use the statistics of the clean batch, or of the attacked one."""
        adversary = self.adversary
        if adversary is None or not self.training:
            return Choices(self.relaxation, moments=self._clean[1])
        is_clean = adversary.statistics == "clean"
        moments = self._clean[1] if is_clean else self._adversarial[1]
        if adversary.unstable_share == 1.0:
            return Choices(self.relaxation, moments=moments)
        return ShrinkingChoices(
            self.relaxation, moments=moments, unstable_share=adversary.unstable_share
        )

    @ComputedOnce
    def bound_region(self) -> Region:
        """What is bounded: `region`, in SABR's training a small box within it."""
        adversary = self.adversary
        if adversary is None or adversary.box_share is None or not self.training:
            return self.region
        return small_box(self._attacked_region, self.attacked, adversary.box_share)

    @ComputedOnce
    def rows(self) -> tf.Tensor:
        """`e_label - e_other`, `[batch, classes - 1, classes]`."""
        classes = self.logits.shape[-1]
        return margin_specification(self.labels, classes, self.images.dtype)

    @ComputedOnce
    def intervals(self) -> dict[int, IntervalBound]:
        """Bounds on every edge by IBP."""
        return interval_bounds(self.graph, self.bound_region, self.choices)

    @ComputedOnce
    def interval_margins(self) -> tf.Tensor:
        """Lower bounds of the margins by IBP, last layer elided, `[batch, K - 1]`."""
        return self._interval_bounds(self.rows)

    def interval_lower_differences(self) -> tf.Tensor:
        """Lower bounds of `z_other - z_label` by IBP, `[batch, K - 1]`."""
        return self._interval_bounds(-self.rows)

    def crown_ibp_margins(self) -> tf.Tensor:
        """Lower bounds of the margins by CROWN-IBP, `[batch, K - 1]`."""
        return self.crown_ibp_bounds(self.rows)

    def crown_ibp_bounds(self, rows: tf.Tensor) -> tf.Tensor:
        """Lower bounds by CROWN-IBP of rows over the logits, `[batch, rows]`."""
        return crown_margins(
            self.graph, self.bound_region, self.intervals, rows, self.choices
        )

    def crown_margins(self, relaxation: str) -> tf.Tensor:
        """Lower bounds of the margins by CROWN, `[batch, K - 1]`.

        Every intermediate bound is by backward passes of its own, without the interval
        rule (arXiv:1811.00866); "same-slope" makes this the convex adversarial polytope
        (arXiv:1711.00851).

        Args:
            relaxation: lower slopes of unstable ReLUs.
        """

        def bounds(choices):
            return crown_bounds(self.graph, self.bound_region, (choices,), False)

        return self._once(
            ("crown", relaxation), lambda: self._margins_over(bounds, relaxation)
        )

    def estimated_margins(self, projections: int) -> tf.Tensor:
        """Those of the convex adversarial polytope, of estimated intermediate bounds.

        `[batch, K - 1]`. They prove nothing (`propagation.random_projections`).

        Args:
            projections: random vectors for each norm.
        """

        def bounds(choices):
            return estimated_bounds(
                self.graph, self.bound_region, choices, projections, self.seed
            )

        return self._once(
            ("estimated", projections),
            lambda: self._margins_over(bounds, "same-slope"),
        )

    def _margins_over(self, bounds, relaxation):
        choices = dataclasses.replace(self.choices, relaxation=relaxation)
        graph, region = self.graph, self.bound_region
        return crown_margins(graph, region, bounds(choices), self.rows, choices)

    def _once(self, key, function):
        """The result of a function: a loss and a metric ask for the same."""
        if key not in self._computed:
            self._computed[key] = function()
        return self._computed[key]

    def _interval_bounds(self, rows):
        return interval_margins(
            self.graph, self.bound_region, self.intervals, rows, self.choices
        )

    def mixed_margins(self, final_beta: float) -> tf.Tensor:
        """`beta * CROWN-IBP + (1 - beta) * IBP`, `[batch, K - 1]`.

        beta follows the radius from 1 to `final_beta` (arXiv:1906.06316, eq. 11);
        where it has come to 0 the backward pass is left out.
        """
        return self._once(
            ("mixed", final_beta),
            lambda: self.blend(
                self.interval_margins, self.crown_ibp_margins, final_beta
            ),
        )

    def blend(self, by_interval: tf.Tensor, by_crown_ibp: Callable, final_beta: float):
        """`beta * by_crown_ibp() + (1 - beta) * by_interval`, without it at beta 0."""
        beta = tf.cast(1.0 - self.ramp * (1.0 - final_beta), self.images.dtype)
        return tf.cond(
            beta < _LEAST_BETA,
            lambda: by_interval,
            lambda: beta * by_crown_ibp() + (1.0 - beta) * by_interval,
        )

    @ComputedOnce
    def attacked(self) -> tf.Tensor:
        """Images that the adversary found, without gradient, `[batch, *shape]`.

        With a `share` below 1 the rest of the batch follows as it is. The attack sees
        the classifier at inference, after the clean batch has moved its statistics.
        """
        _ = self.logits
        adversary, region = self._given_adversary, self._attacked_region
        logits_fn = self.graph.inference()
        if adversary.share == 1.0:
            return adversary.attack(logits_fn, region, self.labels, self.seed)
        size = self.images.shape[0]
        if size is not None and int(size * adversary.share) == 0:
            return self.images
        size = tf.cast(tf.shape(self.images)[0], tf.float64)
        count = tf.cast(size * adversary.share, tf.int32)
        part = LpBall(region.x[:count], region.radius, region.norm, region.valid_range)
        found = adversary.attack(logits_fn, part, self.labels[:count], self.seed)
        return tf.concat([found, self.images[count:]], 0)

    @ComputedOnce
    def noisy(self) -> NoisyForward:
        """Results on noisy copies, for smoothing."""
        if self.noise is None:
            raise InputError(
                "The objective has a term over noisy copies, and no `noise`. Give it "
                "one: `Noise(sigma=0.25)`."
            )
        return NoisyForward(
            graph=self.graph,
            noise=self.noise,
            images=self.images,
            labels=self.labels,
            radius=self.epsilon,
            seed=self.seed,
            training=self.training,
        )

    @property
    def soft_targets(self) -> tf.Tensor:
        """Probabilities of the classes that come with the batch, `[batch, classes]`."""
        if self.targets is None:
            raise InputError(
                "The objective has a term over soft targets, and the batches have "
                "none. Compute them by `bin/soft_targets.py`, and name their file: "
                "`settings.Data.soft_targets = 'FILE'`."
            )
        return self.targets

    @property
    def adversarial_logits(self) -> tf.Tensor:
        """Of the attacked images, a training batch of their own, `[batch, classes]`."""
        return self._adversarial[0]

    @ComputedOnce
    def adversarial_margins(self) -> tf.Tensor:
        """`z_label - z_other` at the attacked images, `[batch, K - 1]`."""
        return tf.linalg.matvec(self.rows, self.adversarial_logits)

    @ComputedOnce
    def is_correct(self) -> tf.Tensor:
        """1.0 where the clean prediction is right, `[batch]`."""
        predictions = tf.argmax(self.logits, -1, output_type=self.labels.dtype)
        return tf.cast(predictions == self.labels, tf.float32)

    @ComputedOnce
    def _computed(self):
        """Results of `_once`, by its keys."""
        return {}

    @property
    def _given_adversary(self) -> Adversary:
        if self.adversary is None:
            raise InputError(
                "The objective has a term that needs attacked images, and no "
                "`adversary`. Give it one: `Adversary(attack=PGD(...))`."
            )
        return self.adversary

    @property
    def _attacked_region(self):
        """The ball that the adversary may choose from."""
        region, factor = self.region, self._given_adversary.radius_factor
        return LpBall(region.x, factor * region.radius, region.norm, region.valid_range)

    @ComputedOnce
    def _adversarial(self):
        """Logits of the attacked images, and the statistics of that batch."""
        return self.graph.forward(self.attacked, self.training)

    @ComputedOnce
    def _clean(self):
        """Logits of the clean images, and the statistics of the batch."""

        def forward():
            return self.graph.forward(self.images, self.training)

        adversary = self.adversary
        if adversary is None or adversary.statistics == "clean":
            return forward()
        if not (self.training and self.is_at_variables):
            return forward()
        # Most losses that use the statistics of attacked images read those alone.
        return without_idle_gradient(forward)
