"""The fused loss of CROWN-IBP: above the loss at every point, IBP's at the end."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.graph import BoundGraph
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.objectives.fusion import FusedCrownIbpCrossEntropy
from robust_tf.objectives.terms import CrownIbpCrossEntropy
from robust_tf.objectives.terms import IntervalCrossEntropy
from robust_tf.objectives.terms import WeightedSum
from robust_tf.regions import Threat
from tests.training import small


def passed(epsilon, ramp, *, training=False, seed=0):
    images, labels = small.images_and_labels(12, seed)
    images = images.astype("float64")
    model = small.cnn(seed, normalized=True, dtype="float64")
    return CertifiedForward(
        graph=BoundGraph.from_model(model),
        images=tf.constant(images),
        labels=tf.constant(labels),
        region=rt.LpBall(images, epsilon),
        ramp=tf.constant(ramp, tf.float64),
        seed=tf.constant([0, 0]),
        training=training,
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.1, 0.5])
def test_no_point_has_a_greater_loss(epsilon, seed):
    forward = passed(epsilon, ramp=0.0, seed=seed)  # By CROWN-IBP alone.
    losses = FusedCrownIbpCrossEntropy()(forward).numpy()
    random = np.random.default_rng(seed)
    box = forward.region.box
    for _ in range(200):
        ends = random.uniform(size=forward.images.shape)
        points = box.lower + np.round(ends) * (box.upper - box.lower)
        logits, _ = forward.graph.forward(points)
        attacked = keras.losses.sparse_categorical_crossentropy(
            forward.labels, logits, from_logits=True
        )
        assert (attacked.numpy() <= losses + 1e-9).all()


@pytest.mark.parametrize("training", [False, True])
def test_at_the_target_it_is_the_loss_of_ibp(training):
    forward = passed(0.1, ramp=1.0, training=training)
    np.testing.assert_allclose(
        FusedCrownIbpCrossEntropy()(forward),
        IntervalCrossEntropy()(forward),
        rtol=1e-12,
    )


def test_between_it_mixes_the_sums():
    ends = [
        FusedCrownIbpCrossEntropy()(passed(0.1, ramp)).numpy() for ramp in (0.0, 1.0)
    ]
    middle = FusedCrownIbpCrossEntropy(0.5)(passed(0.1, 1.0)).numpy()
    wanted = np.log(0.5 * np.exp(ends[0]) + 0.5 * np.exp(ends[1]))
    np.testing.assert_allclose(middle, wanted, rtol=1e-9)
    assert np.abs(ends[0] - ends[1]).max() > 1e-3


def test_at_radius_0_it_is_the_clean_loss():
    forward = passed(0.0, ramp=0.0)
    logits, _ = forward.graph.forward(forward.images)
    wanted = keras.losses.sparse_categorical_crossentropy(
        forward.labels, logits, from_logits=True
    )
    np.testing.assert_allclose(FusedCrownIbpCrossEntropy()(forward), wanted, atol=1e-7)


def test_it_is_not_tighter_than_separate_rows_allow():
    """For small radii chords are nearly exact, and so is one row for all."""
    forward = passed(0.002, ramp=0.0)
    fused = FusedCrownIbpCrossEntropy()(forward).numpy()
    separate = CrownIbpCrossEntropy(1.0)(forward).numpy()
    np.testing.assert_allclose(fused, separate, rtol=0.02)


def test_gradients_and_large_margins_are_finite():
    model = small.certified_model(
        small.cnn(),
        WeightedSum((FusedCrownIbpCrossEntropy(0.7),), (1.0,)),
        threat=Threat(1.0),
        optimizer=keras.optimizers.Adam(0.01),
    )
    for variable in model.classifier.trainable_variables:
        variable.assign(variable * 30.0)
    history = small.fit(model, small.batches(), epochs=3)
    assert history["loss"][0] > 1e3
    assert np.isfinite(history["loss"]).all()
    assert history["loss"][-1] < history["loss"][0]


def test_beta_is_checked():
    with pytest.raises(rt.InputError, match="final_beta"):
        FusedCrownIbpCrossEntropy(2.0)
