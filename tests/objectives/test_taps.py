"""TAPS lies between the attack and IBP, and its gradients reach the box."""

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf.attacks.pgd import PGD
from robust_tf.bounds import IntervalBound
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.objectives import taps
from robust_tf.objectives.forward import Adversary
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.objectives.terms import IntervalCrossEntropy
from robust_tf.objectives.terms import WeightedSum
from robust_tf.objectives.terms import margin_cross_entropy
from robust_tf.regions import Box
from robust_tf.training.distribution import strategy_for
from tests.training import small

# Draws nothing, and ends on a corner.
QUIET = PGD(steps=2, random_start=False, relative_step_size=1.0, step_decay=())
STRONG = PGD(steps=12, relative_step_size=0.3)


def classifier(normalized=True, dtype="float64", seed=0):
    """With statistics in its BatchNormalization that are not those of any batch."""
    model = small.cnn(seed=seed, normalized=normalized, dtype=dtype)
    if normalized:
        layer = model.get_layer("norm")
        layer.moving_mean.assign([0.1, -0.2, 0.3])
        layer.moving_variance.assign([0.5, 1.5, 0.8])
    return model


def forward_of(model, radius=0.05, training=True, norm="inf", **more):
    images, labels = small.images_and_labels(8)
    images = tf.constant(images, model.inputs[0].dtype)
    return CertifiedForward(
        graph=BoundGraph.from_model(model),
        images=images,
        labels=tf.constant(labels),
        region=rt.LpBall(images, tf.constant(radius, images.dtype), norm),
        ramp=tf.constant(1.0, images.dtype),
        seed=tf.constant([3, 5], tf.int64),
        training=training,
        **more,
    )


def gradients(model, function):
    with tf.GradientTape() as tape:
        value = function()
    return tape.gradient(value, model.trainable_variables)


