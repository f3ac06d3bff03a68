"""Lower bounds on probabilities from samples, and the radii that they certify.

NumPy and SciPy alone, in float64: at a bound near 1 the radius moves by thousands of
sigma per unit of probability, so float32 would not do. Every bound is one-sided.
"""

import bisect
import decimal
import math
from collections.abc import Callable

import numpy as np
from scipy import special
from scipy import stats

from robust_tf.errors import InputError

# The prediction where nothing is certified.
ABSTAIN = -1
# Below this bound on the probability of a class, another class may be the likeliest.
_LEAST = 0.5


def clopper_pearson_lower(count, n, alpha: float) -> np.ndarray:
    """Returns the exact lower bound of a binomial probability, at level `1 - alpha`.

    One-sided: the `alpha` quantile of `Beta(count, n - count + 1)`; 0 for no hit.

    Args:
        count: hits, whole numbers of any shape.
        n: samples, a number or of the shape of `count`.
        alpha: probability that the bound is above the truth, in (0, 1).

    Raises:
        InputError: for hits that are not in 0..n, and levels outside (0, 1).
    """
    count, n = _checked_counts(count, n)
    check_level(alpha)
    positive = np.maximum(count, 1)
    lower = special.betaincinv(positive, n - positive + 1, alpha)
    return np.where(count > 0, lower, 0.0)


def hoeffding_lower(total, n: int, alpha: float) -> np.ndarray:
    """Returns a lower bound of a mean, from the sum of n samples in [0, 1].

    `total / n - sqrt(ln(1 / alpha) / (2 n))` (arXiv:2001.02378, for soft smoothing).
    """
    _, n = _checked_counts(0, n)
    check_level(alpha)
    mean = np.asarray(total, np.float64) / n
    return mean - math.sqrt(-math.log(alpha) / (2.0 * n))


def empirical_bernstein_lower(total, squares, n: int, alpha: float) -> np.ndarray:
    """Returns a lower bound of a mean, from sums over n samples in [0, 1].

    `mean - sqrt(2 V t / n) - 7 t / (3 (n - 1))` with `t = ln(2 / alpha)` and the
    unbiased variance V (arXiv:0907.3740, theorem 4; used by arXiv:2001.02378).

    Args:
        total: sum of the samples.
        squares: sum of their squares, of the same shape.
        n: samples, at least 2.
        alpha: probability that the bound is above the truth, in (0, 1).
    """
    check_level(alpha)
    if not (is_whole(n) and n >= 2):
        raise InputError(f"A variance takes at least 2 samples. Received: n = {n!r}")
    total, squares = np.asarray(total, np.float64), np.asarray(squares, np.float64)
    log_term = math.log(2.0 / alpha)
    variance = np.maximum(0.0, (squares - total**2 / n) / (n - 1))
    spread = np.sqrt(2.0 * variance * log_term / n)
    return total / n - spread - 7.0 * log_term / (3.0 * (n - 1))


def evidence_against(count, n, p_lower) -> np.ndarray:
    """Returns the log of the beta mixture's likelihood ratio against `p_lower`.

    The mixture is over `Beta(1/2, 1/2)`. If `p_lower` is the truth, the ratio exceeds
    `1 / alpha` at any time with probability at most alpha (Ville's inequality).
    """
    count, n = np.asarray(count, np.float64), np.asarray(n, np.float64)
    mixture = special.betaln(count + 0.5, n - count + 0.5) - special.betaln(0.5, 0.5)
    likelihood = special.xlogy(count, p_lower) + special.xlog1py(n - count, -p_lower)
    return mixture - likelihood


def confidence_sequence_lower(count, n, alpha: float) -> np.ndarray:
    """Returns a lower bound that holds for all n at once, at level `1 - alpha`.

    So samples may be drawn until the bound is good enough. It is the greatest number
    below `count / n` that `evidence_against` still excludes.

    Args:
        count: hits, whole numbers of any shape.
        n: samples so far, a number or of the shape of `count`.
        alpha: probability that the bound is ever above the truth, in (0, 1).
    """
    count, n = np.broadcast_arrays(*_checked_counts(count, n))
    check_level(alpha)
    hits, misses = np.maximum(count, 1), n - count
    # Without the misses, whose likelihood is at most 1, this would be the bound.
    excess = evidence_against(count, n, 0.5) - n * math.log(2.0) + math.log(alpha)
    lower = np.exp(excess / hits)
    # The evidence falls and is convex there, so Newton's steps never pass the bound.
    for _ in range(100):
        excess = evidence_against(count, n, lower) + math.log(alpha)
        step = excess / (hits / lower - misses / (1.0 - lower))
        is_open = step > 1e-16
        if not np.any(is_open):
            break
        lower = np.where(is_open, lower + step, lower)
    return np.where(count > 0, lower, 0.0)


