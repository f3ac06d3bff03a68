"""Summaries of certificates over a data set; NumPy alone.

`correct` says where the certified class is the label. It masks the radius everywhere: a
certificate of another class, however large, and an abstention count as nothing.
"""

import math

import numpy as np

from robust_tf.errors import InputError
from robust_tf.smoothing.radius import check_level
from robust_tf.smoothing.radius import check_samples

# The published grid of radii, in pixels in [0, 1] (arXiv:2001.02378).
RADII = tuple(0.25 * step for step in range(10))


def radii_up_to(largest: float, step: float = 0.25) -> tuple[float, ...]:
    """Returns 0, step, 2 step, ... as far as anything can be certified.

    Args:
        largest: the cap, `radius.largest_radius(n, alpha, sigma)`.
        step: distance of two radii.
    """
    return tuple(step * number for number in range(math.floor(largest / step) + 1))


def certified_accuracy(radius, correct, radii=RADII) -> np.ndarray:
    """Returns the share of examples that are right and certified to each radius.

    Args:
        radius: certified, `[examples]`.
        correct: whether the certified class is the label, `[examples]`.
        radii: `[radii]`; at 0 it is the clean accuracy of CERTIFY.

    Returns:
        Fractions, `[radii]`.
    """
    radius, correct = _checked(radius, correct)
    hits = correct[:, None] & (radius[:, None] >= np.asarray(radii, np.float64))
    return hits.mean(0)


def average_certified_radius(radius, correct) -> float:
    """Returns the mean over all examples of the radius, 0 where it is not right."""
    return float(scores(radius, correct).mean())


def acr_standard_error(radius, correct) -> float:
    """Returns the standard error of `average_certified_radius`, of 2 or more examples.

    It is that of the choice of images; the noise adds little to it.
    """
    return _standard_error(scores(radius, correct))


def scores(radius, correct) -> np.ndarray:
    """Returns the radius where the class is right, else 0, `[examples]`."""
    radius, correct = _checked(radius, correct)
    return np.where(correct, radius, 0.0)


def high_probability_certified_accuracy(
    mean, examples: int, alpha: float, rho: float = 0.001
):
    """Returns a bound on the share of examples that are truly robust.

    Each certificate alone holds with probability `1 - alpha`. The true certified
    accuracy is at least `mean - alpha - sqrt(alpha (1 - alpha) ln(1 / rho) / N)
    - ln(1 / rho) / (3 N)` with probability `1 - rho` (arXiv:1902.02918, appendix).

    Args:
        mean: certified accuracy by certificates, a fraction or an array of them.
        examples: N, how many examples it is of.
        alpha: of the certificates.
        rho: probability that the bound is wrong.
    """
    check_samples(examples, "examples")
    check_level(alpha)
    check_level(rho)
    log_term = -math.log(rho)
    spread = math.sqrt(alpha * (1.0 - alpha) * log_term / examples)
    return mean - alpha - spread - log_term / (3.0 * examples)


def paired_difference(first, second) -> tuple[float, float]:
    """Returns mean and standard error of what the first run has more than the second.

    On the same images the difference of two runs is known far better than either.

    Args:
        first: a value of each example, such as `scores(radius, correct)`.
        second: of the same examples in the same order.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise InputError(
            "Two runs are compared on the same examples, in the same order. Received: "
            f"values of shapes {first.shape} and {second.shape}"
        )
    difference = first - second
    return float(difference.mean()), _standard_error(difference)


def _standard_error(values) -> float:
    if len(values) < 2:
        raise InputError(
            f"A standard error takes at least 2 examples. Received: {len(values)}"
        )
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def _checked(radius, correct):
    radius, correct = np.asarray(radius, np.float64), np.asarray(correct)
    if radius.ndim != 1 or radius.shape != correct.shape or not radius.size:
        raise InputError(
            "`radius` and `correct` must be one value for each example, of at least "
            f"one. Received: shapes {radius.shape} and {correct.shape}"
        )
    if not np.all(np.isfinite(radius) & (radius >= 0.0)):
        raise InputError("Radii must be finite numbers from 0.")
    if not np.all((correct == 0) | (correct == 1)):
        raise InputError("`correct` must be truth values.")
    return radius, correct.astype(bool)
