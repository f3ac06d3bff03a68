"""`compute_bounds` as users call it: in graphs, from files, and with bad input."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from tests.propagation import networks

METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown")
each_method = pytest.mark.parametrize("method", METHODS[:3])


def model_and_region(name="mlp", dtype="float32", norm="inf"):
    model = networks.converted(name)
    return model, rt.LpBall(networks.centers(model, dtype=dtype), 0.05, norm)


class TestGraphs:
    @pytest.mark.parametrize(
        ("name", "method"),
        [("mlp", "ibp"), ("mlp", "crown-ibp"), ("mlp", "crown"), ("patches", "crown")],
    )
    def test_dynamic_batch_equals_eager(self, name, method):
        model, _ = model_and_region(name)
        shape = [None, *model.inputs[0].shape[1:]]
        rows = tf.constant(np.random.default_rng(0).normal(size=(1, 2, 3)), tf.float32)

        def bounds(center, radius):
            region = rt.LpBall(center, radius, 2 if name == "mlp" else "inf")
            return rt.compute_bounds(model, region, method, rows, intermediate=True)

        compiled = tf.function(
            bounds,
            input_signature=[
                tf.TensorSpec(shape, tf.float32),
                tf.TensorSpec([None], tf.float32),
            ],
        )
        for count in (1, 3):
            center = networks.centers(model, count)
            radius = tf.linspace(0.01, 0.1, count)
            radius = tf.cast(radius, tf.float32)
            actual, wanted = compiled(center, radius), bounds(center, radius)
            assert actual[1].keys() == wanted[1].keys()
            pairs = [(actual[0], wanted[0])]
            pairs += [(actual[1][key], wanted[1][key]) for key in wanted[1]]
            for one, other in pairs:
                np.testing.assert_allclose(one.lower, other.lower, rtol=0, atol=1e-5)
                np.testing.assert_allclose(one.upper, other.upper, rtol=0, atol=1e-5)
        assert compiled.experimental_get_tracing_count() == 1

    @pytest.mark.parametrize("name", ["mlp", "patches"])
    def test_compiled_by_xla(self, name):
        model, region = model_and_region(name)

        @tf.function(jit_compile=True)
        def bounds(center):
            result = rt.compute_bounds(model, rt.LpBall(center, 0.05), "crown")
            return result.lower, result.upper

        wanted = rt.compute_bounds(model, region)
        lower, upper = bounds(region.x)
        np.testing.assert_allclose(lower, wanted.lower, rtol=0, atol=1e-4)
        np.testing.assert_allclose(upper, wanted.upper, rtol=0, atol=1e-4)

    def test_regions_are_arguments_and_results(self):
        """tf.function carries regions and bounds as they are."""
        model, region = model_and_region()
        compiled = tf.function(lambda given: rt.compute_bounds(model, given, "crown"))
        for given in (region, rt.Box(region.x, region.x)):
            wanted = rt.compute_bounds(model, given, "crown")
            actual = compiled(given)
            np.testing.assert_allclose(actual.lower, wanted.lower, rtol=0, atol=1e-5)

    @each_method
    def test_gradients_reach_every_weight(self, method):
        model, region = model_and_region("residual")
        for relaxation in ("adaptive", "best"):
            with tf.GradientTape() as tape:
                bounds = rt.compute_bounds(model, region, method, relaxation=relaxation)
                total = tf.reduce_sum(bounds.lower) - tf.reduce_sum(bounds.upper)
            gradients = tape.gradient(total, model.trainable_variables)
            for variable, gradient in zip(
                model.trainable_variables, gradients, strict=True
            ):
                assert gradient is not None, variable.path
                assert np.isfinite(gradient).all(), variable.path


class TestResults:
    @each_method
    def test_float64_region_on_float32_weights(self, method):
        model, region = model_and_region("residual", "float64", norm=2)
        bounds, known = rt.compute_bounds(model, region, method, intermediate=True)
        assert bounds.dtype == tf.float64
        assert {bound.dtype for bound in known.values()} == {tf.float64}
        single = rt.LpBall(region.x.numpy().astype("float32"), 0.05, 2)
        other = rt.compute_bounds(model, single, method)
        assert other.dtype == tf.float32
        np.testing.assert_allclose(bounds.lower, other.lower, rtol=0, atol=1e-4)

    def test_shapes_and_names(self):
        model, region = model_and_region()
        bounds, known = rt.compute_bounds(model, region, intermediate=True)
        assert bounds.lower.shape == bounds.upper.shape == (3, 3)
        assert list(known) == [layer.name for layer in model.layers[1:]]
        for layer in model.layers[1:]:
            assert known[layer.name].shape == (3, *layer.output.shape[1:])
        specification = rt.margin_specification([0, 2, 1], 3)
        bounds = rt.compute_bounds(model, region, specification=specification)
        assert bounds.lower.shape == (3, 2)
        assert isinstance(rt.compute_bounds(model, region), rt.IntervalBound)

    @each_method
    def test_shared_rows_equal_tiled_ones(self, method):
        model, region = model_and_region("residual")
        rows = np.random.default_rng(0).normal(size=(1, 4, 3)).astype("float32")
        shared = rt.compute_bounds(model, region, method, rows)
        tiled = rt.compute_bounds(model, region, method, np.tile(rows, (3, 1, 1)))
        np.testing.assert_allclose(shared.lower, tiled.lower, rtol=0, atol=1e-5)

    def test_many_rows_for_one_region(self):
        """One example, and a batch of rows."""
        model = networks.converted("residual")
        region = rt.LpBall(networks.centers(model, 1), 0.05)
        rows = np.random.default_rng(0).normal(size=(4, 2, 3)).astype("float32")
        together = rt.compute_bounds(model, region, "crown", rows)
        for number in range(4):
            alone = rt.compute_bounds(model, region, "crown", rows[number : number + 1])
            np.testing.assert_allclose(
                together.lower[number], alone.lower[0], atol=1e-5
            )

    def test_elision_of_the_last_layer(self):
        """`lower(a - b)`, not `lower(a) - upper(b)`."""
        model, region = model_and_region()
        rows = rt.margin_specification([0, 0, 0], 3)
        elided = rt.compute_bounds(model, region, "ibp", rows)
        logits = rt.compute_bounds(model, region, "ibp")
        apart = logits.lower[:, :1] - logits.upper[:, 1:]
        assert (elided.lower >= apart - 1e-6).numpy().all()
        assert (elided.lower > apart + 1e-4).numpy().any()

    def test_the_model_may_be_made_of_our_layers(self):
        inputs = keras.Input((4,))
        hidden = layers.ReLU()(layers.Dense(5)(inputs))
        functional = keras.Model(inputs, layers.Dense(2)(hidden))
        sequential = keras.Sequential(
            [keras.Input((4,)), layers.Dense(5), layers.ReLU(), layers.Dense(2)]
        )
        sequential.set_weights(functional.get_weights())
        region = rt.LpBall(np.full((1, 4), 0.5, "float32"), 0.1)
        one, other = (rt.compute_bounds(m, region) for m in (functional, sequential))
        np.testing.assert_array_equal(one.lower, other.lower)

    def test_the_input_may_be_the_output(self):
        inputs = keras.Input((3,))
        model = keras.Model(inputs, layers.Flatten()(inputs))
        region = rt.LpBall(np.full((1, 3), 0.5, "float32"), 0.1, 2)
        for method in METHODS:
            bounds = rt.compute_bounds(model, region, method)
            np.testing.assert_allclose(bounds.lower, [[0.4] * 3], atol=1e-6)

    def test_one_tensor_read_twice(self):
        inputs = keras.Input((3,))
        hidden = layers.Dense(3)(inputs)
        model = keras.Model(inputs, layers.Subtract()([hidden, hidden]))
        region = rt.LpBall(np.full((1, 3), 0.5, "float32"), 0.1)
        bounds = rt.compute_bounds(model, region, "crown")
        np.testing.assert_allclose(bounds.lower, [[0.0] * 3], atol=1e-6)


def test_a_residual_network_from_a_file(tmp_path):
    """A plain Keras model with trained-like statistics, saved, loaded and bounded."""
    model = networks.randomize(networks.residual(), 4)
    statistics = [v for v in model.weights if "moving" in v.path]
    assert len(statistics) == 8
    assert all(np.ptp(v.numpy()) > 0.1 for v in statistics)
    model.save(tmp_path / "model.keras")
    center = networks.centers(model)
    loaded = rt.convert(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(center), model(center), rtol=0, atol=1e-5)
    for norm, radius in (("inf", 0.05), (2, 0.3), (1, 1.0)):
        region = rt.LpBall(center, radius, norm)
        points = networks.points_in(region, 100).astype("float32")
        outputs = model(points.reshape(-1, *center.shape[1:])).numpy()
        outputs = outputs.reshape(100, 3, -1)
        for method in METHODS:
            bounds = rt.compute_bounds(loaded, region, method)
            assert (outputs >= bounds.lower.numpy() - 1e-4).all()
            assert (outputs <= bounds.upper.numpy() + 1e-4).all()
            assert (bounds.upper - bounds.lower < 50.0).numpy().all()


class TestRefusals:
    def refused(self, message, **options):
        model, region = model_and_region()
        arguments = {"model": model, "region": region} | options
        with pytest.raises(rt.InputError, match=message):
            rt.compute_bounds(**arguments)

    def test_names(self):
        self.refused(
            "`method` must be one of.*'ibp'.*Received: 'crwon'", method="crwon"
        )
        self.refused("`relaxation` must be.*'best'.*Received: 'ada'", relaxation="ada")
        self.refused("Received: None", method=None)

    @pytest.mark.parametrize("value", [0, -1.0, float("nan"), "all"])
    def test_budget(self, value):
        self.refused(f"positive number. Received: {value!r}", memory_budget_mb=value)

    def test_models(self):
        self.refused("`robust_tf.convert`. Received: NoneType", model=None)
        plain = networks.mlp()
        self.refused("'dense.*no bound rules.*robust_tf.convert", model=plain)
        inputs = keras.Input((6,))
        twice = layers.Dense(6, name="twice")
        shared = keras.Model(inputs, twice(twice(inputs)))
        self.refused("last layer of model.*more than once", model=shared)
        inside = keras.Model(inputs, layers.ReLU(name="end")(twice(twice(inputs))))
        self.refused("'end'.*more than once", model=inside)
        heads = keras.Model(inputs, [layers.Dense(2)(inputs), layers.Dense(3)(inputs)])
        self.refused("one input and one output.*1 and 2", model=heads)
        image = keras.Input((4, 4, 1))
        maps = keras.Model(image, layers.Conv2D(2, 3)(image))
        box = rt.LpBall(np.zeros((1, 4, 4, 1), "float32"), 0.1)
        self.refused(r"output has shape \(2, 2, 2\)", model=maps, region=box)

    def test_nested_models(self):
        inner = networks.converted("mlp")
        model = keras.Sequential([keras.Input((6,)), inner])
        self.refused("no bound rules.*robust_tf.convert", model=model)

    def test_weights(self):
        model = networks.converted("mlp")
        variable = model.layers[1].kernel
        values = variable.numpy()
        values[0, 0] = np.nan
        variable.assign(values)
        self.refused("Weights must be finite.*kernel", model=model)

    def test_regions(self):
        self.refused("`LpBall` or a `Box`. Received: ndarray", region=np.zeros((1, 6)))
        wrong = rt.LpBall(np.zeros((1, 5), "float32"), 0.1)
        self.refused(r"shape \(6,\). Received: a region of shape \(5,\)", region=wrong)
        image = rt.LpBall(np.zeros((1, 6, 1), "float32"), 0.1)
        self.refused(r"a region of shape \(6, 1\)", region=image)

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((3, 3), r"\[batch, rows, 3\].*Received: shape \(3, 3\)"),
            ((3, 2, 4), r"Received: shape \(3, 2, 4\)"),
            ((2, 2, 3), "batch size of the region, 3, or 1. Received: 2"),
        ],
    )
    def test_specifications(self, shape, message):
        self.refused(message, specification=np.zeros(shape, "float32"))

    def test_specifications_that_are_not_finite(self):
        rows = np.full((1, 1, 3), np.nan, "float32")
        self.refused("`specification` must be finite", specification=rows)
        self.refused("`specification` must hold numbers", specification=["margins"])

    def test_integer_specifications_are_fine(self):
        model, region = model_and_region()
        bounds = rt.compute_bounds(model, region, specification=[[[1, -1, 0]]])
        assert bounds.dtype == tf.float32

    def test_shapes_in_a_graph(self):
        """Static checks hold while tracing too; values pass unseen."""
        model, _ = model_and_region()

        @tf.function
        def bounds(center, rows):
            return rt.compute_bounds(model, rt.LpBall(center, 0.1), "ibp", rows).lower

        with pytest.raises(rt.InputError, match=r"Received: shape \(1, 2\)"):
            bounds(tf.zeros([1, 6]), tf.zeros([1, 2]))
        with pytest.raises(rt.InputError, match=r"a region of shape \(5,\)"):
            bounds(tf.zeros([1, 5]), tf.zeros([1, 1, 3]))
        with pytest.raises(rt.InputError, match="int32"):
            bounds(tf.zeros([1, 6], tf.int32), tf.zeros([1, 1, 3]))
        assert bounds(tf.fill([1, 6], np.nan), tf.zeros([1, 1, 3])).shape == (1, 1)
