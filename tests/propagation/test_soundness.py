"""No sample, corner or attacked point may escape any bound of any method."""

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.graph import BoundGraph
from tests.propagation import networks

FEW = (("ibp", "adaptive"), ("crown-ibp", "one-lb"), ("crown", "adaptive"))
MORE = (*FEW, ("crown", "same-slope"), ("crown", "zero-lb"), ("crown", "best"))
# Radii for each of three examples, by norm.
RADII = {"inf": (0.02, 0.1, 0.4), "2": (0.05, 0.4, 1.5), "1": (0.1, 1.0, 4.0)}
ROUNDING = {"float32": 2e-5, "float64": 1e-12}
each_network = pytest.mark.parametrize("name", networks.ALL)
each_norm = pytest.mark.parametrize("norm", RADII)


def values_of_all_edges(graph, points):
    """Values of each layer's output at `[count, batch, ...]` points, by name."""
    count, batch, *shape = points.shape
    values = {0: tf.constant(points.reshape(-1, *shape))}
    found = {}
    for node in graph.nodes:
        inputs = [values[edge] for edge in node.inputs]
        output = node.layer(inputs if len(inputs) > 1 else inputs[0])
        values[node.output] = output
        found[node.layer.name] = output.numpy().reshape(count, batch, *output.shape[1:])
    return found, values[graph.output].numpy().reshape(count, batch, -1)


def check(bound, values, tolerance, what):
    size = 1.0 + abs(values).max()
    below = (bound.lower.numpy() - values).max() / size
    above = (values - bound.upper.numpy()).max() / size
    assert max(below, above) <= tolerance, (what, below, above)


@each_network
@each_norm
@pytest.mark.parametrize("is_clipped", [True, False], ids=["clipped", "whole"])
def test_nothing_escapes(name, norm, is_clipped):
    dtype = "float64" if is_clipped else "float32"
    model = networks.converted(name, seed=len(norm), dtype=dtype)
    graph = BoundGraph.from_model(model)
    center = networks.centers(model, dtype=dtype)
    valid_range = (0.0, 1.0) if is_clipped else None
    region = rt.LpBall(center, RADII[norm], norm, valid_range)
    random = np.random.default_rng(0)
    rows = tf.constant(random.normal(size=(3, 4, 3)), dtype)
    both = tf.concat([rows, -rows], 1)
    points = np.concatenate(
        [
            networks.points_in(region, 300),
            networks.attack(model, region, both),
            center[None],
        ]
    ).astype(dtype)
    intermediate, logits = values_of_all_edges(graph, points)
    margins = np.einsum("brc,nbc->nbr", rows, logits)
    for method, relaxation in MORE if is_clipped else FEW:
        bound, known = rt.compute_bounds(
            model, region, method, rows, intermediate=True, relaxation=relaxation
        )
        assert bound.dtype == dtype
        check(bound, margins, ROUNDING[dtype], (method, relaxation))
        assert known.keys() == intermediate.keys()
        for layer, values in intermediate.items():
            check(known[layer], values, ROUNDING[dtype], (method, relaxation, layer))


@each_network
def test_boxes_of_any_width(name):
    """Entries of no width among wide ones."""
    model = networks.converted(name, seed=5, dtype="float64")
    graph = BoundGraph.from_model(model)
    random = np.random.default_rng(1)
    lower = networks.centers(model, dtype="float64") - 0.5
    width = random.random(lower.shape) * (random.random(lower.shape) < 0.4)
    region = rt.Box(lower, lower + width)
    points = networks.points_in(region, 300)
    intermediate, logits = values_of_all_edges(graph, points)
    for method in ("ibp", "crown-ibp", "crown"):
        bound, known = rt.compute_bounds(model, region, method, intermediate=True)
        check(bound, logits, 1e-12, method)
        for layer, values in intermediate.items():
            check(known[layer], values, 1e-12, (method, layer))


@each_network
@each_norm
@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
def test_zero_radius_is_exact(name, norm, method):
    model = networks.converted(name, dtype="float64")
    center = networks.centers(model, dtype="float64")
    region = rt.LpBall(center, 0.0, norm)
    bound = rt.compute_bounds(model, region, method, relaxation="best")
    outputs = model(center).numpy()
    np.testing.assert_allclose(bound.lower, outputs, rtol=0, atol=1e-11)
    np.testing.assert_allclose(bound.upper, outputs, rtol=0, atol=1e-11)


@each_network
def test_more_work_never_loosens(name):
    """IBP, CROWN with intersections, and the best of all, in float64."""
    model = networks.converted(name, seed=3, dtype="float64")
    region = rt.LpBall(networks.centers(model, dtype="float64"), 0.1)
    _, by_interval = rt.compute_bounds(model, region, "ibp", intermediate=True)
    _, by_crown = rt.compute_bounds(model, region, "crown", intermediate=True)
    for layer, bound in by_crown.items():
        assert (bound.lower >= by_interval[layer].lower - 1e-12).numpy().all()
        assert (bound.upper <= by_interval[layer].upper + 1e-12).numpy().all()
    best = rt.compute_bounds(model, region, "crown", relaxation="best")
    for method in ("ibp", "crown-ibp", "crown"):
        other = rt.compute_bounds(model, region, method)
        assert (best.lower >= other.lower - 1e-12).numpy().all()


@pytest.mark.parametrize("name", ["convolutions", "residual"])
def test_examples_do_not_mix(name):
    """Bounds of a batch are those of its examples alone, radii included."""
    model = networks.converted(name, dtype="float64")
    center = networks.centers(model, dtype="float64")
    for norm, radii in (("inf", RADII["inf"]), (2, RADII["2"])):
        together = rt.compute_bounds(model, rt.LpBall(center, radii, norm))
        for number, radius in enumerate(radii):
            own = rt.LpBall(center[number : number + 1], radius, norm)
            alone = rt.compute_bounds(model, own)
            np.testing.assert_allclose(
                together.lower[number], alone.lower[0], rtol=0, atol=1e-11
            )
    shared = rt.compute_bounds(model, rt.LpBall(center, [0.3], 2))
    scalar = rt.compute_bounds(model, rt.LpBall(center, 0.3, 2))
    np.testing.assert_array_equal(shared.lower, scalar.lower)
