"""Lines around smooth activations, searched by alpha-CROWN."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation.alpha_crown import AlphaCrown
from robust_tf.propagation.alpha_crown import intermediate_bounds
from robust_tf.propagation.ascent import Ascent
from robust_tf.propagation.crown import crown_bounds
from robust_tf.propagation.crown import crown_margins
from robust_tf.propagation.slopes import SmoothLines
from robust_tf.propagation.window_plan import WindowPlan
from robust_tf.rounding import Rounding
from robust_tf.rounding import largest_magnitude
from tests.propagation import networks

# Of each activation: the least share of CROWN's distance to the worst sample that 20
# iterations close, on average.
CLOSED = {"sigmoid": 0.4, "tanh": 0.55, "softplus": 0.3, "elu": 0.5}
each_activation = pytest.mark.parametrize("name", CLOSED)
EXAMPLES, RADIUS = 3, 0.3


def network(name, seed=0, dtype="float64"):
    """Two layers of six neurons between inputs and logits."""
    activation = keras.layers.ELU(2.0, dtype=dtype) if name == "elu" else name
    inputs = tensor = keras.Input((4,), dtype=dtype)
    for _ in range(2):
        tensor = keras.layers.Dense(6, activation, dtype=dtype)(tensor)
    model = keras.Model(inputs, keras.layers.Dense(3, dtype=dtype)(tensor))
    return rt.convert(networks.randomize(model, seed, 2.0))


def case(name, seed=0, dtype="float64"):
    """Model, graph, region and rows of both signs."""
    model = network(name, seed, dtype)
    graph = BoundGraph.from_model(model)
    region = rt.LpBall(networks.centers(model, EXAMPLES, dtype=dtype), RADIUS)
    units = tf.eye(3, dtype=dtype)
    return model, graph, region, tf.concat([units, -units], 0)[None]


def compiled(function):
    return tf.function(function, autograph=False)()


def searched(graph, region, bounds, rows, mode="output", iterations=20):
    search = AlphaCrown(mode, Ascent(iterations, patience=iterations))
    return compiled(lambda: search.search(graph, region, bounds, rows))


def crown(graph, region, rows):
    def run():
        bounds = crown_bounds(graph, region, (Choices(),))
        return bounds, crown_margins(graph, region, bounds, rows, Choices())

    return compiled(run)


def least_sampled(model, region, rows, count=2000):
    """The least value of each row on samples, `[batch, rows]`."""
    points = networks.points_in(region, count)
    outputs = model(points.reshape(-1, *points.shape[2:])).numpy()
    outputs = outputs.reshape(len(points), -1, outputs.shape[-1])
    return np.einsum("orc,nbc->nbr", rows, outputs).min(0)


@each_activation
def test_tighter_than_crown_and_never_above_a_point(name):
    closed = []
    for seed in range(2):
        model, graph, region, rows = case(name, seed)
        bounds, own = crown(graph, region, rows)
        found, _, slopes = searched(graph, region, bounds, rows)
        least = least_sampled(model, region, rows)
        assert (found <= least + 1e-9).numpy().all()
        assert (found >= own - 1e-9).numpy().all()
        closed.append(np.mean((found - own) / (least - own)))
        # The lines give these bounds again.
        again = crown_margins(graph, region, bounds, rows, slopes.choices(graph))
        np.testing.assert_allclose(again, found, atol=1e-9)
    assert np.mean(closed) > CLOSED[name]


@pytest.mark.parametrize("name", ["sigmoid", "softplus"])
def test_lines_of_intermediate_bounds(name):
    model, graph, region, rows = case(name)
    bounds, _ = crown(graph, region, rows)
    output, _, _ = searched(graph, region, bounds, rows, iterations=8)
    least = least_sampled(model, region, rows)
    points = networks.points_in(region, 500)
    values = [graph.values(tf.constant(part), Choices()) for part in points]
    for mode in ("joint", "each"):
        found, tighter, slopes = searched(graph, region, bounds, rows, mode, 8)
        assert (found <= least + 1e-9).numpy().all()
        assert float(tf.reduce_mean(found - output)) > 1e-3
        again = intermediate_bounds(
            graph, region, bounds, slopes.by_edge, shares=slopes.shares_by_edge
        )
        for intervals, value in itertools.product((tighter, again), values):
            for edge, interval in intervals.items():
                assert (value[edge] >= interval.lower - 1e-9).numpy().all()
                assert (value[edge] <= interval.upper + 1e-9).numpy().all()
        (edge,) = slopes.shares_by_edge
        width = (tf.reduce_sum(one[edge].radius) for one in (bounds, tighter, again))
        before, after, once_more = map(float, width)
        assert after < before - 1e-3
        assert once_more < before + 1e-9


@each_activation
def test_what_float32_finds_float64_proves(name):
    """With all rounding charged, as verification decides."""
    _, graph, region, rows = case(name)
    _, low_graph, low_region, low_rows = case(name, dtype="float32")
    low_bounds, _ = crown(low_graph, low_region, low_rows)
    hoped, _, slopes = searched(low_graph, low_region, low_bounds, low_rows)
    slopes = tf.nest.map_structure(lambda one: tf.cast(one, tf.float64), slopes)

    def decide():
        rounding = Rounding()
        rounding.open_input(largest_magnitude(region.box))
        choices = Choices(rounding=rounding)
        bounds = crown_bounds(graph, region, (choices,))
        proved = (
            crown_margins(graph, region, bounds, rows, one)
            for one in (choices, slopes.choices(graph, Rounding(rounding.charges)))
        )
        return tuple(proved)

    own, found = compiled(decide)
    np.testing.assert_allclose(found, hoped, atol=1e-4)
    assert float(tf.reduce_mean(found - own)) > 1e-3


@pytest.mark.parametrize("name", ["smooth", "convolutions"])
def test_compute_bounds_of_mixed_networks(name):
    model = networks.converted(name, seed=1, dtype="float64")
    region = rt.LpBall(networks.centers(model, 2, dtype="float64"), 0.1)
    rows = tf.eye(3, dtype=tf.float64)[None]
    own, found = (
        compiled(lambda method=method: rt.compute_bounds(model, region, method))
        for method in ("crown", "alpha-crown")
    )
    assert (found.lower >= own.lower).numpy().all()
    assert (found.upper <= own.upper).numpy().all()
    assert float(tf.reduce_mean(own.radius - found.radius)) > 1e-5
    assert (found.lower <= least_sampled(model, region, rows, 300)).numpy().all()
    assert (found.upper >= -least_sampled(model, region, -rows, 300)).numpy().all()


def test_joint_search_through_windows():
    """Lines of a feature map are shared by all windows over it."""
    inputs = keras.Input((9, 9, 1), dtype="float64")
    tensor = inputs
    for activation in ("tanh", "relu", "sigmoid"):
        tensor = keras.layers.Conv2D(2, 2, activation=activation, dtype="float64")(
            tensor
        )
    tensor = keras.layers.Flatten(dtype="float64")(tensor)
    model = keras.Model(inputs, keras.layers.Dense(3, dtype="float64")(tensor))
    model = rt.convert(networks.randomize(model, 3, 1.5))
    graph = BoundGraph.from_model(model)
    region = rt.LpBall(networks.centers(model, 2, dtype="float64"), 0.1)
    rows = tf.eye(3, dtype=tf.float64)[None]
    bounds, own = crown(graph, region, rows)
    found, tighter, slopes = searched(graph, region, bounds, rows, "joint", 4)
    assert WindowPlan.of(graph, graph.inputs_of(rt.layers.ReLU)[0]).is_less_work
    assert slopes.shares.shape == (2, 3, SmoothLines.of(graph).total)
    assert (found > own).numpy().all()
    assert (found <= least_sampled(model, region, rows, 300)).numpy().all()
    for part in networks.points_in(region, 100):
        for edge, value in graph.values(tf.constant(part), Choices()).items():
            assert (value >= tighter[edge].lower - 1e-9).numpy().all()
            assert (value <= tighter[edge].upper + 1e-9).numpy().all()
