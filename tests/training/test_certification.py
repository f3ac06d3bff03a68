"""Certification between epochs: of the weights of now, of the same images each time."""

import numpy as np

from robust_tf.graph import BoundGraph
from robust_tf.smoothing import SmoothedClassifier
from robust_tf.training.certification import CertifyExamples
from tests.training import small
from tests.training.test_smoothing import model_of

OPTIONS = {"n0": 20, "n": 200, "alpha": 0.01, "batch_size": 100, "seed": 3}


def test_due_epochs_are_certified_at_their_weights():
    model = model_of("gaussian")
    images, labels = small.images_and_labels(6)
    seen = {}
    callback = CertifyExamples(
        BoundGraph.from_model(model.classifier),
        0.2,
        images,
        labels,
        every=2,
        first_epoch=4,
        record=lambda epochs, radii: seen.update({epochs: radii}),
        **OPTIONS,
    )
    history = small.fit(model, small.batches(), 6, callbacks=[callback])
    assert list(seen) == [4, 6]
    assert len(history["average_certified_radius"]) == 2
    # The end again, by a classifier of its own.
    found = SmoothedClassifier(model.classifier, 0.2).certify(images, **OPTIONS)
    correct = found.prediction == labels
    np.testing.assert_array_equal(seen[6], np.where(correct, found.radius, -1.0))
    mean = np.where(correct, found.radius, 0.0).mean()
    assert history["average_certified_radius"][-1] == mean > 0.0
    assert history["smoothed_accuracy"][-1] == correct.mean()


def test_without_a_period_nothing_is_certified_before_it_is_asked_for():
    model = model_of("gaussian")
    images, labels = small.images_and_labels(6)
    graph = BoundGraph.from_model(model.classifier)
    callback = CertifyExamples(graph, 0.2, images, labels, every=0, **OPTIONS)
    history = small.fit(model, small.batches(), 1, callbacks=[callback])
    assert "average_certified_radius" not in history
    assert set(callback.certify(1)) == {"average_certified_radius", "smoothed_accuracy"}
