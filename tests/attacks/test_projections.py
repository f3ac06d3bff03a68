"""Points stay in their region as floats, and steps are the steepest ones."""

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from robust_tf.attacks import projections
from robust_tf.regions import Box
from robust_tf.regions import LpBall

# A ball at three places: amid the range, at its lower end, and at both ends.
_CENTERS = np.stack([np.full((4, 3), 0.5), np.zeros((4, 3)), np.eye(4, 3)[::-1] * 0.97])
_BALLS = [
    (f"{norm}_{kind}_{dtype}_{'cut' if valid_range else 'whole'}", *case)
    for norm in ("inf", 2, 1, 3)
    for kind, radius in (("scalar", 0.3), ("each", (0.0, 0.05, 0.7)))
    for dtype in ("float32", "float64")
    for valid_range in ((0.0, 1.0), None)
    for case in [(norm, radius, dtype, valid_range)]
]


def lengths_of(offsets, norm):
    flat = np.reshape(offsets, [len(offsets), -1]).astype(np.float64)
    return np.linalg.norm(flat, float(norm), axis=1)


def assert_inside(points, region):
    """Checks membership of the floats themselves: nothing is rounded here."""
    points, box = points.numpy(), region.box
    np.testing.assert_array_less(box.lower.numpy() - points, 1e-300)
    np.testing.assert_array_less(points - box.upper.numpy(), 1e-300)
    if isinstance(region, LpBall) and not region.is_box:
        offsets = points.astype(np.float64) - region.x.numpy().astype(np.float64)
        limits = region.radius.numpy().astype(np.float64) * (1 + 1e-10)
        assert (lengths_of(offsets, region.norm) <= limits + 1e-300).all()
    if isinstance(region, LpBall) and region.valid_range:
        assert points.min() >= region.valid_range[0]
        assert points.max() <= region.valid_range[1]


def normal(shape, scale, dtype, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(0.0, scale, shape), dtype)


class MembershipTest(parameterized.TestCase):
    @parameterized.named_parameters(_BALLS)
    def test_projected_and_random_points_lie_in_the_ball(
        self, norm, radius, dtype, valid_range
    ):
        ball = LpBall(_CENTERS.astype(dtype), radius, norm, valid_range)
        for scale in (1e-3, 0.2, 50.0):
            points = ball.x + normal(ball.shape, scale, dtype)
            assert_inside(projections.project(points, ball), ball)
        for seed in range(5):
            assert_inside(projections.random_points(ball, (seed, 1)), ball)

    @parameterized.parameters(1, 2, 3)
    def test_thousands_of_rounded_coordinates_do_not_leave_the_ball(self, norm):
        x = np.random.default_rng(0).uniform(0.5, 1.0, (4, 3000)).astype("float32")
        ball = LpBall(x, 1e-3, norm)
        points = projections.project(ball.x + normal(x.shape, 1.0, "float32"), ball)
        assert_inside(points, ball)
        lengths = lengths_of(points.numpy().astype("float64") - x, norm)
        self.assertGreater(lengths.min(), 0.0)

    def test_random_points_of_boxes_keep_zero_widths(self):
        lower = np.array([[0.1, 0.2], [-3.0, 5.0]], np.float32)
        box = Box(lower, lower + np.array([0.0, 1.0], np.float32))
        points = projections.random_points(box, (1, 2))
        assert_inside(points, box)
        np.testing.assert_array_equal(points[:, 0], lower[:, 0])

    def test_center_of_a_cut_ball_is_its_own(self):
        ball = LpBall(_CENTERS, 0.3)
        np.testing.assert_array_equal(projections.center_of(ball), _CENTERS)
        box = Box(_CENTERS, _CENTERS + 1.0)
        np.testing.assert_allclose(projections.center_of(box), _CENTERS + 0.5)


class ProjectionTest(parameterized.TestCase):
    @parameterized.parameters("inf", 2, 1)
    def test_is_the_nearest_point_of_the_ball(self, norm):
        # P(y) is nearest exactly if <y - P(y), w - P(y)> <= 0 for all w in the ball.
        ball = LpBall(np.zeros([50, 6]), 0.7, norm, None)
        points = normal(ball.shape, 0.5, "float64")
        nearest = projections.project(points, ball)
        for seed in range(50):
            # Of random directions, the extreme points: the products are linear in w.
            slopes = normal(ball.shape, 1.0, "float64", seed)
            others = projections.steepest_step(slopes, ball.norm, 0.7)
            product = tf.reduce_sum((points - nearest) * (others - nearest), -1)
            self.assertLessEqual(tf.reduce_max(product), 1e-12)

    @parameterized.parameters("inf", 2, 1, 3)
    def test_leaves_points_of_the_ball_alone(self, norm):
        ball = LpBall(_CENTERS.astype("float32"), 0.6, norm)
        points = projections.random_points(ball, (3, 4))
        np.testing.assert_allclose(projections.project(points, ball), points, 1e-6)

    @parameterized.named_parameters(
        # name, norm, point, projection onto the ball of radius 1 around 0
        ("linf", "inf", (2.0, -0.5), (1.0, -0.5)),
        ("l2", 2, (3.0, -4.0), (0.6, -0.8)),
        ("l1_face", 1, (1.0, -0.6), (0.7, -0.3)),
        ("l1_vertex", 1, (3.0, -0.5), (1.0, 0.0)),
    )
    def test_golden(self, norm, point, expected):
        ball = LpBall(np.zeros([1, 2]), 1.0, norm, None)
        actual = projections.project(tf.constant([point], tf.float64), ball)
        np.testing.assert_allclose(actual, [expected], atol=1e-15)


