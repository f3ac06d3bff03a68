"""Objective terms: each maps a forward pass to one loss per example."""

import dataclasses

import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.layers.activations import RELAXATIONS
from robust_tf.objectives.forward import Adversary
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.objectives.noise import Noise
from robust_tf.propagation.random_projections import check_projections


@dataclasses.dataclass(frozen=True)
class StandardCrossEntropy:
    """Cross-entropy on the clean images, `[batch]`."""

    name: str = "standard_loss"

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(
            forward.labels, forward.logits
        )


@dataclasses.dataclass(frozen=True)
class IntervalCrossEntropy:
    """Cross-entropy of the worst logits by IBP (arXiv:1810.12715), `[batch]`."""

    name: str = "certified_loss"

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        return margin_cross_entropy(self.margins(forward))

    def margins(self, forward: CertifiedForward) -> tf.Tensor:
        """Lower bounds of the margins, `[batch, classes - 1]`."""
        return forward.interval_margins


@dataclasses.dataclass(frozen=True)
class ThresholdedIntervalCrossEntropy:
    """IBP's loss, 0 for examples that are certified confidently enough, `[batch]`.

    Those whose certified probability q of the label, `-log q` the loss, is at least
    `1 - margin * ramp`: an option (`ls`) of the system of arXiv:2103.17268.

    Attributes:
        margin: distance from 1 at the target radius, in [0, 1].
    """

    margin: float
    name: str = "certified_loss"

    def __post_init__(self):
        if not 0.0 <= self.margin <= 1.0:
            raise InputError(f"`margin` must lie in [0, 1]. Received: {self.margin}")

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        losses = margin_cross_entropy(forward.interval_margins)
        threshold = 1.0 - self.margin * tf.cast(forward.ramp, losses.dtype)
        return tf.where(tf.exp(-losses) < threshold, losses, tf.zeros_like(losses))

    def margins(self, forward: CertifiedForward) -> tf.Tensor:
        """Lower bounds of the margins, `[batch, classes - 1]`."""
        return forward.interval_margins


@dataclasses.dataclass(frozen=True)
class CrownIbpCrossEntropy:
    """Cross-entropy of the worst logits by CROWN-IBP (arXiv:1906.06316), `[batch]`.

    The margins are mixed with those of IBP: the weight of CROWN-IBP follows the radius
    from 1 to `final_beta`.
    """

    final_beta: float = 0.0
    name: str = "certified_loss"

    def __post_init__(self):
        if not 0.0 <= self.final_beta <= 1.0:
            raise InputError(
                f"`final_beta` must lie in [0, 1]. Received: {self.final_beta}"
            )

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        return margin_cross_entropy(self.margins(forward))

    def margins(self, forward: CertifiedForward) -> tf.Tensor:
        """Lower bounds of the margins, `[batch, classes - 1]`."""
        return forward.mixed_margins(self.final_beta)


@dataclasses.dataclass(frozen=True)
class ConvexAdversarialCrossEntropy:
    """Cross-entropy of the worst logits by the convex adversarial polytope, `[batch]`.

    Wong and Kolter's training (arXiv:1711.00851), with exact dual norms.
    """

    name: str = "certified_loss"

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        return margin_cross_entropy(self.margins(forward))

    def margins(self, forward: CertifiedForward) -> tf.Tensor:
        """Lower bounds of the margins, `[batch, classes - 1]`."""
        return forward.crown_margins("same-slope")


@dataclasses.dataclass(frozen=True)
class EstimatedConvexAdversarialCrossEntropy:
    """`ConvexAdversarialCrossEntropy`, its norms in training estimated, `[batch]`.

    By random projections (arXiv:1805.12514): training certifies nothing. Validation,
    as any measurement, has exact norms.

    Attributes:
        projections: random vectors for each norm.
    """

    projections: int = 50
    name: str = "estimated_loss"

    is_certified_in_training = False

    def __post_init__(self):
        check_projections(self.projections)

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        if forward.training:
            return margin_cross_entropy(forward.estimated_margins(self.projections))
        return margin_cross_entropy(self.margins(forward))

    def margins(self, forward: CertifiedForward) -> tf.Tensor:
        """Lower bounds of the margins, with exact norms, `[batch, classes - 1]`."""
        return forward.crown_margins("same-slope")


@dataclasses.dataclass(frozen=True)
class CrownCrossEntropy:
    """Cross-entropy of the worst logits by CROWN (arXiv:1811.00866), `[batch]`.

    Intermediate bounds are by backward passes too, as in `crown-full` of the system of
    arXiv:1906.06316: many times the cost of CROWN-IBP.

    Attributes:
        relaxation: lower slopes of unstable ReLUs.
    """

    relaxation: str = "adaptive"
    name: str = "certified_loss"

    def __post_init__(self):
        if self.relaxation not in RELAXATIONS:
            raise InputError(
                f"`relaxation` must be one of {RELAXATIONS}. Received: "
                f"{self.relaxation!r}"
            )

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        return margin_cross_entropy(self.margins(forward))

    def margins(self, forward: CertifiedForward) -> tf.Tensor:
        """Lower bounds of the margins, `[batch, classes - 1]`."""
        return forward.crown_margins(self.relaxation)


@dataclasses.dataclass(frozen=True)
class AdversarialCrossEntropy:
    """Cross-entropy on the images that the adversary found (arXiv:1706.06083)."""

    name: str = "adversarial_loss"

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(
            forward.labels, forward.adversarial_logits
        )


