"""Bounds and radii against golden values and exact binomial probabilities."""

import math

import numpy as np
import pytest
from scipy import special
from scipy import stats

from robust_tf.errors import InputError
from robust_tf.smoothing import radius
from tests.smoothing import golden

NEAR = {"rtol": 1e-10, "atol": 0.0}


def lower_of(case):
    return radius.clopper_pearson_lower(case["count"], case["n"], case["alpha"])


@pytest.mark.parametrize("case", golden.cases("clopper_pearson_lower"))
def test_clopper_pearson(case):
    lower = lower_of(case)
    np.testing.assert_allclose(lower, case["p_lower"], **NEAR)
    assert (lower < 0.5) == case["abstain"]
    if case["z"] is not None and not case["abstain"]:
        found = radius.gaussian_radius(lower, 1.0)
        np.testing.assert_allclose(found, case["z"], **NEAR)
    for sigma, expected in case["radius"].items():
        found = radius.gaussian_radius(lower, float(sigma))
        np.testing.assert_allclose(found, expected, **NEAR)


@pytest.mark.parametrize("n", [1, 2, 17, 1000, 10**5])
@pytest.mark.parametrize("alpha", [1e-6, 0.001, 0.3])
def test_clopper_pearson_is_the_tail_itself(n, alpha):
    count = np.unique(np.linspace(1, n, 50).astype(int))
    lower = radius.clopper_pearson_lower(count, n, alpha)
    # Where the truth is the bound, so many hits or more have probability alpha.
    np.testing.assert_allclose(
        special.betainc(count, n - count + 1, lower), alpha, rtol=1e-9
    )
    assert np.all(np.diff(lower) > 0.0)


def test_all_hits():
    for n in (1, 100, 10**5):
        lower = radius.clopper_pearson_lower(n, n, 0.001)
        np.testing.assert_allclose(lower, 0.001 ** (1 / n), **NEAR)


@pytest.mark.parametrize("case", golden.cases("smallest_count_that_does_not_abstain"))
def test_smallest_count(case):
    n, alpha, least = case["n"], case["alpha"], case["k_min_no_abstain"]
    assert radius.smallest_count(n, alpha) == least
    both = radius.clopper_pearson_lower([least, least - 1], n, alpha)
    expected = [case["p_lower_at_kmin"], case["p_lower_below"]]
    np.testing.assert_allclose(both, expected, **NEAR)


@pytest.mark.parametrize(
    "case", golden.cases("smallest_count_certifying_radius_n1e5_alpha0.001")
)
def test_smallest_count_for(case):
    found = radius.smallest_count_for(case["radius"], case["sigma"], 100_000, 0.001)
    assert found == case["k_min"]


@pytest.mark.parametrize("case", golden.cases("max_radius"))
def test_largest_radius(case):
    for sigma in (0.25, 1.0):
        found = radius.largest_radius(case["n"], case["alpha"], sigma)
        np.testing.assert_allclose(found, sigma * case["z"], **NEAR)


@pytest.mark.parametrize("case", golden.cases("radius_cap_n100000"))
def test_caps(case):
    for sigma, expected in case["cap"].items():
        found = radius.largest_radius(100_000, case["alpha"], float(sigma))
        np.testing.assert_allclose(found, expected, **NEAR)


@pytest.mark.parametrize("case", golden.cases("radius_from_p_lower"))
def test_radius_from_bound(case):
    for sigma, expected in case["radius"].items():
        found = radius.gaussian_radius(case["p_lower"], float(sigma))
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-17)


def test_level_is_the_inverse_of_the_radius():
    def radius_of(lower):
        return radius.gaussian_radius(lower, 0.25)

    for wanted in (0.0, 0.1, 0.5, 1.0):
        level = radius.level_for(wanted, radius_of)
        assert radius_of(level) >= wanted
        assert level == 0.5 or radius_of(math.nextafter(level, 0.0)) < wanted
    assert radius.level_for(3.0, radius_of) is None


@pytest.mark.parametrize("alpha", [0.5, 0.3, 0.05, 0.01, 0.001, 1e-9])
def test_smallest_samples(alpha):
    least = radius.smallest_samples(alpha)
    assert alpha ** (1 / least) >= 0.5
    assert least == 1 or alpha ** (1 / (least - 1)) < 0.5
    assert radius.smallest_count(least, alpha) == least
    if least > 1:
        with pytest.raises(InputError, match=f"Use at least {least}"):
            radius.smallest_count(least - 1, alpha)


@pytest.mark.parametrize("case", golden.cases("soft_rs_empirical_bernstein"))
def test_empirical_bernstein(case):
    sums = case["sum"], case["sum_sq"]
    lower = radius.empirical_bernstein_lower(*sums, case["n"], case["alpha"])
    np.testing.assert_allclose(lower, case["p_lower"], **NEAR)
    assert (lower < 0.5) == case["abstain"]


def test_hoeffding():
    # 0.9 - sqrt(ln(1000) / 2000).
    found = radius.hoeffding_lower(900.0, 1000, 0.001)
    np.testing.assert_allclose(found, 0.84123029999, rtol=1e-11)


@pytest.mark.parametrize("case", golden.cases("predict_binomial_test"))
def test_vote(case):
    votes = case["n_top1"], case["n_top2"]
    np.testing.assert_allclose(radius.vote_p_value(*votes), case["p_value"], **NEAR)
    is_decided = radius.is_decided_by_vote(*votes, case["alpha"])
    assert is_decided == (not case["abstain"])


