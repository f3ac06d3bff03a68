"""Distances to the boundaries of linear regions, against golden values and autodiff."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from robust_tf import layers
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.propagation import linear_regions
from robust_tf.propagation.linear_regions import LinearRegions
from robust_tf.propagation.linear_regions import hull_radius
from robust_tf.specifications import margin_specification
from tests.propagation import margin_cases


@pytest.mark.parametrize("numerics", ["exact", "reference"])
@pytest.mark.parametrize(("net", "name"), margin_cases.names())
def test_golden_distances(net, name, numerics):
    case = margin_cases.case_of(net, name)
    regions, rows = margin_cases.regions_of(net, case, numerics)
    norms = list(margin_cases.NORMS.values())
    boundaries = regions.boundary_distances(norms)
    decisions = regions.decision_distances(rows, norms)
    for key, boundary, decision in zip(
        margin_cases.NORMS, boundaries, decisions, strict=True
    ):
        expected = case["distances"][numerics][key]
        region = np.concatenate(
            [np.ravel(_infinite(part)) for part in expected["region_per_layer"]]
        )
        np.testing.assert_allclose(boundary[0], region, rtol=1e-9, atol=1e-9)
        known = [value for value in expected["decision"] if value is not None]
        np.testing.assert_allclose(decision[0], known, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("net", margin_cases.NETS)
def test_a_batch_is_its_examples(net):
    cases = margin_cases.golden()[net]["cases"]
    inputs, labels = margin_cases.points(net, cases)
    graph = BoundGraph.from_model(margin_cases.network(net))
    rows = margin_specification(labels, graph.shapes[graph.output][0], tf.float64)
    together = LinearRegions.around(graph, inputs)
    for place, case in enumerate(cases):
        alone, row = margin_cases.regions_of(net, case)
        for p in (1.0, 2.0, 3.0, np.inf):
            np.testing.assert_allclose(
                together.boundary_distances([p])[0][place],
                alone.boundary_distances([p])[0][0],
                rtol=1e-12,
            )
            np.testing.assert_allclose(
                together.decision_distances(rows, [p])[0][place],
                alone.decision_distances(row, [p])[0][0],
                rtol=1e-12,
            )


def test_inputs_decide_on_the_type():
    case = margin_cases.case_of("conv_net_2", "A")
    model = margin_cases.network("conv_net_2", "float32")
    inputs, _ = margin_cases.points("conv_net_2", [case])
    regions = LinearRegions.around(BoundGraph.from_model(model), inputs)
    (distances,) = regions.boundary_distances([np.inf])
    assert distances.dtype == tf.float64
    # Weights of the golden networks are multiples of 0.05, rounded to float32.
    expected = case["distances"]["exact"]["inf"]["region_per_layer"]
    expected = np.concatenate([np.ravel(_infinite(part)) for part in expected])
    np.testing.assert_allclose(distances[0], expected, rtol=1e-5)


def residual():
    """Branches, BatchNormalization, leaky ReLUs, border windows and two strides."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((9, 8, 2), dtype="float64")
    tensor = layers.Conv2D(3, 3, 2, "same", dtype="float64")(inputs)
    tensor = layers.BatchNormalization(dtype="float64")(tensor)
    skip = tensor = layers.LeakyReLU(0.2, dtype="float64")(tensor)
    tensor = layers.Conv2D(3, 3, 1, "same", dtype="float64")(tensor)
    tensor = layers.ReLU(dtype="float64")(tensor)
    tensor = layers.Add(dtype="float64")([tensor, skip])
    tensor = layers.ReLU(dtype="float64")(tensor)
    tensor = layers.AveragePooling2D(2, dtype="float64")(tensor)
    tensor = layers.Flatten(dtype="float64")(tensor)
    tensor = layers.ReLU(dtype="float64")(layers.Dense(6, dtype="float64")(tensor))
    model = keras.Model(inputs, layers.Dense(4, dtype="float64")(tensor))
    generator = np.random.default_rng(4)
    for weight in model.weights:
        low = 0.5 if "variance" in weight.path else -0.6
        weight.assign(generator.uniform(low, 1.0, weight.shape))
    return model


