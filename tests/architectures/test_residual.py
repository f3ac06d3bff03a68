"""The residual networks of arXiv:2103.17268: layers, bounds, a step of training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf.architectures.residual import resnext
from robust_tf.architectures.residual import wide_resnet
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.objectives import terms
from robust_tf.propagation.crown import crown_margins
from robust_tf.propagation.interval import interval_bounds
from robust_tf.propagation.interval import interval_margins
from tests.propagation import networks
from tests.training import small

SMALL = {"stem": 4, "linear_size": 6}
# Family, input shape, and what makes it small; some sides are odd.
TINY = {
    "wide_resnet": (wide_resnet, (6, 6, 2), {"channels": (4, 6)}),
    "wide_resnet_no_bn": (
        wide_resnet,
        (5, 7, 1),
        {"channels": (4, 6), "batch_normalization": False},
    ),
    "resnext": (resnext, (5, 7, 1), {"base_width": 1}),
    "resnext_4_groups": (resnext, (6, 6, 2), {"base_width": 1, "cardinality": 4}),
}


def build(name, **more):
    family, shape, sizes = TINY[name]
    given = {"input_shape": shape, "num_classes": 3, **SMALL, **sizes}
    return family(**given | more)


def kinds(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def before(model, layer):
    """Types of the layers from the sum before a layer, or the input, up to it."""
    producers = {id(other.output): other for other in model.layers}
    found = []
    while not found or found[0] not in (keras.layers.InputLayer, layers.Add):
        source = layer.input[0] if isinstance(layer, layers.Add) else layer.input
        layer = producers[id(source)]
        found.insert(0, type(layer))
    return found


def blocks(model):
    """Of each block the shape of its output, and whether its shortcut has a kernel."""
    producers = {id(layer.output): layer for layer in model.layers}
    found = []
    for total in kinds(model, layers.Add):
        shortcut = producers[id(total.input[1])]
        found.append((total.output.shape[1:], not isinstance(shortcut, layers.ReLU)))
    return found


def test_blocks_of_a_wide_resnet():
    model = wide_resnet((8, 8, 3), 4, channels=(4, 8, 12), blocks_per_stage=2, **SMALL)
    assert blocks(model) == [
        ((8, 8, 4), False),  # As many channels as the stem.
        ((8, 8, 4), False),
        ((4, 4, 8), True),
        ((4, 4, 8), False),
        ((2, 2, 12), True),
        ((2, 2, 12), False),
    ]


def test_blocks_of_a_resnext():
    model = resnext((8, 8, 3), 4, cardinality=3, base_width=2, **SMALL)
    shapes = [(8, 8, 12), (4, 4, 24), (2, 2, 48)]
    assert blocks(model) == [(shape, True) for shape in shapes]
    grouped = [conv for conv in kinds(model, layers.Conv2D) if conv.groups > 1]
    assert [conv.groups for conv in grouped] == [3, 3, 3]
    assert [conv.kernel.shape for conv in grouped] == [
        (3, 3, width // 3, width) for width in (6, 12, 24)
    ]


@pytest.mark.parametrize("batch_normalization", [True, False])
def test_order_within_a_block(batch_normalization):
    model = wide_resnet(
        (8, 8, 3),
        4,
        channels=(4, 8),
        batch_normalization=batch_normalization,
        **SMALL,
    )
    norm = [layers.BatchNormalization] if batch_normalization else []
    start, add, relu = keras.layers.InputLayer, layers.Add, layers.ReLU
    conv = [layers.Conv2D, *norm]
    first, second = kinds(model, add)
    assert before(model, first) == [start, *conv, relu, *conv, relu, *conv]
    strided = [layers.ZeroPadding2D, *conv]
    assert before(model, second) == [add, relu, *strided, relu, *conv]
    dense = [layers.Dense, *norm, relu]
    assert before(model, model.layers[-1]) == [add, relu, layers.Flatten, *dense]
    # The first block's shortcut has no kernel.
    assert len(kinds(model, layers.BatchNormalization)) == 7 * batch_normalization


def test_kernels_of_a_wide_resnet_follow_the_fan_out():
    keras.utils.set_random_seed(0)
    model = wide_resnet((8, 8, 3), 4, channels=(16, 32), stem=16)
    convolutions = kinds(model, layers.Conv2D)
    fans = [9 * 16, 9 * 16, 9 * 16, 9 * 32, 9 * 32, 32]
    assert len(convolutions) == len(fans)
    for layer, fan_out in zip(convolutions, fans, strict=True):
        kernel = np.asarray(layer.kernel)
        error = 5.0 / np.sqrt(2.0 * kernel.size)
        assert kernel.std() == pytest.approx(np.sqrt(2.0 / fan_out), rel=error)
        assert_uniform(layer.bias, kernel.size // kernel.shape[-1])
    for layer in kinds(model, layers.Dense):
        assert_uniform(layer.kernel, layer.kernel.shape[0])
        assert_uniform(layer.bias, layer.kernel.shape[0])


def test_weights_of_a_resnext_are_uniform_in_the_fan_in():
    keras.utils.set_random_seed(0)
    model = resnext((8, 8, 3), 4, cardinality=4, base_width=4, stem=8)
    kernels = kinds(model, (layers.Conv2D, layers.Dense))
    assert len(kernels) == 1 + 3 * 4 + 2
    for layer in kernels:
        # Channels of the layer's own group.
        fan_in = np.prod(layer.kernel.shape[:-1])
        assert_uniform(layer.kernel, fan_in)
        assert_uniform(layer.bias, fan_in)


def assert_uniform(variable, fan_in):
    values, limit = np.abs(variable), 1.0 / np.sqrt(fan_in)
    assert values.max() <= limit
    assert values.max() > 0.5 * limit  # Four values, at least.


@pytest.mark.parametrize("name", TINY)
def test_nothing_escapes(name):
    model = networks.randomize(build(name), seed=1)
    region = rt.LpBall(networks.centers(model), (0.01, 0.05, 0.3))
    rows = tf.random.stateless_normal((3, 4, 3), (0, 2))
    points = networks.points_in(region, 400)
    # Few steps: each compiles the gradients of the grouped convolutions anew.
    attacked = networks.attack(model, region, rows, steps=2)
    points = np.concatenate([points, attacked]).astype("float32")
    outputs = model(points.reshape(-1, *model.input_shape[1:])).numpy()
    values = np.einsum("brc,nbc->nbr", rows, outputs.reshape(-1, 3, 3))
    rounding = 2e-5 * (1.0 + abs(values).max())
    for method in ("ibp", "crown-ibp", "crown"):
        bound = rt.compute_bounds(model, region, method, rows)
        assert (values >= bound.lower.numpy() - rounding).all(), method
        assert (values <= bound.upper.numpy() + rounding).all(), method


@pytest.mark.parametrize("name", ["wide_resnet", "resnext", "resnext_4_groups"])
def test_nothing_escapes_in_training(name):
    """Bounds and points normalised by the statistics of the clean batch."""
    model = networks.randomize(build(name), seed=1)
    graph = BoundGraph.from_model(model)
    region = rt.LpBall(networks.centers(model, count=4), 0.02)
    moving = [np.asarray(variable) for variable in model.non_trainable_variables]
    logits, moments = graph.forward(region.x, training=True)
    assert len(moments) == len(kinds(model, layers.BatchNormalization))
    moved = [np.asarray(variable) for variable in model.non_trainable_variables]
    assert not any(map(np.array_equal, moving, moved))
    np.testing.assert_allclose(
        logits, values_by(graph, region.x, moments), rtol=1e-4, atol=1e-4
    )
    rows = tf.random.stateless_normal((4, 5, 3), (0, 2))
    points = networks.points_in(region, 300).astype("float32")
    values = values_by(graph, points.reshape(-1, *model.input_shape[1:]), moments)
    margins = np.einsum("brc,nbc->nbr", rows, values.reshape(-1, 4, 3))
    choices = Choices(moments=moments)
    bounds = interval_bounds(graph, region, choices)
    given = (graph, region, bounds, rows, choices)
    rounding = 2e-5 * (1.0 + abs(margins).max())
    for lower in (interval_margins(*given), crown_margins(*given)):
        assert (margins >= lower.numpy() - rounding).all()
        assert np.isfinite(lower).all()


def values_by(graph, points, moments):
    """Logits at points, normalised by given statistics."""
    values = {0: tf.convert_to_tensor(points)}
    for node in graph.nodes:
        inputs = [values[edge] for edge in node.inputs]
        if node.layer.has_moments:
            output = node.layer.normalize(*inputs, moments[node.layer.name])
        else:
            output = node.layer(inputs if len(inputs) > 1 else inputs[0])
        values[node.output] = output
    return values[graph.output].numpy()


@pytest.mark.parametrize("name", ["wide_resnet", "resnext"])
def test_every_kernel_learns(name):
    keras.utils.set_random_seed(0)
    model = build(name, input_shape=small.SHAPE, num_classes=small.CLASSES)
    kernels = {
        layer.name: np.asarray(layer.kernel)
        for layer in kinds(model, (layers.Conv2D, layers.Dense))
    }
    parts = (terms.StandardCrossEntropy(), terms.IntervalCrossEntropy())
    certified = small.certified_model(model, terms.WeightedSum(parts, (0.5, 0.5)))
    history = small.fit(certified, small.batches(16, 32))
    assert all(np.isfinite(values).all() for values in history.values())
    for layer, kernel in kernels.items():
        trained = np.asarray(model.get_layer(layer).kernel)
        assert np.isfinite(trained).all()
        assert not np.array_equal(trained, kernel), layer


@pytest.mark.parametrize("name", ["wide_resnet", "resnext"])
def test_gradients_of_crown_ibp_reach_every_kernel(name):
    keras.utils.set_random_seed(0)
    model = build(name)
    graph = BoundGraph.from_model(model)
    region = rt.LpBall(networks.centers(model, count=8), 0.02)
    rows = tf.random.stateless_normal((8, 2, 3), (0, 2))
    kernels = [x.kernel for x in kinds(model, (layers.Conv2D, layers.Dense))]
    with tf.GradientTape() as tape:
        _, moments = graph.forward(region.x, training=True)
        choices = Choices(moments=moments)
        bounds = interval_bounds(graph, region, choices)
        margins = crown_margins(graph, region, bounds, rows, choices)
    gradients = tape.gradient(margins, [kernel.value for kernel in kernels])
    for kernel, gradient in zip(kernels, gradients, strict=True):
        assert np.isfinite(gradient).all(), kernel.path
        assert np.abs(gradient).max() > 0.0, kernel.path


def test_it_can_be_saved(tmp_path):
    model = build("resnext_4_groups", normalization=((0.4, 0.5), (0.2, 0.3)))
    model.save(tmp_path / "model.keras")
    images = networks.centers(model)
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(images), model(images), atol=1e-6)


@pytest.mark.parametrize(
    ("family", "given", "message"),
    [
        (wide_resnet, {"channels": ()}, r"`channels` must hold .*Received: \(\)"),
        (wide_resnet, {"channels": 16}, "`channels` must hold .*Received: 16"),
        (wide_resnet, {"channels": (4, 0)}, "`channels of stage 2` must .*Received: 0"),
        (resnext, {"cardinality": 0}, "`cardinality` must be an integer from 1"),
        (resnext, {"base_width": 2.5}, "`base_width` must .*Received: 2.5"),
        *(
            (family, *case)
            for family in (wide_resnet, resnext)
            for case in (
                ({"blocks_per_stage": 0}, "`blocks_per_stage` must .*Received: 0"),
                ({"stem": -1}, "`stem` must .*Received: -1"),
                ({"linear_size": None}, "`linear_size` must .*Received: None"),
                ({"batch_normalization": "all"}, "must be True or False.*'all'"),
                ({"input_shape": (32, 32)}, r"`input_shape` must .*\(32, 32\)"),
            )
        ),
    ],
)
def test_refusals(family, given, message):
    with pytest.raises(rt.InputError, match=message):
        family(**{"input_shape": (8, 8, 3), "num_classes": 4, **given})
