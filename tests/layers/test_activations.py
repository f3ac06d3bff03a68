"""Relaxations of activations: golden values, and dense grids that could refute them."""

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf.bounds import IntervalBound
from robust_tf.layers.activations import RELAXATIONS
from tests import golden_cases

POINTS = 10_000
LOWS = (-500, -50, -20, -9, -5, -2, -1, -0.1, -1e-4, 0, 1e-4, 0.1, 1, 2, 5, 9, 20, 50)
WIDTHS = (0, 1e-9, 1e-6, 1e-4, 1e-2, 0.1, 1, 3, 10, 30, 100, 2e3, 1e5)


def intervals(dtype):
    """`[count]` ends of all lows and widths, and of some about 0."""
    low = np.repeat(LOWS, len(WIDTHS)).astype("float64")
    high = low + np.tile(WIDTHS, len(LOWS))
    half = np.asarray(WIDTHS)
    low, high = np.concatenate([low, -half]), np.concatenate([high, half])
    return low.astype(dtype), high.astype(dtype)


def grid(low, high):
    """`[count, POINTS]` points in float64, denser towards both ends and 0."""
    shares = np.linspace(0.0, 1.0, POINTS // 2)
    even = low[:, None] + (high - low)[:, None] * shares
    near = np.geomspace(1e-12, 1.0, POINTS // 6)
    parts = [even]
    for anchor, sign in ((low, 1), (high, -1), (np.clip(0.0, low, high), 1)):
        reach = np.where(sign > 0, high - anchor, anchor - low)
        parts.append(anchor[:, None] + sign * reach[:, None] * near)
    return np.clip(np.concatenate(parts, 1), low[:, None], high[:, None])


def sigmoid(z):
    return np.where(
        z >= 0, 1 / (1 + np.exp(-abs(z))), np.exp(-abs(z)) / (1 + np.exp(-abs(z)))
    )


def elu(alpha):
    return lambda z: np.where(z >= 0, z, alpha * np.expm1(np.minimum(z, 0)))


def leaky(slope):
    return lambda z: np.where(z >= 0, z, float(np.float32(slope)) * z)


FUNCTIONS = {
    "sigmoid": (layers.Sigmoid, {}, sigmoid),
    "tanh": (layers.Tanh, {}, np.tanh),
    "softplus": (
        layers.Softplus,
        {},
        lambda z: np.maximum(z, 0) + np.log1p(np.exp(-abs(z))),
    ),
    "elu_half": (layers.ELU, {"alpha": 0.5}, elu(0.5)),
    "elu_one": (layers.ELU, {"alpha": 1.0}, elu(1.0)),
    "elu_two": (layers.ELU, {"alpha": 2.0}, elu(2.0)),
    "relu": (layers.ReLU, {}, leaky(0.0)),
    "leaky_relu": (layers.LeakyReLU, {"negative_slope": 0.1}, leaky(0.1)),
}
SMOOTH = [name for name in FUNCTIONS if "relu" not in name]
each_function = pytest.mark.parametrize("name", FUNCTIONS)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def lines(layer, low, high, **options):
    """Slopes and intercepts in float64: lower slope and intercept, then the upper."""
    relaxation = layer.relax(IntervalBound(low[None], high[None]), **options)
    fields = ("lower_slope", "lower_intercept", "upper_slope", "upper_intercept")
    found = []
    for field in fields:
        value = getattr(relaxation, field)
        value = tf.zeros_like(low[None]) if value is None else value
        assert value.dtype == low.dtype
        found.append(value.numpy()[0].astype("float64"))
    return found


@each_function
@each_dtype
def test_lines_hold_on_dense_grids(name, dtype):
    """Up to the rounding of `f(z)` and `slope * z`, of which intercepts are made."""
    kind, options, function = FUNCTIONS[name]
    layer = kind(dtype=dtype, **options)
    relaxations = RELAXATIONS if layer.has_lower_slope else (None,)
    for relaxation in relaxations:
        choices = {"relaxation": relaxation} if relaxation else {}
        assert_lines_hold(layer, function, dtype, **choices)


@pytest.mark.parametrize("name", SMOOTH)
@each_dtype
def test_lines_of_any_shares_hold(name, dtype):
    """So do those that no search would give."""
    kind, options, function = FUNCTIONS[name]
    random, shape = np.random.default_rng(0), (1, len(intervals(dtype)[0]))
    for low, high in ((0.0, 1.0), (0.0, 1e-6), (1.0, 1.0), (-3.0, 7.0)):
        shares = tuple(
            tf.constant(random.uniform(low, high, shape), dtype) for _ in range(2)
        )
        layer = kind(dtype=dtype, **options)
        assert_lines_hold(layer, function, dtype, shares=shares)


def assert_lines_hold(layer, function, dtype, **choices):
    low, high = intervals(dtype)
    points = grid(low.astype("float64"), high.astype("float64"))
    values = function(points)
    found = lines(layer, tf.constant(low), tf.constant(high), **choices)
    slope, intercept, upper_slope, upper_intercept = (v[:, None] for v in found)
    for sign, a, b in ((1, slope, intercept), (-1, upper_slope, upper_intercept)):
        assert np.isfinite(a).all()
        assert np.isfinite(b).all()
        violation = (sign * (a * points + b - values)).max(1)
        # Each is rounded a few times, by half a unit in the last place; what is
        # below the least normal number is flushed to 0.
        size = abs(values).max(1) + abs(a * points).max(1) + abs(b[:, 0])
        allowed = 4 * np.finfo(dtype).eps * size + np.finfo(dtype).tiny
        worst = (violation / allowed).argmax()
        assert (violation <= allowed).all(), (
            f"[{low[worst]}, {high[worst]}], {sign=}: {violation[worst]:.3g}, "
            f"{violation[worst] / allowed[worst]:.3g} of what rounding explains"
        )


@each_function
@each_dtype
def test_intervals_are_exact(name, dtype):
    kind, options, function = FUNCTIONS[name]
    low, high = intervals(dtype)
    bound = kind(dtype=dtype, **options).propagate_interval(IntervalBound(low, high))
    eps = np.finfo(dtype).eps
    for end, points in ((bound.lower, low), (bound.upper, high)):
        wanted = function(points.astype("float64"))
        np.testing.assert_allclose(end, wanted, rtol=8 * eps, atol=8 * eps)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "softplus", "elu_half", "elu_one"])