def test_residual_networks_against_jacobians():
    model = residual()
    graph = BoundGraph.from_model(model)
    inputs = np.random.default_rng(5).uniform(size=(3, 9, 8, 2))
    regions = LinearRegions.around(graph, tf.constant(inputs))
    found = regions.boundary_distances([1.0, 2.0, np.inf])
    before = [
        node.layer.input
        for node in graph.nodes
        if isinstance(node.layer, layers.ReLU | layers.LeakyReLU)
    ]
    observed = keras.Model(model.inputs, before)
    with tf.GradientTape(persistent=True) as tape:
        point = tf.constant(inputs)
        tape.watch(point)
        values = [tf.reshape(value, [3, -1]) for value in observed(point)]
    for norms, dual in zip(found, (np.inf, 2, 1), strict=True):
        expected = []
        for value in values:
            jacobian = tape.batch_jacobian(value, point).numpy().reshape(3, -1, 144)
            lengths = np.linalg.norm(jacobian, dual, axis=-1)
            expected.append(np.abs(value) / lengths)
        np.testing.assert_allclose(norms, np.concatenate(expected, -1), rtol=1e-9)


def test_composed_kernels_windows_and_rows_agree(monkeypatch):
    cases = margin_cases.golden()["conv_net_2"]["cases"]
    inputs, _ = margin_cases.points("conv_net_2", cases)
    graph = BoundGraph.from_model(margin_cases.network("conv_net_2"))

    def values_and_gradients():
        kernels = [node.layer.kernel for node in graph.nodes if node.layer.weights]
        with tf.GradientTape() as tape:
            regions = LinearRegions.around(graph, inputs)
            distances = regions.boundary_distances([1.0, 2.0, np.inf])
            total = tf.add_n([tf.reduce_sum(tf.exp(-d)) for d in distances])
        return distances, tape.gradient(total, kernels[:-1])

    composed = values_and_gradients()
    assert all(np.isfinite(one).all() for one in tf.nest.flatten(composed))
    monkeypatch.setattr(linear_regions, "_LARGEST_KERNEL", 0)
    by_window = values_and_gradients()
    monkeypatch.setattr(linear_regions.WindowPlan, "of", classmethod(lambda *_: None))
    by_row = values_and_gradients()
    for form in (composed, by_window):
        for one, other in zip(
            tf.nest.flatten(form), tf.nest.flatten(by_row), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_constant_neurons_are_infinitely_far_and_have_no_gradient():
    graph, kernel = _two_neurons([[1.0, 0.0], [2.0, 0.0]], bias=[0.5, 0.25])
    inputs = tf.constant([[0.1, 0.2], [0.3, 0.9]], tf.float64)
    for p, length in ((1.0, 2.0), (2.0, np.sqrt(5.0)), (np.inf, 3.0)):
        with tf.GradientTape() as tape:
            regions = LinearRegions.around(graph, inputs)
            (distances,) = regions.boundary_distances([p])
            nearest = tf.reduce_sum(tf.nn.relu(9.0 - distances))
        np.testing.assert_allclose(distances[:, 0], [1.0 / length, 2.6 / length])
        assert np.isinf(distances[:, 1]).all()
        gradient = tape.gradient(nearest, kernel)
        assert np.isfinite(gradient).all()
        assert not np.any(np.asarray(gradient)[:, 1])


def test_a_neuron_at_zero_is_inactive_and_lies_on_its_boundary():
    graph, _ = _two_neurons([[1.0, 1.0], [1.0, -1.0]], bias=[0.0, 0.0])
    inputs = tf.constant([[0.5, 0.5]], tf.float64)
    regions = LinearRegions.around(graph, inputs)
    (distances,) = regions.boundary_distances([np.inf])
    np.testing.assert_allclose(distances, [[0.5, 0.0]])
    gate = next(
        node.layer for node in regions.graph.nodes if "re_lu" in node.layer.name
    )
    np.testing.assert_array_equal(gate.slope, [[1.0, 0.0]])


def test_equal_logits_are_infinitely_far_with_the_sign_of_their_difference():
    inputs = keras.Input((2,), dtype="float64")
    hidden = layers.ReLU(dtype="float64")(layers.Dense(2, dtype="float64")(inputs))
    last = layers.Dense(3, dtype="float64", kernel_initializer="zeros")
    model = keras.Model(inputs, last(hidden))
    last.bias.assign([1.0, 0.0, 2.0])
    rows = margin_specification(tf.constant([0]), 3, tf.float64)
    point = tf.constant([[0.5, 0.5]], tf.float64)
    regions = LinearRegions.around(BoundGraph.from_model(model), point)
    (distances,) = regions.decision_distances(rows, [2.0])
    np.testing.assert_array_equal(distances, [[np.inf, -np.inf]])


@pytest.mark.parametrize("entry", margin_cases.golden()["universal_radii"])
def test_golden_hull_radii(entry):
    for key, p in (("p1_5_hull", 1.5), ("p2_hull", 2.0), ("p3_hull", 3.0)):
        found = hull_radius(entry["eps1"], entry["epsinf"], p)
        np.testing.assert_allclose(found, entry[key], rtol=1e-9)


def test_hull_radii_where_one_ball_holds_the_other():
    np.testing.assert_allclose(
        hull_radius([0.1, 0.0, 0.5], [0.2, 0.0, 0.0], 2.0), [0.2, 0.0, 0.0]
    )
    np.testing.assert_allclose(hull_radius(0.5, 0.1, 1.0), 0.5)
    np.testing.assert_allclose(hull_radius(0.5, 0.1, np.inf), 0.1)


def test_no_point_within_the_hull_radius_leaves_the_hull():
    generator = np.random.default_rng(0)
    l1_radius, linf_radius, size = 1.0, 0.3, 6
    for p in (1.5, 2.0, 4.0):
        radius = hull_radius(l1_radius, linf_radius, p)
        points = generator.normal(size=(200, size)) ** 3
        points *= radius / np.linalg.norm(points, p, axis=-1, keepdims=True)
        # In the hull: no direction in which a point reaches past both balls.
        for directions in (points, np.sign(points), generator.normal(size=(200, size))):
            support = np.maximum(
                l1_radius * np.abs(directions).max(-1),
                linf_radius * np.abs(directions).sum(-1),
            )
            assert (np.einsum("nd,nd->n", points, directions) <= support + 1e-9).all()


def test_refusals():
    inputs = keras.Input((4, 4, 1))
    pooled = layers.Flatten()(layers.MaxPooling2D()(layers.Conv2D(2, 1)(inputs)))
    pooling = keras.Model(inputs, layers.Dense(2)(pooled))
    smooth = keras.Model(
        inputs, layers.Dense(2)(layers.Flatten()(layers.Tanh()(inputs)))
    )
    affine = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(inputs)))
    images = tf.zeros([1, 4, 4, 1])
    for model, text in (
        (pooling, "MaxPooling2D"),
        (smooth, "Tanh"),
        (affine, "no ReLU"),
    ):
        with pytest.raises(InputError, match=text):
            LinearRegions.around(BoundGraph.from_model(model), images)
    with pytest.raises(InputError, match="numerics"):
        LinearRegions.around(BoundGraph.from_model(affine), images, numerics="fast")


def _two_neurons(kernel, bias):
    inputs = keras.Input((2,), dtype="float64")
    first = layers.Dense(2, dtype="float64")
    hidden = layers.ReLU(dtype="float64")(first(inputs))
    model = keras.Model(inputs, layers.Dense(2, dtype="float64")(hidden))
    first.kernel.assign(kernel)
    first.bias.assign(bias)
    return BoundGraph.from_model(model), first.kernel


def _infinite(values):
    return [np.inf if value is None else value for value in np.ravel(values)]