@pytest.mark.parametrize("case", golden.cases("predict_min_top1_not_abstain"))
def test_least_votes(case):
    votes, least = case["n1_plus_n2"], case["min_n1"]
    alpha = case["alpha"]
    assert radius.is_decided_by_vote(least, votes - least, alpha)
    assert not radius.is_decided_by_vote(least - 1, votes - least + 1, alpha)


def test_no_votes_decide_nothing():
    assert radius.vote_p_value(0, 0) == 1.0


@pytest.mark.parametrize("case", golden.cases("certify_from_counts"))
def test_decide(case):
    prediction, found, candidate, lower = radius.decide(
        case["counts_selection"],
        case["counts_estimation"],
        case["alpha"],
        lambda bound: radius.gaussian_radius(bound, case["sigma"]),
    )
    assert (candidate, prediction) == (case["candidate"], case["predict"])
    np.testing.assert_allclose(lower, case["p_lower"], **NEAR)
    np.testing.assert_allclose(found, case["radius"], **NEAR)
    assert (prediction == case["label"]) == case["correct"]


@pytest.mark.parametrize("case", golden.cases("beta_mixture_confidence_sequence_lower"))
def test_confidence_sequence(case):
    hits, n, alpha = case["A"], case["N"], case["alpha"]
    lower = radius.confidence_sequence_lower(hits, n, alpha)
    np.testing.assert_allclose(lower, case["lower"], **NEAR)
    fixed = radius.clopper_pearson_lower(hits, n, alpha)
    np.testing.assert_allclose(fixed, case["clopper_pearson_fixed_n"], **NEAR)
    assert lower < fixed


@pytest.mark.parametrize("n", [1, 10, 1000, 10**6])
@pytest.mark.parametrize("alpha", [1e-12, 0.001, 0.3])
def test_confidence_sequence_ends_where_the_evidence_does(n, alpha):
    hits = np.unique(np.linspace(1, n, 50).astype(int))
    lower = radius.confidence_sequence_lower(hits, n, alpha)
    assert np.all((lower > 0.0) & (lower < hits / n))
    inside = radius.evidence_against(hits, n, lower * (1 - 1e-9))
    outside = radius.evidence_against(hits, n, lower + (1 - lower) * 1e-9)
    assert np.all(inside > -math.log(alpha)) and np.all(outside < -math.log(alpha))


def test_confidence_sequence_without_hits():
    assert radius.confidence_sequence_lower(0, 100, 0.001) == 0.0


@pytest.mark.parametrize(
    "case", golden.cases("linear_classifier_violation_probability")
)
def test_violations_have_probability_alpha_at_most(case):
    n, alpha, share = case["n"], case["alpha"], case["p_A"]
    lower = radius.clopper_pearson_lower(np.arange(n + 1), n, alpha)
    first = int(np.argmax(lower > share)) if np.any(lower > share) else n + 1
    assert first == case["first_violating_count"]
    probability = stats.binom.sf(first - 1, n, share)
    np.testing.assert_allclose(
        probability, case["exact_violation_probability"], rtol=1e-9
    )
    assert (probability <= alpha) == case["sound"] is True


@pytest.mark.parametrize("case", golden.cases("recommended_statistical_test"))
def test_violations_of_2000_draws(case):
    n, alpha, share = case["n"], case["alpha"], case["p_A"]
    hits = np.random.default_rng(0).binomial(n, share, case["trials"])
    lower = radius.clopper_pearson_lower(hits, n, alpha)
    violations = np.sum(lower > share)
    assert violations <= case["reject_if_violations_greater_than"]
    if alpha == 0.05:  # A bound that is never wrong would be too loose.
        least = stats.binom.ppf(1e-6, case["trials"], case["violation_probability"])
        assert violations >= least > 0


@pytest.mark.parametrize("case", golden.cases("radius_print_format"))
def test_printing_never_overstates(case):
    text = radius.round_down(case["radius"])
    assert float(text) <= case["radius"]
    # At most one unit of the third digit below.
    assert float(text) >= case["radius"] * (1 - 0.01)
    nearest = case["three_significant"]
    assert text == nearest or float(nearest) > case["radius"]


def test_printing_keeps_what_has_few_digits():
    assert radius.round_down(1.645) == "1.64"
    assert radius.round_down(0.25) == "0.25"
    assert radius.round_down(0.3) == "0.3"  # The float is a little below.
    assert radius.round_down(0.99999, digits=2) == "0.99"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: radius.clopper_pearson_lower(5, 4, 0.1), "from 0 to the number"),
        (lambda: radius.clopper_pearson_lower(-1, 4, 0.1), "from 0 to the number"),
        (lambda: radius.clopper_pearson_lower(0.5, 4, 0.1), "whole numbers"),
        (lambda: radius.clopper_pearson_lower(0, 0, 0.1), "at least 1 sample"),
        (lambda: radius.clopper_pearson_lower(1, 4, 0.0), "between 0 and 1"),
        (lambda: radius.clopper_pearson_lower(1, 4, 1.0), "between 0 and 1"),
        (lambda: radius.clopper_pearson_lower(1, 4, float("nan")), "between 0 and 1"),
        (lambda: radius.smallest_samples(2), "between 0 and 1"),
        (lambda: radius.empirical_bernstein_lower(1.0, 1.0, 1, 0.1), "at least 2"),
        (lambda: radius.gaussian_radius(1.0, 0.5), "by less than 1"),
        (lambda: radius.gaussian_radius(float("nan"), 0.5), "by less than 1"),
        (lambda: radius.largest_radius(9, 0.001, 0.5), "Use at least 10"),
        (lambda: radius.round_down(-1.0), "from 0"),
        (lambda: radius.round_down(float("inf")), "finite"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
