"""Weights of training images: their values, what is dropped, when, and again alike."""

import keras
import numpy as np
import pytest
from scipy import stats

from robust_tf import layers
from robust_tf.data import ImageDataset
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.smoothing import SmoothedClassifier
from robust_tf.training import reweighting
from robust_tf.training.distribution import strategy_for
from robust_tf.training.reweighting import ImageWeights
from robust_tf.training.reweighting import Reweighting
from tests.training import small

SIGMA = 0.5
SETTINGS = Reweighting(first_epoch=3, least_accuracy=0.5, every=2)


def linear(bias=0.0):
    """Class 1 where the mean of the pixels is above a half; nothing is learned."""
    inputs = keras.Input((2, 2, 1))
    dense = layers.Dense(2)
    model = keras.Model(inputs, dense(layers.Flatten()(inputs)))
    kernel = np.stack([np.zeros(4), np.full(4, 0.25)], -1)
    dense.set_weights([kernel, np.array([0.5 + bias, 0.0])])
    return model


def split_of(means, labels=None):
    """Images of one grey level each; by default all of class 1."""
    images = np.ones((len(means), 2, 2, 1), "float32")
    images *= np.reshape(means, (-1, 1, 1, 1))
    labels = np.ones(len(means), int) if labels is None else labels
    return ImageDataset("grey", images, labels, 2, "train")


def accuracies(means, sigma=SIGMA):
    """Exact ones: the noise of the mean of four pixels has deviation sigma / 2."""
    return stats.norm.cdf((np.asarray(means) - 0.5) / (sigma / 2.0))


def weights_of(images, settings=SETTINGS, model=None, seed=7):
    graph = BoundGraph.from_model(model or linear())
    return ImageWeights(settings, graph, SIGMA, images, seed)


GREYS = np.linspace(0.0, 1.0, 41)


@pytest.mark.parametrize(
    ("samples", "least", "alpha"), [(16, 12, 0.1), (50, 40, 0.001)]
)
def test_weights_are_radii_over_sigma(samples, least, alpha):
    """Two-sided intervals of twice the level, as in the published code."""
    settings = Reweighting(
        3, 0.5, weight_samples=samples, least_count=least, alpha=alpha
    )
    counts = np.arange(samples + 1)
    for count, weight in zip(counts, settings.weights(counts), strict=True):
        test = stats.binomtest(int(max(count, least)), samples)
        interval = test.proportion_ci(1.0 - 2.0 * alpha, "exact")
        wanted = stats.norm.ppf(interval.low)
        assert weight == pytest.approx(wanted, rel=1e-9) and weight > 0.0


def test_counts_have_the_exact_distribution():
    """Standardised, the counts of 400 images at 8 levels of grey are a chi-square."""
    means = np.repeat(np.linspace(0.1, 0.9, 8), 50)
    counts = weights_of(split_of(means)).counts(range(400), 37, 0, 0)
    share = accuracies(means)
    scores = (counts - 37 * share) ** 2 / (37 * share * (1.0 - share))
    assert stats.chi2.ppf(1e-4, 400) < scores.sum() < stats.chi2.ppf(1.0 - 1e-4, 400)


def test_counts_are_of_the_label_and_of_the_positions():
    means, labels = [0.0, 1.0, 0.0, 1.0, 0.5], np.array([0, 0, 1, 1, 1])
    found = weights_of(split_of(means, labels))
    share = accuracies(means)
    wanted = 1000 * np.where(labels == 1, share, 1.0 - share)
    np.testing.assert_allclose(found.counts(range(5), 1000, 0, 0), wanted, atol=60)
    np.testing.assert_allclose(
        found.counts([3, 0, 3], 1000, 0, 0), wanted[[3, 0, 3]], atol=60
    )


def test_counts_agree_with_certification():
    """The same classifier and noise of the same deviation, by another program part."""
    model = small.cnn()
    small_images, labels = small.images_and_labels(6)
    images = ImageDataset("small", small_images, labels, small.CLASSES, "train")
    found = weights_of(images, model=model).counts(range(6), 4000, 0, 0)
    votes = SmoothedClassifier(model, SIGMA).predict(small_images, n=4000).counts
    wanted = votes[np.arange(6), labels]
    # Two counts of one probability: six standard deviations of their difference.
    np.testing.assert_allclose(found, wanted, atol=6 * np.sqrt(2 * 4000) * 0.5)
    assert wanted.min() < 2000 < wanted.max()


def test_noise_is_a_function_of_seed_epoch_and_stream(monkeypatch):
    images = split_of(GREYS)
    one = weights_of(images)
    first = one.counts(range(41), 30, 3, 0)
    np.testing.assert_array_equal(weights_of(images).counts(range(41), 30, 3, 0), first)
    others = [
        one.counts(range(41), 30, 4, 0),
        one.counts(range(41), 30, 3, 1),
        weights_of(images, seed=8).counts(range(41), 30, 3, 0),
    ]
    for other in others:
        assert (other != first).any()
    # What fills up the last call changes nothing.
    np.testing.assert_array_equal(one.counts(range(40), 30, 3, 0), first[:40])
    monkeypatch.setattr(reweighting, "_COPIES", 10)
    assert one.counts(range(41), 30, 3, 0).shape == (41,)