class RandomPointsTest(parameterized.TestCase):
    # Moments of the uniform distribution over balls of radius 1.
    @parameterized.named_parameters(
        # name, norm, power, E |z_1|^power for n = 3
        ("linf", "inf", 2, 1 / 3),
        ("l2_second", 2, 2, 1 / 5),  # 1 / (n + 2)
        ("l2_fourth", 2, 4, 3 / 35),  # 3 / ((n + 2) (n + 4))
        ("l1_first", 1, 1, 1 / 4),  # 1 / (n + 1)
        ("l1_second", 1, 2, 2 / 20),  # 2 / ((n + 1) (n + 2))
    )
    def test_moments(self, norm, power, moment):
        radii = np.linspace(0.1, 1.0, 40_000)
        ball = LpBall(np.zeros([40_000, 3]), radii, norm, None)
        points = projections.random_points(ball, (0, 0)) / radii[:, None]
        np.testing.assert_allclose(tf.reduce_mean(points), 0.0, atol=0.01)
        actual = tf.reduce_mean(tf.abs(points) ** power)
        np.testing.assert_allclose(actual, moment, rtol=0.03)

    @parameterized.parameters("inf", 2, 1)
    def test_seed_decides(self, norm):
        ball = LpBall(_CENTERS, 0.3, norm)
        first = projections.random_points(ball, (1, 2))
        again = projections.random_points(ball, tf.constant([1, 2]))
        other = projections.random_points(ball, (1, 3))
        np.testing.assert_array_equal(first, again)
        self.assertGreater(np.abs(first - other).max(), 0.01)


class SteepestStepTest(parameterized.TestCase):
    @parameterized.named_parameters(
        # name, norm, gradient, step of size 2
        ("linf", np.inf, (3.0, -0.1, 0.0), (2.0, -2.0, 0.0)),
        ("l2", 2.0, (3.0, -4.0, 0.0), (1.2, -1.6, 0.0)),
        ("l2_tiny", 2.0, (3e-30, -4e-30, 0.0), (1.2, -1.6, 0.0)),
        ("l1", 1.0, (3.0, -4.0, 0.0), (0.0, -2.0, 0.0)),
        ("l1_of_zero", 1.0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ("l2_of_zero", 2.0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ("linf_of_zero", np.inf, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ("l2_of_nan", 2.0, (np.nan, -1.0, np.inf), (0.0, -2.0, 0.0)),
    )
    def test_golden(self, norm, gradient, expected):
        actual = projections.steepest_step(tf.constant([gradient]), norm, 2.0)
        np.testing.assert_allclose(actual, [expected], rtol=1e-6)

    @parameterized.named_parameters(
        # name, norm, room, step of size 2 along (5, -4, 3)
        ("l1_spends_on_the_next", 1.0, (0.5, 1.0, 9.0), (0.5, -1.0, 0.5)),
        ("l1_skips_the_stuck", 1.0, (0.0, 9.0, 9.0), (0.0, -2.0, 0.0)),
        ("l1_lacks_room", 1.0, (0.5, 0.0, 0.5), (0.5, 0.0, 0.5)),
        ("l2_skips_the_stuck", 2.0, (0.0, 9.0, 9.0), (0.0, -1.6, 1.2)),
    )
    def test_room(self, norm, room, expected):
        gradient, room = tf.constant([[5.0, -4.0, 3.0]]), tf.constant([room])
        actual = projections.steepest_step(gradient, norm, 2.0, room)
        np.testing.assert_allclose(actual, [expected], rtol=1e-6)

    @parameterized.parameters(1.0, 1.5, 2.0, 4.0, np.inf)
    def test_gains_the_dual_norm(self, norm):
        gradient = normal((5, 2, 3), 1.0, "float64")
        sizes = np.array([0.0, 0.5, 1.0, 2.0, 3.0])
        step = projections.steepest_step(gradient, norm, sizes).numpy()
        np.testing.assert_allclose(lengths_of(step, norm), sizes, atol=1e-12)
        dual = {1.0: np.inf, np.inf: 1.0}.get(norm) or norm / (norm - 1)
        gains = np.sum(gradient.numpy() * step, (1, 2))
        expected = sizes * lengths_of(gradient.numpy(), dual)
        np.testing.assert_allclose(gains, expected, rtol=1e-12)
