"""Noise has the distribution it is named for, and radii are tight for it."""

import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from robust_tf.errors import InputError
from robust_tf.smoothing.noises import Gaussian
from robust_tf.smoothing.noises import QuantisedGaussian
from robust_tf.smoothing.noises import Uniform

KEY = (3, 5)
SIZE = 400_001  # Odd: numbers come in pairs.
# Five standard errors of a mean.
FIVE = 5.0 / SIZE**0.5


def drawn(noise, shape=(SIZE,), key=KEY, dtype="float32"):
    return noise.sample(shape, tf.constant(key, tf.int64), dtype).numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gaussian_is_normal(dtype):
    values = drawn(Gaussian(0.25), dtype=dtype)
    assert values.dtype == dtype
    assert stats.kstest(values / 0.25, "norm").pvalue > 1e-3
    assert abs(values.mean()) < 0.25 * FIVE
    # Kurtosis: the fourth moment is 3, its variance 96.
    assert abs(np.mean((values / 0.25) ** 4) - 3.0) < FIVE * 96**0.5


def test_tails_of_gaussian_noise():
    noise = Gaussian(1.0)
    keys = [(7, number) for number in range(8)]
    values = np.abs(np.concatenate([drawn(noise, key=key) for key in keys]))
    for deviation in (2.0, 3.0, 4.0):
        share = 2.0 * stats.norm.sf(deviation)
        low, high = stats.binom.ppf([1e-5, 1 - 1e-5], len(values), share)
        assert low <= np.sum(values > deviation) <= high


def test_both_numbers_of_a_pair_are_independent():
    values = drawn(Gaussian(1.0), (2 * 100_000,)).reshape(2, -1)
    limit = 5.0 / 100_000**0.5
    assert abs(np.corrcoef(values)[0, 1]) < limit
    assert abs(np.corrcoef(np.abs(values))[0, 1]) < limit


@pytest.mark.parametrize("noise", [Gaussian(0.5), Uniform(0.5), QuantisedGaussian(0.5)])
def test_keys_give_independent_noise(noise):
    values = [drawn(noise, key=key) for key in [(3, 5), (3, 6), (4, 5), (5, 3)]]
    correlations = np.corrcoef(values) - np.eye(4)
    assert np.abs(correlations).max() < FIVE
    np.testing.assert_array_equal(values[0], drawn(noise))


@pytest.mark.parametrize("noise", [Gaussian(0.5), Uniform(0.5), QuantisedGaussian(0.5)])
def test_graphs_draw_the_same(noise):
    graph = tf.function(lambda key: noise.sample((4, 3, 3, 1), key))
    found = graph(tf.constant(KEY, tf.int64)).numpy()
    np.testing.assert_allclose(found, drawn(noise, (4, 3, 3, 1)), atol=1e-6)


def test_uniform_is_uniform():
    values = drawn(Uniform(0.4))
    assert np.abs(values).max() <= np.float32(0.4)
    assert stats.kstest(values, "uniform", args=(-0.4, 0.8)).pvalue > 1e-3


def test_uniform_radius_is_tight_in_one_dimension():
    # Class 1 where z > 0: at x > 0 its probability is (x + lambda) / (2 lambda).
    x, half_width = 0.125, 0.5
    share = (x + half_width) / (2 * half_width)
    np.testing.assert_allclose(Uniform(half_width).radius(share), x, rtol=1e-15)


def test_quantised_noise_is_rounded_normal_noise():
    sigma = 0.01  # 2.55 steps.
    steps = np.round(255 * drawn(QuantisedGaussian(sigma))).astype(int)
    assert np.abs(255 * drawn(QuantisedGaussian(sigma)) - steps).max() < 1e-4
    values = np.arange(-8, 9)
    ends = (np.append(values, 9) - 0.5) / (255 * sigma)
    shares = np.diff(stats.norm.cdf(ends))
    observed = np.array([np.sum(steps == value) for value in values])
    inside = observed.sum()
    found = stats.chisquare(observed, shares / shares.sum() * inside)
    assert found.pvalue > 1e-3


def test_quantised_table_is_symmetric_and_exact():
    noise = QuantisedGaussian(0.25)
    ends = [int(end) for end in noise._table()]
    assert ends == sorted(ends) == [-end for end in reversed(ends)]
    below = np.array([(end + 2**63) / 2**64 for end in ends])
    places = (np.arange(len(ends)) - len(ends) // 2 + 0.5) / (255 * 0.25)
    np.testing.assert_allclose(below, stats.norm.cdf(places), 1e-13, 2.0**-64)
    assert 0.0 < noise.difference(3072) < 1e-7


def test_quantised_noise_depends_on_whole_steps_alone():
    noise = QuantisedGaussian(0.25)
    images = np.arange(256, dtype=np.float32) / np.float32(255)
    added = noise.add(images[:, None], drawn(noise, (1000,))).numpy()
    steps = np.round(255 * drawn(noise, (1000,)).astype(np.float64)).astype(int)
    sums = np.arange(256)[:, None] + steps
    # Equal sums give equal floats, whichever image they come from.
    np.testing.assert_array_equal(added, sums.astype(np.float32) / np.float32(255))


def test_quantised_radius_is_below_the_gaussian_one():
    exact = Gaussian(0.25).radius([0.5, 0.6, 0.9999])
    found = QuantisedGaussian(0.25).radius([0.5, 0.6, 0.9999], dimensions=3072)
    assert np.all(found <= exact)
    np.testing.assert_allclose(found, exact, atol=1e-4)


@pytest.mark.parametrize(
    ("noise", "norm", "share"),
    [
        (Gaussian(0.5), 2, 1.0),
        (Gaussian(0.5), 1, 1.0),  # The L1 ball lies in the L2 ball.
        (Gaussian(0.5), "inf", 1 / 28),
        (Uniform(0.5), 1, 1.0),
        (Uniform(0.5), 2, 1 / 28),
        (Uniform(0.5), "inf", 1 / 784),
    ],
)
def test_norms(noise, norm, share):
    native = noise.radius(0.9)
    found = noise.radius(0.9, norm, 784)
    np.testing.assert_allclose(found, share * native, rtol=1e-14)
    assert noise.is_converted(norm) == (norm != noise.native_norm)


def test_converted_balls_lie_in_the_native_one():
    worst = np.full(784, Gaussian(0.5).radius(0.9, "inf", 784))
    assert np.linalg.norm(worst) <= Gaussian(0.5).radius(0.9) * (1 + 1e-12)
    worst = np.full(784, Uniform(0.5).radius(0.9, 2, 784) / 28)  # Of L2 norm that.
    assert np.abs(worst).sum() <= Uniform(0.5).radius(0.9) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Gaussian(0.0), "`sigma` must be a finite number above 0"),
        (lambda: Gaussian(-1.0), "above 0"),
        (lambda: Gaussian(math.nan), "above 0"),
        (lambda: Gaussian("0.25"), "above 0"),
        (lambda: Uniform(0.0), "`half_width`"),
        (lambda: QuantisedGaussian(math.inf), "finite"),
        (lambda: Gaussian(0.5).radius(0.9, 3), "must be 1, 2 or 'inf'"),
        (lambda: Gaussian(0.5).radius(0.9, "inf"), "number of entries"),
        (lambda: QuantisedGaussian(0.5).radius(0.9), "number of entries"),
        (lambda: QuantisedGaussian(0.5).check_images(np.array([0.5])), "1/255"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
