"""`convert`: what it accepts equals the original, what it refuses it names."""

import unittest

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers

keras_layers = keras.layers


def randomize(model, seed=0):
    """Weights of every kind away from their initial values."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        values = 0.5 * random.normal(size=variable.shape)
        is_variance = "variance" in variable.path
        variable.assign(np.abs(values) + 0.5 if is_variance else values)
    return model


def sequential():
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras_layers.Rescaling(2.0, -1.0),
            keras_layers.Conv2D(3, 3, strides=2, padding="same", activation="relu"),
            keras_layers.BatchNormalization(),
            keras_layers.Activation("sigmoid"),
            keras_layers.Flatten(),
            keras_layers.Dropout(0.5),
            keras_layers.Dense(4, activation=keras_layers.LeakyReLU(0.1)),
            keras_layers.Dense(3),
        ]
    )


def branches():
    inputs = keras.Input((6, 6, 2))
    stem = keras_layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    stem = keras_layers.BatchNormalization()(stem)
    stem = keras_layers.ReLU()(stem)
    left = keras_layers.Conv2D(4, 3, strides=2, padding="same")(stem)
    left = keras_layers.BatchNormalization()(left)
    right = keras_layers.Conv2D(4, 1, strides=2)(stem)
    total = keras_layers.ReLU()(keras_layers.Add()([left, right]))
    both = keras_layers.Concatenate()([total, right])
    pooled = keras_layers.MaxPooling2D()(both)
    pooled = keras_layers.GlobalAveragePooling2D()(pooled)
    return keras.Model(inputs, keras_layers.Dense(3)(pooled))


def sequential_in_functional():
    inputs = keras.Input((5,))
    block = keras.Sequential(
        [keras.Input((5,)), keras_layers.Dense(4, "tanh", name="same_name")]
    )
    skip = keras_layers.Dense(4, name="other")(inputs)
    total = keras_layers.Add()([block(inputs), skip])
    return keras.Model(inputs, keras_layers.Dense(3, name="last")(total))


def twice_nested():
    def block(width, name):
        inputs = keras.Input((width,))
        hidden = keras_layers.Dense(4, "relu", name="dense")(inputs)
        return keras.Model(
            inputs, keras_layers.Dense(width, name="more")(hidden), name=name
        )

    inner = keras.Sequential([keras.Input((5,)), block(5, "one"), block(5, "two")])
    inputs = keras.Input((5,))
    merged = keras_layers.Average()([inner(inputs), inputs])
    return keras.Model(inputs, keras_layers.Dense(3, name="dense")(merged))


def functions():
    """Every activation that has a rule, in each way of writing it."""
    inputs = tensor = keras.Input((6,))
    for name in ("relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus", "linear"):
        tensor = keras_layers.Dense(6, activation=name)(tensor)
        tensor = keras_layers.Activation(name)(tensor)
    for layer in (
        keras_layers.ReLU(negative_slope=0.2),
        keras_layers.Activation("elu"),
    ):
        tensor = keras_layers.Dense(6, activation=layer)(tensor)
    return keras.Model(inputs, tensor)


def every_layer():
    inputs = keras.Input((8, 8, 2))
    tensor = keras_layers.Normalization(mean=(0.2, 0.4), variance=(2.0, 3.0))(inputs)
    tensor = keras_layers.ZeroPadding2D(((1, 0), (0, 1)))(tensor)
    tensor = keras_layers.DepthwiseConv2D(3, depth_multiplier=2)(tensor)
    tensor = keras_layers.ELU(0.7)(tensor)
    tensor = keras_layers.AveragePooling2D(2)(tensor)
    flat = keras_layers.Reshape((9, 4))(tensor)
    flat = keras_layers.Permute((2, 1))(flat)
    flat = keras_layers.Conv1D(3, 2, activation="softplus")(flat)
    flat = keras_layers.Flatten()(flat)
    peak = keras_layers.GlobalMaxPooling2D()(tensor)
    sides = [keras_layers.Dense(5)(flat), keras_layers.Dense(5)(peak)]
    tensor = keras_layers.Subtract()(sides)
    return keras.Model(inputs, keras_layers.LeakyReLU(0.3)(tensor))


MODELS = {
    "sequential": sequential,
    "branches": branches,
    "sequential_in_functional": sequential_in_functional,
    "twice_nested": twice_nested,
    "functions": functions,
    "every_layer": every_layer,
}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def inputs_for(model, count=3):
    shape = (count, *model.inputs[0].shape[1:])
    return np.random.default_rng(1).random(shape).astype("float32")


@each_model
def test_same_function(make):
    model = randomize(make())
    converted, points = rt.convert(model), inputs_for(model)
    np.testing.assert_allclose(converted(points), model(points), rtol=0, atol=1e-6)
    for layer in converted.layers:
        assert isinstance(layer, (layers.BoundLayer, keras_layers.InputLayer))
    names = [layer.name for layer in converted.layers]
    assert len(set(names)) == len(names)


@each_model
def test_bounds_hold(make):
    model = randomize(make())
    points = inputs_for(model)
    region = rt.LpBall(points, 0.05)
    bounds = rt.compute_bounds(rt.convert(model), region, "crown")
    random = np.random.default_rng(2)
    for _ in range(20):
        signs = random.choice([-1.0, 0.3, 1.0], points.shape)
        near = np.clip(points + 0.05 * signs, 0.0, 1.0).astype("float32")
        outputs = model(near)
        assert (outputs >= bounds.lower - 1e-5).numpy().all()
        assert (outputs <= bounds.upper + 1e-5).numpy().all()


@each_model
def test_original_is_untouched(make):
    model = randomize(make())
    points = inputs_for(model)
    before, config = model.get_weights(), model.get_config()
    outputs, names = model(points).numpy(), [layer.name for layer in model.layers]
    first, second = rt.convert(model), rt.convert(model)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert model.get_config() == config
    assert [layer.name for layer in model.layers] == names
    np.testing.assert_array_equal(model(points), outputs)
    np.testing.assert_array_equal(first(points), second(points))
    assert [one.name for one in first.layers] == [one.name for one in second.layers]
    originals = {id(variable) for variable in model.variables}
    assert originals.isdisjoint(id(variable) for variable in first.variables)
    for layer in first.layers:  # Training the copy leaves the original alone.
        layer.set_weights([weight + 1.0 for weight in layer.get_weights()])
    np.testing.assert_array_equal(model(points), outputs)


@each_model
def test_from_a_file(make, tmp_path):
    model = randomize(make())
    model.save(tmp_path / "model.keras")
    points = inputs_for(model)
    for path in (tmp_path / "model.keras", str(tmp_path / "model.keras")):
        converted = rt.convert(path)
        np.testing.assert_allclose(converted(points), model(points), rtol=0, atol=1e-6)
    converted.save(tmp_path / "converted.keras")
    again = keras.models.load_model(tmp_path / "converted.keras")
    np.testing.assert_array_equal(again(points), converted(points))
    region = rt.LpBall(points, 0.02)
    one, other = (rt.compute_bounds(m, region).lower for m in (again, converted))
    np.testing.assert_array_equal(one, other)


@each_model
def test_float64_stays(make):
    policy = keras.config.dtype_policy()
    keras.config.set_floatx("float64")  # Of the inputs.
    keras.config.set_dtype_policy("float64")
    try:
        model = randomize(make())
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy(policy)
    points = np.random.default_rng(1).random((3, *model.inputs[0].shape[1:]))
    converted = rt.convert(model)
    np.testing.assert_allclose(converted(points), model(points), rtol=0, atol=1e-13)
    _, *rest = converted.layers
    assert {layer.compute_dtype for layer in rest} == {"float64"}


def test_converting_a_converted_model_changes_nothing():
    model = randomize(sequential())
    once = rt.convert(model)
    twice, points = rt.convert(once), inputs_for(model)
    np.testing.assert_array_equal(once(points), twice(points))
    assert [layer.name for layer in once.layers] == [
        layer.name for layer in twice.layers
    ]


def test_adapted_normalization(tmp_path):
    data = 5.0 + np.random.default_rng(0).random((20, 4)).astype("float32")
    normalization = keras_layers.Normalization()
    normalization.adapt(data)
    model = keras.Sequential([keras.Input((4,)), normalization, keras_layers.Dense(2)])
    model.save(tmp_path / "model.keras")
    for given in (model, tmp_path / "model.keras"):
        converted = rt.convert(given)
        np.testing.assert_allclose(converted(data), model(data), rtol=0, atol=1e-5)
        bounds = rt.compute_bounds(converted, rt.Box(data, data), "ibp")
        np.testing.assert_allclose(bounds.lower, model(data), rtol=0, atol=1e-5)


class TestSoftmax:
    def check(self, model, name):
        randomize(model)
        points = inputs_for(model)
        with unittest.TestCase().assertLogs("absl", "WARNING") as logs:
            converted = rt.convert(model)
        assert name in logs.output[0]
        assert "dropped" in logs.output[0]
        outputs = tf.nn.softmax(converted(points))
        np.testing.assert_allclose(outputs, model(points), rtol=0, atol=1e-6)

    def dense(self, **options):
        return keras_layers.Dense(3, name="last", **options)

    @pytest.mark.parametrize(
        "activation",
        ["softmax", keras.activations.softmax, keras_layers.Softmax()],
        ids=["name", "function", "layer"],
    )
    def test_inside_dense(self, activation):
        last = self.dense(activation=activation)
        self.check(keras.Sequential([keras.Input((4,)), last]), "last_activation")

    @pytest.mark.parametrize(
        "layer",
        [
            keras_layers.Softmax(name="end"),
            keras_layers.Activation("softmax", name="end"),
        ],
        ids=["softmax", "activation"],
    )
    def test_as_a_layer(self, layer):
        self.check(keras.Sequential([keras.Input((4,)), self.dense(), layer]), "'end'")

    def test_at_the_end_of_a_nested_model(self):
        inner = keras.Sequential([keras.Input((4,)), self.dense(activation="softmax")])
        inputs = keras.Input((5,))
        hidden = keras_layers.Dense(4, "relu")(inputs)
        self.check(keras.Model(inputs, inner(hidden)), "last_activation")

    def test_elsewhere_is_refused(self):
        first = keras_layers.Dense(3, "softmax", name="attention")
        model = keras.Sequential([keras.Input((4,)), first, self.dense()])
        with pytest.raises(
            rt.InputError, match="'attention_activation' is not the end"
        ):
            rt.convert(model)

    def test_in_a_branch_is_refused(self):
        inputs = keras.Input((3,))
        weights = keras_layers.Softmax(name="gate")(inputs)
        model = keras.Model(inputs, keras_layers.Add()([weights, inputs]))
        with pytest.raises(rt.InputError, match="'gate' is not the end"):
            rt.convert(model)

    def test_over_another_axis_is_refused(self):
        layer = keras_layers.Softmax(axis=2, name="odd")
        model = keras.Sequential([keras.Input((3, 4, 5)), layer])
        with pytest.raises(rt.InputError, match="'odd'.*axis=2"):
            rt.convert(model)


def test_supported_layers():
    table = rt.supported_layers()
    assert list(table) == sorted(table)
    for name in layers.__all__:
        own = getattr(layers, name)
        if isinstance(own, type) and own is not layers.BoundLayer:
            assert name in table or f"Activation('{name.lower()}')" in table
    for name, note in table.items():
        assert note
        assert "\n" not in note
        if "(" not in name:
            assert hasattr(keras_layers, name) or hasattr(layers, name)
    table.clear()
    assert rt.supported_layers()  # A copy was cleared.
