"""Whole certifications of classifiers whose smoothed forms are known exactly."""

import numpy as np
import pytest
from scipy import special
from scipy import stats

from robust_tf.smoothing import Gaussian
from robust_tf.smoothing import QuantisedGaussian
from robust_tf.smoothing import SmoothedClassifier
from robust_tf.smoothing import Uniform
from robust_tf.smoothing.radius import decide
from tests.smoothing import classifiers
from tests.smoothing import golden

TRIALS = 2000
# One false alarm in a million, on each side.
RARE = 1e-6


def repeated(base, sigma=None, trials=TRIALS, noise=None, **options):
    """Certificates of one image, each with noise of its own."""
    smooth = SmoothedClassifier(base, sigma, noise, block_size=1000)
    x = np.full((trials, *base.input_shape), 0.5)
    options = {"n": 1000, "batch_size": 50_000, "mode": "full", **options}
    return smooth.certify(x, **options)


def assert_binomial(count, trials, probability):
    low, high = stats.binom.ppf([RARE, 1 - RARE], trials, probability)
    assert low <= count <= high


@pytest.mark.parametrize("share", [0.7, 0.9])
def test_violations_of_a_linear_classifier(share):
    sigma = 0.5
    margin = sigma * stats.norm.ppf(share)
    found = repeated(classifiers.linear(margin), sigma, alpha=0.05)
    assert np.all(found.prediction == 1)
    cases = [
        case
        for case in golden.cases("recommended_statistical_test")
        if case["n"] == 1000 and case["p_A"] == share
    ]
    assert {case["alpha"] for case in cases} == {0.05, 0.01, 0.001}
    for case in cases:
        _, radius, _, _ = decide(
            found.selection_counts,
            found.counts,
            case["alpha"],
            Gaussian(sigma).radius,
        )
        if case["alpha"] == 0.05:
            np.testing.assert_array_equal(found.radius, radius)
        violations = np.sum(radius > margin)
        assert violations <= case["reject_if_violations_greater_than"]
        assert_binomial(violations, TRIALS, case["violation_probability"])


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in golden.content()["linear_classifier_radius_distribution"]
        if case["n"] == 1000
    ],
)
def test_distribution_of_the_radius(case):
    base = classifiers.linear(case["true_radius"], dimensions=3)
    found = repeated(base, case["sigma"], alpha=case["alpha"])
    deviation = found.radius.std() / TRIALS**0.5
    np.testing.assert_allclose(
        found.radius.mean(), case["mean_radius"], atol=5 * deviation
    )
    below = np.sum(found.radius < case["quantile_0_0005"])
    above = np.sum(found.radius > case["quantile_0_9995"])
    for outside in (below, above):  # Of a discrete distribution: at most.
        assert outside <= stats.binom.ppf(1 - RARE, TRIALS, 0.0005)
    abstained = np.sum(found.prediction == -1)
    assert_binomial(abstained, TRIALS, case["abstain_probability"])


def test_tightness_with_many_samples():
    (case,) = (
        case
        for case in golden.content()["linear_classifier_radius_distribution"]
        if case["n"] == 100_000
    )
    base = classifiers.linear(case["true_radius"])
    found = repeated(base, case["sigma"], trials=5, n=100_000)
    assert np.all(found.radius > case["quantile_0_0005"])
    assert np.all(found.radius < case["quantile_0_9995"])


@pytest.mark.parametrize("case", golden.cases("slab_classifier_at_center"))
def test_slab(case):
    base = classifiers.slab(case["half_width"])
    _check_center(repeated(base, case["sigma"], trials=20, n=10_000), case)


@pytest.mark.parametrize("case", golden.cases("ball_classifier_at_center")[:3])
def test_ball(case):
    base = classifiers.ball(case["rho"], case["dim"])
    _check_center(repeated(base, case["sigma"], trials=20, n=5_000), case)


def _check_center(found, case):
    share = case["p_A_at_center"]
    total = found.setting.n * len(found)
    assert_binomial(found.counts[:, 1].sum(), total, share)
    # At alpha = 0.001 one of twenty is above its limit with probability 0.02.
    assert np.sum(found.radius > case["limit_certified_radius"]) <= 2
    assert np.all(found.radius < case["true_smoothed_radius"])
    assert np.all(found.prediction == 1)


@pytest.mark.parametrize("case", golden.cases("selection_error_two_class")[1:3])
def test_wrong_candidates_abstain(case):
    margin = stats.norm.ppf(case["p_A"])
    found = repeated(classifiers.linear(margin), 1.0, n0=case["n0"])
    is_wrong = found.candidate == 0  # The lower class, which wins ties.
    expected = case["prob_true_top_gets_fewer_votes"] + case["prob_tie"]
    assert_binomial(is_wrong.sum(), TRIALS, expected)
    assert np.all(found.prediction[is_wrong] == -1)
    assert np.all(found.radius[is_wrong] == 0.0)