def test_lines_are_tight(name):
    """They touch the curve, and lie nearer to it than the interval's ends."""
    kind, options, function = FUNCTIONS[name]
    low = np.asarray([-3.0, -3.0, -1.0, 0.5, -4.0, -0.2])
    high = np.asarray([-1.0, 1.0, 3.0, 2.0, 4.0, 0.3])
    points = grid(low, high)
    values = function(points)
    found = lines(kind(dtype="float64", **options), tf.constant(low), tf.constant(high))
    slope, intercept, upper_slope, upper_intercept = (v[:, None] for v in found)
    for gap in (
        values - slope * points - intercept,
        upper_slope * points + upper_intercept - values,
    ):
        assert (gap.min(1) <= 1e-6).all()
        assert (gap.mean(1) <= 0.51 * (values.max(1) - values.min(1))).all()


@pytest.mark.parametrize(
    "row", golden_cases.cases()["G_relu_relaxation"]["rows"], ids=str
)
@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_golden_relu_relaxation(row, relaxation):
    low, high = (tf.constant([row[end]], "float64") for end in ("l", "u"))
    found = lines(layers.ReLU(), low, high, relaxation=relaxation)
    wanted = (
        row[f"lower_slope_{relaxation}"],
        0.0,
        row["upper_slope"],
        row["upper_intercept"],
    )
    np.testing.assert_allclose(np.ravel(found), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_lines_run_through_the_ends(name):
    """The chord, or across 0 the tangent from the far end; inside a bend neither."""
    kind, _, function = FUNCTIONS[name]
    low, high = np.asarray([-3.0, 1.0, -1.0, -3.0]), np.asarray([-1.0, 3.0, 3.0, 1.0])
    found = lines(kind(dtype="float64"), tf.constant(low), tf.constant(high))
    slope, intercept, upper_slope, upper_intercept = found
    below = [function(z) - slope * z - intercept for z in (low, high)]
    above = [upper_slope * z + upper_intercept - function(z) for z in (low, high)]
    # Rows: at the lower end, at the upper one; columns: the intervals.
    touches = np.abs(below) < 1e-3
    np.testing.assert_array_equal(touches, [[0, 1, 1, 0], [0, 1, 1, 1]])
    touches = np.abs(above) < 1e-3
    np.testing.assert_array_equal(touches, [[1, 0, 1, 1], [1, 0, 0, 1]])


class TestShares:
    """Slopes of both lines between the curve's least and greatest over the interval."""

    def case(self, name, dtype="float64", least_width=0.0):
        kind, options, _ = FUNCTIONS[name]
        low, high = intervals(dtype)
        is_wide = high - low >= least_width
        box = IntervalBound(
            tf.constant(low[None, is_wide]), tf.constant(high[None, is_wide])
        )
        return kind(dtype=dtype, **options), box

    @pytest.mark.parametrize("name", SMOOTH)
    def test_a_layers_own_lines_have_shares(self, name):
        layer, box = self.case(name, least_width=1e-4)
        own = lines(layer, box.lower[0], box.upper[0])
        shares = layer.shares(box)
        given = lines(layer, box.lower[0], box.upper[0], shares=shares)
        for share in shares:
            assert float(tf.reduce_min(share)) >= 0.0
            assert float(tf.reduce_max(share)) <= 1.0
        # A slope that rounding took out of the range (by 1e-16 of values over a
        # width of 1e-4 at least) comes back into it.
        reach = np.maximum(abs(box.lower[0]), abs(box.upper[0]))
        for value, wanted in zip(given[::2], own[::2], strict=True):
            np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-11)
        for value, wanted in zip(given[1::2], own[1::2], strict=True):
            assert (abs(value - wanted) <= 1e-11 * (1.0 + reach)).all()

    @pytest.mark.parametrize(
        ("name", "slopes"),
        [
            # Of the ends -1 and 2, and in between.
            ("sigmoid", (sigmoid(2.0) * sigmoid(-2.0), 0.25)),
            ("tanh", (1.0 - np.tanh(2.0) ** 2, 1.0)),
            ("softplus", (sigmoid(-1.0), sigmoid(2.0))),
            ("elu_half", (0.5 * np.exp(-1.0), 1.0)),
            ("elu_two", (2.0 * np.exp(-1.0), 2.0)),
        ],
    )
    def test_they_reach_from_the_least_slope_to_the_greatest(self, name, slopes):
        kind, options, _ = FUNCTIONS[name]
        low, high = (tf.constant([end], tf.float64) for end in (-1.0, 2.0))
        zero, one = tf.zeros([1, 1], tf.float64), tf.ones([1, 1], tf.float64)
        layer = kind(dtype="float64", **options)
        for shares, wanted in (((zero, one), slopes), ((one, zero), slopes[::-1])):
            lower, _, upper, _ = lines(layer, low, high, shares=shares)
            np.testing.assert_allclose((lower[0], upper[0]), wanted, rtol=1e-14)

    @pytest.mark.parametrize("name", SMOOTH)
    def test_rows_with_lines_of_their_own(self, name):
        layer, box = self.case(name)
        random, size = np.random.default_rng(1), box.shape[1]
        rows = tf.constant(random.normal(size=(1, 3, size)))
        shares = [tf.constant(random.random((1, 3, size))) for _ in range(2)]
        (pulled,), constant = layer.propagate_linear_backward(rows, box, shares)
        for row in range(3):
            (wanted,), offset = layer.propagate_linear_backward(
                rows[:, row : row + 1], box, [share[:, row] for share in shares]
            )
            np.testing.assert_allclose(pulled[:, row], wanted[:, 0], rtol=1e-14)
            np.testing.assert_allclose(constant[:, row], offset[:, 0], rtol=1e-12)

    @pytest.mark.parametrize("name", SMOOTH)
    @each_dtype
    def test_gradients_are_finite(self, name, dtype):
        """At the ends of the range, and for intervals without any width."""
        layer, box = self.case(name, dtype)
        low, high = box.lower, box.upper
        for share in (0.0, 0.5, 1.0):
            shares = [tf.fill(tf.shape(low), tf.constant(share, dtype))] * 2
            with tf.GradientTape() as tape:
                tape.watch((shares, low, high))
                relaxation = layer.relax(IntervalBound(low, high), shares)
                total = [relaxation.lower_intercept, relaxation.upper_intercept]
            found = tape.gradient(total, (*shares, low, high))
            for gradient in found:
                assert np.isfinite(gradient).all()
            assert float(tf.reduce_max(tf.abs(found[0]))) > 0.0


