"""One contract for every exported layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf.bounds import IntervalBound
from tests.conformance import cases

# Of the sum of the magnitudes that a value is added up from.
ROUNDING = {"float32": 2e-6, "float64": 1e-14}
each_case = pytest.mark.parametrize("case", cases.CASES, ids=str)
each_affine_case = pytest.mark.parametrize(
    "case", [case for case in cases.CASES if case.make().is_affine], ids=str
)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def output_shape(case, layer, boxes):
    return case.call(layer, [box.lower for box in boxes]).shape[1:]


def evaluate(case, layer, points):
    """Outputs at `[count, BATCH, *shape]` points, in the same layout."""
    merged = [tf.reshape(p, [-1, *p.shape[2:]]) for p in points]
    outputs = case.call(layer, [tf.constant(p) for p in merged]).numpy()
    return outputs.reshape(-1, cases.BATCH, *outputs.shape[1:])


def products(rows, values):
    """`[count, batch, rows]`, and the magnitudes that each was added up from."""
    rows, values = np.asarray(rows), np.asarray(values)
    rows = np.broadcast_to(rows, (values.shape[1], *rows.shape[1:]))
    rows = rows.reshape(*rows.shape[:2], -1)
    values = values.reshape(*values.shape[:2], -1)
    total = np.einsum("brf,nbf->nbr", rows, values)
    return total, np.einsum("brf,nbf->nbr", abs(rows), abs(values))


def slack(case, layer, boxes, points):
    """By how much linear bounds hold at points, and the size of what was added."""
    outputs = evaluate(case, layer, points)
    rows = case.rows(outputs.shape[2:], boxes[0].dtype)
    pulled, constant = layer.propagate_linear_backward(
        rows, *boxes, **case.choices(layer)
    )
    total, size = products(rows, outputs)
    for part, box in zip(pulled, boxes, strict=True):
        assert part.dtype == box.dtype
        assert part.shape[1:] == (rows.shape[1], *box.shape[1:])
    total = total - constant.numpy()
    size = size + abs(constant.numpy())
    for part, values in zip(pulled, points, strict=True):
        product, magnitude = products(part, values)
        total, size = total - product, size + magnitude
    return total, size + 1e-3


@each_case
@each_dtype
def test_interval_holds_at_sampled_points(case, dtype):
    layer, boxes = case.build(dtype), case.boxes(dtype)
    bound = layer.propagate_interval(*boxes, **case.choices(layer))
    outputs = evaluate(case, layer, cases.points_in(boxes))
    assert bound.dtype == dtype
    assert bound.shape == outputs.shape[1:]
    tolerance = 10 * ROUNDING[dtype] * (1.0 + abs(outputs).max())
    assert (outputs >= bound.lower.numpy() - tolerance).all()
    assert (outputs <= bound.upper.numpy() + tolerance).all()


@each_case
@each_dtype
def test_linear_bound_holds_at_sampled_points(case, dtype):
    layer, boxes = case.build(dtype), case.boxes(dtype)
    actual, size = slack(case, layer, boxes, cases.points_in(boxes))
    assert (actual >= -ROUNDING[dtype] * size).all(), (actual / size).min()
    if layer.is_affine:  # Exact: any wrong coefficient would show at some point.
        assert (abs(actual) <= ROUNDING[dtype] * size).all()


@each_case
@each_dtype
def test_zero_radius_is_exact(case, dtype):
    layer, boxes = case.build(dtype), case.boxes(dtype, width=0.0)
    (outputs,) = evaluate(case, layer, [box.lower.numpy()[None] for box in boxes])
    bound = layer.propagate_interval(*boxes, **case.choices(layer))
    tolerance = 10 * ROUNDING[dtype] * (1.0 + abs(outputs).max())
    np.testing.assert_allclose(bound.lower, outputs, rtol=0, atol=tolerance)
    np.testing.assert_allclose(bound.upper, outputs, rtol=0, atol=tolerance)
    actual, size = slack(case, layer, boxes, [b.lower.numpy()[None] for b in boxes])
    assert (abs(actual) <= ROUNDING[dtype] * size).all()


@each_affine_case
def test_affine_rule_is_the_gradient(case):
    layer, boxes = case.build(), case.boxes()
    choices, points = case.choices(layer), [box.center for box in boxes]
    rows = case.rows(output_shape(case, layer, boxes))
    pulled, _ = layer.propagate_linear_backward(rows, *boxes, **choices)
    for number in range(cases.ROWS):
        with tf.GradientTape() as tape:
            tape.watch(points)
            total = tf.reduce_sum(rows[:, number] * case.call(layer, points))
        gradients = tape.gradient(total, points)
        for part, gradient in zip(pulled, gradients, strict=True):
            np.testing.assert_allclose(part[:, number], gradient, rtol=0, atol=2e-5)


@each_case
def test_shared_coefficients_equal_tiled_ones(case):
    layer, boxes = case.build("float64"), case.boxes("float64")
    choices = case.choices(layer)
    shape = output_shape(case, layer, boxes)
    shared = case.rows(shape, "float64", batch=1)
    tiled = tf.tile(shared, [cases.BATCH] + [1] * (shared.shape.rank - 1))
    actual, constant = layer.propagate_linear_backward(shared, *boxes, **choices)
    wanted, offset = layer.propagate_linear_backward(tiled, *boxes, **choices)
    for one, other in zip((*actual, constant), (*wanted, offset), strict=True):
        np.testing.assert_allclose(one + 0 * other, other, rtol=0, atol=1e-12)


@each_case
def test_float64_bounds_of_float32_weights(case):
    single, double = case.build("float32"), case.build("float64")
    double.set_weights(single.get_weights())
    if case.prepare or isinstance(single, layers.Normalization):
        single, double = case.build("float32"), case.build("float64")
    boxes = case.boxes("float64")
    shape = output_shape(case, double, boxes)
    rows = case.rows(shape, "float64")
    results = []
    for layer in (single, double):
        choices = case.choices(layer)
        bound = layer.propagate_interval(*boxes, **choices)
        pulled, constant = layer.propagate_linear_backward(rows, *boxes, **choices)
        results.append((bound.lower, bound.upper, *pulled, constant))
    for one, other in zip(*results, strict=True):
        assert one.dtype == tf.float64
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@each_case
def test_float64_rules_do_not_pass_through_float32(case):
    """Narrow boxes keep their width, which float32 would swallow."""
    layer, (box, *others) = case.build(), case.boxes("float64", width=0.0)
    box = IntervalBound(box.lower, box.lower + 1e-11)
    bound = layer.propagate_interval(box, *others, **case.choices(layer))
    widths = (bound.upper - bound.lower).numpy()
    assert (widths >= 0.0).all()
    assert 0.0 < widths.max() < 1e-9


@each_case
def test_serialisation_round_trip(case):
    layer, boxes = case.build(), case.boxes()
    content = keras.saving.serialize_keras_object(layer)
    copy = keras.saving.deserialize_keras_object(content)
    assert type(copy) is type(layer)
    assert copy.get_config() == layer.get_config()
    if not copy.built:
        copy.build(cases.shapes_of(case))
    copy.set_weights(layer.get_weights())
    if isinstance(copy, layers.Normalization):
        copy.finalize_state()
    rows = case.rows(output_shape(case, layer, boxes))
    wanted, _ = layer.propagate_linear_backward(rows, *boxes, **case.choices(layer))
    actual, _ = copy.propagate_linear_backward(rows, *boxes, **case.choices(layer))
    for one, other in zip(actual, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@each_case
@pytest.mark.parametrize("width", [0.0, 0.7])
def test_gradients_are_finite(case, width):
    layer, boxes = case.build(), case.boxes(width=width)
    rows = case.rows(output_shape(case, layer, boxes))
    ends = [(box.lower, box.upper) for box in boxes]
    sources = [tf.nest.flatten(ends), layer.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(sources[0])
        inputs = [IntervalBound(*pair) for pair in ends]
        choices = case.choices(layer)
        bound = layer.propagate_interval(*inputs, **choices)
        pulled, constant = layer.propagate_linear_backward(rows, *inputs, **choices)
        parts = (bound.lower, bound.upper, constant, *pulled)
        total = tf.add_n([tf.reduce_sum(part * part) for part in parts])
    for gradient in tf.nest.flatten(tape.gradient(total, sources)):
        if gradient is not None:
            assert np.isfinite(gradient).all()


@each_case
@pytest.mark.parametrize(
    ("dtype", "jit_compile"),
    [("float64", False), ("float32", True)],
    ids=["graph", "xla"],
)
def test_compiled_rules_equal_eager_ones(case, dtype, jit_compile):
    """In a graph, a number without a type is float32, and float64 refuses it."""
    layer, boxes = case.build(), case.boxes(dtype)
    rows = case.rows(output_shape(case, layer, boxes), dtype)
    choices = case.choices(layer)

    def rules(rows, *ends):
        inputs = [
            IntervalBound(*pair) for pair in zip(ends[::2], ends[1::2], strict=True)
        ]
        bound = layer.propagate_interval(*inputs, **choices)
        pulled, constant = layer.propagate_linear_backward(rows, *inputs, **choices)
        return bound.lower, bound.upper, constant, *pulled

    ends = [end for box in boxes for end in (box.lower, box.upper)]
    dynamic = [tf.TensorSpec([None, *t.shape[1:]], t.dtype) for t in (rows, *ends)]
    compiled = tf.function(rules, input_signature=dynamic, jit_compile=jit_compile)
    for one, other in zip(compiled(rows, *ends), rules(rows, *ends), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)


@each_case
def test_no_state_is_kept(case):
    """The rules leave nothing on the layer."""
    layer, boxes = case.build(), case.boxes()
    rows = case.rows(output_shape(case, layer, boxes))
    before, weights = dict(vars(layer)), layer.get_weights()
    layer.propagate_interval(*boxes, **case.choices(layer))
    layer.propagate_linear_backward(rows, *boxes, **case.choices(layer))
    assert vars(layer).keys() == before.keys()
    for one, other in zip(layer.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_exported_layer_has_a_case():
    exported = {getattr(layers, name) for name in layers.__all__}
    exported -= {layers.BoundLayer, layers.convert, layers.supported_layers}
    assert {type(case.make()) for case in cases.CASES} == exported


def test_names_of_cases_differ():
    names = [case.name for case in cases.CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.Dense(2, activation="relu"), "activation"),
        (lambda: layers.Conv2D(2, 3, activation="tanh"), "activation"),
        (lambda: layers.Conv2D(2, 3, data_format="channels_first"), "channels_first"),
        (lambda: layers.MaxPooling2D(data_format="channels_first"), "channels_first"),
        (lambda: layers.ReLU(max_value=6.0), "max_value=6.0"),
        (lambda: layers.ReLU(threshold=0.5), "threshold=0.5"),
        (lambda: layers.ReLU(negative_slope=1.5), "Received: 1.5"),
        (lambda: layers.LeakyReLU(1.5), "Received: 1.5"),
        (lambda: layers.ELU(-1.0), "alpha=-1.0"),
        (lambda: layers.BatchNormalization(axis=1).build((None, 2, 3)), "axis=1"),
    ],
)
def test_settings_without_rules_are_refused(make, message):
    with pytest.raises(rt.InputError, match=message):
        make()


def test_a_layer_without_rules_says_which():
    class Custom(layers.BoundLayer, keras.layers.Layer):
        pass

    box = IntervalBound(tf.zeros([1, 2]), tf.zeros([1, 2]))
    with pytest.raises(NotImplementedError, match="'mine'.*propagate_interval"):
        Custom(name="mine").propagate_interval(box)
    with pytest.raises(NotImplementedError, match="propagate_linear_backward"):
        Custom(name="mine").propagate_linear_backward(tf.zeros([1, 1, 2]), box)
