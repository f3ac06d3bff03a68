"""Rounding where it is extreme: numbers of any size, executions, windows."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf.bounds import IntervalBound
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation import backward
from robust_tf.propagation.crown import crown_bounds
from robust_tf.propagation.crown import crown_margins
from robust_tf.propagation.interval import interval_bounds
from robust_tf.propagation.window_plan import WindowPlan
from robust_tf.rounding import Rounding
from tests import rational
from tests.propagation import networks
from tests.test_rounding import dense_network
from tests.test_rounding import opened


class TestGreatAndSmallNumbers:
    def bound(self, weights, executed, center=1.0):
        """Of a chain of single neurons `w z + b`, at one point."""
        inputs = tensor = keras.Input((1,))
        for _ in weights:
            tensor = layers.Dense(1)(tensor)
        model = keras.Model(inputs, tensor)
        for layer, (kernel, bias) in zip(model.layers[1:], weights, strict=True):
            layer.set_weights([np.float32([[kernel]]), np.float32([bias])])
        point = np.full((1, 1), center)
        region = rt.Box(point, point)
        choices = Choices(rounding=opened(region, executed))
        graph = BoundGraph.from_model(model)
        bounds = interval_bounds(graph, region, choices)
        rows = tf.ones([1, 1, 1], tf.float64)
        found = crown_margins(graph, region, bounds, rows, choices)
        executed = model(point.astype("float32")).numpy().item()
        return bounds[graph.output], found.numpy().item(), executed

    def test_an_execution_may_lose_small_numbers(self):
        """1e-50 is 0 in float32; real arithmetic brings it back to 1."""
        weights = [(w, 0.0) for w in (1e-25, 1e-25, 1e25, 1e25)]
        interval, margin, executed = self.bound(weights, executed=False)
        assert executed == 0.0
        assert margin > 0.999
        assert interval.lower > 0.999
        interval, margin, _ = self.bound(weights, executed=True)
        assert margin <= 0.0
        assert interval.lower <= 0.0 <= interval.upper

    def test_an_execution_may_overflow(self):
        """1e50 is infinite in float32, and stays so on its way back to 1."""
        weights = [(w, 0.0) for w in (1e25, 1e25, 1e-25, 1e-25)]
        interval, margin, executed = self.bound(weights, executed=False)
        assert executed == np.inf
        assert interval.upper < 1.001
        interval, margin, _ = self.bound(weights, executed=True)
        assert interval.upper == np.inf
        assert not margin > 0.0

    def test_small_weights_may_be_read_as_zero(self):
        """The processor may do so even in a cast to float64."""
        _, margin, _ = self.bound([(1e38, 0.0), (-1e-40, 1e-3)], executed=False)
        assert margin <= 1e-3 - 0.00999

    @pytest.mark.parametrize("executed", [False, True])
    def test_nothing_is_claimed_where_numbers_overflow(self, executed):
        weights = [(1e38, 0.0)] * 9 + [(0.0, 1.0)]
        interval, margin, _ = self.bound(weights, executed)
        assert not margin > -1e300
        assert interval.lower == -np.inf
        assert interval.upper == np.inf
        assert self.bound([(1e20, 0.0), (0.0, 1.0)], executed)[1] > 0.999

    def test_maxima_do_not_lose_an_overflow(self):
        """A maximum may pass over NaN, as if it were the least number."""
        inputs = tensor = keras.Input((2, 2, 1))
        for _ in range(9):
            tensor = layers.Conv2D(1, 1)(tensor)
        tensor = layers.Flatten()(layers.MaxPooling2D(2)(tensor))
        model = keras.Model(inputs, tensor)
        for layer in model.layers[1:10]:
            layer.set_weights([np.full((1, 1, 1, 1), 1e38, "float32"), np.zeros(1)])
        lower = np.zeros((1, 2, 2, 1))
        lower[0, 0, 0] = -1.0
        region = rt.Box(lower, np.zeros_like(lower))
        choices = Choices(rounding=opened(region))
        graph = BoundGraph.from_model(model)
        for bounds in (
            interval_bounds(graph, region, choices),
            crown_bounds(graph, region, (choices,)),
        ):
            assert bounds[graph.output].upper.numpy().item() == np.inf

    def test_a_long_narrow_chain(self):
        """Constants are added up edge after edge, more often than neurons are wide."""
        rng = np.random.default_rng(0)
        weights = [(1.0, one) for one in 1e4 * rng.normal(size=400)]
        exact = 1 + sum(rational.rational(np.float32(b)).item() for _, b in weights)
        interval, margin, _ = self.bound(weights, executed=False)
        assert rational.rational(margin).item() <= exact
        assert rational.rational(interval.lower).item() <= exact
        rounding = Rounding()
        box = IntervalBound(*[tf.ones([1, 1], tf.float64)] * 2)
        layer = layers.Dense(1)
        layer.build((None, 1))
        charges = []
        for edge in (1, 400):
            rounding.widen(layer, edge, [box], box)
            charges.append(rounding.charges[edge].numpy().item())
        assert charges[1] > 400 * 2.0**-53 > charges[0] / 3


class TestExecutions:
    """Float32 results in any order of summation lie in executed-network bounds."""

    def results(self, model, points, rng):
        """By Keras, and by sums in orders of our own."""
        yield model(points).numpy()
        for _ in range(3):
            values = points
            for place, layer in enumerate(x for x in model.layers if x.weights):
                kernel, bias = layer.get_weights()
                values = np.maximum(values, np.float32(0)) if place else values
                terms = values[:, :, None] * kernel
                order = rng.permutation(terms.shape[1])
                total = np.broadcast_to(bias, terms[:, 0].shape).astype("float32")
                first = rng.random() < 0.5
                total = total if first else np.zeros_like(total)
                for one in order:
                    total = total + terms[:, one]
                values = total if first else total + bias
            assert values.dtype == np.float32
            yield values

    def test_they_lie_in_bounds_for_executions_alone(self):
        escaped = 0
        for seed in range(8):
            model, rng = dense_network((9, 40, 30, 3), seed, scale=3.0)
            graph = BoundGraph.from_model(model)
            points = rng.normal(size=(20, 9)).astype("float32")
            region = rt.Box(points.astype("float64"), points.astype("float64"))
            found = {}
            for executed in (False, True):
                choices = Choices(rounding=opened(region, executed))
                bounds = crown_bounds(graph, region, (choices,))
                rows = tf.eye(3, dtype=tf.float64)[None]
                both = tf.concat([rows, -rows], 1)
                margins = crown_margins(graph, region, bounds, both, choices)
                low, negated = np.split(margins.numpy(), 2, -1)
                found[executed] = low, -negated
                interval = bounds[graph.output]
                outside = [
                    (np.maximum(low, interval.lower) > one).any()
                    or (np.minimum(-negated, interval.upper) < one).any()
                    for one in self.results(model, points, rng)
                ]
                assert not (executed and any(outside))
                escaped += sum(outside)
            assert (found[True][0] < found[False][0]).all()
            assert (found[True][1] > found[False][1]).all()
            assert (found[True][1] - found[True][0]).max() < 0.1
        assert escaped > 20

    def test_all_kinds_of_layers(self):
        for name in networks.ALL:
            model = networks.converted(name, seed=3)
            points = networks.centers(model, 6)
            region = rt.LpBall(points.astype("float64"), 0.0)
            choices = Choices(rounding=opened(region, executed=True))
            bounds = interval_bounds(BoundGraph.from_model(model), region, choices)
            logits, last = model(points).numpy(), bounds[max(bounds)]
            assert (last.lower <= logits).numpy().all()
            assert (logits <= last.upper).numpy().all()
            assert (last.upper - last.lower).numpy().max() < 0.02


class TestWindows:
    @pytest.mark.parametrize("norm", ["inf", 2, 1])
    @pytest.mark.parametrize("executed", [False, True])
    def test_windows_and_rows_pay_alike(self, norm, executed, monkeypatch):
        model = networks.converted("patches", seed=2)
        graph = BoundGraph.from_model(model)
        centers = networks.centers(model, 2, dtype="float64")
        region = rt.LpBall(centers, 0.3, norm, None)
        kinds = []
        for is_less in (True, False):
            monkeypatch.setattr(WindowPlan, "is_less_work", is_less)
            choices = Choices(rounding=opened(region, executed))
            kinds.append(crown_bounds(graph, region, (choices,)))
        for edge in range(1, len(graph.shapes)):
            one, other = (bounds[edge] for bounds in kinds)
            np.testing.assert_allclose(one.lower, other.lower, rtol=0, atol=1e-9)
            np.testing.assert_allclose(one.upper, other.upper, rtol=0, atol=1e-9)

    def test_windows_pay_at_all(self, monkeypatch):
        monkeypatch.setattr(WindowPlan, "is_less_work", True)
        model = networks.converted("patches", seed=2)
        graph = BoundGraph.from_model(model)
        region = rt.LpBall(networks.centers(model, 2, dtype="float64"), 0.0)
        widths = []
        for executed in (False, True):
            choices = Choices(rounding=opened(region, executed))
            bounds = interval_bounds(graph, region, choices)
            found = backward.backward_interval(graph, 3, region, bounds, choices)
            widths.append((found.upper - found.lower).numpy())
        assert (widths[0] > 1e-15).all()
        assert (widths[1] > 1e-7).all()
