"""How far around each image a proof reaches, and how near an attack comes."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from robust_tf.attacks.pgd import PGD
from robust_tf.attacks.pgd import margins_of
from robust_tf.errors import InputError
from robust_tf.propagation.compute import compute_bounds
from robust_tf.regions import LpBall
from robust_tf.specifications import checked_labels
from robust_tf.specifications import margin_specification
from robust_tf.verification.accuracy import LEAST_MARGIN

_ATTACK = PGD(steps=40, restarts=2)
_LEAST_MARGIN_64 = 1e-12


def certified_radii(
    model: keras.Model,
    images: tf.Tensor,
    labels: tf.Tensor,
    norm: str | float = "inf",
    method: str = "crown",
    upper: float = 1.0,
    steps: int = 12,
    valid_range: tuple[float, float] | None = (0.0, 1.0),
) -> tf.Tensor:
    """Returns the largest radius found for which robustness is proved, `[batch]`.

    Bisection between 0 and `upper`, for each example by itself. What is returned was
    proved itself, by more than `LEAST_MARGIN` in float32 and 1e-12 in float64, and lies
    within `upper / 2**(steps - 1)` of a radius that was not, unless `upper` was proved.
    With the method "convex-adversarial" and no valid range this is the distance that
    arXiv:1711.00851 certifies.

    Args:
        model: from `robust_tf.convert`.
        images: `[batch, *shape]`, floating point.
        labels: integer class indices, `[batch]`.
        norm: of the ball: "inf", or a number of at least 1.
        method: of `compute_bounds`.
        upper: the largest radius to try, in pixels in [0, 1].
        steps: how many radii are tried.
        valid_range: lowest and highest value of a pixel, or None for no clipping.

    Returns:
        Radii in the type of the images; 0 for what is misclassified as it is.

    Raises:
        InputError: for what `LpBall` or `compute_bounds` refuses, or no steps.
    """
    images, labels = _checked(model, images, labels, norm, upper, steps, valid_range)
    rows = margin_specification(labels, model.output_shape[-1], images.dtype)

    @tf.function(autograph=False)
    def search():
        def holds(radii, index):
            del index
            region = LpBall(images, radii, norm, valid_range)
            lower = compute_bounds(model, region, method, rows).lower
            least = LEAST_MARGIN if images.dtype == tf.float32 else _LEAST_MARGIN_64
            return tf.reduce_all(lower > least, -1)

        is_right = margins_of(model(images, training=False), labels) > 0.0
        proved, _ = _bisect(holds, tf.shape(images)[:1], images.dtype, upper, steps)
        return tf.where(is_right, proved, 0.0)

    return search()


def attacked_radii(
    model: keras.Model,
    images: tf.Tensor,
    labels: tf.Tensor,
    norm: str | float = "inf",
    attack: Callable = _ATTACK,
    upper: float = 1.0,
    steps: int = 12,
    valid_range: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
) -> tf.Tensor:
    """Returns the smallest radius at which an attack succeeded, `[batch]`.

    Bisection between 0 and `upper`, from other random points at each radius; an
    example that withstands `upper` is attacked there `steps` times.

    Args:
        model: a classifier.
        images: `[batch, *shape]`, floating point.
        labels: integer class indices, `[batch]`.
        norm: of the ball: "inf", or a number of at least 1.
        attack: such as `attacks.pgd.PGD`.
        upper: the largest radius to try, in pixels in [0, 1].
        steps: how many radii are tried.
        valid_range: lowest and highest value of a pixel, or None for no clipping.
        seed: of the attack.

    Returns:
        Radii in the type of the images; 0 for what is misclassified as it is, and
        infinity where no attack succeeded.

    Raises:
        InputError: for what `LpBall` or the attack refuses, or no steps.
    """
    images, labels = _checked(model, images, labels, norm, upper, steps, valid_range)

    def logits_of(points):
        return model(points, training=False)

    @tf.function(autograph=False)
    def search():
        def holds(radii, index):
            region = LpBall(images, radii, norm, valid_range)
            points = attack(logits_of, region, labels, tf.stack([seed, index]))
            return margins_of(logits_of(points), labels) > 0.0

        is_right = margins_of(logits_of(images), labels) > 0.0
        _, attacked = _bisect(holds, tf.shape(images)[:1], images.dtype, upper, steps)
        return tf.where(is_right, attacked, 0.0)

    return search()


def check_radii(certified: np.ndarray, attacked: np.ndarray) -> None:
    """Checks that no attack succeeded within a radius that was proved.

    Args:
        certified: from `certified_radii`, `[batch]`.
        attacked: from `attacked_radii`, `[batch]`.

    Raises:
        RuntimeError: naming the examples, where proof and attack contradict.
    """
    certified, attacked = np.asarray(certified), np.asarray(attacked)
    wrong = np.flatnonzero((certified > 0.0) & (certified >= attacked))
    if wrong.size:
        some = wrong[:10]
        raise RuntimeError(
            f"Examples {some.tolist()} were proved robust up to the radii "
            f"{certified[some].tolist()}, and attacked with success at "
            f"{attacked[some].tolist()}: one of the two is wrong."
        )


def _bisect(holds, shape, dtype, upper, steps):
    """Largest radius found at which `holds` is true, and smallest where it is not.

    `holds` maps radii and the number of the step to booleans. The first radius is
    `upper`; where it holds there, the second result is infinity, else the first may
    be 0, which is not tried.
    """

    def step(index, low, high):
        trial = tf.where(tf.math.is_inf(high), tf.cast(upper, dtype), (low + high) / 2)
        is_held = holds(trial, index)
        low, high = tf.where(is_held, trial, low), tf.where(is_held, high, trial)
        return index + 1, low, high

    infinity = tf.constant(np.inf, dtype)
    ends = tf.zeros(shape, dtype), tf.fill(shape, infinity)
    _, low, high = tf.while_loop(
        lambda index, *_: index < steps, step, (tf.constant(0), *ends)
    )
    return low, high


def _checked(model, images, labels, norm, upper, steps, valid_range):
    """Images and labels as tensors, where all arguments can be used."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(
            f"`steps` must be a whole number of at least 1. Received: {steps!r}"
        )
    images = LpBall(images, upper, norm, valid_range).x
    labels = checked_labels(labels, model.output_shape[-1])
    if labels.shape[0] != images.shape[0]:
        raise InputError(
            f"There must be one label for each of the {images.shape[0]} images. "
            f"Received: {labels.shape[0]}"
        )
    return images, labels
