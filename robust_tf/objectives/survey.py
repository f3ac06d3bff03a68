"""Losses over a whole data set, of a classifier as it is: nothing is trained.

One pass gathers what all of them are made of; any number of coefficients is then free.
Only SABR bounds anew for each.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.objectives.expressive import CcIbp
from robust_tf.objectives.expressive import ExpIbp
from robust_tf.objectives.expressive import MtlIbp
from robust_tf.objectives.forward import Adversary
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.objectives.small_boxes import small_box
from robust_tf.objectives.terms import IntervalCrossEntropy
from robust_tf.objectives.terms import StandardCrossEntropy
from robust_tf.objectives.terms import margin_cross_entropy
from robust_tf.propagation.compute import compute_bounds
from robust_tf.regions import Threat

SABR = "sabr"
_MIXTURES = {"cc-ibp": CcIbp, "mtl-ibp": MtlIbp, "exp-ibp": ExpIbp}
METHODS = (*_MIXTURES, SABR)


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """What a classifier makes of each example; terms take it for a forward pass.

    Its batch is the whole set, so the means that Exp-IBP takes to a power are those of
    the set. All arrays are NumPy's, float64.

    Attributes:
        labels: class indices, `[n]`.
        logits: of the clean images, `[n, classes]`.
        tested_logits: where the test attack ended, `[n, classes]`.
        adversarial_logits: where the attack of training ended, `[n, classes]`.
        adversarial_margins: `z_label - z_other` there, `[n, classes - 1]`.
        interval_margins: their lower bounds by IBP, `[n, classes - 1]`.
        crown_margins: the element-wise best of IBP and CROWN, `[n, classes - 1]`; None
            where it was not asked for.
        sabr: SABR's loss of each example, `[n]`, by coefficient.
    """

    labels: np.ndarray
    logits: np.ndarray
    tested_logits: np.ndarray
    adversarial_logits: np.ndarray
    adversarial_margins: np.ndarray
    interval_margins: np.ndarray
    crown_margins: np.ndarray | None
    sabr: dict[float, np.ndarray]

    def natural_losses(self) -> np.ndarray:
        """Cross-entropy of the clean images, in nats, `[n]`."""
        return StandardCrossEntropy()(self).numpy()

    def adversarial_losses(self) -> np.ndarray:
        """Cross-entropy where the test attack ended, in nats, `[n]`."""
        tested = dataclasses.replace(self, logits=self.tested_logits)
        return StandardCrossEntropy()(tested).numpy()

    def interval_losses(self) -> np.ndarray:
        """Cross-entropy of the worst logits by IBP, in nats, `[n]`."""
        return IntervalCrossEntropy()(self).numpy()

    def losses(self, method: str, coefficient: float) -> np.ndarray:
        """The loss that a method trains by, in nats, `[n]`; for Exp-IBP all are equal.

        Args:
            method: one of `METHODS`.
            coefficient: in [0, 1]; for SABR one that the survey was made with.

        Raises:
            InputError: for another method, or a coefficient out of range.
        """
        if method == SABR:
            return self.sabr[coefficient]
        return _mixture(method, coefficient)(self).numpy()

    def single_losses(self, method: str, coefficient: float) -> np.ndarray:
        """As `losses`, each example a batch of its own: Exp-IBP's powers differ."""
        if _MIXTURES.get(method) is not ExpIbp:
            return self.losses(method, coefficient)
        term = _mixture(method, coefficient)
        names = ("labels", "adversarial_logits", "interval_margins")

        def single(parts):
            batch = {name: part[None] for name, part in parts.items()}
            return term(dataclasses.replace(self, **batch))[0]

        parts = {name: tf.convert_to_tensor(getattr(self, name)) for name in names}
        losses = tf.map_fn(single, parts, fn_output_signature=tf.float64)
        return losses.numpy()

    def is_clean(self) -> np.ndarray:
        """Whether the prediction is right, booleans, `[n]`."""
        return self.logits.argmax(-1) == self.labels


