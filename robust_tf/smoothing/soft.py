"""Certificates of the mean softmax output (arXiv:2001.02378)."""

import dataclasses
from collections.abc import Callable

import numpy as np

from robust_tf.errors import InputError
from robust_tf.smoothing import radius as bounds
from robust_tf.smoothing.certificates import Certificates
from robust_tf.smoothing.certificates import SoftCertificates
from robust_tf.smoothing.sampling import Tally

BOUNDS = ("empirical-bernstein", "hoeffding")


def check(bound: str, temperature: float, n: int, alpha: float) -> None:
    """Refuses unknown bounds, and samples too few for them.

    Args:
        bound: one of `BOUNDS`.
        temperature: logits are multiplied by it.
        n: samples.
        alpha: level.
    """
    if bound not in BOUNDS:
        raise InputError(f"`bound` must be one of {BOUNDS}. Received: {bound!r}")
    bounds.check_positive(temperature, "temperature")

    def of_equal_outputs(hits, n, alpha):  # All of them 1; a variance takes two.
        return lower_bound(bound, hits, hits, n, alpha) if n > 1 else 0.0

    bounds.check_can_certify(n, alpha, of_equal_outputs)


def lower_bound(bound: str, total, squares, n: int, alpha: float) -> np.ndarray:
    """Bounds a mean output from below, from sums over n samples.

    Args:
        bound: one of `BOUNDS`.
        total: of the outputs.
        squares: of their squares.
        n: samples.
        alpha: level.
    """
    if bound == "hoeffding":
        return bounds.hoeffding_lower(total, n, alpha)
    return bounds.empirical_bernstein_lower(total, squares, n, alpha)


def concluded(
    chosen: list[Tally],
    tallies: list[Tally],
    bound: str,
    radius_of: Callable,
    hard: Certificates,
) -> SoftCertificates:
    """Returns the certificates of finished tallies.

    Args:
        chosen: of the selection.
        tallies: of the estimation, of the same images in the same order.
        bound: one of `BOUNDS`.
        radius_of: the radius that a bound certifies.
        hard: certificates of the same samples' votes.
    """
    candidate = np.argmax([tally.totals for tally in chosen], -1)
    totals = np.stack([tally.totals for tally in tallies])
    squares = np.stack([tally.squares for tally in tallies])
    total, square = (
        np.take_along_axis(sums, candidate[:, None], -1)[:, 0]
        for sums in (totals, squares)
    )
    setting = dataclasses.replace(hard.setting, mode="soft")
    lower = lower_bound(bound, total, square, setting.n, setting.alpha)
    prediction, radius = bounds.concluded(candidate, lower, radius_of)
    return SoftCertificates(
        prediction=prediction,
        radius=radius,
        candidate=candidate,
        totals=totals,
        squares=squares,
        lower=lower,
        hard=hard,
        setting=setting,
    )
