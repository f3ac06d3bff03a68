"""Bounds that account for their rounding, against exact arithmetic."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.layers.base import BoundLayer
from robust_tf.propagation.crown import crown_bounds
from robust_tf.propagation.crown import crown_margins
from robust_tf.propagation.interval import interval_bounds
from robust_tf.propagation.interval import interval_margins
from robust_tf.rounding import Rounding
from robust_tf.rounding import difference_below
from robust_tf.rounding import largest_magnitude
from tests import rational
from tests.conformance.cases import CASES
from tests.conformance.cases import Case


def dense_network(sizes, seed, scale=1.0):
    """Float32 weights; a plain Keras model, and it converted."""
    rng = np.random.default_rng(seed)
    inputs = tensor = keras.Input(sizes[:1])
    for place, units in enumerate(sizes[1:]):
        tensor = layers.ReLU()(tensor) if place else tensor
        tensor = layers.Dense(units)(tensor)
    model = keras.Model(inputs, tensor)
    for variable in model.weights:
        spread = np.sqrt(2.0 / variable.shape[0]) if "kernel" in variable.path else 0.1
        variable.assign(scale * spread * rng.normal(size=variable.shape))
    return model, rng


def opened(region, executed=False):
    rounding = Rounding(executed=executed)
    rounding.open_input(largest_magnitude(region.box))
    return rounding


class Chain:
    """One network over one box: floating-point and exact bounds of the same chain."""

    def __init__(self, sizes, seed, dtype="float64"):
        self.model, rng = dense_network(sizes, seed)
        self.graph = BoundGraph.from_model(self.model)
        center = rng.normal(size=sizes[:1]).astype(dtype)
        ends = center - 0.3, center + 0.3
        self.region = rt.Box(*(end[None].astype(dtype) for end in ends))
        box = self.region.box
        self.exact = rational.ExactNetwork(
            self.model, box.lower.numpy()[0], box.upper.numpy()[0]
        )
        # Slopes are given, so that no chain chooses them by rounded bounds.
        names = [one.name for one in self.model.layers if one.name.startswith("re_lu")]
        self.slopes = [
            rng.uniform(size=units).astype("float32") for units in sizes[1:-1]
        ]
        self.by_layer = {
            name: tf.constant(slope[None], dtype)
            for name, slope in zip(names, self.slopes, strict=True)
        }
        self.rows = rng.normal(size=(2, sizes[-1])).astype("float32")

    def floating(self, method, rounding):
        choices = Choices(lower_slopes=self.by_layer, rounding=rounding)
        rows = tf.constant(self.rows[None], self.region.dtype)
        if method == "crown":
            bounds = crown_bounds(self.graph, self.region, (choices,))
        else:
            bounds = interval_bounds(self.graph, self.region, choices)
        of = interval_margins if method == "ibp" else crown_margins
        return bounds, of(self.graph, self.region, bounds, rows, choices).numpy()[0]

    def rationally(self, method):
        slopes = [rational.rational(slope) for slope in self.slopes]
        intervals = self.exact.intervals(slopes if method == "crown" else None)
        rows = rational.rational(self.rows)
        if method != "ibp":
            return intervals, self.exact.margins(rows, intervals[:-1], slopes)
        kernel, bias = self.exact.weights[-1]
        low, high = (np.maximum(end, 0) for end in intervals[-2])
        rows, constant = rows @ kernel.T, rows @ bias
        low, high = np.maximum(rows, 0) @ low, np.minimum(rows, 0) @ high
        return intervals, constant + low + high


class TestExactArithmetic:
    """7.3: the same chain in fractions; no bound may pass it, plain ones do."""

    @pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_never_above_the_exact_bound(self, method, dtype):
        plain_passes, gaps = 0, []
        for seed, sizes in itertools.product(range(4), ((4, 6, 3), (3, 6, 5, 3))):
            chain = Chain(sizes, seed, dtype)
            intervals, exact = chain.rationally(method)
            bounds, sound = chain.floating(method, opened(chain.region))
            _, plain = chain.floating(method, None)
            sound, plain = (rational.rational(found) for found in (sound, plain))
            assert (sound <= exact).all()
            plain_passes += (plain > exact).sum()
            gaps.append(float((exact - sound).max()))
            edges = [n.output for n in chain.graph.nodes if n.layer.is_affine]
            for edge, (low, high) in zip(edges, intervals, strict=True):
                lower, upper = bounds[edge].lower.numpy(), bounds[edge].upper.numpy()
                assert (rational.rational(lower[0]) <= low).all()
                assert (rational.rational(upper[0]) >= high).all()
        assert plain_passes > 0
        assert max(gaps) < (1e-11 if dtype == "float64" else 1e-2)  # Not loose.

    def test_a_difference_is_rounded_down(self):
        rng = np.random.default_rng(0)
        above = 0
        for dtype in ("float32", "float64"):
            lower, thresholds = rng.normal(size=(2, 1, 300)).astype(dtype)
            exact = rational.rational(lower) - rational.rational(thresholds)
            found = difference_below(tf.constant(lower), tf.constant(thresholds))
            assert (rational.rational(found) <= exact).all()
            above += (rational.rational(lower - thresholds) > exact).sum()
        assert above > 0


def _cancelling(layer):
    """Means and offsets far greater than what they leave; one mean without offset."""
    mean = np.array([1e7, -3e6, 1e5, 0.1], "float32")
    gamma, variance = np.float32([1.7, -0.3, 2.0, 1.0]), np.float32([0.7, 2.0, 1e-6, 3])
    beta = (gamma / np.sqrt(variance + 1e-3) * mean).astype("float32")
    beta[1] = 0.0
    layer.set_weights([gamma, beta, mean, variance])


EXACT_CASES = (
    *(case for case in CASES if case.name != "batch_normalization_moments"),
    Case(
        "batch_normalization_cancelling",
        lambda **more: layers.BatchNormalization(**more),
        ((4,),),
        prepare=_cancelling,
    ),
    Case("elu_steep", lambda **more: layers.ELU(1000.0, **more), ((12,),), scale=3.0),
)
# Cases in which the plain rules go beyond the exact values; and all that ran.
PLAIN_PASSES = {"interval": set(), "backward": set()}
RAN = set()


@pytest.mark.parametrize("case", EXACT_CASES, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_layer_pays_for_its_rounding(case, dtype):
    """Both rules, at points in exact arithmetic; weights are float32."""
    layer = case.build("float32")
    boxes = case.boxes(dtype)
    points = _few_points(boxes)
    interval = layer.propagate_interval(*boxes)
    rounding = Rounding()
    rounding.charges = {}
    widened = rounding.widen(layer, 1, boxes, interval)
    rows = case.rows(interval.shape[1:], dtype)
    pulled, constant = layer.propagate_linear_backward(rows, *boxes)
    cost = rounding.cost(1, rows).numpy()
    assert np.isfinite(cost).all()
    rounded = {}
    for example, *inputs in points:
        exact = rational.value_of(layer, inputs)
        for bound, name in ((widened, None), (interval, "interval")):
            low, high = (
                rational.rational(end[example]) for end in (bound.lower, bound.upper)
            )
            is_inside = (low <= exact).all() and (exact <= high).all()
            rounded[name] = rounded.get(name, True) and is_inside
        wanted = rational.rational(rows[example]).reshape(len(rows[0]), -1)
        wanted = wanted @ exact.reshape(-1)
        part = rational.rational(np.broadcast_to(constant, cost.shape)[example])
        for coefficients, z in zip(pulled, inputs, strict=True):
            one = rational.rational(coefficients[min(example, len(coefficients) - 1)])
            part = part + one.reshape(len(part), -1) @ rational.rational(z).reshape(-1)
        assert (part - rational.rational(cost[example]) <= wanted).all()
        rounded["backward"] = rounded.get("backward", True) and (part <= wanted).all()
    assert rounded[None]
    RAN.add((case.name, dtype))
    for rule, names in PLAIN_PASSES.items():
        names.update([case.name] if not rounded[rule] else [])


def test_plain_rules_do_not():
    """Runs after the cases: without charges, many of them would have failed."""
    if len(RAN) < 2 * len(EXACT_CASES):
        pytest.skip("Not all cases ran.")
    assert {"batch_normalization_cancelling", "dense"} <= PLAIN_PASSES["interval"]
    assert {"batch_normalization_cancelling", "dense"} <= PLAIN_PASSES["backward"]


def _few_points(boxes, count=5):
    """(example, one point for each input), ends among them."""
    rng = np.random.default_rng(3)
    low, high = ([getattr(b, e).numpy() for b in boxes] for e in ("lower", "upper"))
    found = [(0, *(part[0] for part in low)), (1, *(part[1] for part in high))]
    for number in range(count):
        example, inputs = number % 2, []
        for one, other in zip(low, high, strict=True):
            share = rng.uniform(size=one[example].shape).astype(one.dtype)
            share = np.round(share) if number < 2 else share
            point = one[example] + share * (other[example] - one[example])
            inputs.append(np.clip(point, one[example], other[example]))
        found.append((example, *inputs))
    return found


def test_every_layer_states_what_it_sums_up():
    """A layer that adds up at least two numbers has terms; movers have none."""
    for case in EXACT_CASES:
        layer = case.build("float32")
        assert isinstance(layer, BoundLayer)
        terms = layer.terms([tf.TensorShape(shape) for shape in case.shapes])
        moves = isinstance(
            layer,
            layers.Flatten
            | layers.Reshape
            | layers.Permute
            | layers.ZeroPadding2D
            | layers.Dropout
            | layers.Concatenate
            | layers.MaxPooling2D
            | layers.GlobalMaxPooling2D,
        )
        plain_relu = getattr(layer, "least_slope", None) == 0.0
        assert (terms == 0) == (moves or plain_relu), case.name