def test_images_of_too_low_accuracy_are_dropped_once():
    found = weights_of(split_of(GREYS))
    assert found.kept_images == 41
    assert found.before(0) is None and found.before(2) is None
    assert found.kept_images == 41
    first = found.before(3)
    counts = found.counts(range(41), 100, 3, 0)
    np.testing.assert_array_equal(first > 0.0, counts >= 50)
    assert found.kept_images == np.sum(counts >= 50)
    # Far from the threshold no draw can matter.
    assert not first[GREYS < 0.3].any() and first[GREYS > 0.7].all()
    # An image at the threshold may fall below it later on, and is kept all the same.
    for epoch in (5, 7, 9):
        np.testing.assert_array_equal(found.before(epoch) > 0.0, first > 0.0)


def test_weights_follow_counts_of_the_epoch():
    found = weights_of(split_of(GREYS))
    for epoch in (3, 5):
        weights = found.before(epoch)
        (kept,) = np.nonzero(weights)
        counts = found.counts(kept, 16, epoch, 1)
        np.testing.assert_array_equal(weights[kept], SETTINGS.weights(counts))
        assert len(set(weights[kept])) > 2
    # Not due: the same again.
    np.testing.assert_array_equal(found.before(6), weights)


def test_weights_are_those_of_the_classifier_of_the_time():
    model, images = linear(), split_of(GREYS)
    found = weights_of(images, model=model)
    found.before(3)
    model.layers[-1].set_weights(linear(bias=0.3).layers[-1].get_weights())
    moved = found.before(5)
    (kept,) = np.nonzero(moved)
    fresh = weights_of(images, model=linear(bias=0.3))
    counts = fresh.counts(kept, 16, 5, 1)
    np.testing.assert_array_equal(moved[kept], SETTINGS.weights(counts))


def test_a_restored_state_goes_on_alike():
    images = split_of(GREYS)
    whole = weights_of(images)
    wanted = [whole.before(epoch) for epoch in range(3, 8)]
    for stop in range(4, 8):
        part = weights_of(images)
        (state,) = part.variables
        before = weights_of(images)
        for epoch in range(3, stop):
            before.before(epoch)
        state.assign(np.asarray(before.variables[0]))
        for epoch in range(stop, 8):
            np.testing.assert_array_equal(part.before(epoch), wanted[epoch - 3])


def test_two_replicas_hold_the_same():
    images = split_of(GREYS)
    wanted = weights_of(images).before(3)
    with strategy_for(("CPU:0", "CPU:1")).scope():
        found = weights_of(images)
    np.testing.assert_array_equal(found.before(3), wanted)


def test_an_epoch_of_which_nothing_is_left():
    found = weights_of(split_of(GREYS), Reweighting(3, 1.0), linear(bias=9.0))
    with pytest.raises(InputError, match=r"none is kept.*at most 0\. .*Lower it"):
        found.before(3)


@pytest.mark.parametrize(
    ("first", "end", "wanted"),
    [
        (0, 9, [(0, 3), (3, 5), (5, 7), (7, 9)]),
        (0, 3, [(0, 3)]),
        (3, 4, [(3, 4)]),
        (4, 6, [(4, 5), (5, 6)]),
        (5, 5, [(5, 5)]),
    ],
)
def test_stretches(first, end, wanted):
    assert SETTINGS.stretches(first, end) == wanted


def test_logs_tell_how_many_are_kept():
    found, logs = weights_of(split_of(GREYS)), {}
    found.on_epoch_end(0, logs)
    assert logs == {"kept_images": 41}
    found.before(3)
    found.on_epoch_end(3, logs)
    assert 15 < logs["kept_images"] < 30


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"first_epoch": -1}, "`first_epoch` must be a whole number of at least 0"),
        ({"first_epoch": 1.5}, "`first_epoch`"),
        ({"samples": 0}, "`samples`"),
        ({"every": 0}, "`every`"),
        ({"weight_samples": True}, "`weight_samples`"),
        ({"least_accuracy": 1.1}, "`least_accuracy`"),
        ({"least_accuracy": float("nan")}, "`least_accuracy`"),
        ({"alpha": 0.0}, "`alpha`"),
        ({"least_count": 17}, "to 16, the `weight_samples`. Received: 17"),
        ({"least_count": 8}, "`least_count` must lie from 1[12]"),
        ({"weight_samples": 3}, "3 samples certify nothing"),
    ],
)
def test_bad_settings_are_refused(changed, message):
    with pytest.raises(InputError, match=message):
        Reweighting(**{"first_epoch": 3, "least_accuracy": 0.5} | changed)
