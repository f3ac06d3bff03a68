"""Certificates of mean outputs, where the mean is known."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from robust_tf.errors import InputError
from robust_tf.smoothing import BaseClassifier
from robust_tf.smoothing import SmoothedClassifier
from robust_tf.smoothing import radius
from robust_tf.smoothing import sampling
from robust_tf.smoothing.noises import Gaussian
from tests.smoothing import classifiers

X = np.full((3, 2), 0.5)


def certificates(bound="empirical-bernstein", temperature=1.0, **options):
    smooth = SmoothedClassifier(classifiers.linear(0.5), 0.25)
    options = {"n": 1050, **options}
    return smooth.certify_soft(X, bound=bound, temperature=temperature, **options)


@pytest.mark.parametrize("temperature", [1.0, 16.0])
def test_sums_are_those_of_the_softmax(temperature):
    found = certificates(temperature=temperature)
    base = classifiers.linear(0.5)
    for place in range(3):
        keys = [
            sampling.key_of(0, place, sampling.ESTIMATION, block) for block in range(11)
        ]
        noise = [Gaussian(0.25).sample((100, 2), tf.constant(key)) for key in keys]
        logits = base.logits(X[:1].astype("float32") + tf.concat(noise, 0)[:1050])
        outputs = tf.nn.softmax(temperature * tf.cast(logits, tf.float64)).numpy()
        np.testing.assert_allclose(found.totals[place], outputs.sum(0), rtol=1e-5)
        np.testing.assert_allclose(found.squares[place], (outputs**2).sum(0), rtol=1e-5)
    assert found.totals.dtype == np.float64


def test_radius_follows_from_the_sums():
    found = certificates(temperature=16.0)
    lower = radius.empirical_bernstein_lower(
        found.totals[:, 1], found.squares[:, 1], 1050, 0.001
    )
    np.testing.assert_array_equal(found.lower, lower)
    np.testing.assert_array_equal(found.radius, radius.gaussian_radius(lower, 0.25))
    np.testing.assert_array_equal(found.prediction, 1)
    np.testing.assert_array_equal(found.correct([1, 0, 1]), [True, False, True])
    assert found.setting.mode == "soft"


def test_hoeffding():
    found = certificates("hoeffding", 16.0)
    lower = radius.hoeffding_lower(found.totals[:, 1], 1050, 0.001)
    np.testing.assert_array_equal(found.lower, lower)


def test_the_vote_comes_from_the_same_noise():
    smooth = SmoothedClassifier(classifiers.linear(0.5), 0.25)
    hard = smooth.certify(X, n=1050, mode="full")
    found = certificates().hard
    for name in ("counts", "selection_counts", "radius", "prediction"):
        np.testing.assert_array_equal(getattr(found, name), getattr(hard, name))


def test_hard_and_soft_have_candidates_of_their_own():
    # Two of three outputs are a little below 1/2; the vote is always class 0.
    def logits(x):
        values = tf.constant([[0.1, 0.0, -9.0], [0.1, 0.0, -9.0]])
        strong = tf.constant([[-9.0, 9.0, -9.0]])
        rows = tf.random.stateless_uniform([tf.shape(x)[0], 1], [1, 2]) < 0.4
        return tf.where(rows, strong, values[:1])

    smooth = SmoothedClassifier(BaseClassifier(logits, (2,), 3), 0.25)
    found = smooth.certify_soft(X, n=5000)
    np.testing.assert_array_equal(found.hard.candidate, 0)
    np.testing.assert_array_equal(found.candidate, 1)


def test_coverage():
    # The mean of a smoothed sigmoid is known by quadrature.
    base = classifiers.linear(0.1)
    smooth = SmoothedClassifier(base, 0.5, block_size=500)
    trials, alpha = 1000, 0.05
    found = smooth.certify_soft(
        np.full((trials, 2), 0.5),
        n=500,
        alpha=alpha,
        batch_size=50_000,
        temperature=4.0,
    )
    places = np.linspace(-8, 8, 20_001)
    sigmoid = 1 / (1 + np.exp(-4.0 * (0.1 + 0.5 * places)))
    mean = np.sum(sigmoid * stats.norm.pdf(places)) * (places[1] - places[0])
    outside = np.sum(found.lower > mean)
    assert outside <= stats.binom.ppf(1 - 1e-6, trials, alpha)
    deviation = found.totals[:, 1].std() / 500 / trials**0.5
    np.testing.assert_allclose(
        found.totals[:, 1].mean() / 500, mean, atol=5 * deviation
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bound": "student"}, "`bound` must be one of"),
        ({"temperature": 0.0}, "`temperature` must be"),
        # 1 - 7 ln(2000) / (3 (n - 1)) is 1/2 at n = 36.5.
        ({"n0": 10, "n": 36}, "Use at least 37"),
        # ln(1000) / (2 n) is 1/4 at n = 13.8.
        ({"bound": "hoeffding", "n0": 10, "n": 13}, "Use at least 14"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InputError, match=message):
        certificates(**options)