def gaussian_radius(p_lower, sigma: float) -> np.ndarray:
    """Returns `sigma * Phi^-1(p_lower)`, an L2 radius; 0 below a bound of 1/2.

    `Phi` is the normal distribution function (arXiv:1902.02918, theorem 1, with the
    second class at most `1 - p_lower`).
    """
    p_lower = checked_bounds(p_lower)
    return sigma * special.ndtri(np.maximum(p_lower, _LEAST))


def smallest_count(n: int, alpha: float) -> int:
    """Returns how many hits of n it takes not to abstain.

    Raises:
        InputError: where even n hits do not suffice.
    """
    check_can_certify(n, alpha)
    return _smallest(n, alpha, lambda lower: lower >= _LEAST)


def smallest_samples(alpha: float) -> int:
    """Returns the least n for which n hits of n certify anything."""
    return _least_samples(alpha, clopper_pearson_lower)


def largest_radius(n: int, alpha: float, sigma: float) -> float:
    """Returns the L2 radius that n hits of n certify: nothing is certified beyond."""
    return largest_of(lambda lower: gaussian_radius(lower, sigma), n, alpha)


def largest_of(radius_of: Callable, n: int, alpha: float) -> float:
    """Returns the radius that n hits of n certify; `radius_of` as in `count_for`."""
    check_can_certify(n, alpha)
    return float(radius_of(clopper_pearson_lower(n, n, alpha)))


def smallest_count_for(radius: float, sigma: float, n: int, alpha: float) -> int | None:
    """Returns how many hits of n certify an L2 radius; None where not even n do."""
    return count_for(radius, lambda lower: gaussian_radius(lower, sigma), n, alpha)


def count_for(radius: float, radius_of: Callable, n: int, alpha: float) -> int | None:
    """Returns how many hits of n certify a radius; None where not even n do.

    Args:
        radius: at least 0.
        radius_of: the radius that a bound certifies; it grows with the bound.
        n: samples.
        alpha: level of the bound.
    """
    check_can_certify(n, alpha)
    return _smallest(
        n, alpha, lambda lower: lower >= _LEAST and radius_of(lower) >= radius
    )


def level_for(radius: float, radius_of: Callable) -> float | None:
    """Returns the least bound on the probability that certifies a radius, or None."""
    low, high = _LEAST, math.nextafter(1.0, 0.0)
    if radius_of(high) < radius:
        return None
    if radius_of(low) >= radius:
        return low
    while math.nextafter(low, 1.0) < high:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if radius_of(middle) >= radius else (middle, high)
    return high


def decide(counts_selection, counts_estimation, alpha: float, radius_of: Callable):
    """Certifies from the counts of both stages (arXiv:1902.02918, section 3.2.2).

    Args:
        counts_selection: of samples that choose the candidate, `[..., classes]`; the
            lowest class wins a tie.
        counts_estimation: of other samples, `[..., classes]`.
        alpha: probability that a certificate is wrong.
        radius_of: the radius that a bound on the candidate's probability certifies.

    Returns:
        Prediction (`ABSTAIN` where nothing is certified), radius, candidate, and bound,
        each `[...]`.
    """
    counts_estimation = np.asarray(counts_estimation)
    candidate = np.argmax(np.asarray(counts_selection), -1)
    hits = np.take_along_axis(counts_estimation, candidate[..., None], -1)[..., 0]
    lower = clopper_pearson_lower(hits, counts_estimation.sum(-1), alpha)
    return *concluded(candidate, lower, radius_of), candidate, lower


def concluded(candidate, lower, radius_of: Callable) -> tuple[np.ndarray, np.ndarray]:
    """Returns prediction and radius, given a bound on the candidate's probability."""
    is_certified = np.asarray(lower) >= _LEAST
    prediction = np.where(is_certified, candidate, ABSTAIN)
    return prediction, np.where(is_certified, radius_of(lower), 0.0)


def vote_p_value(first: int, second: int) -> float:
    """Returns how likely so uneven a vote is between two classes equally likely.

    Two-sided and exact: `first` of `first + second` throws of a fair coin.
    """
    if not first + second:
        return 1.0
    return float(stats.binomtest(int(first), int(first + second), 0.5).pvalue)


def is_decided_by_vote(first: int, second: int, alpha: float) -> bool:
    """Whether the leader of a vote is the likeliest class (arXiv:1902.02918, PREDICT).

    Args:
        first: votes of the leader.
        second: votes of the runner-up.
        alpha: probability that it is another one.
    """
    check_level(alpha)
    return vote_p_value(first, second) <= alpha