def test_uniform_noise_certifies_l1():
    # Class 1 where the first pixel is above 0: its distance is 0.5 in L1.
    base, noise = classifiers.along_first_pixel(2), Uniform(1.0)
    found = repeated(base, noise=noise, alpha=0.05, norm=1)
    violations = np.sum(found.radius > 0.5)
    # Hits have probability 3/4: the exact chance of a bound above it.
    lower = SmoothedClassifier(base, noise=noise).noise.radius
    counts = np.arange(1001)
    radius = lower(special.betaincinv(np.maximum(counts, 1), 1001 - counts, 0.05))
    chance = stats.binom.pmf(counts, 1000, 0.75)[radius > 0.5].sum()
    assert 0.03 < chance <= 0.05
    assert_binomial(violations, TRIALS, chance)
    assert not found.setting.is_converted


def test_converted_radii_say_so():
    base = classifiers.linear(0.5, dimensions=4)
    native = repeated(base, 0.5, trials=3)
    found = repeated(base, 0.5, trials=3, norm="inf")
    np.testing.assert_allclose(found.radius, native.radius / 2.0, rtol=1e-14)
    assert found.setting.is_converted
    assert not native.setting.is_converted


def test_quantised_noise_certifies():
    base = classifiers.linear(0.3)
    x = np.full((50, 2), 128 / 255)
    smooth = SmoothedClassifier(base, noise=QuantisedGaussian(0.25))
    found = smooth.certify(x, n=1000)
    # It is smoothed after rounding, by half a step at most in each pixel.
    limit = 0.3 + 2**0.5 * (0.5 / 255 + 0.5 / 255)
    assert np.all(found.radius < limit)
    assert found.radius.mean() > 0.2


def test_predict():
    base = classifiers.linear(0.5 * stats.norm.ppf(0.55))
    smooth = SmoothedClassifier(base, 0.5, block_size=1000)
    x = np.full((TRIALS, 2), 0.5)
    found = smooth.predict(x, n=1000, alpha=0.001, batch_size=50_000)
    # 553 of 1000 votes decide at this level.
    assert_binomial(
        np.sum(found.prediction == 1), TRIALS, stats.binom.sf(552, 1000, 0.55)
    )
    assert_binomial(
        np.sum(found.prediction == 0), TRIALS, stats.binom.cdf(447, 1000, 0.55)
    )
    is_decided = found.p_value <= 0.001
    np.testing.assert_array_equal(found.prediction == -1, ~is_decided)
    assert np.all(found.counts.sum(-1) == 1000)


def test_labels_skip_what_counts_as_nothing():
    base = classifiers.linear(0.5 * stats.norm.ppf(0.6))
    x, labels = np.full((40, 2), 0.5), np.arange(40) % 2
    smooth = SmoothedClassifier(base, 0.5)
    whole = smooth.certify(x, n=1000, mode="full")
    found = smooth.certify(x, n=1000, mode="full", labels=labels)
    is_skipped = whole.candidate != labels
    assert 0 < is_skipped.sum() < 40
    np.testing.assert_array_equal(found.is_skipped, is_skipped)
    np.testing.assert_array_equal(found.correct(labels), whole.correct(labels))
    assert not np.any(found.is_certified[is_skipped])
    for name in ("counts", "radius", "lower", "samples"):
        assert not np.any(getattr(found, name)[is_skipped])
        np.testing.assert_array_equal(
            getattr(found, name)[~is_skipped], getattr(whole, name)[~is_skipped]
        )
    np.testing.assert_array_equal(
        found.prediction[is_skipped], found.candidate[is_skipped]
    )
    np.testing.assert_array_equal(found.selection_counts, whole.selection_counts)


def test_progress_tells_each_certificate_once():
    told = {}

    def progress(place, certificate):
        assert place not in told
        told[place] = certificate

    base = classifiers.linear(0.5 * stats.norm.ppf(0.6))
    labels = np.arange(6) % 2
    smooth = SmoothedClassifier(base, 0.5)
    found = smooth.certify(
        np.full((6, 2), 0.5), n=500, labels=labels, progress=progress
    )
    assert sorted(told) == list(range(6))
    for place, one in told.items():
        expected = found.at(place)
        for name in ("prediction", "radius", "candidate", "counts", "is_skipped"):
            np.testing.assert_array_equal(getattr(one, name), getattr(expected, name))
        assert len(one) == 1


def test_setting_is_recorded():
    base = classifiers.linear(0.5)
    smooth = SmoothedClassifier(base, 0.5, block_size=50)
    found = smooth.certify(
        np.full((1, 2), 0.5), n0=20, n=200, alpha=0.01, seed=4, radii=[0.5, 0.25]
    )
    setting = found.setting
    assert setting.noise == Gaussian(0.5)
    assert (setting.n0, setting.n, setting.alpha, setting.seed) == (20, 200, 0.01, 4)
    assert (setting.mode, setting.norm, setting.block_size) == ("exact", 2, 50)
    assert setting.radii == (0.0, 0.25, 0.5)
