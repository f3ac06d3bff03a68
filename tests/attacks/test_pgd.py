"""PGD reaches known optima, keeps its best point and never leaves the region."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from robust_tf.attacks import PGD
from robust_tf.attacks import margins_of
from robust_tf.attacks.projections import random_points
from robust_tf.errors import InputError
from robust_tf.regions import Box
from robust_tf.regions import LpBall

_DUAL = {"inf": 1, 2: 2, 1: np.inf}
_SEED = (0, 1)


def inputs(batch=6, size=12, low=0.0, dtype="float32"):
    """Images of uniform pixels in [low, 1 - low], and labels of 3 classes."""
    generator = np.random.default_rng(3)
    x = generator.uniform(low, 1.0 - low, (batch, size)).astype(dtype)
    return x, generator.integers(0, 3, batch)


def linear(size=12, classes=3):
    """A linear classifier as a function, with its weights."""
    generator = np.random.default_rng(5)
    weights = generator.normal(size=(size, classes))
    bias = generator.normal(size=classes)

    def logits_fn(points):
        kernel = tf.constant(weights, points.dtype)
        return tf.linalg.matmul(points, kernel) + tf.constant(bias, points.dtype)

    return logits_fn, weights


def mlp(size=12, classes=5):
    """A random network of one wide hidden layer."""
    generator = np.random.default_rng(7)
    first = tf.constant(generator.normal(size=(size, 60)), tf.float32)
    second = tf.constant(generator.normal(size=(60, classes)), tf.float32)
    offset = tf.constant(generator.normal(size=60) * 3.0, tf.float32)
    return lambda points: tf.nn.relu((points - 0.5) @ first * 3.0 + offset) @ second


def exact_margins(logits_fn, weights, x, labels, radius, norm):
    """Least margins of a linear classifier over uncut balls, `[batch]`."""
    logits = logits_fn(tf.constant(x)).numpy()
    margins = []
    for row, label in zip(logits, labels, strict=True):
        rows = [label, *(j for j in range(3) if j != label)]
        lengths = np.linalg.norm(
            weights[:, rows[1:]] - weights[:, rows[:1]], _DUAL[norm], axis=0
        )
        margins.append(row[label] - row[rows[1:]])
        margins[-1] = margins[-1][:, None] - np.outer(lengths, radius)
    margins = np.min(margins, axis=1)
    return margins[:, 0] if margins.shape[1] == 1 else np.diagonal(margins)


class LinearOptimumTest(parameterized.TestCase):
    @parameterized.product(
        norm=("inf", 2, 1),
        dtype=("float32", "float64"),
        radius=([0.1], [0.0, 0.02, 0.05, 0.1, 0.15, 0.2]),
        objective=("margin", "multi_targeted"),
    )
    def test_is_reached(self, norm, dtype, radius, objective):
        x, labels = inputs(low=0.3, dtype=dtype)  # The range cuts no ball.
        logits_fn, weights = linear()
        region = LpBall(x, radius[0] if len(radius) == 1 else radius, norm)
        attack = PGD(steps=80, multi_targeted=objective == "multi_targeted")
        points = attack(logits_fn, region, labels, _SEED)
        self.assertEqual(points.dtype.name, dtype)
        actual = margins_of(logits_fn(points), labels)
        expected = exact_margins(logits_fn, weights, x, labels, radius, norm)
        if objective != "multi_targeted":
            # The class that leads at a start point may not be the worst one.
            self.assertGreaterEqual(np.min(actual - expected), -1e-5)
            is_reached = np.isclose(actual, expected, rtol=1e-4, atol=1e-5)
            self.assertGreaterEqual(is_reached.sum(), len(x) - 1)
            return
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)

    @parameterized.product(norm=("inf", 2, 1))
    def test_of_two_classes_under_cross_entropy(self, norm):
        x, labels = inputs(low=0.3)
        logits_fn, weights = linear()
        pair = lambda points: logits_fn(points)[:, :2]  # noqa: E731
        labels = labels % 2
        region = LpBall(x, 0.1, norm)
        points = PGD(objective="cross_entropy")(pair, region, labels, _SEED)
        loss = 0.1 * np.linalg.norm(weights[:, 0] - weights[:, 1], _DUAL[norm])
        gain = margins_of(pair(x), labels) - margins_of(pair(points), labels)
        np.testing.assert_allclose(gain, np.full(len(x), loss), rtol=1e-3)

    @parameterized.parameters((2, 1.0), (1, 1.5))
    def test_of_cut_balls_is_nearly_reached(self, norm, radius):
        # Of coordinates with room c and slope a: L2 takes min(t a, c), t by bisection;
        # L1 fills the steepest coordinates first.
        x, labels = inputs(size=30)
        x[:, ::2] = np.round(x[:, ::2])
        logits_fn, weights = linear(size=30)
        pair = lambda points: logits_fn(points)[:, :2]  # noqa: E731
        labels = labels % 2
        slopes = (weights[:, 1 - labels] - weights[:, labels]).T
        room = np.where(slopes > 0, 1.0 - x, x)
        expected = [
            best_gain(abs(a), c, norm, radius)
            for a, c in zip(slopes, room, strict=True)
        ]
        points = PGD()(pair, LpBall(x, radius, norm), labels, _SEED)
        gain = margins_of(pair(x), labels) - margins_of(pair(points), labels)
        np.testing.assert_allclose(gain, expected, rtol=0.02)
        self.assertLessEqual(np.max(gain / expected), 1 + 1e-4)

    def test_of_boxes_takes_corners(self):
        x, labels = inputs()
        logits_fn, weights = linear()
        pair = lambda points: logits_fn(points)[:, :2]  # noqa: E731
        labels = labels % 2
        widths = np.linspace(0.0, 0.4, x.shape[1], dtype=np.float32)
        points = PGD()(pair, Box(x - widths, x + 2 * widths), labels, _SEED)
        is_rising = (weights[:, 1 - labels] > weights[:, labels]).T
        expected = np.where(is_rising, x + 2 * widths, x - widths)
        np.testing.assert_array_equal(points, expected)


def best_gain(slopes, room, norm, radius):
    """Greatest `<slopes, s>` with `0 <= s <= room` and `||s||_norm <= radius`."""
    if norm == 1:
        order = np.argsort(-slopes)
        before = np.cumsum(room[order]) - room[order]
        return slopes[order] @ np.clip(radius - before, 0.0, room[order])
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        is_long = np.linalg.norm(np.minimum(middle * slopes, room)) > radius
        low, high = (low, middle) if is_long else (middle, high)
    return slopes @ np.minimum(low * slopes, room)


class BestIterateTest(parameterized.TestCase):
    @parameterized.product(
        norm=("inf", 2, 1, 3),
        radius=(0.4, (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)),
        dtype=("float32", "float64"),
    )
    def test_lies_in_the_region(self, norm, radius, dtype):
        x, labels = inputs(dtype=dtype)
        region = LpBall(np.round(x, 1), radius, norm)
        logits_fn, _ = linear()
        points = PGD(steps=8, step_decay=())(logits_fn, region, labels, _SEED)
        self.assertTrue((points >= region.box.lower).numpy().all())
        self.assertTrue((points <= region.box.upper).numpy().all())
        self.assertBetween(points.numpy().min(), 0.0, 1.0)
        self.assertBetween(points.numpy().max(), 0.0, 1.0)
        offsets = points.numpy().astype("f8") - region.x.numpy().astype("f8")
        lengths = np.linalg.norm(offsets, float(norm), axis=1)
        self.assertTrue((lengths <= np.array(radius) * (1 + 1e-6)).all())

    @parameterized.parameters("inf", 2, 1)
    def test_is_the_center_at_radius_zero(self, norm):
        x, labels = inputs()
        points = PGD(steps=3)(mlp(), LpBall(x, 0.0, norm), labels, _SEED)
        np.testing.assert_array_equal(points, x)

    @parameterized.product(norm=("inf", 2, 1), size=(0.25, 50.0))
    def test_is_no_worse_than_the_clean_input(self, norm, size):
        x, labels = inputs(batch=40)
        network = mlp()
        clean = margins_of(network(x), labels)
        attack = PGD(steps=2, relative_step_size=size)
        points = attack(network, LpBall(x, 1e-3, norm), labels, _SEED)
        self.assertTrue((margins_of(network(points), labels) <= clean).numpy().all())

    def test_includes_the_start_points(self):
        x, labels = inputs(batch=40)
        region = LpBall(x, 0.3)
        network = mlp()
        best = margins_of(network(x), labels)
        for index in range(2):
            seed = tf.random.fold_in(_SEED, index, alg="philox")
            started = margins_of(network(random_points(region, seed)), labels)
            best = tf.minimum(best, started)
        points = PGD(steps=0, restarts=2)(network, region, labels, _SEED)
        np.testing.assert_allclose(margins_of(network(points), labels), best, 1e-5)

    def test_includes_every_iterate(self):
        # One pixel, steps of 0.25 from the centre at 0.5: the second wrong class leads
        # near 0.75 alone, a peak that the next step leaves: its slope is set to 1.
        def logits_fn(points):
            fixed = tf.stop_gradient(points)
            peak = 10.0 - 200.0 * tf.abs(fixed - 0.75) + (points - fixed)
            return tf.concat([tf.zeros_like(points), points, peak], -1)

        region = LpBall(np.full([1, 1], 0.5), 0.5)
        attack = PGD(steps=2, relative_step_size=0.5, random_start=False, step_decay=())
        points = attack(logits_fn, region, np.array([0]), _SEED)
        np.testing.assert_allclose(points, [[0.75]])

    def test_flat_networks_give_the_center(self):
        x, labels = inputs()
        flat = lambda points: tf.zeros([6, 3], points.dtype)  # noqa: E731
        for norm in ("inf", 2, 1):
            points = PGD(steps=2)(flat, LpBall(x, 0.1, norm), labels, _SEED)
            np.testing.assert_array_equal(points, x)


class KeptPointTest(parameterized.TestCase):
    @parameterized.parameters(0, 1, 5)
    def test_last_is_where_a_plain_loop_ends(self, steps):
        x, labels = inputs(dtype="float64")
        region = LpBall(x, 0.1)
        network, _ = linear()

        def logits_fn(points):
            return tf.sin(network(points))  # The direction of ascent changes.

        attack = PGD(
            steps=steps,
            relative_step_size=0.6,
            objective="cross_entropy",
            step_decay=(),
            keep="last",
        )
        points = attack(logits_fn, region, labels, _SEED)
        wanted = random_points(region, tf.random.fold_in(_SEED, 0, alg="philox"))
        low, high = region.box.lower, region.box.upper
        for _ in range(steps):
            with tf.GradientTape() as tape:
                tape.watch(wanted)
                loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
                    labels, logits_fn(wanted)
                )
            step = 0.06 * tf.sign(tape.gradient(loss, wanted))
            wanted = tf.clip_by_value(wanted + step, low, high)
        np.testing.assert_allclose(points, wanted, atol=1e-12)

    def test_one_great_step_ends_in_corners(self):
        x, labels = inputs()
        region = LpBall(x, 0.1)
        network, _ = linear()
        attack = PGD(steps=1, relative_step_size=10.0, step_decay=(), keep="last")
        points = attack(network, region, labels, _SEED).numpy()
        low, high = region.box.lower.numpy(), region.box.upper.numpy()
        self.assertTrue(((points == low) | (points == high)).all())

    def test_best_iterate_is_the_greatest_loss_on_the_way(self):
        x, labels = inputs(batch=20)
        network = mlp()
        seen = []

        def logits_fn(points):
            seen.append((points, network(points)))
            return seen[-1][1]

        options = {
            "steps": 4,
            "relative_step_size": 1.5,
            "objective": "cross_entropy",
            "step_decay": (),
            "keep": "best_iterate",
        }
        region = LpBall(x, 0.4)
        points = PGD(**options)(logits_fn, region, labels, _SEED)
        self.assertLen(seen, 5)  # The start, and after each step; not the centre.
        losses = np.stack(
            [
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
                for _, logits in seen
            ]
        )
        best = losses.argmax(0)
        self.assertGreater(len(set(best)), 1)  # Not always the last one.
        wanted = [seen[index][0][example] for example, index in enumerate(best)]
        np.testing.assert_array_equal(points, wanted)


class StrengthTest(parameterized.TestCase):
    @parameterized.parameters(("inf", 0.1), (2, 0.4), (1, 1.0))
    def test_more_work_lowers_the_mean_margin(self, norm, radius):
        x, labels = inputs(batch=100)
        network = mlp()
        means = []
        for attack in (
            PGD(steps=0, restarts=20),
            PGD(steps=20),
            PGD(steps=20, multi_targeted=True),
        ):
            points = attack(network, LpBall(x, radius, norm), labels, _SEED)
            means.append(tf.reduce_mean(margins_of(network(points), labels)))
        self.assertGreater(means[0] - means[1], 0.1)
        self.assertGreater(means[1], means[2])

    def test_restarts_extend_the_search(self):
        x, labels = inputs(batch=50)
        network, region = mlp(), LpBall(x, 0.2)
        one, three = (
            margins_of(
                network(PGD(steps=5, restarts=n)(network, region, labels, _SEED)),
                labels,
            )
            for n in (1, 3)
        )
        self.assertTrue((three <= one + 1e-5).numpy().all())
        self.assertTrue((three < one - 1e-3).numpy().any())

    def test_step_decay_sets_the_sizes(self):
        # Steps of 0.4, 0.2 and 0.2 of the radius 0.5, always up.
        attack = PGD(
            steps=3,
            relative_step_size=0.4,
            random_start=False,
            step_decay=((0.3, 0.5),),
        )
        slope = lambda points: tf.concat([-points, points], -1)  # noqa: E731
        region = LpBall(np.full([1, 1], 0.5), 0.5)
        points = attack(slope, region, np.array([0]), _SEED)
        np.testing.assert_allclose(points, [[0.9]])


class GraphTest(parameterized.TestCase):
    def test_seed_decides(self):
        x, labels = inputs()
        network, region, attack = mlp(), LpBall(x, 0.2), PGD(steps=2)
        first = attack(network, region, labels, (1, 2))
        again = attack(network, region, labels, tf.constant([1, 2], tf.int64))
        other = attack(network, region, labels, (1, 3))
        np.testing.assert_array_equal(first, again)
        self.assertGreater(np.abs(first - other).max(), 1e-3)

    @parameterized.product(
        norm=("inf", 2, 1, 3), dtype=("float32", "float64"), jit_compile=(True, False)
    )
    def test_compiled_as_eager(self, norm, dtype, jit_compile):
        x, labels = inputs(low=0.3, dtype=dtype)
        logits_fn, _ = linear()
        attack = PGD(steps=20, multi_targeted=True, random_start=False)

        @tf.function(jit_compile=jit_compile)
        def run(x, labels, radius, seed):
            return attack(logits_fn, LpBall(x, radius, norm), labels, seed)

        radius = np.linspace(0.0, 0.2, len(x)).astype(dtype)
        points = run(x, labels, radius, tf.constant(_SEED))
        eager = attack(logits_fn, LpBall(x, radius, norm), labels, _SEED)
        actual, expected = (
            margins_of(logits_fn(points), labels) for points in (points, eager)
        )
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)

    @parameterized.parameters("inf", 2, 1, 3)
    def test_compiled_points_lie_in_the_region(self, norm):
        # Many coordinates, so that norms would show an order of rounding that XLA
        # might change.
        x, labels = inputs(batch=3, size=3000)
        logits_fn, _ = linear(size=3000)
        attack, radius = PGD(steps=3), np.array([1e-3, 0.1, 1.0], np.float32)

        @tf.function(jit_compile=True)
        def run(seed):
            return attack(logits_fn, LpBall(x, radius, norm), labels, seed)

        points = run(tf.constant(_SEED)).numpy()
        self.assertBetween(points.min(), 0.0, 1.0)
        self.assertBetween(points.max(), 0.0, 1.0)
        box = LpBall(x, radius, norm).box
        np.testing.assert_array_equal(np.clip(points, box.lower, box.upper), points)
        offsets = points.astype("f8") - x.astype("f8")
        if norm != "inf":
            lengths = np.linalg.norm(offsets, norm, axis=1)
            self.assertTrue((lengths <= radius.astype("f8") * (1 + 1e-10)).all())
        self.assertTrue((np.abs(offsets).max(1) > 0.0).all())

    @parameterized.parameters("inf", 2, 1)
    def test_dynamic_batch_is_traced_once(self, norm):
        kernel = tf.random.stateless_normal([3, 3, 1, 4], _SEED)

        def network(points):
            hidden = tf.nn.relu(tf.nn.conv2d(points, kernel, 1, "SAME"))
            return tf.reduce_mean(hidden, [1, 2])

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 5, 4, 1]),
                tf.TensorSpec([None], tf.int64),
                tf.TensorSpec([2], tf.int32),
            ]
        )
        def run(x, labels, seed):
            region = LpBall(x, 0.1, norm)
            return PGD(steps=3)(network, region, labels, seed)

        for batch in (1, 4, 0):
            x = tf.random.stateless_uniform([batch, 5, 4, 1], _SEED)
            labels = tf.zeros([batch], tf.int64)
            self.assertEqual(run(x, labels, tf.constant(_SEED)).shape, x.shape)
        self.assertEqual(run.experimental_get_tracing_count(), 1)

    @parameterized.parameters(True, False)
    def test_no_gradient_reaches_weights_or_inputs(self, is_graph):
        weights, x = tf.Variable(tf.ones([12, 3])), tf.Variable(inputs()[0])
        labels = inputs()[1]

        def gradients():
            with tf.GradientTape() as tape:
                classify = lambda z: z**2 @ (weights * [1.0, 2.0, 3.0])  # noqa: E731
                region = LpBall(x, 0.1)
                points = PGD(steps=2)(classify, region, labels, _SEED)
                total = tf.reduce_sum(points**2)
            return tape.gradient(total, [weights, x])

        run = tf.function(gradients) if is_graph else gradients
        self.assertEqual(run(), [None, None])


class MarginsTest(parameterized.TestCase):
    def test_golden(self):
        logits = [[1.0, 4.0, 2.0], [3.0, -1.0, 3.0], [-np.inf, 0.0, -5.0]]
        margins = margins_of(logits, [1, 0, 2])
        np.testing.assert_array_equal(margins, [2.0, 0.0, -5.0])


class ErrorsTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("steps", {"steps": -1}, "`steps`.*at least 0.*-1"),
        ("fractional_steps", {"steps": 1.5}, "whole number.*1.5"),
        ("restarts", {"restarts": 0}, "`restarts`.*at least 1.*0"),
        ("size", {"relative_step_size": 0.0}, "above 0.*0.0"),
        ("nan", {"relative_step_size": float("nan")}, "above 0.*nan"),
        ("objective", {"objective": "loss"}, "cross_entropy.*margin.*'loss'"),
        ("starts", {"restarts": 2, "random_start": False}, "random_start=False"),
        ("order", {"step_decay": ((0.5, 0.1), (0.2, 0.1))}, "ascending.*0.2"),
        ("pairs", {"step_decay": (0.5, 0.1)}, "pairs"),
        ("factor", {"step_decay": ((0.5, 0.0),)}, "factors above 0"),
        ("keep", {"keep": "first"}, "best_iterate.*'first'"),
        ("runs", {"keep": "last", "restarts": 2}, "keep='last', restarts=2"),
        (
            "targets",
            {"multi_targeted": True, "objective": "cross_entropy"},
            "logit differences",
        ),
    )
    def test_options(self, options, message):
        with self.assertRaisesRegex(InputError, message):
            PGD(**options)

    def test_arguments(self):
        x, labels = inputs()
        logits_fn, _ = linear()
        region = LpBall(x, 0.1)
        attack = PGD(steps=1)
        with self.assertRaisesRegex(InputError, "two integers.*int32 of shape \\(\\)"):
            attack(logits_fn, region, labels, 3)
        with self.assertRaisesRegex(InputError, "labels for each of the 6.*: 5"):
            attack(logits_fn, region, labels[:5], _SEED)
        with self.assertRaisesRegex(InputError, "batch, classes"):
            attack(lambda points: points[:, 0], region, labels, _SEED)
        with self.assertRaisesRegex(InputError, "integer class indices"):
            attack(logits_fn, region, tf.one_hot(labels, 3), _SEED)
