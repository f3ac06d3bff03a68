"""Every layer in ONNX, by ONNX Runtime and read back."""

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import layers as keras_layers

import robust_tf as rt
from robust_tf import layers
from robust_tf.interchange import onnx_rules
from robust_tf.interchange.onnx_reader import read_onnx
from robust_tf.interchange.onnx_writer import write_onnx
from tests.conformance import cases
from tests.interchange.graphs import asymmetric
from tests.interchange.graphs import channels_last
from tests.interchange.graphs import run


def as_model(case):
    """The layer in a model of one input, and with all of its weights random."""
    inputs = keras.Input(case.shapes[0], name="given")
    tensors = [inputs]
    for shape in case.shapes[1:]:
        flat = keras_layers.Flatten()(inputs)
        units = keras_layers.Dense(int(np.prod(shape)))(flat)
        tensors.append(keras_layers.Reshape(shape)(units))
    built = case.build()
    layer = type(built).from_config(built.get_config())
    model = keras.Model(inputs, layer(tensors if len(tensors) > 1 else tensors[0]))
    layer.set_weights(built.get_weights())
    if isinstance(layer, layers.Normalization):
        layer.finalize_state()
    return model


def written(points):
    """Inputs of the model as the file takes them."""
    return np.moveaxis(points, -1, 1) if points.ndim == 4 else points


@pytest.mark.parametrize("case", cases.CASES, ids=str)
def test_every_layer(case, tmp_path):
    model, path = as_model(case), tmp_path / "net.onnx"
    write_onnx(model, path, box=(-1.0, 1.0))
    points = asymmetric((1, *case.shapes[0]))
    wanted = np.asarray(model(points)).reshape(len(points), -1)
    assert np.ptp(wanted) > 1e-3
    actual = run(path, written(points))
    np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)
    network = read_onnx(path, box=(-1.0, 1.0))
    again = network.evaluate(written(points).reshape(len(points), -1))
    np.testing.assert_allclose(again, wanted, rtol=1e-4, atol=1e-5)


def test_every_rule_is_of_a_layer_with_a_case():
    assert set(onnx_rules._RULES) == {type(case.make()) for case in cases.CASES}


@pytest.fixture
def classifier():
    """Every place where channels last could be taken for channels first."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input((5, 6, 2))
    hidden = keras_layers.Conv2D(3, 3, padding="same", strides=2)(inputs)
    hidden = keras_layers.BatchNormalization()(hidden)
    hidden = keras_layers.ReLU()(hidden)
    skip = keras_layers.Conv2D(3, 1)(hidden)
    hidden = keras_layers.Add()([hidden, skip])
    hidden = keras_layers.Permute((2, 1, 3))(hidden)
    hidden = keras_layers.Flatten()(hidden)
    hidden = keras_layers.BatchNormalization()(hidden)
    hidden = keras_layers.Dense(7, activation="relu")(hidden)
    model = keras.Model(inputs, keras_layers.Dense(4)(hidden))
    random = np.random.default_rng(0)
    model.set_weights([0.2 + 0.5 * random.random(w.shape) for w in model.get_weights()])
    return model


@pytest.mark.parametrize("free_batch", [False, True])
def test_batch_axis(classifier, tmp_path, free_batch):
    path = tmp_path / "net.onnx"
    write_onnx(classifier, path, free_batch=free_batch)
    points = asymmetric((1, 5, 6, 2))
    wanted = classifier.predict(points, verbose=0)
    np.testing.assert_allclose(run(path, written(points)), wanted, rtol=1e-4, atol=1e-5)
    (given,) = onnx.load(path).graph.input
    sizes = [
        axis.dim_value or axis.dim_param for axis in given.type.tensor_type.shape.dim
    ]
    assert sizes == ["batch" if free_batch else 1, 2, 5, 6]
    onnx.checker.check_model(onnx.load(path), full_check=True)
    if free_batch:
        together = _run_batch(path, written(points))
        np.testing.assert_allclose(together, wanted, rtol=1e-4, atol=1e-5)


def _run_batch(path, points):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": points})[0]


def test_few_transposes(classifier, tmp_path):
    write_onnx(classifier, tmp_path / "net.onnx")
    nodes = onnx.load(tmp_path / "net.onnx").graph.node
    assert "Transpose" not in {node.op_type for node in nodes}


def test_twice_there_and_back(classifier, tmp_path):
    """Read and written again, the file computes the same."""
    write_onnx(classifier, tmp_path / "one.onnx")
    first = read_onnx(tmp_path / "one.onnx")
    write_onnx(first.model, tmp_path / "two.onnx")
    second = read_onnx(tmp_path / "two.onnx")
    points = asymmetric((1, 5, 6, 2))
    flat = written(points).reshape(3, -1)
    wanted = classifier.predict(points, verbose=0)
    np.testing.assert_allclose(second.evaluate(flat), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(first.to_model(flat), channels_last(written(points)))


def test_softmax_is_dropped(tmp_path):
    model = keras.Sequential(
        [keras.Input((3,)), keras_layers.Dense(2, activation="softmax")]
    )
    write_onnx(model, tmp_path / "net.onnx")
    points = asymmetric((1, 3))
    logits = points @ np.asarray(model.layers[0].kernel)
    actual = run(tmp_path / "net.onnx", points)
    np.testing.assert_allclose(actual, logits, rtol=1e-4, atol=1e-5)


def test_path_of_a_keras_file(classifier, tmp_path):
    classifier.save(tmp_path / "net.keras")
    write_onnx(tmp_path / "net.keras", tmp_path / "net.onnx")
    points = asymmetric((1, 5, 6, 2))
    wanted = classifier.predict(points, verbose=0)
    actual = run(tmp_path / "net.onnx", written(points))
    np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)


def test_a_wrong_rule_writes_nothing(classifier, tmp_path, monkeypatch):
    wrong = {**onnx_rules._RULES, layers.ReLU: onnx_rules._elementwise("Tanh")}
    monkeypatch.setattr(onnx_rules, "_RULES", wrong)
    (tmp_path / "net.onnx").write_text("old")
    with pytest.raises(rt.InputError, match=r"net\.onnx.*differ by up to"):
        write_onnx(classifier, tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_refusals(classifier, tmp_path):
    with pytest.raises(rt.InputError, match="Create the folder"):
        write_onnx(classifier, tmp_path / "none" / "net.onnx")

    class Custom(layers.BoundLayer, keras_layers.Layer):
        def call(self, inputs):
            return inputs

    model = keras.Sequential([keras.Input((3,)), Custom(name="mine")])
    with pytest.raises(rt.InputError, match="'mine'.*cannot be written"):
        write_onnx(model, tmp_path / "net.onnx")