def survey(
    model: keras.Model,
    batches: Iterable,
    threat: Threat,
    *,
    attack: Callable,
    adversary: Adversary | None = None,
    coefficients: Sequence[float] = (),
    with_crown: bool = True,
    relaxation: str = "adaptive",
    memory_budget_mb: float | None = None,
    seed: int = 0,
    progress: Callable = lambda _: None,
) -> Outcomes:
    """Gathers what the losses of a classifier are made of, example by example.

    BatchNormalization uses its moving statistics throughout, so that margins at
    attacked points of the threat lie above their bounds.

    Args:
        model: from `robust_tf.convert`.
        batches: of (images, labels, weights); weight 0 marks padding.
        threat: perturbations that are bounded, and that the test attack chooses from.
        attack: the test attack, such as `attacks.pgd.PGD`.
        adversary: the attack of training losses, and its radius over that of the
            bounds (arXiv:2305.13991: 2.1 at small radii), which is also that of SABR's
            ball; None for the test attack.
        coefficients: of SABR, in [0, 1], each for a pass of bounds; Linf alone.
        with_crown: whether CROWN is computed.
        relaxation: of `compute_bounds`, for CROWN.
        memory_budget_mb: of `compute_bounds`.
        seed: of the attacks.
        progress: called with the number of examples done after each batch.

    Raises:
        InputError: for values out of range, a norm that SABR has no boxes for, or
            batches without examples.
    """
    coefficients = tuple(map(_checked_coefficient, coefficients))
    adversary = adversary or Adversary(attack)
    views = _Views(BoundGraph.from_model(model), threat, attack, adversary)

    @tf.function(autograph=False, reduce_retracing=True)
    def examine(images, labels, seed):
        found, forward = views.examine(images, labels, seed)
        if with_crown:
            bound = compute_bounds(
                model,
                forward.region,
                "crown",
                forward.rows,
                relaxation=relaxation,
                memory_budget_mb=memory_budget_mb,
            )
            best = tf.maximum(bound.lower, forward.interval_margins)
            found["crown_margins"] = best
        return found, forward.attacked

    shrunk = tf.function(views.small_box_losses, autograph=False, reduce_retracing=True)
    parts = []
    for number, (images, labels, weights) in enumerate(batches):
        found, points = examine(images, labels, tf.constant([seed, number]))
        found |= {
            value: shrunk(images, labels, points, tf.constant(value, images.dtype))
            for value in coefficients
        }
        is_real = np.asarray(weights) > 0
        parts.append({key: value.numpy()[is_real] for key, value in found.items()})
        progress(int(is_real.sum()))
    return _joined(parts, coefficients)


@dataclasses.dataclass(frozen=True)
class _Views:
    """Forward passes of one classifier at inference, attacked in two ways."""

    graph: BoundGraph
    threat: Threat
    attack: Callable
    adversary: Adversary

    def examine(self, images, labels, seed):
        """What is known of a batch, by the names of `Outcomes`, and its forward."""
        forward = self._forward(images, labels, self.threat.region(images), seed)
        tested, plain = forward, Adversary(self.attack)
        if (self.adversary.attack, self.adversary.radius_factor) != (self.attack, 1.0):
            tested = dataclasses.replace(forward, adversary=plain)
        found = {
            "labels": labels,
            "logits": forward.logits,
            "tested_logits": tested.adversarial_logits,
            "adversarial_logits": forward.adversarial_logits,
            "adversarial_margins": forward.adversarial_margins,
            "interval_margins": forward.interval_margins,
        }
        return found, forward

    def small_box_losses(self, images, labels, points, share):
        """SABR's loss of each example, `[batch]`."""
        ball = self.threat.region(images, self.adversary.radius_factor)
        box = small_box(ball, points, share)
        forward = self._forward(images, labels, box, tf.zeros([2], tf.int32))
        return IntervalCrossEntropy()(forward)

    def _forward(self, images, labels, region, seed):
        return CertifiedForward(
            graph=self.graph,
            images=images,
            labels=labels,
            region=region,
            ramp=tf.constant(1.0, images.dtype),
            seed=seed,
            training=False,
            adversary=self.adversary,
        )


def _joined(parts, coefficients) -> Outcomes:
    if not parts:
        raise InputError("There are no examples to measure on. Raise `count`.")
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    labels = joined.pop("labels")
    joined = {key: value.astype(np.float64) for key, value in joined.items()}
    sabr = {value: joined.pop(value) for value in coefficients}
    joined.setdefault("crown_margins", None)
    return Outcomes(labels=labels, sabr=sabr, **joined)


def loss_of_margins(margins: np.ndarray) -> np.ndarray:
    """Cross-entropy where each other class lies `margins` below the label, `[n]`.

    Args:
        margins: lower bounds of `z_label - z_other`, `[n, classes - 1]`.
    """
    return margin_cross_entropy(tf.convert_to_tensor(margins, tf.float64)).numpy()


def _mixture(method, coefficient):
    if method not in _MIXTURES:
        raise InputError(f"`method` must be one of {METHODS}. Received: {method!r}")
    return _MIXTURES[method](coefficient)


def _checked_coefficient(value) -> float:
    if not 0.0 <= value <= 1.0:
        raise InputError(f"A coefficient must lie in [0, 1]. Received: {value}")
    return float(value)
