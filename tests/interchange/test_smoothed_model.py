"""The exported smoothed classifier: alone, it says what the library says."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.interchange.smoothed_model import _least_leads
from robust_tf.interchange.smoothed_model import export_smoothed
from robust_tf.smoothing import QuantisedGaussian
from robust_tf.smoothing import SmoothedClassifier
from robust_tf.smoothing import radius as bounds
from tests.training import small

ALPHA, N0, N = 0.01, 30, 250


@pytest.fixture(scope="module")
def trained():
    classifier = small.cnn(normalized=True)
    model = small.certified_model(classifier, small.terms.natural())
    small.fit(model, small.batches(), 8)
    return classifier


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    smoothed = SmoothedClassifier(trained, 0.3)
    export_smoothed(folder, smoothed, n0=N0, n=N, alpha=ALPHA)
    return folder, smoothed


@pytest.mark.parametrize("seed", [0, 2**40 + 3])
def test_it_says_what_the_library_says(exported, seed):
    folder, smoothed = exported
    images, _ = small.images_and_labels(7)
    loaded = tf.saved_model.load(folder)
    found = loaded.certify(tf.constant(images), tf.constant(seed, tf.int64))
    wanted = smoothed.certify(images, N0, N, ALPHA, seed=seed, mode="full")
    np.testing.assert_array_equal(found["prediction"], wanted.prediction)
    np.testing.assert_array_equal(found["counts"], wanted.counts)
    np.testing.assert_allclose(found["radius"], wanted.radius, rtol=1e-12)
    assert (wanted.radius > 0.0).any()
    np.testing.assert_allclose(
        loaded.logits(tf.constant(images)), smoothed.base.logits(images), rtol=1e-5
    )
    voted = loaded.predict(tf.constant(images), tf.constant(seed, tf.int64))
    wanted = smoothed.predict(images, N, ALPHA, seed=seed)
    np.testing.assert_array_equal(voted["prediction"], wanted.prediction)
    np.testing.assert_array_equal(voted["counts"], wanted.counts)


def test_another_seed_is_other_noise(exported):
    folder, _ = exported
    images, _ = small.images_and_labels(4)
    loaded = tf.saved_model.load(folder)
    first, second = (
        loaded.certify(tf.constant(images), tf.constant(seed, tf.int64))["counts"]
        for seed in (1, 2)
    )
    assert (first.numpy() != second.numpy()).any()


def test_it_needs_nothing_of_this_library(exported):
    folder, smoothed = exported
    images, _ = small.images_and_labels(2)
    np.save(folder.parent / "images.npy", images)
    program = (
        "import sys, numpy as np, tensorflow as tf\n"
        f"model = tf.saved_model.load({str(folder)!r})\n"
        f"images = np.load({str(folder.parent / 'images.npy')!r})\n"
        "found = model.signatures['certify'](images=tf.constant(images), "
        "seed=tf.constant(5, tf.int64))\n"
        "assert not any(name.startswith('robust_tf') for name in sys.modules)\n"
        "print(found['prediction'].numpy().tolist())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder.parent,
    )
    wanted = smoothed.certify(images, N0, N, ALPHA, seed=5, mode="full").prediction
    assert run.stdout.strip() == str(wanted.tolist())


def test_other_noise(trained, tmp_path):
    smoothed = SmoothedClassifier(trained, noise=QuantisedGaussian(0.3))
    export_smoothed(tmp_path / "model", smoothed, n0=N0, n=N, alpha=ALPHA)
    images = np.round(small.images_and_labels(3)[0] * 255.0) / np.float32(255.0)
    loaded = tf.saved_model.load(tmp_path / "model")
    found = loaded.certify(tf.constant(images), tf.constant(0, tf.int64))
    wanted = smoothed.certify(images, N0, N, ALPHA, mode="full")
    np.testing.assert_array_equal(found["counts"], wanted.counts)
    np.testing.assert_allclose(found["radius"], wanted.radius, rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_leads_are_those_of_the_exact_test(alpha):
    leads = _least_leads(120, alpha)
    for votes in range(1, 121):
        lead = int(leads[votes])
        assert lead > votes / 2
        if lead <= votes:
            assert bounds.is_decided_by_vote(lead, votes - lead, alpha)
        assert not bounds.is_decided_by_vote(lead - 1, votes - lead + 1, alpha)


@pytest.mark.parametrize(
    ("options", "text"),
    [({"n0": 2, "n": 5}, "Use at least 10"), ({"n0": 20, "n": 10, "alpha": 0.5}, "n0")],
)
def test_bad_samples_are_refused(trained, tmp_path, options, text):
    smoothed = SmoothedClassifier(trained, 0.3)
    with pytest.raises(InputError, match=text):
        export_smoothed(tmp_path / "model", smoothed, **options)
    assert not (tmp_path / "model").exists()


def test_a_folder_that_exists_is_left_alone(trained, tmp_path):
    with pytest.raises(InputError, match="exists already"):
        export_smoothed(tmp_path, SmoothedClassifier(trained, 0.3))