def assert_near(actual, wanted, tolerance=1e-12):
    for one, other in zip(actual, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


class TestOrder:
    @pytest.mark.parametrize("count", [0, 1, 2])
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("box_share", [None, 0.5])
    def test_margins_lie_above_those_of_ibp(self, count, training, box_share):
        adversary = Adversary(QUIET, box_share=box_share, statistics="adversarial")
        forward = forward_of(classifier(), training=training, adversary=adversary)
        margins = taps.Taps(QUIET, count).latent_margins(forward)
        slack = np.asarray(margins - forward.interval_margins)
        assert slack.min() > -1e-12
        assert (slack.max() > 1e-2) == (count > 0)  # One layer is exact.

    @pytest.mark.parametrize("count", [1, 2])
    def test_a_good_search_finds_worse_points_than_an_attack_on_images(self, count):
        model = classifier(normalized=False)
        forward = forward_of(model, adversary=Adversary(STRONG))
        margins = taps.Taps(STRONG, count).latent_margins(forward)
        losses = [
            margin_cross_entropy(margins)
            for margins in (
                forward.adversarial_margins,
                margins,
                forward.interval_margins,
            )
        ]
        assert (losses[0] <= losses[1] + 1e-9).numpy().all()
        assert (losses[1] <= losses[2] + 1e-12).numpy().all()
        assert float(tf.reduce_mean(losses[2] - losses[0])) > 0.05

    def test_statistics_matter(self):
        """With moving statistics the order would not hold."""
        forward = forward_of(classifier(), radius=0.0)
        logits = forward.graph.forward_from(0, forward.images, Choices())
        margins = tf.linalg.matvec(forward.rows, logits)
        assert float(tf.reduce_min(margins - forward.interval_margins)) < -0.01


class TestLimits:
    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_no_width_is_the_clean_loss_and_its_gradient(self, count):
        model = classifier()
        term = taps.Taps(QUIET, count)

        def searched():
            forward = forward_of(model, radius=0.0)
            return margin_cross_entropy(term.latent_margins(forward))

        def clean():
            forward = forward_of(model, radius=0.0)
            return margin_cross_entropy(tf.linalg.matvec(forward.rows, forward.logits))

        np.testing.assert_allclose(searched(), clean(), atol=1e-12)
        assert_near(gradients(model, searched), gradients(model, clean))

    def test_at_the_input_it_is_pgd_for_each_class(self):
        model = classifier()
        forward = forward_of(model, training=False)
        margins = taps.Taps(QUIET, 2).latent_margins(forward)
        box = Box.from_interval(forward.region.box)
        for slot in range(small.CLASSES - 1):
            row = forward.rows[:, slot]

            def logits_fn(images, row=row):
                margin = tf.reduce_sum(row * model(images), -1)
                return tf.stack([margin, tf.zeros_like(margin)], -1)

            found = QUIET(logits_fn, box, tf.zeros([8], tf.int32), forward.seed)
            wanted = tf.reduce_sum(row * model(found), -1)
            np.testing.assert_allclose(margins[:, slot], wanted, atol=1e-12)

    def test_split_by_edge(self):
        forward = forward_of(classifier())
        edge = taps.edge_before_relus(forward.graph, 1)
        assert isinstance(forward.graph.producer(edge).layer, layers.ReLU)
        by_edge = taps.Taps(QUIET, edge=edge).latent_margins(forward)
        np.testing.assert_array_equal(
            by_edge, taps.Taps(QUIET, 1).latent_margins(forward)
        )
        assert taps.edge_before_relus(forward.graph, 2) == 0


class TestSearch:
    def test_points_lie_in_the_box_and_repeat(self):
        forward = forward_of(classifier())
        seen = []

        def spy(logits_fn, region, labels, seed):
            points = STRONG(logits_fn, region, labels, seed)
            assert points.shape == (8 * 3, 3, 3, 3)
            assert (points >= region.box.lower).numpy().all()
            assert (points <= region.box.upper).numpy().all()
            seen.append((points, seed))
            return points

        edge = taps.edge_before_relus(forward.graph, 1)
        for _ in range(2):
            taps.Taps(spy, 1).latent_margins(forward)
        box = forward.intervals[edge]
        points = tf.reshape(seen[0][0], [8, 3, *box.shape[1:]])
        assert (points >= box.lower[:, None]).numpy().all()
        assert (points <= box.upper[:, None]).numpy().all()
        assert float(tf.reduce_max(tf.abs(points[:, 0] - points[:, 1]))) > 0.01
        np.testing.assert_array_equal(points, tf.reshape(seen[1][0], points.shape))
        assert (seen[0][1].numpy() != forward.seed.numpy()).any()

    def test_moves_no_statistics(self):
        model = classifier()
        forward = forward_of(model)
        _ = forward.interval_margins
        before = small.weights(model)
        taps.Taps(QUIET, 2)(forward)
        for value, wanted in zip(small.weights(model), before, strict=True):
            np.testing.assert_array_equal(value, wanted)


class TestConnector:
    @pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
    def test_gradients(self, share):
        random = np.random.default_rng(0)
        lower = random.normal(size=(4, 5))
        upper = lower + random.uniform(0.1, 1.0, (4, 5))
        lower[0], upper[0] = 0.3, 0.3
        place = random.uniform(0.0, 1.0, (4, 5))
        place[:, 0], place[:, 1] = 0.0, 1.0
        points = lower + place * (upper - lower)
        slope = np.cos(points)  # Of what follows, the sine.

        def moved(by_lower, by_upper):
            """The definition, entry by entry, around the frozen weights."""
            total = 0.0
            for at in np.ndindex(4, 5):
                width = upper[at] - lower[at]
                if width == 0.0:
                    weights = 0.5, 0.5
                else:
                    reach = share * width
                    from_lower, from_upper = (
                        points[at] - lower[at],
                        upper[at] - points[at],
                    )
                    weights = (
                        max(0.0, 1.0 - from_lower / reach),
                        max(0.0, 1.0 - from_upper / reach),
                    )
                shift = weights[0] * by_lower[at] + weights[1] * by_upper[at]
                total += np.sin(points[at] + shift)
            return total

        ends = tf.constant(lower), tf.constant(upper)
        with tf.GradientTape() as tape:
            tape.watch(ends)
            linked = taps.connect(tf.constant(points), IntervalBound(*ends), share)
            value = tf.reduce_sum(tf.sin(linked))
        np.testing.assert_array_equal(linked, points)
        actual = tape.gradient(value, ends)
        still, step = np.zeros((4, 5)), 1e-6
        for number, gradient in enumerate(actual):
            for at in np.ndindex(4, 5):
                shift = np.zeros((4, 5))
                shift[at] = step
                both = [(shift, still), (still, shift)][number]
                rise = moved(*both) - moved(*(-part for part in both))
                assert float(gradient[at]) == pytest.approx(rise / (2 * step), abs=1e-8)
        np.testing.assert_allclose(actual[0][1:, 0], slope[1:, 0])
        np.testing.assert_allclose(actual[1][1:, 1], slope[1:, 1])
        if share == 1.0:  # The place in the box is kept: a plain interpolation.
            np.testing.assert_allclose(actual[0] + actual[1], slope)

    def test_features_learn_through_the_box(self):
        model = classifier(normalized=False)
        kernel = model.get_layer("conv").kernel

        def loss():
            margins = taps.Taps(QUIET, 1).latent_margins(forward_of(model))
            return tf.reduce_mean(margin_cross_entropy(margins))

        with tf.GradientTape() as tape:
            before = loss()
        kernel.assign_sub(0.1 * tape.gradient(before, kernel))
        assert float(loss()) < float(before) - 1e-3


class TestProduct:
    @pytest.mark.parametrize("weight", [0.0, 1.0, 5.0])
    def test_value_and_gradient(self, weight):
        model = classifier()
        term = taps.Taps(QUIET, 1, gradient_weight=weight)

        def part(which):
            forward = forward_of(model)
            if which == "taps":
                losses = margin_cross_entropy(term.latent_margins(forward))
            else:
                losses = IntervalCrossEntropy()(forward)
            return tf.reduce_mean(losses)

        searched, certified = float(part("taps")), float(part("ibp"))
        losses = term(forward_of(model))
        np.testing.assert_allclose(losses, np.full(8, searched * certified), rtol=1e-15)
        actual = gradients(model, lambda: tf.reduce_mean(term(forward_of(model))))
        pairs = zip(
            gradients(model, lambda: part("taps")),
            gradients(model, lambda: part("ibp")),
            strict=True,
        )
        wanted = [weight * certified * a + searched * b for a, b in pairs]
        assert_near(actual, wanted, 1e-10)

    def test_its_margins_are_those_of_ibp(self):
        forward = forward_of(classifier())
        objective = WeightedSum((taps.Taps(QUIET),), (1.0,))
        assert objective.is_certified_in_training
        np.testing.assert_array_equal(
            objective.margins(forward), forward.interval_margins
        )
        small_box = Adversary(QUIET, box_share=0.4)
        objective = WeightedSum((taps.Taps(QUIET),), (1.0,), adversary=small_box)
        assert not objective.is_certified_in_training


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"classifier_relus": -1}, "`classifier_relus` must be a whole"),
            ({"classifier_relus": 1.0}, "`classifier_relus` must be a whole"),
            ({"edge": -2}, "`edge` must be a whole"),
            ({"connection": 0.0}, "`connection` must lie in"),
            ({"connection": 1.5}, "`connection` must lie in"),
            ({"gradient_weight": -1.0}, "`gradient_weight` must be"),
            ({"gradient_weight": float("inf")}, "`gradient_weight` must be"),
        ],
    )
    def test_values(self, options, message):
        with pytest.raises(rt.InputError, match=message):
            taps.Taps(QUIET, **options)

    def test_splits_that_the_model_does_not_have(self):
        forward = forward_of(classifier())
        with pytest.raises(rt.InputError, match="at most 2, the number of ReLU"):
            taps.Taps(QUIET, 3)(forward)
        with pytest.raises(rt.InputError, match="`edge` must be below 8"):
            taps.Taps(QUIET, edge=8)(forward)

    def test_balls_before_the_first_relu(self):
        forward = forward_of(classifier(), norm=2)
        with pytest.raises(rt.InputError, match="fewer `classifier_relus`"):
            taps.Taps(QUIET, 2)(forward)
        margins = taps.Taps(QUIET, 1).latent_margins(forward)
        assert float(tf.reduce_min(margins - forward.interval_margins)) > -1e-12


