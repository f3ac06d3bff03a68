"""Fewer samples: with equal results, or with a bound that allows for looking."""

import functools
import math

import numpy as np
import pytest
from scipy import stats

from robust_tf.smoothing import SmoothedClassifier
from robust_tf.smoothing import metrics
from robust_tf.smoothing import radius
from robust_tf.smoothing import stopping
from tests.smoothing import classifiers

SIGMA, N, ALPHA = 0.5, 2000, 0.001
radius_of = functools.partial(radius.gaussian_radius, sigma=SIGMA)
# From no chance to certainty; at 0.5 and a little above nearly all abstain.
SHARES = (0.02, 0.4, 0.5, 0.52, 0.54, 0.56, 0.6, 0.7, 0.8, 0.9, 0.97, 0.999)


def paths(share, trials, n=N, block=100, seed=0):
    """Hits after each block, `[trials, blocks]`."""
    random = np.random.default_rng(seed)
    return random.binomial(block, share, (trials, n // block)).cumsum(-1)


def followed(rule, path, block=100):
    """What a rule concludes from one path: bound, radius and samples."""
    for number, hits in enumerate(path, 1):
        if rule.is_done(int(hits), number * block):
            return *rule.conclude(int(hits), number * block), number * block
    raise AssertionError("It never ends.")


@pytest.mark.parametrize("share", SHARES)
def test_exact_concludes_what_all_samples_do(share):
    rule = stopping.exact(N, ALPHA, radius_of)
    saved = 0
    for path in paths(share, 200):
        lower, found, samples = followed(rule, path)
        whole = radius.clopper_pearson_lower(path[-1], N, ALPHA)
        assert found == radius_of(whole)
        assert (lower >= 0.5) == (whole >= 0.5)
        assert lower <= whole
        saved += N - samples
    assert (saved > 0) == (share < 0.55)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("radii", [(0.25,), (0.25, 0.5, 0.75, 1.0, 9.0), (0.0,)])
def test_listed_radii_are_those_of_all_samples(radii, share):
    rule = stopping.exact(N, ALPHA, radius_of, radii)
    grid, saved = stopping.with_zero(radii), 0
    for path in paths(share, 200):
        lower, found, samples = followed(rule, path)
        whole = radius.clopper_pearson_lower(path[-1], N, ALPHA)
        certified = [r for r in grid if whole >= 0.5 and radius_of(whole) >= r]
        assert found == max(certified, default=0.0)
        assert (lower >= 0.5) == bool(certified)
        assert lower <= whole
        saved += N - samples
    assert saved > 0 or share in (0.54, 0.56) or len(radii) > 1


def test_full_draws_all():
    rule = stopping.Exact(N, ALPHA, radius_of, 0)
    assert followed(rule, paths(0.02, 1)[0])[-1] == N


def _adaptive(radii=None, gain=0.05 * SIGMA, alpha=ALPHA, n=N):
    return stopping.adaptive(n, alpha, radius_of, radii, gain, 100)


@pytest.mark.parametrize("share", [0.51, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("radii", [None, (0.1,), (0.25, 0.5, 0.75)])
def test_adaptive_certificates_hold(radii, share):
    alpha, trials = 0.05, 400
    rule = _adaptive(radii, alpha=alpha)
    found = np.array([followed(rule, path) for path in paths(share, trials)])
    violations = np.sum(found[:, 1] > radius_of(share))
    assert violations <= stats.binom.ppf(1 - 1e-6, trials, alpha)
    assert found[:, 2].mean() < N


def test_the_sequence_holds_at_all_times_at_once():
    # The most hostile stop: where the bound is above the truth.
    alpha, trials, share = 0.05, 2000, 0.8
    hits, drawn = paths(share, trials), np.arange(100, N + 1, 100)
    lower = radius.confidence_sequence_lower(hits, drawn, alpha)
    violations = np.sum(np.any(lower > share, -1))
    assert violations <= stats.binom.ppf(1 - 1e-6, trials, alpha)
    # A bound for one n, looked at twenty times, does not hold.
    fixed = radius.clopper_pearson_lower(hits, drawn, alpha)
    violations = np.sum(np.any(fixed > share, -1))
    assert violations > stats.binom.ppf(1 - 1e-6, trials, alpha)


def test_adaptive_stops_at_the_wanted_radius():
    rule = _adaptive((0.25,))
    for path in paths(0.95, 50):
        lower, found, samples = followed(rule, path)
        assert found >= 0.25
        assert samples < N / 2
        assert lower == radius.confidence_sequence_lower(
            path[samples // 100 - 1], samples, ALPHA
        )


def test_adaptive_gives_up_what_is_out_of_reach():
    for share, wanted in ((0.6, 0.75), (0.3, 0.0), (0.9, 9.0)):
        rule = _adaptive((wanted,))
        samples = [followed(rule, path)[-1] for path in paths(share, 50)]
        assert np.mean(samples) < N / 2


def test_adaptive_gives_up_little():
    # What four standard errors would still reach is not given up.
    rule = _adaptive((0.25,), n=20_000)
    share = stats.norm.cdf(0.25 / SIGMA) + 0.03
    all_paths = paths(share, 100, n=20_000)
    reached = [followed(rule, path)[1] >= 0.25 for path in all_paths]
    at_the_end = radius_of(
        radius.confidence_sequence_lower(all_paths[:, -1], 20_000, ALPHA)
    )
    assert np.sum(reached) >= np.sum(at_the_end >= 0.25) > 90


def test_gain_bounds_what_is_left():
    for gain in (0.01, 0.1):
        rule = _adaptive(gain=gain, n=100_000)
        for path in paths(0.9, 10, n=100_000):
            _, found, samples = followed(rule, path)
            later = radius_of(radius.confidence_sequence_lower(90_000, 100_000, ALPHA))
            deviation = math.sqrt(0.09 / samples) * SIGMA / stats.norm.pdf(1.2816)
            assert later - found < gain + 5 * deviation
            assert samples < 100_000
    assert followed(_adaptive(gain=1e-9), paths(0.9, 1)[0])[-1] == N


def margins():
    return np.linspace(-0.1, 0.6, 30)


@pytest.fixture(name="lines", scope="module")
def fixture_lines():
    """A linear classifier, and images from its other side to far inside."""
    smooth = SmoothedClassifier(classifiers.along_first_pixel(), SIGMA, block_size=50)
    x = np.clip(margins(), 0.0, 1.0)[:, None]
    return smooth, x


def certified(lines, **options):
    smooth, x = lines
    return smooth.certify(x, n=N, alpha=0.01, **options)


def test_exact_certificates_equal_full_ones(lines):
    whole, found = certified(lines, mode="full"), certified(lines)
    for name in ("prediction", "radius", "candidate", "selection_counts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    assert np.all(found.samples == found.counts.sum(-1))
    is_short = found.samples < N
    assert is_short.any() and np.all(found.prediction[is_short] == -1)
    assert whole.share_saved == 0.0 < found.share_saved


def test_accuracies_at_listed_radii_equal_full_ones(lines):
    radii = (0.1, 0.2, 0.4)
    whole, found = certified(lines, mode="full"), certified(lines, radii=radii)
    labels = np.ones(len(whole), int)
    np.testing.assert_array_equal(
        metrics.certified_accuracy(found.radius, found.correct(labels), (0.0, *radii)),
        metrics.certified_accuracy(whole.radius, whole.correct(labels), (0.0, *radii)),
    )
    assert set(found.radius) == {0.0, *radii}
    assert np.all(found.radius <= whole.radius)
    assert found.share_saved > certified(lines).share_saved


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"radii": (0.1, 0.2)},
        {"mode": "adaptive"},
        {"mode": "adaptive", "radii": (0.1, 0.2)},
    ],
)
def test_where_it_stops_does_not_depend_on_the_batch(lines, options):
    first = certified(lines, batch_size=50, **options)
    second = certified(lines, batch_size=1000, **options)
    for name in ("samples", "counts", "radius", "prediction", "lower"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.share_saved > 0.0


def test_adaptive_certificates(lines):
    found = certified(lines, mode="adaptive", radii=(0.1, 0.2))
    hits = found.counts[np.arange(len(found)), found.candidate]
    lower = radius.confidence_sequence_lower(hits, found.samples, 0.01)
    np.testing.assert_array_equal(found.lower, lower)
    is_certified = found.prediction == 1
    assert np.all(found.radius[is_certified] <= margins()[is_certified])
    assert found.radius.max() >= 0.2
    assert found.share_saved > 0.3
