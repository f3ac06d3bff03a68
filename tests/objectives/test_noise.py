"""Noisy copies of a batch: how they are drawn, laid out and shared."""

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.attacks.smoothadv import SmoothPGD
from robust_tf.graph import BoundGraph
from robust_tf.objectives.noise import Noise
from robust_tf.objectives.noise import NoisyForward
from tests.training import small

SEED = (5, 6)


def noisy(noise, classifier=None, seed=SEED, radius=0.5, training=False, count=4):
    images, labels = small.images_and_labels(count)
    return NoisyForward(
        graph=BoundGraph.from_model(classifier or small.cnn()),
        noise=noise,
        images=tf.constant(images),
        labels=tf.constant(labels),
        radius=tf.constant(radius),
        seed=tf.constant(seed, tf.int64),
        training=training,
    )


def test_noise_has_the_deviation_and_is_not_clipped():
    forward = noisy(Noise(0.5, 50), count=16)
    values = forward.noises.numpy()
    assert values.shape == (16, 50, *small.SHAPE)
    assert abs(values.mean()) < 0.02 and values.std() == pytest.approx(0.5, rel=0.02)
    points = forward.centers[:, None] + forward.noises
    assert points.numpy().min() < 0.0 and points.numpy().max() > 1.0


def test_copies_and_images_have_noise_of_their_own_that_repeats():
    values = noisy(Noise(1.0, 3)).noises.numpy().reshape(12, -1)
    assert len({row.tobytes() for row in values}) == 12
    again = noisy(Noise(1.0, 3)).noises.numpy().reshape(12, -1)
    np.testing.assert_array_equal(values, again)
    other = noisy(Noise(1.0, 3), seed=(5, 7)).noises.numpy().reshape(12, -1)
    assert not np.isclose(values, other).any(-1).all()


def test_logits_lie_by_image_then_copy():
    classifier = small.cnn()
    forward = noisy(Noise(0.3, 3), classifier)
    for image in range(4):
        for copy in range(3):
            point = forward.images[image] + forward.noises[image, copy]
            np.testing.assert_allclose(
                forward.logits[image, copy],
                classifier(point[None])[0],
                rtol=1e-5,
                atol=1e-6,
            )


def test_losses_and_hits_are_those_of_the_copies():
    forward = noisy(Noise(0.3, 3))
    labels = forward.labels.numpy()
    logs = np.log(forward.probabilities.numpy())
    own = np.take_along_axis(logs, labels[:, None, None], -1)[..., 0]
    np.testing.assert_allclose(forward.losses, -own, rtol=1e-5)
    hits = forward.logits.numpy().argmax(-1) == labels[:, None]
    np.testing.assert_allclose(forward.is_correct, hits.mean(-1))


def test_the_attack_and_the_loss_share_the_noise():
    seen = []

    def attack(logits_fn, images, noises, labels, radius, seed):
        del logits_fn, labels, seed
        seen.append((noises.numpy(), float(radius)))
        return images + 0.25

    forward = noisy(Noise(0.3, 2, attack))
    _ = forward.logits
    ((noises, radius),) = seen  # Once.
    np.testing.assert_array_equal(noises, forward.noises)
    assert radius == 0.5
    np.testing.assert_array_equal(forward.centers, forward.images + 0.25)


def test_attacked_images_are_harder():
    classifier = small.cnn()
    model = small.certified_model(classifier, small.terms.natural())
    small.fit(model, small.batches(), 20)
    plain = noisy(Noise(0.1, 4), classifier, count=48)
    attacked = noisy(Noise(0.1, 4, SmoothPGD(4)), classifier, count=48)
    assert tf.reduce_mean(attacked.losses) > 1.2 * tf.reduce_mean(plain.losses)


def test_noisy_copies_are_one_training_batch():
    classifier = small.cnn(normalized=True)
    before = classifier.get_layer("norm").moving_mean.numpy()
    forward = noisy(Noise(0.3, 3), classifier, training=True)
    logits = forward.logits.numpy()
    moved = classifier.get_layer("norm").moving_mean.numpy()
    assert np.abs(moved - before).max() > 1e-4
    # Each copy's logits depend on the others, as they share statistics.
    inference = noisy(Noise(0.3, 3), classifier).logits.numpy()
    assert np.abs(logits - inference).max() > 1e-3
    np.testing.assert_array_equal(classifier.get_layer("norm").moving_mean, moved)


def test_the_attack_sees_a_converted_classifier_as_it_is():
    forward = noisy(Noise(0.2, 2, SmoothPGD(2)), rt.convert(small.cnn(normalized=True)))
    assert np.isfinite(forward.logits.numpy()).all()