class TestTraining:
    def test_compiles_and_agrees_with_eager(self):
        model = classifier()
        term = taps.Taps(QUIET, 1)

        @tf.function(autograph=False)
        def compiled():
            return gradients(model, lambda: term(forward_of(model)))

        eager = gradients(model, lambda: term(forward_of(model)))
        assert_near(compiled(), eager, 1e-10)

    @pytest.mark.parametrize("box_share", [None, 0.5])
    def test_the_loss_falls(self, box_share):
        adversary = Adversary(PGD(steps=3), box_share=box_share)
        objective = WeightedSum((taps.Taps(QUIET),), (1.0,), adversary=adversary)
        model = small.certified_model(small.cnn(normalized=True), objective)
        losses = small.fit(model, small.batches(), epochs=4)["loss"]
        assert losses[-1] < 0.9 * losses[0]

    def test_two_replicas(self):
        def run(strategy):
            with strategy.scope():
                objective = WeightedSum((taps.Taps(QUIET),), (1.0,))
                model = small.certified_model(small.cnn(normalized=True), objective)
            history = small.fit(model, small.batches())
            return history["loss"], small.weights(model.classifier)

        losses, weights = run(strategy_for(("CPU:0", "CPU:1")))
        wanted_losses, wanted = run(strategy_for())
        np.testing.assert_allclose(losses, wanted_losses, rtol=1e-5)
        for value, wanted_value in zip(weights, wanted, strict=True):
            np.testing.assert_allclose(value, wanted_value, rtol=0, atol=3e-6)