def round_down(radius: float, digits: int = 3) -> str:
    """Returns a radius with so many significant digits, never above it."""
    if not 0.0 <= radius < math.inf:
        raise InputError(f"A radius is a finite number from 0. Received: {radius}")
    exact = decimal.Decimal(repr(float(radius)))
    if exact:
        unit = decimal.Decimal(1).scaleb(exact.adjusted() - digits + 1)
        exact = exact.quantize(unit, decimal.ROUND_FLOOR)
    return repr(float(exact))


def check_can_certify(n: int, alpha: float, bound=clopper_pearson_lower) -> None:
    """Refuses a number of samples that cannot certify anything at this level.

    Args:
        n: samples.
        alpha: level.
        bound: which bound, a function of hits, n and alpha.
    """
    check_samples(n)
    least = _least_samples(alpha, bound)
    if n < least:
        raise InputError(
            f"{n} samples certify nothing at alpha = {alpha:g}, even if all agree. "
            f"Received: n = {n}. Use at least {least}."
        )


def check_can_decide(n: int, alpha: float) -> None:
    """Refuses a number of votes that cannot decide anything at this level."""
    check_samples(n)
    check_level(alpha)
    least = math.ceil(1.0 - math.log2(alpha))
    if n < least:
        raise InputError(
            f"{n} samples decide nothing at alpha = {alpha:g}, even if all agree. "
            f"Received: n = {n}. Use at least {least}."
        )


def check_samples(n: int, name: str = "n") -> None:
    """Refuses what is no number of samples."""
    if not (is_whole(n) and n >= 1):
        raise InputError(
            f"`{name}` must be a whole number of samples, at least 1. Received: {n!r}"
        )


def check_selection(n0: int, n: int) -> None:
    """Refuses a selection that is empty, or larger than the estimation."""
    check_samples(n0, "n0")
    if n0 > n:
        raise InputError(
            "The selection takes no more samples than the estimation. Received: "
            f"n0 = {n0}, n = {n}"
        )


def check_level(alpha: float) -> None:
    """Refuses what is no probability of failure."""
    if not (isinstance(alpha, float | np.floating) and 0.0 < alpha < 1.0):
        raise InputError(
            "`alpha`, the probability of a wrong certificate, must lie between 0 and "
            f"1. Received: {alpha!r}"
        )


def check_positive(value: float, name: str) -> None:
    """Refuses what is no finite number above 0."""
    is_number = isinstance(value, int | float | np.number)
    if isinstance(value, bool) or not (is_number and 0.0 < value < math.inf):
        raise InputError(
            f"`{name}` must be a finite number above 0. Received: {value!r}"
        )


def checked_bounds(p_lower) -> np.ndarray:
    """Returns bounds on a probability, all below 1, in float64."""
    p_lower = np.asarray(p_lower, np.float64)
    if not np.all(p_lower < 1.0):  # False for NaN, too.
        raise InputError(
            "Samples bound a probability by less than 1. Received: "
            f"{p_lower[~(p_lower < 1.0)][0]}"
        )
    return p_lower


def is_whole(value) -> bool:
    """Whether a value is an integer, and not a truth value."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _smallest(n, alpha, is_enough) -> int | None:
    """The least number of hits of n whose bound is enough; more hits are, too."""
    counts = range(n + 1)
    found = bisect.bisect_left(
        counts, True, key=lambda count: bool(is_enough(_bound(count, n, alpha)))
    )
    return found if found <= n else None


def _least_samples(alpha, bound) -> int:
    """The least n whose bound for n hits of n is enough; more samples are, too."""
    check_level(alpha)
    most = 1
    while bound(most, most, alpha) < _LEAST:
        most *= 2
    samples = range(most // 2, most + 1)
    return samples[
        bisect.bisect_left(
            samples, True, key=lambda n: n > 0 and bool(bound(n, n, alpha) >= _LEAST)
        )
    ]


def _bound(count, n, alpha):
    return float(clopper_pearson_lower(count, n, alpha))


def _checked_counts(count, n):
    """Both as arrays of 64-bit integers."""
    count, n = np.asarray(count), np.asarray(n)
    kinds = {count.dtype.kind, n.dtype.kind}
    if not kinds <= {"i", "u"} or np.any(count < 0) or np.any(count > n):
        raise InputError(
            "Hits must be whole numbers from 0 to the number of samples. Received: "
            f"{count} of {n}"
        )
    if np.any(n < 1):
        raise InputError(f"There must be at least 1 sample. Received: n = {n}")
    return count.astype(np.int64), n.astype(np.int64)
