"""What networks become, and how their inputs map to the model's."""

import dataclasses
import gzip

import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto

import robust_tf as rt
from robust_tf.interchange import arrangement
from robust_tf.interchange import onnx_operators
from robust_tf.interchange import onnx_reader
from robust_tf.interchange.onnx_reader import read_onnx
from robust_tf.interchange.vnnlib import read_property
from tests.interchange.graphs import asymmetric
from tests.interchange.graphs import node
from tests.interchange.graphs import refused
from tests.interchange.graphs import run
from tests.interchange.graphs import weights
from tests.interchange.graphs import write


class TestInputs:
    def test_flat_inputs_are_channels_first(self, image_net):
        network = read_onnx(image_net)
        points = asymmetric((1, 2, 5, 6))
        flat = points.reshape(3, 60)
        held = network.to_model(flat)
        np.testing.assert_array_equal(held, points.transpose(0, 2, 3, 1))
        np.testing.assert_array_equal(network.to_flat(held), flat)
        np.testing.assert_array_equal(network.to_model(flat[0]), held[0])
        np.testing.assert_array_equal(network.to_flat(held[0]), flat[0])
        assert network.to_model(flat.astype("float64")).dtype == np.float64
        assert (network.num_inputs, network.num_outputs) == (60, 4)
        assert network.input_shape == (1, 2, 5, 6)

    def test_evaluate_and_session_agree(self, image_net):
        network = read_onnx(image_net)
        flat = asymmetric((1, 60))
        wanted = run(image_net, flat.reshape(3, 2, 5, 6))
        np.testing.assert_allclose(network.evaluate(flat), wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(network.session.run(flat), wanted)

    def test_wrong_sizes_are_refused(self, image_net):
        network = read_onnx(image_net)
        with pytest.raises(rt.InputError, match=r"\(60,\).*\(1, 59\)"):
            network.to_model(np.zeros([1, 59]))
        with pytest.raises(rt.InputError, match=r"\(5, 6, 2\).*\(2, 5, 6\)"):
            network.to_flat(np.zeros([2, 5, 6]))

    @pytest.mark.parametrize(
        ("shape", "held"),
        [
            ((1, 784, 1), (784, 1)),
            ((1, 1, 1, 5), (1, 5, 1)),
            ((1, 1, 28, 28), (28, 28, 1)),
            ((1, 3, 4, 5), (4, 5, 3)),
            (("unk__17", 3, 4, 5), (4, 5, 3)),
            ((None, 6), (6,)),
            ((1, 6), (6,)),
            ((6,), (6,)),
        ],
    )
    def test_odd_shapes_of_flattened_inputs(self, tmp_path, shape, held):
        size = int(np.prod(held))
        nodes = [node("Flatten", "x", "f", axis=1), node("Gemm", "f w", "y")]
        nodes = nodes if len(shape) > 1 else [node("MatMul", "x w", "y")]
        path = write(tmp_path / "net.onnx", nodes, {"w": weights(size, 3)}, shape)
        network = read_onnx(path)
        assert network.model.inputs[0].shape[1:] == held
        flat = asymmetric((1, size))
        wanted = run(path, flat, network.input_shape)
        np.testing.assert_allclose(network.evaluate(flat), wanted, rtol=1e-4, atol=1e-5)

    def test_float64(self, tmp_path):
        nodes = [node("Cast", "x", "c", to=1), node("Cast", "c", "d", to=11)]
        nodes += [node("MatMul", "d double", "y")]
        path = write(
            tmp_path / "net.onnx",
            nodes,
            {"double": weights(4, 3)},
            (1, 4),
            kind=TensorProto.DOUBLE,
        )
        network = read_onnx(path)
        assert network.model.inputs[0].dtype == "float64"
        (kernel,) = (layer.kernel for layer in network.model.layers[1:])
        np.testing.assert_array_equal(kernel, weights(4, 3))

    def test_compressed(self, image_net, tmp_path):
        path = tmp_path / "image.onnx.gz"
        path.write_bytes(gzip.compress(image_net.read_bytes()))
        flat = asymmetric((1, 60))
        np.testing.assert_array_equal(
            read_onnx(path).evaluate(flat), read_onnx(image_net).evaluate(flat)
        )

    def test_weights_in_another_file(self, image_net, tmp_path):
        path = tmp_path / "outside.onnx"
        onnx.save(
            onnx.load(image_net),
            path,
            save_as_external_data=True,
            location="weights.bin",
            size_threshold=0,
        )
        flat = asymmetric((1, 60))
        wanted = read_onnx(image_net).evaluate(flat)
        np.testing.assert_array_equal(read_onnx(path).evaluate(flat), wanted)
        (tmp_path / "weights.bin").unlink()
        with pytest.raises(rt.InputError, match=r"outside\.onnx"):
            read_onnx(path)


class TestModel:
    def test_plain_layers(self, image_net):
        kinds = [type(layer).__name__ for layer in read_onnx(image_net).model.layers]
        assert kinds[:3] == ["InputLayer", "ZeroPadding2D", "Conv2D"]
        assert kinds[3:] == ["ReLU", "Flatten", "Dense"]

    @pytest.mark.parametrize(
        ("size", "pads", "padding"),
        [
            (5, [1, 1, 1, 1], "same"),
            (6, [0, 0, 1, 1], "same"),
            (6, [1, 1, 1, 1], None),
            (6, [1, 1, 0, 0], None),
            (6, [0, 0, 0, 0], "valid"),
        ],
    )
    def test_same_padding_only_where_it_is_the_same(
        self, tmp_path, size, pads, padding
    ):
        nodes = [node("Conv", "x w", "y", strides=[2, 2], pads=pads)]
        constants = {"w": weights(3, 2, 3, 3)}
        path = write(tmp_path / "net.onnx", nodes, constants, (1, 2, size, size))
        _, first, *_ = read_onnx(path).model.layers
        if padding is None:
            assert isinstance(first, keras.layers.ZeroPadding2D)
            assert first.padding == tuple(zip(pads[:2], pads[2:], strict=True))
        else:
            assert first.padding == padding

    def test_sums_become_biases(self, tmp_path):
        nodes = [node("MatMul", "x w", "m"), node("Add", "b m", "y")]
        constants = {"w": weights(4, 3), "b": weights(3)}
        network = read_onnx(write(tmp_path / "net.onnx", nodes, constants, (1, 4)))
        _, layer = network.model.layers
        np.testing.assert_array_equal(layer.bias, weights(3).astype("float32"))

    def test_zeros_and_ones_leave_no_layer(self, tmp_path):
        nodes = [
            node("Sub", "x z", "a"),
            node("Mul", "a o", "b"),
            node("Relu", "b", "y"),
        ]
        constants = {"z": np.zeros([1, 4]), "o": np.ones([])}
        network = read_onnx(write(tmp_path / "net.onnx", nodes, constants, (1, 4)))
        assert len(network.model.layers) == 2

    def test_transposes_that_cancel_leave_no_layer(self, tmp_path):
        nodes = [
            node("Transpose", "x", "a", perm=[0, 2, 3, 1]),
            node("Transpose", "a", "b", perm=[0, 3, 1, 2]),
            node("Conv", "b w", "c"),
            node("GlobalAveragePool", "c", "g"),
            node("Flatten", "g", "y"),
        ]
        path = write(tmp_path / "net.onnx", nodes, {"w": weights(3, 2, 3, 3)})
        kinds = {type(layer) for layer in read_onnx(path).model.layers}
        assert keras.layers.Permute not in kinds

    def test_bounds_of_the_converted_model_hold(self, image_net):
        network = read_onnx(image_net)
        flat = np.random.default_rng(0).random([64, 60]).astype("float32")
        lower, upper = flat.min(0), flat.max(0)
        region = rt.Box(network.to_model(lower)[None], network.to_model(upper)[None])
        bounds = rt.compute_bounds(rt.convert(network.model), region, method="crown")
        outputs = network.session.run(flat)
        assert (outputs >= bounds.lower.numpy() - 1e-4).all()
        assert (outputs <= bounds.upper.numpy() + 1e-4).all()

    def test_saved_and_loaded(self, tmp_path):
        nodes = [node("Add", "x c", "y")]
        path = write(tmp_path / "net.onnx", nodes, {"c": weights(1, 2, 5, 6)})
        network = read_onnx(path)
        network.model.save(tmp_path / "net.keras")
        copy = keras.models.load_model(tmp_path / "net.keras")
        flat = asymmetric((1, 60))
        np.testing.assert_array_equal(
            copy(network.to_model(flat)), network.evaluate(flat)
        )


class TestSoftmax:
    @pytest.fixture
    def network(self, tmp_path):
        nodes = [node("Gemm", "x w", "l"), node("Softmax", "l", "s")]
        nodes += [node("Identity", "s", "y")]
        return read_onnx(
            write(tmp_path / "net.onnx", nodes, {"w": weights(2, 2)}, (1, 2))
        )

    def statement(self, tmp_path, formula):
        path = tmp_path / "some.vnnlib"
        names = "".join(
            f"(declare-const {n} Real)" for n in ("X_0", "X_1", "Y_0", "Y_1")
        )
        box = "".join(f"(assert (<= X_{i} 1))(assert (>= X_{i} 0))" for i in range(2))
        path.write_text(f"{names}{box}(assert {formula})")
        return read_property(path)

    def test_comparisons_carry_over(self, network, tmp_path):
        assert network.ends_in_softmax
        network.check_property(self.statement(tmp_path, "(>= Y_0 Y_1)"))
        network.check_property(self.statement(tmp_path, "(<= (* 2 Y_0) (* 2 Y_1))"))

    @pytest.mark.parametrize(
        "formula", ["(>= Y_0 0.5)", "(>= Y_0 (* 2 Y_1))", "(>= Y_0 (+ Y_1 0.1))"]
    )
    def test_other_properties_are_refused(self, network, tmp_path, formula):
        prop = self.statement(tmp_path, formula)
        with pytest.raises(rt.InputError, match="softmax"):
            network.check_property(prop)
        logits = dataclasses.replace(network, ends_in_softmax=False)
        logits.check_property(prop)

    def test_inside_is_refused(self, tmp_path):
        nodes = [node("Softmax", "x", "s"), node("Relu", "s", "y")]
        assert "follows a softmax" in refused(tmp_path, nodes, shape=(1, 3))

    def test_over_a_part_is_refused(self, tmp_path):
        nodes = [node("Softmax", "x", "y", axis=-1)]
        assert "Softmax" in refused(tmp_path, nodes, shape=(1, 3, 4))


class TestComparison:
    """A reader that errs is caught by the runtime."""

    def test_wrong_operator(self, image_net, monkeypatch):
        wrong = {**onnx_reader._OPERATORS, "Relu": onnx_operators._activation("tanh")}
        monkeypatch.setattr(onnx_reader, "_OPERATORS", wrong)
        with pytest.raises(rt.InputError, match=r"image\.onnx.*differ by up to"):
            read_onnx(image_net)

    def test_rows_of_a_kernel_in_the_order_of_keras(self, image_net, monkeypatch):
        monkeypatch.setattr(arrangement, "channels_last", _as_if_in_place)
        with pytest.raises(rt.InputError):
            read_onnx(image_net)

    def test_box_of_the_caller(self, tmp_path, monkeypatch):
        """A wrong slope below 0 shows where inputs are negative."""
        wrong = {**onnx_reader._OPERATORS, "LeakyRelu": onnx_operators._relu}
        monkeypatch.setattr(onnx_reader, "_OPERATORS", wrong)
        nodes = [node("LeakyRelu", "x", "y")]
        path = write(tmp_path / "net.onnx", nodes, shape=(1, 3))
        read_onnx(path)
        with pytest.raises(rt.InputError, match="differ"):
            read_onnx(path, box=(np.full(3, -1.0), np.zeros(3)))


def _as_if_in_place(shape):
    return np.arange(int(np.prod(shape))).reshape(shape)
