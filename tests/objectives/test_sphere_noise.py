"""Attacks that keep the noise's length: which noise is kept, and when they run."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.objectives.noise import Noise
from robust_tf.objectives.smoothed import NoisyCrossEntropy
from robust_tf.objectives.sphere_noise import SpherePGD
from robust_tf.regions import LpBall
from tests.objectives.test_noise import noisy
from tests.training import small

FEATURES, CLASSES = 6, 4


def case(seed=0, batch=40, copies=3):
    """A linear softmax model, images, noises and labels, in float64."""
    random = np.random.default_rng(seed)
    kernel = random.normal(size=(FEATURES, CLASSES))
    images = random.uniform(size=(batch, FEATURES))
    noises = random.normal(size=(batch, copies, FEATURES))
    labels = np.argmax((images[:, None] + noises).mean(1) @ kernel, -1)
    return kernel, images, noises, labels.astype("int32")


def by_hand(kernel, image, noise, label, radius, steps):
    """The noise that is kept for one copy, and after how many steps; NumPy alone."""
    size = np.linalg.norm(noise)
    for number in range(steps):
        logits = (image + noise) @ kernel
        if logits.argmax() != label:
            return noise, number
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        gradient = kernel @ (shares - np.eye(CLASSES)[label])
        moved = noise + radius * gradient / np.linalg.norm(gradient)
        noise = moved * size / np.linalg.norm(moved)
    return noise, steps


def attacked(kernel, images, noises, labels, radius=0.2, steps=4):
    found = SpherePGD(steps)(
        lambda inputs: inputs @ tf.constant(kernel),
        *map(tf.constant, (images, noises, labels, radius)),
    )
    return found.numpy()


@pytest.mark.parametrize("steps", [1, 4])
def test_the_first_misclassified_noise_is_kept_else_the_last(steps):
    kernel, images, noises, labels = case()
    found = attacked(kernel, images, noises, labels, steps=steps)
    taken = set()
    for image, own, moved, label in zip(images, noises, found, labels, strict=True):
        for noise, actual in zip(own, moved, strict=True):
            wanted, number = by_hand(kernel, image, noise, label, 0.2, steps)
            np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-6)
            taken.add(number)
    # Some are misclassified as they are drawn, some on the way, some never before.
    assert taken == set(range(steps + 1))


def test_lengths_stay():
    kernel, images, noises, labels = case()
    found = attacked(kernel, images, noises, labels, radius=2.0)
    assert np.abs(found - noises).max() > 1.0
    lengths = (np.linalg.norm(values, axis=-1) for values in (found, noises))
    np.testing.assert_allclose(*lengths, rtol=1e-12)


def test_noise_without_a_gradient_or_a_length_is_finite():
    kernel, images, noises, labels = case()
    flat = attacked(np.zeros_like(kernel), images, noises, np.zeros_like(labels))
    np.testing.assert_allclose(flat, noises, rtol=1e-12)
    none = attacked(kernel, images, np.zeros_like(noises), labels)
    np.testing.assert_array_equal(none, np.zeros_like(noises))


def test_copies_are_attacked_each_for_itself():
    kernel, images, noises, labels = case()
    found = attacked(kernel, images, noises, labels)
    alone = attacked(kernel, images[5:7], noises[5:7, 1:2], labels[5:7])
    np.testing.assert_allclose(alone[:, 0], found[5:7, 1], rtol=1e-12)


def with_attack(attack=None, **given):
    """A forward pass in training, on a classifier with BatchNormalization."""
    noise = Noise(0.3, 3, noise_attack=attack or SpherePGD(3))
    classifier = small.cnn(normalized=True)
    return noisy(noise, classifier, **({"training": True, "count": 8} | given))


def test_copies_of_the_loss_are_the_attacked_ones():
    plain = with_attack(training=False)
    forward = with_attack()
    labels = forward.labels
    found = SpherePGD(3)(
        plain.graph.inference(), plain.images, plain.noises, labels, 0.5
    )
    assert np.abs(found - plain.noises).max() > 0.05
    wanted = with_attack().logits_of(plain.images[:, None] + found)
    np.testing.assert_allclose(forward.logits, wanted, rtol=0, atol=1e-5)
    # The noise itself stays as it was drawn.
    np.testing.assert_array_equal(forward.noises, plain.noises)
    hits = wanted.numpy().argmax(-1) == labels.numpy()[:, None]
    np.testing.assert_allclose(forward.is_correct, hits.mean(-1))


def test_the_attack_is_at_inference_and_one_batch_moves_statistics():
    seen = []

    def attack(logits_fn, images, noises, labels, radius):
        seen.append(logits_fn(images).numpy())
        return SpherePGD(3)(logits_fn, images, noises, labels, radius)

    classifier = small.cnn(normalized=True)
    norm = classifier.get_layer("norm")
    norm.moving_mean.assign([0.1, -0.2, 0.3])
    before = classifier(small.images_and_labels(8)[0], training=False).numpy()
    noise = Noise(0.3, 3, noise_attack=attack)
    forward = noisy(noise, classifier, training=True, count=8)
    _ = forward.losses, forward.is_correct
    np.testing.assert_allclose(seen, [before], rtol=0, atol=1e-6)
    copies = forward.images[:, None] + forward._moved_noises
    inputs = classifier.get_layer("conv")(tf.reshape(copies, [-1, *small.SHAPE]))
    mean = np.mean(inputs, (0, 1, 2))
    wanted = 0.9 * np.array([0.1, -0.2, 0.3]) + 0.1 * mean
    np.testing.assert_allclose(norm.moving_mean, wanted, rtol=0, atol=1e-6)


def refuse(*arguments):
    raise AssertionError("No noise is to be attacked.")


@pytest.mark.parametrize("given", [{"radius": 0.0}, {"training": False}])
def test_no_attack_without_a_radius_or_in_validation(given):
    forward = with_attack(refuse, **given)
    plain = with_attack(lambda *given: given[2], **given)
    np.testing.assert_array_equal(forward.logits, plain.logits)
    np.testing.assert_array_equal(
        forward.logits_of(forward.images[:, None] + forward.noises), forward.logits
    )


def test_a_radius_of_0_costs_no_attack_in_a_graph():
    """What stands in the branch that is not taken does not run."""
    calls = []

    def attack(logits_fn, images, noises, labels, radius):
        with tf.control_dependencies([tf.py_function(lambda: calls.append(1), [], [])]):
            return tf.identity(noises)

    forward = with_attack(attack)

    @tf.function
    def losses(radius):
        return dataclasses.replace(forward, radius=radius).losses

    losses(tf.constant(0.0))
    assert calls == []
    losses(tf.constant(0.5))
    assert calls == [1]


@pytest.mark.parametrize("in_graph", [False, True])
def test_no_gradient_flows_through_the_attack(in_graph):
    """Gradients are those of the loss at noises that stand still."""
    forward = with_attack()
    still = with_attack(lambda *_: forward._moved_noises)

    _ = forward._moved_noises

    def gradients(one):
        variables = [
            variable.value
            for node in one.graph.nodes
            for variable in node.layer.trainable_variables
        ]

        def differentiate():
            with tf.GradientTape() as tape:
                # Anew, as results are kept.
                loss = tf.reduce_mean(dataclasses.replace(one).losses)
            return tape.gradient(loss, variables)

        return tf.function(differentiate)() if in_graph else differentiate()

    for found, wanted in zip(gradients(forward), gradients(still), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
        assert np.abs(wanted).max() > 0.0


def test_noise_is_attacked_where_the_image_was_moved_to():
    centers = []

    def attack(logits_fn, images, noises, labels, radius):
        centers.append(images.numpy())
        return noises

    noise = Noise(0.3, 2, lambda _, images, *__: images + 0.25, attack)
    forward = noisy(noise, training=True)
    _ = forward.logits
    np.testing.assert_array_equal(centers, [forward.images + 0.25])


def test_the_loss_is_the_mean_over_attacked_copies():
    images, labels = small.images_and_labels(8)
    forward = CertifiedForward(
        graph=with_attack().graph,
        images=tf.constant(images),
        labels=tf.constant(labels),
        region=LpBall(tf.constant(images), 0.5, 2),
        ramp=tf.constant(1.0),
        seed=tf.constant([5, 6], tf.int64),
        training=True,
        noise=Noise(0.3, 3, noise_attack=SpherePGD(3)),
    )
    wanted = with_attack().losses.numpy().mean(-1)
    assert np.abs(wanted - with_attack(radius=0.0).losses.numpy().mean(-1)).max() > 0.01
    np.testing.assert_allclose(NoisyCrossEntropy()(forward), wanted, rtol=1e-5)


@pytest.mark.parametrize("steps", [0, 1.5])
def test_bad_settings_are_refused(steps):
    with pytest.raises(InputError, match="`steps`"):
        SpherePGD(steps)


def test_older_runs_are_told_apart_as_before():
    """Their checkpoints hold this text; `run_signature` names the attack apart."""
    assert repr(Noise(0.25, 2)) == "Noise(sigma=0.25, copies=2, attack=None)"
    assert repr(Noise(0.25, 2, noise_attack=SpherePGD())) == repr(Noise(0.25, 2))
