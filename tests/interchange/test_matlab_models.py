"""Classifiers as MATLAB files: kernel orders, layouts, shapes, refusals.

The published layouts are written by SciPy, and their logits computed by NumPy, both
without the code that is tested.
"""

import hashlib
import json
import re

import keras
import numpy as np
import pytest
import scipy.io

import robust_tf as rt
from robust_tf import layers
from robust_tf.architectures import max_margin
from robust_tf.errors import InputError
from robust_tf.interchange import matlab_models
from robust_tf.interchange.matlab_models import read_model
from robust_tf.interchange.matlab_models import write_model

MNIST, CIFAR = (28, 28, 1), (32, 32, 3)
SAMPLES = 100


def numbers(seed, **shapes):
    random = np.random.default_rng(seed)
    return {
        name: (random.normal(size=shape) / np.sqrt(shape[0])).astype("float32")
        for name, shape in shapes.items()
    }


def fc1(inputs=784, units=12, classes=10):
    return numbers(0, U=(inputs, units), bU=(1, units), W=(units, classes)) | numbers(
        1, bW=(1, classes)
    )


def lenet(side=28, channels=1, filters=(5, 6), units=7, classes=10):
    first, second = filters
    places = (-(-side // 4)) ** 2
    return numbers(
        2,
        weights_conv1=(4, 4, channels, first),
        biases_conv1=(1, first),
        weights_conv2=(4, 4, first, second),
        biases_conv2=(1, second),
        weights_fc1=(places * second, units),
        biases_fc1=(1, units),
        weights_fc2=(units, classes),
        biases_fc2=(1, classes),
    )


def numbered(widths=(784, 9, 8, 7, 10)):
    shapes = {}
    for place, pair in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        shapes |= {f"weight_{place}": pair, f"bias_{place}": (1, pair[1])}
    return numbers(3, **shapes)


def save(path, arrays):
    scipy.io.savemat(path, arrays)
    return path


def images(shape, count=SAMPLES):
    pixels = np.random.default_rng(7).uniform(size=(count, *shape))
    return pixels.astype("float32")


def convolve(maps, kernel, bias):
    """By the definition: 4x4, stride 2, outputs at half the sides, rounded up.

    Where a number of zeros is odd, one more stands after the image than before it.
    """
    count, height, width, _ = maps.shape
    pads = []
    for side in (height, width):
        total = (-(-side // 2) - 1) * 2 + 4 - side
        pads.append((total // 2, total - total // 2))
    padded = np.pad(maps.astype("float64"), [(0, 0), *pads, (0, 0)])
    outputs = np.zeros((count, -(-height // 2), -(-width // 2), kernel.shape[-1]))
    for row, column in np.ndindex(outputs.shape[1:3]):
        window = padded[:, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4]
        outputs[:, row, column] = np.einsum("nhwc,hwcf->nf", window, kernel)
    return np.maximum(outputs + bias.reshape(-1), 0.0)


def logits_of_lenet(arrays, pixels):
    maps = convolve(pixels, arrays["weights_conv1"], arrays["biases_conv1"])
    maps = convolve(maps, arrays["weights_conv2"], arrays["biases_conv2"])
    flat = maps.reshape(len(maps), -1)  # Rows, columns, channels.
    hidden = flat @ arrays["weights_fc1"] + arrays["biases_fc1"]
    return np.maximum(hidden, 0.0) @ arrays["weights_fc2"] + arrays["biases_fc2"]


def logits_of_dense(pairs, pixels):
    tensor = pixels.reshape(len(pixels), -1).astype("float64")
    for weights, bias in pairs[:-1]:
        tensor = np.maximum(tensor @ weights + bias, 0.0)
    return tensor @ pairs[-1][0] + pairs[-1][1]


def pairs_of(arrays):
    values = list(arrays.values())
    return list(zip(values[0::2], values[1::2], strict=True))


def assert_logits(model, pixels, wanted):
    np.testing.assert_allclose(model(pixels), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [MNIST, CIFAR], ids=("mnist", "cifar10"))
def test_fc1(tmp_path, shape):
    arrays = fc1(int(np.prod(shape)))
    model = read_model(save(tmp_path / "a.mat", arrays))
    assert model.input_shape == (None, *shape)
    pairs = [(arrays["U"], arrays["bU"]), (arrays["W"], arrays["bW"])]
    assert_logits(model, images(shape), logits_of_dense(pairs, images(shape)))


@pytest.mark.parametrize(
    ("side", "channels", "given"),
    [(28, 1, None), (32, 3, None), (30, 2, (30, 30, 2))],
    ids=("mnist", "cifar10", "odd_after_one_stride"),
)
def test_cnn_lenet_small(tmp_path, side, channels, given):
    arrays = lenet(side, channels)
    model = read_model(save(tmp_path / "a.mat", arrays), given)
    assert model.input_shape == (None, side, side, channels)
    pixels = images((side, side, channels))
    assert_logits(model, pixels, logits_of_lenet(arrays, pixels))


def test_another_order_would_be_seen(tmp_path):
    """Rows of the first dense layer by channels, height, width, as PyTorch has them."""
    arrays = lenet()
    model = read_model(save(tmp_path / "a.mat", arrays))
    rows = arrays["weights_fc1"].reshape(7, 7, 6, 7).transpose(2, 0, 1, 3)
    pixels = images(MNIST)
    wrong = logits_of_lenet(arrays | {"weights_fc1": rows.reshape(294, 7)}, pixels)
    assert np.abs(np.asarray(model(pixels)) - wrong).max() > 0.01


@pytest.mark.parametrize(
    "widths", [(784, 10), (784, 9, 10), (784, 9, 8, 7, 10), (784, *12 * (6,), 10)]
)
def test_dense_layers_by_number(tmp_path, widths):
    arrays = numbered(widths)
    model = read_model(save(tmp_path / "a.mat", arrays))
    pixels = images(MNIST)
    assert_logits(model, pixels, logits_of_dense(pairs_of(arrays), pixels))


def test_names_of_mipverify(tmp_path):
    """Biases are flat there, so SciPy makes rows or columns of them."""
    arrays = fc1()
    names = ("fc1/weight", "fc1/bias", "softmax/weight", "softmax/bias")
    values = [arrays[key] for key in ("U", "bU", "W", "bW")]
    values[1] = values[1].reshape(-1, 1)
    named = dict(zip(names, values, strict=True))
    model = read_model(save(tmp_path / "fc1.mat", named))
    pairs = [(arrays["U"], arrays["bU"]), (arrays["W"], arrays["bW"])]
    assert_logits(model, images(MNIST), logits_of_dense(pairs, images(MNIST)))

    arrays = lenet()
    layers_there = ("conv1", "conv2", "fc1", "logits")
    names = [f"{one}/{kind}" for one in layers_there for kind in ("weight", "bias")]
    named = dict(zip(names, arrays.values(), strict=True))
    model = read_model(save(tmp_path / "cnn.mat", named))
    assert_logits(model, images(MNIST), logits_of_lenet(arrays, images(MNIST)))


def test_the_shape_of_inputs_can_be_given(tmp_path):
    arrays = fc1(60)
    path = save(tmp_path / "a.mat", arrays)
    pairs = [(arrays["U"], arrays["bU"]), (arrays["W"], arrays["bW"])]
    for shape in ((60,), (4, 5, 3)):
        model = read_model(path, shape)
        assert model.input_shape == (None, *shape)
        assert_logits(model, images(shape), logits_of_dense(pairs, images(shape)))


def test_models_carry_bound_rules(tmp_path):
    model = read_model(save(tmp_path / "a.mat", lenet()))
    pixels = images(MNIST, 2)
    bounds = rt.compute_bounds(model, rt.LpBall(pixels, 0.0), "ibp")
    np.testing.assert_allclose(bounds.lower, model(pixels), rtol=1e-4, atol=1e-5)


def test_double_weights_are_rounded_with_a_warning(tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(
        matlab_models.logging, "warning", lambda text, *args: logged.append(text % args)
    )
    exact = {name: value.astype("float64") for name, value in fc1().items()}
    read_model(save(tmp_path / "exact.mat", exact))
    assert logged == []
    exact["U"][0, 0] += 1e-12
    model = read_model(save(tmp_path / "a.mat", exact))
    assert len(logged) == 1
    assert re.search("Variable 'U' of '.*a.mat' is rounded to float32", logged[0])
    np.testing.assert_array_equal(model.get_weights()[0], fc1()["U"])


# Sizes of the published files.
@pytest.mark.parametrize(
    ("family", "shape", "classes", "size"),
    [
        (max_margin.fc1, MNIST, 10, 3_256_712),
        (max_margin.fc1, CIFAR, 43, 12_763_664),
        (max_margin.cnn_lenet_small, MNIST, 10, 666_344),
        (max_margin.cnn_lenet_small, CIFAR, 10, 860_392),
        (max_margin.cnn_lenet_small, CIFAR, 43, 873_728),
    ],
)
def test_written_files_have_the_published_sizes(tmp_path, family, shape, classes, size):
    model = family(shape, classes)
    write_model(tmp_path / "a.mat", model)
    assert (tmp_path / "a.mat").stat().st_size == size
    again = read_model(tmp_path / "a.mat")
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("model", "variables"),
    [
        (
            lambda: max_margin.fc1((8, 8, 1), 3, units=5),
            {"U": (64, 5), "bU": (1, 5), "W": (5, 3), "bW": (1, 3)},
        ),
        (
            lambda: max_margin.fc10((8, 8, 1), 3, hidden=(5, 4)),
            {
                "weight_0": (64, 5),
                "bias_0": (1, 5),
                "weight_1": (5, 4),
                "bias_1": (1, 4),
                "weight_2": (4, 3),
                "bias_2": (1, 3),
            },
        ),
        (
            lambda: max_margin.cnn_lenet_small((8, 8, 2), 3, filters=(5, 4)),
            {
                "weights_conv1": (4, 4, 2, 5),
                "biases_conv1": (1, 5),
                "weights_conv2": (4, 4, 5, 4),
                "biases_conv2": (1, 4),
                "weights_fc1": (16, 100),
                "biases_fc1": (1, 100),
                "weights_fc2": (100, 3),
                "biases_fc2": (1, 3),
            },
        ),
    ],
    ids=("fc1", "fc10", "cnn_lenet_small"),
)
def test_what_is_written(tmp_path, model, variables):
    model = model()
    record = {"clean_accuracy": 0.5, "gamma": float("nan")}
    write_model(tmp_path / "lmbd=0.5 epoch=9.mat", model, record)
    found = scipy.io.loadmat(tmp_path / "lmbd=0.5 epoch=9.mat")
    arrays = {name: found[name] for name in found if not name.startswith("__")}
    assert {name: value.shape for name, value in arrays.items()} == variables
    assert {value.dtype for value in arrays.values()} == {np.dtype("float32")}
    for values, weight in zip(arrays.values(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(values.reshape(weight.shape), weight)
    content = (tmp_path / "lmbd=0.5 epoch=9.mat").read_bytes()
    facts = json.loads((tmp_path / "lmbd=0.5 epoch=9.json").read_text())
    assert facts["file"] == "lmbd=0.5 epoch=9.mat"
    assert facts["sha256"] == hashlib.sha256(content).hexdigest()
    assert facts["input_shape"] == list(model.input_shape[1:])
    assert facts["num_classes"] == 3
    assert facts["record"] == {"clean_accuracy": 0.5, "gamma": None}
    assert {k: tuple(v) for k, v in facts["variables"].items()} == variables


def test_the_sidecar_tells_the_shape_of_inputs(tmp_path):
    model = max_margin.fc1((4, 5, 3), 3, units=6)
    write_model(tmp_path / "a.mat", model)
    again = read_model(tmp_path / "a.mat")
    assert again.input_shape == (None, 4, 5, 3)
    np.testing.assert_array_equal(again(images((4, 5, 3))), model(images((4, 5, 3))))
    write_model(tmp_path / "b.mat", max_margin.fc1((4, 5, 3), 3, units=6))
    (tmp_path / "b.json").replace(tmp_path / "a.json")
    with pytest.raises(InputError, match="'.*a.json' describes another file than"):
        read_model(tmp_path / "a.mat")
    digest = hashlib.sha256((tmp_path / "a.mat").read_bytes()).hexdigest()
    for shape in (None, [4, 5, 2], "4x5x3", {"height": 4}):
        facts = {"sha256": digest, "input_shape": shape}
        (tmp_path / "a.json").write_text(json.dumps(facts))
        with pytest.raises(InputError, match="input_shape"):
            read_model(tmp_path / "a.mat")
    (tmp_path / "a.json").write_text("[1, 2]")  # Of somebody else.
    with pytest.raises(InputError, match="read_model.path, input_shape=...."):
        read_model(tmp_path / "a.mat")


def test_plain_keras_models_are_written(tmp_path):
    """Activations within layers, a layer without biases, and a softmax at the end."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(3, 4, 2, "same", activation="relu", use_bias=False),
            keras.layers.Conv2D(4, 4, 2, "same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(5, activation="relu"),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    write_model(tmp_path / "a.mat", model)
    again = read_model(tmp_path / "a.mat")
    pixels = images((8, 8, 1))
    np.testing.assert_allclose(
        keras.ops.softmax(again(pixels)), model(pixels), rtol=1e-5, atol=1e-6
    )


def changed(arrays, **values):
    return {
        name: value for name, value in (arrays | values).items() if value is not None
    }


def with_value(array, value):
    array = array.copy()
    array[-1, -1] = value
    return array


# What is in the file, and what is said of it.
BAD_FILES = {
    "unknown": ({"A": [[1.0]]}, r"no known layout. Received: \['A'\].*\n  fc1: U, bU"),
    "empty": ({}, "no known layout. Received: none"),
    "missing": (
        changed(fc1(), bW=None),
        r"layout 'fc1' and misses \['bW'\]. Received: \['U', 'W', 'bU'\]",
    ),
    "missing_number": (
        changed(numbered(), bias_2=None),
        r"'dense layers' and misses \['bias_2'\]",
    ),
    "gap": (changed(numbered(), weight_1=None, bias_1=None), "misses .*'weight_1'"),
    "more": (fc1() | {"V": [[1.0]]}, r"layout 'fc1' and has \['V'\] besides"),
    "two_layouts": (lenet() | fc1(), "'cnn_lenet_small' and has .*'U'.* besides"),
    "transposed": (
        changed(fc1(), W=fc1()["W"].T),
        r"'W' of '.*a.mat' must be of shape \[12, outputs\]. Received: \[10, 12\]",
    ),
    "bias": (
        changed(fc1(), bU=np.zeros((1, 11), "float32")),
        r"'bU' of '.*a.mat' must be of shape \[1, 12\]. Received: \[1, 11\]",
    ),
    "bias_of_places": (
        changed(lenet(), biases_conv2=np.zeros((2, 3), "float32")),
        r"'biases_conv2' .* of shape \[1, 6\]. Received: \[2, 3\]",
    ),
    "kernel": (
        changed(lenet(), weights_conv1=np.zeros((3, 3, 1, 5), "float32")),
        r"'weights_conv1' .* \[4, 4, channels, filters\]. Received: \[3, 3, 1, 5\]",
    ),
    "kernel_of_another_order": (
        changed(lenet(), weights_conv2=np.zeros((6, 5, 4, 4), "float32")),
        r"'weights_conv2' .* \[4, 4, 5, filters\]. Received: \[6, 5, 4, 4\]",
    ),
    "channels": (
        changed(lenet(), weights_conv2=np.zeros((4, 4, 3, 6), "float32")),
        r"'weights_conv2' .* \[4, 4, 5, filters\]. Received: \[4, 4, 3, 6\]",
    ),
    "places": (
        changed(lenet(), weights_fc1=np.zeros((293, 7), "float32")),
        r"'weights_fc1' .* \[places \* 6, outputs\]. Received: \[293, 7\]",
    ),
    "convolution_without_stride": (
        changed(numbered(), weight_0=np.zeros((4, 4, 1, 9), "float32")),
        r"'weight_0' .* \[inputs, outputs\]. Received: \[4, 4, 1, 9\]",
    ),
    "no_units": (
        changed(
            fc1(),
            U=np.zeros((784, 0), "float32"),
        ),
        r"'U' .* \[inputs, outputs\]. Received: \[784, 0\]",
    ),
    "integers": (
        changed(fc1(), U=np.ones((784, 12), "int32")),
        "'U' of '.*a.mat' must hold floating-point numbers. Received: int32",
    ),
    "not_a_number": (
        changed(fc1(), W=with_value(fc1()["W"], np.nan)),
        "'W' of '.*a.mat' must be finite in float32. Received: nan",
    ),
    "infinite": (
        changed(fc1(), bW=with_value(fc1()["bW"], -np.inf)),
        "'bW' of '.*a.mat' must be finite in float32. Received: -inf",
    ),
    "too_large": (
        changed(fc1(), U=with_value(fc1()["U"].astype("float64"), 1e39)),
        "'U' of '.*a.mat' must be finite in float32. Received: 1e\\+39",
    ),
    "size": (fc1(64), r"\[size\], of 64 values. Received: none. Give it: read_model"),
    "not_square": (
        changed(lenet(), weights_fc1=np.zeros((48 * 6, 7), "float32")),
        "with 48 places after two strides. Received: none. Give it: read_model",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused(tmp_path, case):
    arrays, message = BAD_FILES[case]
    with pytest.raises(InputError, match=f"(?s){message}"):
        read_model(save(tmp_path / "a.mat", arrays))


@pytest.mark.parametrize(
    ("arrays", "shape"),
    [
        (fc1(60), (4, 5, 2)),
        (fc1(60), (12, 5)),
        (fc1(60), (-60,)),
        (fc1(60), (60.0,)),
        (fc1(60), ("6", 10, 1)),
        (lenet(), (28, 28, 3)),
        (lenet(), (32, 28, 1)),
        (lenet(), (784,)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(tmp_path, arrays, shape):
    path = save(tmp_path / "a.mat", arrays)
    received = re.escape(str(list(shape)))
    with pytest.raises(InputError, match=f"`input_shape` must fit.*{received}"):
        read_model(path, shape)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="There is no file .*none.mat"):
        read_model(tmp_path / "none.mat")


def small_lenet(kernel=4, stride=2, padding="same", **options):
    inputs = keras.Input((8, 8, 1))
    tensor = layers.Conv2D(3, kernel, stride, padding, **options)(inputs)
    tensor = layers.ReLU()(tensor)
    tensor = layers.ReLU()(layers.Conv2D(4, 4, 2, "same")(tensor))
    tensor = layers.ReLU()(layers.Dense(5)(layers.Flatten()(tensor)))
    return keras.Model(inputs, layers.Dense(3)(tensor))


def dense_on_images():
    inputs = keras.Input((4, 4, 2))
    tensor = layers.ReLU()(layers.Dense(5)(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(tensor)))


def dense_before_flatten():
    inputs = keras.Input((4, 3))
    return keras.Model(inputs, layers.Dense(3)(inputs))


def activated(activation):
    inputs = keras.Input((6,))
    tensor = activation(layers.Dense(5)(inputs))
    return keras.Model(inputs, layers.Dense(3)(tensor))


def branched():
    inputs = keras.Input((6,))
    tensor = layers.Add()([layers.Dense(5)(inputs), layers.Dense(5)(inputs)])
    return keras.Model(inputs, layers.Dense(3)(layers.ReLU()(tensor)))


# Networks, and one of the layers or numbers that no layout has.
NOT_EXPRESSIBLE = {
    "large": lambda: max_margin.cnn_lenet_large((8, 8, 1), 3, filters=(2, 3)),
    "3conv": lambda: max_margin.lenet_3conv((8, 8, 1), 3),
    "kernel": lambda: small_lenet(kernel=3),
    "stride": lambda: small_lenet(stride=1),
    "valid": lambda: small_lenet(padding="valid"),
    "dilated": lambda: small_lenet(stride=1, dilation_rate=2),
    "normalised": lambda: max_margin.fc1(MNIST, 3, normalization=((0.5,), (0.2,))),
    "leaky": lambda: activated(layers.LeakyReLU(0.1)),
    "leaking_relu": lambda: activated(layers.ReLU(negative_slope=0.1)),
    "tanh": lambda: activated(layers.Tanh()),
    "not_flattened": dense_before_flatten,
    "flattened_late": dense_on_images,
    "branched": branched,
}


@pytest.mark.parametrize("case", NOT_EXPRESSIBLE)
def test_other_networks_are_not_written(tmp_path, case):
    with pytest.raises(InputError, match="`.mat` file holds dense layers.*Received: "):
        write_model(tmp_path / "a.mat", NOT_EXPRESSIBLE[case]())
    assert list(tmp_path.iterdir()) == []


def test_what_small_lenet_makes_is_written(tmp_path):
    """So that the refusals above are for what they say."""
    write_model(tmp_path / "a.mat", small_lenet())
    assert read_model(tmp_path / "a.mat").input_shape == (None, 8, 8, 1)


def test_other_types_are_not_written(tmp_path):
    inputs = keras.Input((6,), dtype="float64")
    model = keras.Model(inputs, layers.Dense(3, dtype="float64")(inputs))
    with pytest.raises(
        InputError, match="are float32. Received: layer '.*' in float64"
    ):
        write_model(tmp_path / "a.mat", model)
    model = max_margin.fc1((4, 4, 1), 3, units=5)
    model.layers[-1].bias.assign([0.0, np.inf, 0.0])
    with pytest.raises(InputError, match=r"inf|NaN|finite"):
        write_model(tmp_path / "a.mat", model)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.keras", "a", "none/a.mat"])
def test_bad_paths_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="`.mat` file in a folder that exists"):
        write_model(tmp_path / name, max_margin.fc1((4, 4, 1), 3, units=5))
