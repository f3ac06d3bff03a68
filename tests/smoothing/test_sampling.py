"""Votes do not depend on how the work is cut up, and are those of the classifier."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.errors import InputError
from robust_tf.smoothing import BaseClassifier
from robust_tf.smoothing import SmoothedClassifier
from robust_tf.smoothing import sampling
from robust_tf.smoothing.noises import Gaussian
from robust_tf.training.distribution import strategy_for

SHAPE, SIGMA = (16, 16, 1), 0.5


def images(count):
    random = np.random.default_rng(1)
    return random.random((count, *SHAPE), np.float32)


@pytest.fixture(name="model", scope="module")
def fixture_model():
    """A small network with BatchNormalization, whose statistics are no unit ones."""
    keras.utils.set_random_seed(2)
    inputs = keras.Input(SHAPE)
    tensor = keras.layers.Conv2D(4, 3, use_bias=False)(inputs)
    normalization = keras.layers.BatchNormalization()
    tensor = keras.layers.MaxPooling2D()(keras.layers.ReLU()(normalization(tensor)))
    outputs = keras.layers.Dense(5)(keras.layers.Flatten()(tensor))
    normalization.moving_mean.assign([0.5, -0.2, 0.1, 0.3])
    normalization.moving_variance.assign([0.5, 2.0, 1.5, 0.2])
    return keras.Model(inputs, outputs)


@pytest.fixture(name="smooth", scope="module")
def fixture_smooth(model):
    return SmoothedClassifier(model, SIGMA, block_size=20)


def all_counts(smooth, x, **options):
    options = {"n0": 50, "n": 210, "mode": "full", **options}
    found = smooth.certify(x, **options)
    return np.concatenate([found.selection_counts, found.counts], -1)


@pytest.mark.parametrize("batch_size", [1, 7, 40, 100, 1000])
def test_batch_size_changes_nothing(smooth, batch_size):
    expected = all_counts(smooth, images(5), batch_size=60)
    found = all_counts(smooth, images(5), batch_size=batch_size)
    np.testing.assert_array_equal(found, expected)
    assert (found > 0).sum(-1).min() > 2  # The votes are divided.


def test_order_start_and_skip_change_nothing(smooth):
    x = images(6)
    expected = all_counts(smooth, x)
    for places in ([3], [5, 0, 2], [1, 3, 5]):
        found = all_counts(smooth, x[places], indices=places)
        np.testing.assert_array_equal(found, expected[places])


def test_index_and_seed_choose_the_noise(smooth):
    x = images(1).repeat(3, 0)
    found = all_counts(smooth, x)
    assert len(np.unique(found, axis=0)) == 3
    assert np.any(all_counts(smooth, x, seed=1) != found)
    np.testing.assert_array_equal(all_counts(smooth, x), found)


def test_the_last_blocks_are_cut(smooth):
    found = smooth.certify(images(2), n0=50, n=210, mode="full")
    np.testing.assert_array_equal(found.selection_counts.sum(-1), 50)
    np.testing.assert_array_equal(found.counts.sum(-1), 210)
    longer = smooth.certify(images(2), n0=60, n=220, mode="full")
    assert np.all(longer.counts >= found.counts)
    assert np.all(longer.selection_counts >= found.selection_counts)


def test_stages_share_no_samples(smooth):
    x = images(8)
    found = smooth.certify(x, n0=200, n=200, mode="full")
    predicted = smooth.predict(x, n=200)
    for first, second in itertools.combinations(
        (found.selection_counts, found.counts, predicted.counts), 2
    ):
        assert not np.any(np.all(first == second, -1))


def test_no_two_keys_agree():
    indices = (0, 1, 2**30, sampling.MAX_INDEX - 1)
    blocks = (0, 1, sampling.MAX_BLOCKS - 1)
    stages = (sampling.SELECTION, sampling.ESTIMATION, sampling.PREDICTION)
    keys = {
        sampling.key_of(*parts)
        for parts in itertools.product((0, 1, 2**63 - 1), indices, stages, blocks)
    }
    assert len(keys) == 3 * len(indices) * len(stages) * len(blocks)
    assert max(max(key) for key in keys) < 2**63


def test_votes_are_those_of_the_model(model):
    x = images(1)
    smooth = SmoothedClassifier(model, SIGMA, block_size=500)
    found = smooth.certify(x, n0=500, n=500, seed=3, indices=[9], mode="full")
    for stage, counts in enumerate((found.selection_counts, found.counts)):
        key = tf.constant(sampling.key_of(3, 9, stage, 0), tf.int64)
        noise = Gaussian(SIGMA).sample((500, *SHAPE), key)
        logits = model(x + noise, training=False).numpy()
        ahead = np.diff(np.sort(logits, -1)[:, -2:], axis=-1).min()
        assert ahead > 1e-5  # None is decided by rounding.
        expected = np.bincount(logits.argmax(-1), minlength=5)
        np.testing.assert_array_equal(counts[0], expected)
    assert noise.numpy().min() + x.min() < -0.5  # Noise is not clipped.


def test_a_copy_is_smoothed(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    smooth = SmoothedClassifier(copy, SIGMA, block_size=20)
    before = all_counts(smooth, images(2))
    copy.set_weights([0.0 * weight for weight in copy.get_weights()])
    np.testing.assert_array_equal(all_counts(smooth, images(2)), before)


def test_a_converted_model_is_taken_too(model, smooth):
    found = SmoothedClassifier(rt.convert(model), SIGMA, block_size=20)
    expected = all_counts(smooth, images(2))
    np.testing.assert_array_equal(all_counts(found, images(2)), expected)


@pytest.mark.parametrize("batch_size", [20, 100])
@pytest.mark.parametrize("devices", [("CPU:0", "CPU:1"), ("CPU:1",)])
def test_replicas_share_the_blocks(model, smooth, devices, batch_size):
    strategy = strategy_for(devices)
    shared = SmoothedClassifier(model, SIGMA, strategy=strategy, block_size=20)
    found = all_counts(shared, images(3), batch_size=batch_size)
    np.testing.assert_array_equal(found, all_counts(smooth, images(3)))


def test_the_compiled_form_is_the_same(model, smooth):
    compiled = SmoothedClassifier(model, SIGMA, block_size=20, jit_compile=True)
    found = all_counts(compiled, images(1))
    np.testing.assert_array_equal(found, all_counts(smooth, images(1)))


def test_the_lowest_class_wins_ties():
    base = BaseClassifier(lambda x: tf.zeros([len_of(x), 4]), (2,), 4)
    found = SmoothedClassifier(base, 0.5).certify(np.full((1, 2), 0.5), n=100)
    np.testing.assert_array_equal(found.counts, [[100, 0, 0, 0]])
    base = BaseClassifier(lambda x: tf.zeros([len_of(x), 4]) + [0, 1, 0, 1.0], (2,), 4)
    found = SmoothedClassifier(base, 0.5).certify(np.full((1, 2), 0.5), n=100)
    np.testing.assert_array_equal(found.counts, [[0, 100, 0, 0]])


def test_the_lowest_class_wins_a_tied_selection():
    # By the row, so that the votes are divided evenly.
    def logits(x):
        return tf.one_hot(2 - tf.range(len_of(x)) % 2, 3)

    smooth = SmoothedClassifier(BaseClassifier(logits, (2,), 3), 0.5)
    found = smooth.certify(np.full((1, 2), 0.5), n=100)
    np.testing.assert_array_equal(found.selection_counts, [[0, 50, 50]])
    np.testing.assert_array_equal(found.candidate, [1])


@pytest.mark.parametrize("which", ["all", "some"])
def test_logits_that_are_nan_are_refused(which):
    def logits(x):
        is_bad = x[:, :1] > (-9.0 if which == "all" else 0.9)
        return tf.where(is_bad, float("nan"), tf.constant([[0.0, 1.0]]))

    smooth = SmoothedClassifier(BaseClassifier(logits, (2,), 2), 0.25)
    with pytest.raises(InputError, match="Received: NaN for .* index 4"):
        smooth.certify(np.full((1, 2), 0.5), n=100, indices=[4])


def test_infinite_logits_count():
    base = BaseClassifier(
        lambda x: tf.zeros([len_of(x), 2]) + [-float("inf"), float("inf")], (2,), 2
    )
    found = SmoothedClassifier(base, 0.5).certify(np.full((1, 2), 0.5), n=100)
    np.testing.assert_array_equal(found.counts, [[0, 100]])


def len_of(x):
    return tf.shape(x)[0]
