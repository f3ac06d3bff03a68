"""Bad input is refused in words that say what to do."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.errors import InputError
from robust_tf.smoothing import BaseClassifier
from robust_tf.smoothing import QuantisedGaussian
from robust_tf.smoothing import SmoothedClassifier
from tests.smoothing import classifiers

BASE = classifiers.linear(0.5)
X = np.full((3, 2), 0.5)


def test_it_is_reachable():
    assert rt.smoothing.SmoothedClassifier is SmoothedClassifier


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n0": 0}, "`n0` must be a whole number of samples, at least 1"),
        ({"n0": 2.0}, "`n0` must be a whole number"),
        ({"n0": 200, "n": 100}, "n0 = 200, n = 100"),
        ({"n": 0}, "`n` must be a whole number"),
        ({"n": True}, "`n` must be a whole number"),
        ({"n0": 5, "n": 9}, "9 samples certify nothing .* Use at least 10"),
        ({"n": 100, "alpha": 1e-40}, "Use at least 133"),
        ({"n": 2**40}, "Use larger blocks"),
        ({"alpha": 0.0}, "`alpha`, the probability"),
        ({"alpha": 1.0}, "between 0 and 1"),
        ({"alpha": -0.1}, "between 0 and 1"),
        ({"alpha": float("nan")}, "between 0 and 1"),
        ({"alpha": "0.001"}, "between 0 and 1"),
        ({"batch_size": 0}, "`batch_size` must be a whole number"),
        ({"seed": -1}, "`seed` must be a whole number"),
        ({"seed": 2**63}, "below 2"),
        ({"norm": 3}, "`norm` must be 1, 2 or 'inf'"),
        ({"norm": "L2"}, "`norm` must be 1, 2 or 'inf'"),
        ({"norm": [2]}, "`norm` must be 1, 2 or 'inf'"),
        ({"mode": "fast"}, "`mode` must be one of"),
        ({"radii": []}, "`radii` must be a list"),
        ({"radii": [-0.1]}, "from 0"),
        ({"radii": [float("nan")]}, "finite"),
        ({"radii": 0.5}, "a list of numbers"),
        ({"radii": [0.5], "mode": "full"}, "Use mode 'exact'"),
        ({"mode": "adaptive", "tolerance": 0.0}, "`tolerance`"),
        ({"mode": "adaptive", "n0": 5, "n": 12}, "Use at least 13"),
        ({"indices": [0, 1]}, "one integer for each of the 3"),
        ({"indices": [0, 1, 1]}, "Indices must differ"),
        ({"indices": [0, 1, -1]}, "Received: -1"),
        ({"indices": [0, 1, 2**31]}, "Received: 2147483648"),
        ({"indices": [0.0, 1.0, 2.0]}, "one integer for each"),
        ({"labels": [0, 1]}, "one integer for each of the 3"),
        ({"labels": [0, 1, 2]}, "Labels must lie in 0..1 .* Received: 2"),
        ({"labels": [0, 1, -1]}, "Received: -1"),
        ({"labels": [[0], [1], [1]]}, "one integer for each"),
    ],
)
def test_certify(options, message):
    with pytest.raises(InputError, match=message):
        SmoothedClassifier(BASE, 0.5).certify(X, **{"n": 100, **options})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.full((3, 2), 1.5), r"must lie in \[0, 1\]. Received: 1.5 among 6 pixels"),
        (np.full((3, 2), -0.1), "make normalisation a layer"),
        (np.full((3, 2), np.nan), "Received: nan"),
        (np.full((3, 2), np.inf), "Received: inf"),
        (np.full((3, 2), 128, np.uint8), "Divide 8-bit images by 255"),
        (np.full((3, 3), 0.5), r"Received: shape \[3, 3\]"),
        (np.full((2,), 0.5), r"Received: shape \[2\]"),
        (np.zeros((0, 2)), "at least one"),
        ([[0.5], [0.5, 0.5]], "array of one shape"),
        ("images", "floats"),
    ],
)
def test_images(x, message):
    for call in ("certify", "predict", "certify_soft"):
        with pytest.raises(InputError, match=message):
            getattr(SmoothedClassifier(BASE, 0.5), call)(x, n=100)


def test_predict():
    smooth = SmoothedClassifier(BASE, 0.5)
    # Two-sided: 2 * 0.5 ** n is below 0.001 from 11 on.
    with pytest.raises(InputError, match="10 samples decide nothing .* least 11"):
        smooth.predict(X, n=10)
    assert np.all(smooth.predict(X, n=11).p_value >= 2 * 0.5**11)


def test_the_least_numbers_are_accepted():
    smooth = SmoothedClassifier(classifiers.linear(9.0), 0.5)
    found = smooth.certify(X, n0=1, n=10)
    assert np.all(found.prediction == 1)
    found = smooth.certify(X, n0=1, n=13, mode="adaptive")
    assert np.all(found.prediction == 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either `sigma` or `noise`"),
        ({"sigma": 0.5, "noise": QuantisedGaussian(0.5)}, "and not both"),
        ({"sigma": 0.0}, "`sigma` must be a finite number above 0"),
        ({"sigma": -0.5}, "above 0"),
        ({"noise": 0.5}, "must be one of `robust_tf.smoothing.noises`"),
        ({"sigma": 0.5, "block_size": 0}, "`block_size`"),
    ],
)
def test_smoothed_classifier(options, message):
    with pytest.raises(InputError, match=message):
        SmoothedClassifier(BASE, **options)


def test_quantised_noise_wants_eight_bits():
    smooth = SmoothedClassifier(BASE, noise=QuantisedGaussian(0.5))
    with pytest.raises(InputError, match="1/255"):
        smooth.certify(X, n=100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, (2,), 2), "`logits` must be a function"),
        ((tf.identity, (None,), 2), "one known shape"),
        ((tf.identity, (2,), 1), "at least 2 classes"),
    ],
)
def test_base_classifiers(arguments, message):
    with pytest.raises(InputError, match=message):
        BaseClassifier(*arguments)


def test_models():
    inputs = keras.Input((None, None, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    with pytest.raises(InputError):
        SmoothedClassifier(keras.Model(inputs, keras.layers.Dense(2)(pooled)), 0.5)
    inputs = keras.Input((4, 4, 1))
    image = keras.Model(inputs, keras.layers.Conv2D(2, 1)(inputs))
    with pytest.raises(InputError, match=r"output is \[batch, classes\]"):
        SmoothedClassifier(image, 0.5)
    with pytest.raises(InputError, match="no model file"):
        SmoothedClassifier("missing.keras", 0.5)
