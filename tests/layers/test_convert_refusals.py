"""What `convert` refuses, it names: every layer, the setting and the way out."""

import keras
import numpy as np
import pytest

import robust_tf as rt

keras_layers = keras.layers


class TestRefusals:
    def test_all_unsupported_layers_in_one_error(self):
        inner = keras.Sequential(
            [
                keras.Input((4, 4, 2)),
                keras_layers.SpatialDropout2D(0.5, name="spatial"),
                keras_layers.Conv2DTranspose(2, 2, name="up"),
            ],
            name="block",
        )
        model = keras.Sequential(
            [
                keras.Input((4, 4, 2)),
                keras_layers.Conv2D(2, 1, activation="gelu", name="fine_but_gelu"),
                inner,
                keras_layers.Activation("swish", name="curve"),
                keras_layers.Flatten(),
                keras_layers.PReLU(name="learned"),
                keras_layers.Dense(2, name="good"),
            ]
        )
        with pytest.raises(rt.InputError) as caught:
            rt.convert(model)
        message = str(caught.value)
        for part in (
            "5 layer(s)",
            "'fine_but_gelu' (Conv2D): activation 'gelu'",
            "'block/spatial' (SpatialDropout2D)",
            "'block/up' (Conv2DTranspose)",
            "'curve' (Activation): activation 'silu'",
            "'learned' (PReLU)",
            "Replace the layers",
        ):
            assert part in message, message
        assert "'good'" not in message

    @pytest.mark.parametrize(
        ("layer", "message"),
        [
            (keras_layers.ReLU(6.0, name="capped"), "'capped'.*max_value=6.0"),
            (keras_layers.ReLU(threshold=1.0, name="late"), "'late'.*threshold=1.0"),
            (
                keras_layers.ReLU(negative_slope=2.0, name="v"),
                "'v'.*negative_slope=2.0",
            ),
            (keras_layers.LeakyReLU(1.5, name="v"), "'v'.*negative_slope=1.5"),
            (keras_layers.ELU(-1.0, name="bump"), "'bump'.*alpha=-1.0"),
            (keras_layers.BatchNormalization(1, name="rows"), "'rows'.*axis=1"),
            (
                keras_layers.Dense(2, dtype="mixed_float16", name="half"),
                "'half'.*float16",
            ),
            (keras_layers.Dense(2, dtype="float16", name="half"), "'half'.*float16"),
            (keras_layers.Dense(2, "relu6", name="capped"), "'capped'.*'relu6'"),
            (keras_layers.Dense(2, lambda z: z * z, name="square"), "'square'"),
            (
                keras_layers.Dense(2, keras_layers.ReLU(6.0), name="capped"),
                "'capped'.*max_value=6.0",
            ),
            (
                keras_layers.Flatten("channels_first", name="turned"),
                "'turned'.*channels first",
            ),
            (
                keras_layers.Conv2D(2, 2, data_format="channels_first", name="turned"),
                "'turned'.*channels first",
            ),
            (keras_layers.Lambda(lambda z: 2 * z, name="code"), "'code'"),
        ],
        ids=lambda value: value if isinstance(value, str) else value.name,
    )
    def test_settings(self, layer, message):
        model = keras.Sequential([keras.Input((4, 4, 4)), layer])
        with pytest.raises(rt.InputError, match=message):
            rt.convert(model)

    def test_operations(self):
        inputs = keras.Input((3,))
        hidden = keras_layers.Dense(3)(inputs)
        model = keras.Model(inputs, keras.ops.relu(hidden) + inputs)
        with pytest.raises(
            rt.InputError, match="(?s)2 layer.*'relu.*'add.*keras.ops"
        ) as error:
            rt.convert(model)
        assert "(Add)" in str(error.value)

    def test_broadcast(self):
        inputs = keras.Input((3, 4))
        mean = keras_layers.Reshape((1, 12))(inputs)
        mean = keras_layers.Dense(4)(mean)
        model = keras.Model(inputs, keras_layers.Add(name="both")([inputs, mean]))
        with pytest.raises(rt.InputError, match=r"'both'.*\(1, 4\), \(3, 4\)"):
            rt.convert(model)

    def test_joined_examples(self):
        inputs = keras.Input((3,))
        joined = keras_layers.Concatenate(axis=0, name="batch")([inputs, inputs])
        with pytest.raises(rt.InputError, match="'batch'.*axis=0"):
            rt.convert(keras.Model(inputs, joined))

    def test_shared_layer(self):
        inputs = keras.Input((3,))
        shared = keras_layers.Dense(3, name="twice")
        model = keras.Model(inputs, shared(shared(inputs)))
        with pytest.raises(rt.InputError, match="'twice'.*more than once"):
            rt.convert(model)

    def test_shared_model(self):
        inputs = keras.Input((3,))
        shared = keras.Sequential(
            [keras.Input((3,)), keras_layers.Dense(3)], name="block"
        )
        model = keras.Model(inputs, shared(shared(inputs)))
        with pytest.raises(rt.InputError, match="more than once"):
            rt.convert(model)

    def test_layer_shared_between_nested_models(self):
        shared = keras_layers.Dense(3, name="twice")
        blocks = [keras.Sequential([keras.Input((3,)), shared]) for _ in range(2)]
        inputs = keras.Input((3,))
        model = keras.Model(inputs, blocks[1](blocks[0](inputs)))
        with pytest.raises(rt.InputError, match="'.*twice'.*more than once"):
            rt.convert(model)

    def test_inputs_and_outputs(self):
        one, two = keras.Input((3,), name="one"), keras.Input((3,), name="two")
        several = keras.Model([one, two], keras_layers.Add()([one, two]))
        with pytest.raises(rt.InputError, match="one input.*'one', 'two'"):
            rt.convert(several)
        heads = [keras_layers.Dense(2)(one), keras_layers.Dense(3)(one)]
        with pytest.raises(rt.InputError, match="one output.*with 2"):
            rt.convert(keras.Model(one, heads))

    def test_free_axis(self):
        inputs = keras.Input((None, None, 1))
        pooled = keras_layers.GlobalAveragePooling2D()(inputs)
        with pytest.raises(rt.InputError, match="must be fixed.*None, None"):
            rt.convert(keras.Model(inputs, pooled))

    def test_unbuilt(self):
        model = keras.Sequential([keras_layers.Dense(2)], name="unbuilt")
        with pytest.raises(rt.InputError, match="'unbuilt'.*must be built"):
            rt.convert(model)

    def test_subclassed(self):
        class Custom(keras.Model):
            def __init__(self):
                super().__init__(name="custom")
                self.dense = keras_layers.Dense(2)

            def call(self, inputs):
                return self.dense(inputs)

        model = Custom()
        model(np.zeros((1, 3), "float32"))
        with pytest.raises(rt.InputError, match=r"'custom' \(Custom\).*subclassed"):
            rt.convert(model)

    def test_subclassed_inside(self):
        class Custom(keras.Model):
            def call(self, inputs):
                return 2.0 * inputs

        model = keras.Sequential([keras.Input((3,)), Custom(name="inside")])
        with pytest.raises(rt.InputError, match="'inside'.*subclassed"):
            rt.convert(model)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_weights_that_are_not_finite(self, value):
        model = keras.Sequential([keras.Input((3,)), keras_layers.Dense(2, name="bad")])
        kernel, bias = model.layers[0].get_weights()
        kernel[1, 1] = value
        model.layers[0].set_weights([kernel, bias])
        with pytest.raises(rt.InputError, match="finite.*'bad'"):
            rt.convert(model)

    def test_files(self, tmp_path):
        with pytest.raises(rt.InputError, match="no model file.*missing.keras"):
            rt.convert(tmp_path / "missing.keras")
        for name in ("junk.keras", "junk.h5", "junk.txt"):
            path = tmp_path / name
            path.write_bytes(b"This is no model.")
            with pytest.raises(rt.InputError, match=f"{name}.*model.save"):
                rt.convert(path)
        with pytest.raises(rt.InputError, match="no model file"):
            rt.convert(tmp_path)

    def test_a_file_with_a_class_that_nobody_knows(self, tmp_path):
        @keras.saving.register_keras_serializable("passing")
        class Passing(keras_layers.Layer):
            def call(self, inputs):
                return inputs

        model = keras.Sequential([keras.Input((3,)), Passing(name="odd")])
        model.save(tmp_path / "model.keras")
        del keras.saving.get_custom_objects()["passing>Passing"]
        with pytest.raises(rt.InputError, match=r"(?s)model.keras.*Passing"):
            rt.convert(tmp_path / "model.keras")

    @pytest.mark.parametrize("value", [None, 3, [1.0], keras_layers.Dense(2)])
    def test_no_model(self, value):
        with pytest.raises(
            rt.InputError, match=f"takes a Keras model.*{type(value).__name__}"
        ):
            rt.convert(value)