@dataclasses.dataclass(frozen=True)
class L1Penalty:
    """The sum of all magnitudes of kernels; `[batch]`, equal.

    Attributes:
        include_scales: also the scales of BatchNormalization (as arXiv:1906.06316
            does, arXiv:2305.13991 does not).
    """

    include_scales: bool = False
    name: str = "l1_penalty"

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        left_out = (
            ["bias", "beta"] if self.include_scales else ["bias", "beta", "gamma"]
        )
        sums = [
            tf.reduce_sum(tf.abs(tf.convert_to_tensor(variable)))
            for node in forward.graph.nodes
            for variable in node.layer.trainable_variables
            if variable.name not in left_out
        ]
        if not sums:
            raise InputError("An `L1Penalty` needs a model with kernels.")
        return tf.fill(tf.shape(forward.labels), tf.add_n(sums))


@dataclasses.dataclass(frozen=True)
class BeforeRamp:
    """The weight `value` while the radius is 0, and 0 from the first step above."""

    value: float = 1.0

    def __call__(self, ramp: tf.Tensor) -> tf.Tensor:
        return tf.where(ramp > 0.0, tf.zeros_like(ramp), self.value)


@dataclasses.dataclass(frozen=True)
class FromRamp:
    """The weight 0 while the radius is 0, and `value` from the first step above."""

    value: float = 1.0

    def __call__(self, ramp: tf.Tensor) -> tf.Tensor:
        return tf.where(ramp > 0.0, self.value, tf.zeros_like(ramp))


@dataclasses.dataclass(frozen=True)
class FollowsRadius:
    """A weight that goes from `initial` to `final` as the radius reaches its target."""

    initial: float
    final: float

    def __call__(self, ramp: tf.Tensor) -> tf.Tensor:
        return self.initial + ramp * (self.final - self.initial)


@dataclasses.dataclass(frozen=True)
class WeightedSum:
    """`sum_i weights_i * terms_i`, `[batch]`.

    Attributes:
        terms: with different names.
        weights: one for each term: a number, or a function of the ramp of the radius,
            such as `FollowsRadius`.
        method: what the combination is called, in records.
        adversary: attacks each batch, for terms that need it.
        reported: further terms, for logs alone.
        noise: on copies of each batch, for terms that need them. The classifier is then
            meant to be smoothed.
    """

    terms: tuple
    weights: tuple
    method: str = "custom"
    adversary: Adversary | None = None
    reported: tuple = ()
    noise: Noise | None = None

    def __post_init__(self):
        names = list(self.names)
        if not names or len(set(names)) < len(names):
            raise InputError(
                "An objective needs at least one term, and one name for each. "
                f"Received: {names}"
            )
        if len(self.weights) != len(self.terms):
            raise InputError(
                f"An objective needs one weight for each of its {len(self.terms)} "
                f"terms {names}. Received: {len(self.weights)} weights"
            )

    def __call__(self, forward: CertifiedForward):
        """Returns the loss of each example, and the terms by name, for logs."""
        parts = {term.name: term(forward) for term in self._all_terms}
        weights = [w(forward.ramp) if callable(w) else w for w in self.weights]
        losses = [parts[term.name] for term in self.terms]
        pairs = zip(weights, losses, strict=True)
        return tf.add_n([tf.cast(w, loss.dtype) * loss for w, loss in pairs]), parts

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the terms, in order."""
        return tuple(term.name for term in self._all_terms)

    @property
    def _all_terms(self) -> tuple:
        return (*self.terms, *self.reported)

    def margins(self, forward: CertifiedForward) -> tf.Tensor | None:
        """The margins that the first certified term proves; None without one."""
        for term in self.terms:
            if hasattr(term, "margins"):
                return term.margins(forward)
        return None

    @property
    def is_certified(self) -> bool:
        """Whether a term proves margins."""
        return any(hasattr(term, "margins") for term in self.terms)

    @property
    def is_certified_in_training(self) -> bool:
        """Whether those of training hold over the whole region, not a part of it."""
        if self.adversary is not None and self.adversary.box_share is not None:
            return False
        return (
            all(getattr(term, "is_certified_in_training", True) for term in self.terms)
            and self.is_certified
        )


def robust_natural(final_kappa: float = 0.5, final_beta: float | None = 0.0):
    """`(1 - kappa) * certified + kappa * standard` (arXiv:1906.06316, section 4).

    Args:
        final_kappa: kappa follows the radius from 1 to this.
        final_beta: weight of CROWN-IBP at the end; None for IBP alone.
    """
    return WeightedSum(
        (_certified(final_beta), StandardCrossEntropy()),
        (FollowsRadius(0.0, 1.0 - final_kappa), FollowsRadius(1.0, final_kappa)),
        _method(final_beta),
    )


def robust(final_beta: float | None = 0.0):
    """The certified loss alone; `final_beta` as in `robust_natural`."""
    return WeightedSum((_certified(final_beta),), (1.0,), _method(final_beta))


def natural():
    """The standard loss alone."""
    return WeightedSum((StandardCrossEntropy(),), (1.0,), "natural")


def margin_cross_entropy(margins: tf.Tensor) -> tf.Tensor:
    """Cross-entropy where each other class lies `margins` below the label, `[batch]`.

    Args:
        margins: lower bounds of `z_label - z_other`, `[batch, classes - 1]`.
    """
    own = tf.zeros_like(margins[:, :1])
    return tf.reduce_logsumexp(tf.concat([own, -margins], -1), -1)


def is_verified(margins: tf.Tensor) -> tf.Tensor:
    """1.0 where all margins are proved positive, `[batch]`; a tie is not."""
    return tf.cast(tf.reduce_all(margins > 0.0, -1), tf.float32)


def _certified(final_beta):
    if final_beta is None:
        return IntervalCrossEntropy()
    return CrownIbpCrossEntropy(final_beta)


def _method(final_beta) -> str:
    return "ibp" if final_beta is None else "crown-ibp"
