"""Attacks on a share of each batch: its first examples, and no others."""

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.attacks.pgd import PGD
from robust_tf.graph import BoundGraph
from robust_tf.objectives.forward import Adversary
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.regions import LpBall
from tests.training import small

ATTACK = PGD(steps=3, random_start=False)


def forward(count, adversary, norm="inf"):
    images, labels = small.images_and_labels(count)
    return CertifiedForward(
        graph=BoundGraph.from_model(small.cnn()),
        images=tf.constant(images),
        labels=tf.constant(labels),
        region=LpBall(images, 0.05, norm),
        ramp=tf.ones([]),
        seed=tf.constant([1, 2], tf.int64),
        training=True,
        adversary=adversary,
    )


@pytest.mark.parametrize("norm", ["inf", "2"])
@pytest.mark.parametrize(
    ("count", "share", "attacked"),
    [(6, 0.5, 3), (7, 0.5, 3), (7, 0.99, 6), (7, 1.0, 7), (3, 1.0 / 3.0, 1)],
)
def test_the_first_examples_are_attacked(count, share, attacked, norm):
    """So many of them, rounded down, each as in a batch that is attacked as a whole."""
    mixed = forward(count, Adversary(ATTACK, share=share), norm)
    whole = forward(count, Adversary(ATTACK), norm)
    clean = mixed.images.numpy()
    assert (mixed.attacked.numpy() != clean).any((1, 2, 3)).sum() == attacked
    np.testing.assert_array_equal(mixed.attacked[attacked:], clean[attacked:])
    np.testing.assert_allclose(
        mixed.attacked[:attacked], whole.attacked[:attacked], atol=1e-6
    )
    assert mixed.adversarial_logits.shape == (count, small.CLASSES)


def test_the_attack_gets_its_part_alone():
    seen = {}

    def attack(logits_fn, region, labels, seed):
        seen.update(region=region, labels=labels, seed=seed)
        return region.x + 0.01

    given = forward(5, Adversary(attack, radius_factor=2.0, share=0.5))
    assert given.attacked.shape == (5, *small.SHAPE)
    np.testing.assert_array_equal(seen["region"].x, given.images[:2])
    np.testing.assert_array_equal(seen["labels"], given.labels[:2])
    np.testing.assert_array_equal(seen["seed"], given.seed)
    assert float(seen["region"].radius) == pytest.approx(0.1)


def test_a_share_of_no_example_attacks_none():
    given = forward(3, Adversary(ATTACK, share=0.3))
    np.testing.assert_array_equal(given.attacked, given.images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, r"`share` must lie in \(0, 1\]. Received: 0.0"),
        ({"share": -0.5}, r"`share` must lie in \(0, 1\]"),
        ({"share": 1.5}, r"`share` must lie in \(0, 1\]"),
        ({"share": float("nan")}, r"`share` must lie in \(0, 1\]"),
        ({"share": 0.5, "box_share": 0.4}, "`share` 0.5 and `box_share` 0.4. Set one"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(rt.InputError, match=message):
        Adversary(ATTACK, **options)


def test_all_of_a_batch_goes_with_small_boxes():
    assert Adversary(ATTACK, share=1.0, box_share=0.4).box_share == 0.4