class TestReLU:
    # Over [l, u] with l < 0 < u the chord has slope u / (u - l).
    @pytest.mark.parametrize(
        ("lower", "upper", "coefficient", "pulled", "constant"),
        [
            pytest.param(1.0, 3.0, -2.0, -2.0, 0.0, id="active"),
            pytest.param(-3.0, -1.0, -2.0, 0.0, 0.0, id="dead"),
            pytest.param(-1.0, 3.0, -2.0, -1.5, -1.5, id="chord_from_above"),
            pytest.param(-1.0, 3.0, 2.0, 2.0, 0.0, id="slope_one_from_below"),
            pytest.param(-3.0, 1.0, 2.0, 0.0, 0.0, id="slope_zero_from_below"),
        ],
    )
    def test_backward(self, lower, upper, coefficient, pulled, constant):
        box = IntervalBound(tf.constant([[lower]]), tf.constant([[upper]]))
        (actual,), offset = layers.ReLU().propagate_linear_backward(
            tf.constant([[[coefficient]]]), box
        )
        np.testing.assert_allclose(actual, [[[pulled]]], atol=1e-6)
        np.testing.assert_allclose(offset, [[constant]], atol=1e-6)

    @pytest.mark.parametrize("shape", [(1, 4), (1, 3, 4)], ids=["shared", "each_row"])
    def test_given_slopes_hold(self, shape):
        random = np.random.default_rng(0)
        box = IntervalBound(
            tf.constant([[-1.0, -2.0, -3.0, 1.0]]), tf.constant([[2.0, 1.0, -1.0, 2.0]])
        )
        rows = tf.constant(random.normal(size=(1, 3, 4)), tf.float32)
        slopes = tf.constant(random.random(shape), tf.float32)
        (pulled,), constant = layers.ReLU().propagate_linear_backward(
            rows, box, lower_slope=slopes
        )
        shares = random.random((1000, 4)).astype("float32")
        points = box.lower + shares * (box.upper - box.lower)
        outputs = tf.matmul(tf.nn.relu(points), rows[0], transpose_b=True)
        below = tf.matmul(points, pulled[0], transpose_b=True) + constant
        assert float(tf.reduce_min(outputs - below)) >= -1e-5

    @pytest.mark.parametrize("relaxation", RELAXATIONS)
    @pytest.mark.parametrize("slope", [0.0, 0.1, 0.3, 1.0])
    def test_stable_neurons_are_exact(self, slope, relaxation):
        """Rounding of the chord must not make an inactive neuron an unstable one."""
        low = np.random.default_rng(0).uniform(-2.0, 2.0, 1000).astype("float32")
        low = low[abs(low) > 1e-3]
        high = np.where(low < 0.0, low / 2.0, low * 2.0)
        found = lines(
            layers.LeakyReLU(slope),
            tf.constant(low),
            tf.constant(high),
            relaxation=relaxation,
        )
        wanted = np.where(low < 0.0, slope, 1.0)
        for value, exact in zip(found, (wanted, 0.0, wanted, 0.0), strict=True):
            np.testing.assert_allclose(
                value, np.broadcast_to(exact, low.shape), atol=3e-7
            )

    def test_unknown_relaxation(self):
        box = IntervalBound(tf.constant([[-1.0]]), tf.constant([[1.0]]))
        with pytest.raises(rt.InputError, match="'steep'"):
            layers.ReLU().relax(box, relaxation="steep")

    def test_gradient_flows_through_the_chord(self):
        low, high = tf.constant([[-1.0]]), tf.constant([[3.0]])
        with tf.GradientTape() as tape:
            tape.watch((low, high))
            relaxation = layers.ReLU().relax(IntervalBound(low, high))
        slopes = tape.gradient(relaxation.upper_slope, (low, high))
        # d/dl u / (u - l) = u / (u - l)^2, d/du = -l / (u - l)^2.
        np.testing.assert_allclose(tf.concat(slopes, 1), [[3 / 16, 1 / 16]], atol=1e-7)


def test_least_numbers_are_harmless():
    """Widths that underflow must not divide by 0."""
    tiny = np.finfo("float32").tiny
    ends = np.asarray([-tiny, -tiny / 8, -1e-45, -3 * tiny], "float32")
    box = IntervalBound(tf.constant(ends[None]), tf.constant(-ends[None]))
    for layer in (layers.ReLU(), layers.LeakyReLU(0.1), layers.Sigmoid(), layers.ELU()):
        relaxation = layer.relax(box)
        for value in (relaxation.lower_slope, relaxation.upper_slope):
            assert np.isfinite(value).all()
            assert (np.abs(value) <= 1.0).all()
