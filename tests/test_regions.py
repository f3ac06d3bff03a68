"""Input sets: their minima are exact, and bad ones are refused."""

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import regions
from robust_tf.bounds import LinearForm

CENTER = np.full((2, 3), 0.5, "float32")
NORMS = ("inf", 1, 1.05, 1.5, 2, 3, 50)


def form(rows, dtype="float64"):
    rows = tf.constant(rows, dtype)
    return LinearForm(rows, tf.zeros([1, rows.shape[1]], dtype))


class TestMinimum:
    @pytest.mark.parametrize("norm", NORMS)
    @pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
    def test_is_attained_over_a_ball(self, norm, scale):
        """At the point where Hoelder's inequality is an equality."""
        random = np.random.default_rng(0)
        center, rows = random.random((2, 5)), scale * random.normal(size=(2, 4, 5))
        region = rt.LpBall(center, (0.3, 0.7), norm, valid_range=None)
        actual = region.minimum(form(rows)).numpy()
        p = float(norm)
        if np.isinf(p):
            steps = np.sign(rows)
        elif p == 1.0:
            steps = np.sign(rows) * (abs(rows) == abs(rows).max(-1, keepdims=True))
        else:
            relative = abs(rows) / abs(rows).max(-1, keepdims=True)
            steps = np.sign(rows) * relative ** (1 / (p - 1))
            steps /= (abs(steps) ** p).sum(-1, keepdims=True) ** (1 / p)
        points = center[:, None] - np.asarray([0.3, 0.7])[:, None, None] * steps
        attained = (rows * points).sum(-1)
        np.testing.assert_allclose(actual, attained, rtol=1e-11, atol=1e-11 * scale)

    @pytest.mark.parametrize("norm", NORMS)
    def test_small_coefficients_keep_their_length_in_float32(self, norm):
        """The 21st powers of 1e-4 underflow, and the length would come out as 0."""
        region = rt.LpBall(np.zeros((1, 3), "float32"), 1.0, norm, None)
        rows = [[[1e-4, -1e-4, 1e-4], [0.0, 1e-12, 0.0], [0.0, 0.0, 0.0]]]
        lower = region.minimum(form(rows, "float32")).numpy()[0]
        p = float(norm)
        root = 1.0 if np.isinf(p) else 1.0 - 1.0 / p
        np.testing.assert_allclose(lower, [-1e-4 * 3**root, -1e-12, 0.0], rtol=1e-4)

    @pytest.mark.parametrize("norm", NORMS)
    def test_gradient_is_that_of_the_norm(self, norm):
        region = rt.LpBall(np.zeros((1, 4)), 1.0, norm, valid_range=None)
        values = np.asarray([[[0.5, -2.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]])
        rows = tf.Variable(values)
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(region.minimum(form_of(rows)))
        gradient = tape.gradient(total, rows).numpy()
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(gradient[0, 1], np.zeros(4))
        for entry in (0, 1, 3):  # Of the row that is not 0, by central differences.
            step = np.zeros_like(values)
            step[0, 0, entry] = 1e-6
            ends = [
                float(tf.reduce_sum(region.minimum(form(values + sign * step))))
                for sign in (1, -1)
            ]
            wanted = (ends[0] - ends[1]) / 2e-6
            assert gradient[0, 0, entry] == pytest.approx(wanted, abs=1e-6)

    @pytest.mark.parametrize("norm", NORMS)
    def test_holds_over_a_ball_that_a_range_cuts(self, norm):
        random = np.random.default_rng(1)
        center = np.clip(random.uniform(-0.3, 1.3, (2, 4)), 0.0, 1.0)
        region = rt.LpBall(center, 0.6, norm)
        rows = random.normal(size=(2, 5, 4))
        lower = region.minimum(form(rows)).numpy()
        whole = rt.LpBall(center, 0.6, norm, None).minimum(form(rows)).numpy()
        assert (lower >= whole - 1e-12).all()
        steps = random.normal(size=(4000, 2, 4))
        size = abs(steps).max(-1, keepdims=True)
        if norm != "inf":
            size = (abs(steps) ** norm).sum(-1, keepdims=True) ** (1 / norm)
        points = np.clip(center + 0.6 * steps / size, 0.0, 1.0)
        values = np.einsum("brf,nbf->nbr", rows, points)
        assert (values >= lower - 1e-12).all()
        if norm == "inf":  # A box: exact.
            best = np.where(
                rows > 0, region.box.lower[:, None], region.box.upper[:, None]
            )
            np.testing.assert_allclose(lower, (rows * best).sum(-1), atol=1e-12)

    def test_over_a_box(self):
        lower, upper = np.asarray([[0.0, -1.0, 2.0]]), np.asarray([[1.0, -1.0, 5.0]])
        rows = [[[1.0, 2.0, -1.0], [-3.0, 0.0, 0.0]]]
        actual = rt.Box(lower, upper).minimum(form(rows))
        np.testing.assert_allclose(actual, [[-7.0, -3.0]])


def form_of(rows):
    return LinearForm(tf.convert_to_tensor(rows), tf.zeros([1, 1], tf.float64))


class TestRegions:
    def test_ball_is_cut_to_the_range(self):
        center = np.asarray([[0.05, 0.5, 1.0]])
        box = rt.LpBall(center, 0.1).box
        np.testing.assert_allclose(box.lower, [[0.0, 0.4, 0.9]])
        np.testing.assert_allclose(box.upper, [[0.15, 0.6, 1.0]])
        box = rt.LpBall(center, 0.1, valid_range=None).box
        np.testing.assert_allclose(box.upper, [[0.15, 0.6, 1.1]])
        box = rt.LpBall(center, 0.1, 2, valid_range=(0.0, 2.0)).box
        np.testing.assert_allclose(box.upper, [[0.15, 0.6, 1.1]])

    @pytest.mark.parametrize("norm", ["inf", float("inf"), np.inf, "2", 2, 1, 3.5])
    def test_norms(self, norm):
        region = rt.LpBall(CENTER, 0.1, norm)
        assert region.norm == float(norm)
        assert region.is_box == (float(norm) == np.inf)

    def test_types(self):
        assert rt.LpBall(CENTER, 0.1).dtype == tf.float32
        assert rt.LpBall(CENTER.astype("float64"), 0.1).dtype == tf.float64
        assert rt.LpBall([[0.5]], 0.1).dtype == tf.float32
        double = rt.LpBall(CENTER.astype("float64"), 0.1)
        assert float(double.radius) == 0.1  # Not the float32 next to it.
        assert rt.LpBall(CENTER, 0).box.radius.numpy().max() == 0.0
        assert rt.LpBall(CENTER, np.asarray([0.1, 0.2])).radius.dtype == tf.float32

    @pytest.mark.parametrize("radius", [[0.1], [0.1, 0.2]], ids=["one", "each"])
    @pytest.mark.parametrize("norm", [2, "inf"])
    def test_map_keeps_radii_apart(self, radius, norm):
        """Each example's windows have its own radius."""
        region = rt.LpBall(CENTER, radius, norm, valid_range=None)
        mapped = region.map(lambda values: tf.repeat(values, 3, 0)[:, :2])
        assert mapped.shape == (6, 2)
        rows = tf.constant([[[1.0, 0.0]]])
        lower = mapped.minimum(LinearForm(rows, tf.zeros([1, 1])))
        wanted = 0.5 - np.repeat(np.broadcast_to(radius, 2), 3)
        np.testing.assert_allclose(lower[:, 0], wanted, atol=1e-6)

    def test_dynamic_shapes(self):
        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 3], tf.float32),
                tf.TensorSpec([None], tf.float32),
            ]
        )
        def lower(center, radius):
            region = rt.LpBall(center, radius, 2)
            return region.minimum(LinearForm(tf.ones([1, 1, 3]), tf.zeros([1, 1])))

        wanted = 1.5 - np.sqrt(3) * np.asarray([[0.1], [0.2]])
        np.testing.assert_allclose(lower(CENTER, [0.1, 0.2]), wanted, atol=1e-6)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"x": np.full((1, 2), np.nan, "float32")},
                "`x` must be finite.*2 entries",
            ),
            (
                {"x": np.full((1, 2), np.inf, "float32")},
                "`x` must be finite.*2 entries",
            ),
            ({"x": np.zeros((1, 2), "uint8")}, "Received: uint8. Divide pixels"),
            ({"x": np.zeros((1, 2), "int64")}, "Received: int64"),
            ({"x": np.zeros((1, 2), "float16")}, "Received: float16"),
            ({"x": np.zeros(3, "float32")}, r"needs a batch axis.*\(3,\).*`x\[None\]`"),
            ({"x": 0.5}, "needs a batch axis"),
            ({"x": None}, "`x` must be a tensor.*NoneType"),
            ({"x": [[0.1], [0.1, 0.2]]}, "`x` must be a tensor.*one shape"),
            ({"x": 255 * CENTER}, r"valid range \[0, 1\].*to 127.5.*divided by 255"),
            ({"x": -CENTER}, "Received: values from -0.5"),
            ({"x": CENTER, "valid_range": (0.6, 1)}, r"\[0.6, 1\].*from 0.5 to 0.5"),
            ({"radius": -0.1}, "at least 0. Received: -0.1"),
            ({"radius": [0.1, -0.2]}, "at least 0. Received: -0.2"),
            ({"radius": np.nan}, "must be finite.*nan"),
            ({"radius": np.inf, "norm": 2}, "must be finite.*inf"),
            ({"radius": 8}, "Received: 8.*write 8/255"),
            ({"radius": [0.1, 1.5]}, "exceeds the whole range.*Received: 1.5"),
            ({"radius": [0.1] * 3}, "each of the 2 examples. Received: 3"),
            ({"radius": [[0.1], [0.1]]}, r"scalar or one number.*\(2, 1\)"),
            ({"radius": "0.1"}, "must be a number. Received: string"),
            ({"radius": None}, "`radius` must be a tensor.*NoneType"),
            ({"norm": 0.5}, "at least 1.*Received: 0.5"),
            ({"norm": 0}, "at least 1.*Received: 0"),
            ({"norm": "l2"}, "Received: 'l2'"),
            ({"norm": None}, "Received: None"),
            ({"norm": np.nan}, "Received: nan"),
            ({"norm": -np.inf}, "Received: -inf"),
            ({"valid_range": (1.0, 0.0)}, r"the lower first.*\(1.0, 0.0\)"),
            ({"valid_range": (0.0, 0.0)}, "the lower first"),
            ({"valid_range": (0.0, np.nan)}, "the lower first"),
            ({"valid_range": 1.0}, "Received: 1.0"),
            ({"valid_range": (0, 1, 2)}, "must be two numbers"),
        ],
        ids=str,
    )
    def test_balls(self, options, message):
        with pytest.raises(rt.InputError, match=message):
            rt.LpBall(**({"x": CENTER, "radius": 0.1} | options))

    @pytest.mark.parametrize(
        ("lower", "upper", "message"),
        [
            (CENTER, CENTER - 0.1, r"lower 0.5, upper 0.4.* \(0, 0\). Were the two"),
            (CENTER, CENTER[:1], r"one shape.*\(2, 3\), upper \(1, 3\)"),
            (
                CENTER,
                CENTER.astype("float64"),
                "type of the other end, float32.*float64",
            ),
            (CENTER, np.full_like(CENTER, np.nan), "`upper` must be finite"),
            (-np.inf * CENTER, CENTER, "`lower` must be finite"),
            (np.zeros((1, 2), int), np.ones((1, 2), int), "Received: int64"),
            (np.zeros(2), np.ones(2), r"`lower\[None\]`"),
        ],
        ids=lambda value: value if isinstance(value, str) else None,
    )
    def test_boxes(self, lower, upper, message):
        with pytest.raises(rt.InputError, match=message):
            rt.Box(lower, upper)

    def test_boundary_values_are_fine(self):
        rt.Box(CENTER, CENTER)
        rt.LpBall(CENTER, 0.0)
        rt.LpBall(CENTER, 1.0)
        rt.LpBall(CENTER, 30.0, 2)  # More than a pixel's range, over many pixels.
        rt.LpBall(10 * CENTER, 3.0, valid_range=(0.0, 10.0))
        rt.LpBall(np.asarray([[0.0, 1.0]]), 0.1)

    def test_in_a_graph_static_checks_alone(self):
        @tf.function
        def make(x, radius):
            return rt.LpBall(x, radius).box.lower

        assert np.isnan(make(tf.fill([1, 2], np.nan), 0.1)).all()
        assert make(tf.constant(CENTER), tf.constant(-1.0)).shape == (2, 3)
        for x, radius, message in (
            (tf.zeros([1, 2], tf.int32), 0.1, "int32"),
            (tf.zeros([2]), 0.1, "batch axis"),
            (tf.zeros([2, 2]), tf.zeros([3]), "each of the 2 examples. Received: 3"),
            (tf.zeros([2, 2]), tf.zeros([2, 1]), "scalar or one number"),
        ):
            with pytest.raises(rt.InputError, match=message):
                make(x, radius)

        @tf.function
        def box(lower, upper):
            return rt.Box(lower, upper).box.lower

        assert box(tf.ones([1, 2]), tf.zeros([1, 2])).shape == (1, 2)
        with pytest.raises(rt.InputError, match="one shape"):
            box(tf.ones([1, 2]), tf.zeros([1, 3]))


def test_box_minimum_of_shared_rows():
    random = np.random.default_rng(0)
    lower = random.random((3, 2, 2))
    box = rt.Box(lower, lower + random.random(lower.shape)).box
    rows = tf.constant(random.normal(size=(1, 4, 2, 2)))
    shared = regions.box_minimum(rows, box)
    tiled = regions.box_minimum(tf.tile(rows, [3, 1, 1, 1]), box)
    np.testing.assert_allclose(shared, tiled, rtol=0, atol=1e-14)
