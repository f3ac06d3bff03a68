"""Largest radius proved and smallest radius attacked, against exact ones."""

import keras
import numpy as np
from absl.testing import parameterized

import robust_tf as rt
from robust_tf.attacks import PGD
from robust_tf.verification import radii

ATTACK = PGD(steps=20)
# One run for each wrong class finds the nearest boundary of a linear model.
THOROUGH_ATTACK = PGD(steps=20, multi_targeted=True)


def linear_model(features=6, classes=4):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((features,))
    return rt.convert(keras.Model(inputs, keras.layers.Dense(classes)(inputs)))


def deep_model():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(16, activation="relu")(inputs)
    return rt.convert(keras.Model(inputs, keras.layers.Dense(4)(hidden)))


def examples(model, count=12):
    """Images, and the labels that the model gives them."""
    images = np.random.default_rng(2).uniform(size=(count, 6)).astype(np.float32)
    return images, np.argmax(model(images), -1).astype(np.int32)


def exact_radii(model, images, labels, dual):
    """The least `margin / ||w_y - w_j||_dual` over all other classes j."""
    kernel, bias = (np.asarray(weight) for weight in model.layers[-1].weights)
    logits = images @ kernel + bias
    found = []
    for row, label in zip(logits, labels, strict=True):
        others = [j for j in range(len(row)) if j != label]
        slopes = kernel[:, [label]] - kernel[:, others]
        lengths = np.linalg.norm(slopes, ord=dual, axis=0)
        found.append(np.min((row[label] - row[others]) / lengths))
    return np.array(found)


class LinearModelTest(parameterized.TestCase):
    @parameterized.named_parameters(
        # name, norm, dual norm, method
        ("linf", "inf", 1, "ibp"),
        ("l2", 2, 2, "crown"),
        ("l1", 1, np.inf, "crown-ibp"),
    )
    def test_both_radii_meet_the_exact_one(self, norm, dual, method):
        model = linear_model()
        images, labels = examples(model)
        exact = exact_radii(model, images, labels, dual)
        options = {"norm": norm, "upper": 1.0, "steps": 16, "valid_range": None}
        proved = radii.certified_radii(model, images, labels, method=method, **options)
        attacked = radii.attacked_radii(
            model, images, labels, attack=THOROUGH_ATTACK, **options
        ).numpy()
        self.assertLess(exact.min(), 0.5)  # Some lie below `upper`.
        within = np.minimum(exact, 1.0)
        np.testing.assert_array_less(proved, within + 1e-6)
        np.testing.assert_allclose(proved, within, atol=1e-4)
        inside = exact < 0.95
        np.testing.assert_array_less(exact[inside], attacked[inside] + 1e-6)
        np.testing.assert_allclose(attacked[inside], exact[inside], rtol=0.02)
        self.assertTrue(np.isinf(attacked[exact > 1.0]).all())
        radii.check_radii(proved, attacked)


class RadiiTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.model = deep_model()
        self.images, self.labels = examples(self.model)

    @parameterized.named_parameters(
        ("linf", "inf", (0.0, 1.0)), ("l2", 2, (0.0, 1.0)), ("unclipped", 2, None)
    )
    def test_proofs_end_before_attacks_begin(self, norm, valid_range):
        options = {"norm": norm, "valid_range": valid_range, "steps": 8}
        given = self.model, self.images, self.labels
        attacked = radii.attacked_radii(*given, attack=ATTACK, **options)
        loose = radii.certified_radii(*given, method="ibp", **options)
        tight = radii.certified_radii(*given, method="crown", **options)
        radii.check_radii(loose, attacked)
        radii.check_radii(tight, attacked)
        self.assertGreater(np.mean(tight), np.mean(loose))

    def test_what_is_returned_is_proved(self):
        given = self.model, self.images, self.labels
        proved = radii.certified_radii(*given, method="crown-ibp", steps=8)
        rows = rt.margin_specification(self.labels, 4)
        for more, is_proved in ((0.0, True), (1.01 / 2**7, False)):
            region = rt.LpBall(self.images, proved + more)
            bounds = rt.compute_bounds(self.model, region, "crown-ibp", rows)
            holds = np.all(bounds.lower > 0.0, -1)
            np.testing.assert_array_equal(holds, is_proved)

    def test_misclassified_examples_have_radius_zero(self):
        wrong = (self.labels + 1) % 4
        given = self.model, self.images, wrong
        for found in (
            radii.certified_radii(*given, steps=2),
            radii.attacked_radii(*given, attack=ATTACK, steps=2),
        ):
            np.testing.assert_array_equal(found, np.zeros(12))
        radii.check_radii(np.zeros(12), np.zeros(12))

    def test_attacks_that_fail_give_infinity(self):
        found = radii.attacked_radii(
            self.model, self.images, self.labels, attack=ATTACK, upper=1e-4, steps=2
        )
        self.assertTrue(np.isinf(found).all())

    def test_float64(self):
        images = self.images.astype(np.float64)
        found = radii.certified_radii(self.model, images, self.labels, steps=4)
        self.assertEqual(found.dtype, "float64")

    @parameterized.named_parameters(
        ("steps", {"steps": 0}, "`steps` must be .* Received: 0"),
        ("upper", {"upper": -1.0}, "`radius` must be .* Received: -1"),
        ("norm", {"norm": 0.5}, "`norm` must be .* Received: 0.5"),
        ("labels", {"labels": [0]}, "one label for each of the 12 .* Received: 1"),
    )
    def test_refuses(self, given, message):
        options = {"labels": self.labels} | given
        for search in (radii.certified_radii, radii.attacked_radii):
            with self.assertRaisesRegex(rt.InputError, message):
                search(self.model, self.images, **options)


class CheckRadiiTest(parameterized.TestCase):
    def test_contradictions_are_named(self):
        with self.assertRaisesRegex(RuntimeError, r"Examples \[1, 3\] .* wrong"):
            radii.check_radii([0.1, 0.3, 0.0, 0.2], [0.2, 0.2, 0.0, 0.2])

    def test_no_attack_contradicts_nothing(self):
        radii.check_radii([1.0], [np.inf])
