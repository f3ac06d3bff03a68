"""State dicts of PyTorch: the same logits, and nothing left over or made up."""

import sys

import numpy as np
import pytest

from robust_tf.architectures import cnn
from robust_tf.architectures import cnn7
from robust_tf.architectures import residual
from robust_tf.errors import InputError
from robust_tf.interchange import state_dicts
from robust_tf.interchange import torch_weights
from robust_tf.interchange.state_dicts import load_state_dict

CLASSES = 5


def state_of(*modules, seed=0):
    """Random arrays by name; a module is (name, shape of the weight), a vector's for
    BatchNormalization."""
    random = np.random.default_rng(seed)
    state = {}
    for name, shape in modules:
        fan_in = max(np.prod(shape[1:]), 1)
        weight = random.normal(size=shape) * np.sqrt(2.0 / fan_in)
        state[f"{name}.weight"] = weight + 1.0 if len(shape) == 1 else weight
        state[f"{name}.bias"] = 0.3 * random.normal(size=shape[:1])
        if len(shape) == 1:
            state[f"{name}.running_mean"] = 0.3 * random.normal(size=shape)
            state[f"{name}.running_var"] = 0.5 + random.random(shape)
            state[f"{name}.num_batches_tracked"] = np.array(7)
    kept = ("num_batches_tracked",)
    return {
        name: value if name.endswith(kept) else value.astype("float32")
        for name, value in state.items()
    }


class Forward:
    """PyTorch's operations in NumPy and float64, channels first."""

    def __init__(self, state):
        self.state = {name: np.float64(value) for name, value in state.items()}

    def conv(self, name, values, stride=1, padding=0, groups=1):
        weight = self.state[f"{name}.weight"]
        size = weight.shape[-1]
        pads = [(0, 0), (0, 0), (padding, padding), (padding, padding)]
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(values, pads), (size, size), (2, 3)
        )[:, :, ::stride, ::stride]
        parts = [
            np.einsum("nchwij,ocij->nohw", window, kernel)
            for window, kernel in zip(
                np.split(windows, groups, 1), np.split(weight, groups), strict=True
            )
        ]
        bias = self.state[f"{name}.bias"]
        return np.concatenate(parts, 1) + bias[:, None, None]

    def dense(self, name, values):
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return values.reshape(len(values), -1) @ weight.T + bias

    def norm(self, name, values):
        weight, bias, mean, variance = (
            self.state[f"{name}.{entry}"].reshape(-1, *[1] * (values.ndim - 2))
            for entry in ("weight", "bias", "running_mean", "running_var")
        )
        return (values - mean) / np.sqrt(variance + 1e-5) * weight + bias


def relu(values):
    return np.maximum(values, 0.0)


def two_layer_state():
    """Of CROWN-IBP, w = 1 on 8x12x2: names are places in a Sequential."""
    return state_of(
        ("0", (4, 2, 4, 4)), ("2", (8, 4, 4, 4)), ("5", (11, 48)), ("7", (CLASSES, 11))
    )


def two_layer(run, values):
    values = relu(run.conv("0", values, 2, 1))
    values = relu(run.conv("2", values, 2, 1))
    return run.dense("7", relu(run.dense("5", values)))


def two_layer_model():
    return cnn.cnn_2layer((8, 12, 2), CLASSES, width=1, linear_size=11)


CNN7 = ((0, 2, 3, 1), (3, 2, 2, 1), (6, 4, 2, 2), (9, 4, 4, 1), (12, 4, 4, 1))


def cnn7_state():
    """Of fast certified training and expressive losses, w = 2 on 6x4x3; ten modules
    and more, so that "12" would come before "3" by letters."""
    modules = []
    for place, filters, channels, _ in CNN7:
        modules += [
            (str(place), (filters, channels, 3, 3)),
            (str(place + 1), (filters,)),
        ]
    modules += [("16", (7, 24)), ("17", (7,)), ("19", (CLASSES, 7))]
    return state_of(*modules)


def cnn7_forward(run, values):
    for place, _, _, stride in CNN7:
        values = run.conv(str(place), values, stride, 1)
        values = relu(run.norm(str(place + 1), values))
    return run.dense("19", relu(run.norm("17", run.dense("16", values))))


def cnn7_model():
    return cnn7.cnn7((6, 4, 3), CLASSES, width=2, linear_size=7)


STAGES = ((1, 4, 3, 1), (2, 4, 4, 2), (3, 4, 4, 2))


def wide_resnet_state():
    """Blocks whose second convolution and shortcut have as many filters."""
    modules = [("conv1", (3, 3, 3, 3)), ("bn1", (3,))]
    for stage, filters, channels, _ in STAGES:
        block = f"layer{stage}.0"
        modules += [
            (f"{block}.conv1", (filters, channels, 3, 3)),
            (f"{block}.bn1", (filters,)),
            (f"{block}.conv2", (filters, filters, 3, 3)),
            (f"{block}.bn2", (filters,)),
            (f"{block}.downsample.0", (filters, channels, 1, 1)),
            (f"{block}.downsample.1", (filters,)),
        ]
    modules += [("dense", (6, 24)), ("dense_bn", (6,)), ("fc", (CLASSES, 6))]
    return state_of(*modules)


def wide_resnet(run, values):
    values = relu(run.norm("bn1", run.conv("conv1", values, 1, 1)))
    for stage, _, _, stride in STAGES:
        block = f"layer{stage}.0"
        branch = run.conv(f"{block}.conv1", values, stride, 1)
        branch = relu(run.norm(f"{block}.bn1", branch))
        branch = run.norm(f"{block}.bn2", run.conv(f"{block}.conv2", branch, 1, 1))
        values = run.conv(f"{block}.downsample.0", values, stride)
        values = relu(branch + run.norm(f"{block}.downsample.1", values))
    return run.dense("fc", relu(run.norm("dense_bn", run.dense("dense", values))))


def wide_resnet_model():
    return residual.wide_resnet(
        (8, 12, 3), CLASSES, channels=(4, 4, 4), stem=3, linear_size=6
    )


WIDTHS = ((1, 2, 4, 1), (2, 4, 4, 2), (3, 8, 8, 2))


def resnext_state():
    """Two groups, without BatchNormalization; the first block's shortcut is its input,
    all of whose kernels but one have one window."""
    modules = [("conv1", (4, 3, 3, 3))]
    for stage, width, channels, stride in WIDTHS:
        block = f"layer{stage}.0"
        modules += [
            (f"{block}.conv1", (width, channels, 1, 1)),
            (f"{block}.conv2", (width, width // 2, 3, 3)),
            (f"{block}.conv3", (2 * width, width, 1, 1)),
        ]
        if stride != 1 or channels != 2 * width:
            modules.append((f"{block}.shortcut.0", (2 * width, channels, 1, 1)))
    return state_of(*modules, ("linear1", (6, 96)), ("linear2", (CLASSES, 6)))


def resnext(run, values):
    values = relu(run.conv("conv1", values, 1, 1))
    for stage, _, _, stride in WIDTHS:
        block = f"layer{stage}.0"
        branch = relu(run.conv(f"{block}.conv1", values))
        branch = relu(run.conv(f"{block}.conv2", branch, stride, 1, groups=2))
        branch = run.conv(f"{block}.conv3", branch)
        if f"{block}.shortcut.0.weight" in run.state:
            values = run.conv(f"{block}.shortcut.0", values, stride)
        values = relu(branch + values)
    return run.dense("linear2", relu(run.dense("linear1", values)))


def resnext_model():
    return residual.resnext(
        (8, 12, 3),
        CLASSES,
        base_width=1,
        stem=4,
        linear_size=6,
        batch_normalization=False,
    )


NETWORKS = {
    "two_layer": (two_layer_state, two_layer, two_layer_model),
    "cnn7": (cnn7_state, cnn7_forward, cnn7_model),
    "wide_resnet": (wide_resnet_state, wide_resnet, wide_resnet_model),
    "resnext": (resnext_state, resnext, resnext_model),
}


def images_for(model, count=3):
    shape = (count, *model.inputs[0].shape[1:])
    return np.random.default_rng(5).random(shape).astype("float32")


def assert_same_logits(model, forward, state):
    images = images_for(model)
    wanted = forward(Forward(state), np.float64(images.transpose(0, 3, 1, 2)))
    assert wanted.std(0).min() > 1e-2  # No constant, which any order would give.
    found = np.asarray(model(images, training=False))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_the_network(name):
    make_state, forward, make_model = NETWORKS[name]
    model, state = make_model(), make_state()
    load_state_dict(model, state)
    assert_same_logits(model, forward, state)
    assert state_dicts.num_classes(state) == CLASSES


@pytest.mark.parametrize("prefix", ["module.", "module.model.", "net."])
def test_prefixes_do_not_matter(prefix):
    model, state = cnn7_model(), cnn7_state()
    load_state_dict(model, {f"{prefix}{key}": state[key] for key in state})
    assert_same_logits(model, cnn7_forward, state)


def test_places_in_a_sequential_are_numbers():
    """Two hidden layers of one shape, which letters would exchange: "10" < "9"."""
    shapes = (("7", (6, 4)), ("9", (6, 6)), ("10", (6, 6)), ("12", (CLASSES, 6)))
    state = state_of(*shapes)
    model = cnn.mlp((4,), CLASSES, hidden=(6, 6, 6))
    load_state_dict(model, {key: state[key] for key in sorted(state)})
    values = images_for(model)
    run, wanted = Forward(state), values
    for name in ("7", "9", "10"):
        wanted = relu(run.dense(name, wanted))
    found = np.asarray(model(values))
    np.testing.assert_allclose(found, run.dense("12", wanted), rtol=1e-4, atol=1e-4)


def refused(model, state):
    before = [np.array(value) for value in model.get_weights()]
    with pytest.raises(InputError) as caught:
        load_state_dict(model, state)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    return str(caught.value)


def test_all_that_does_not_fit_is_listed_at_once_and_nothing_is_loaded():
    state = cnn7_state()
    state["normalize.mean"] = np.zeros(3, "float32")
    state["20.weight"] = np.zeros((2, 2), "float32")
    state["6.weight"] = state["6.weight"].transpose(1, 0, 2, 3)
    state["12.scale"] = np.zeros(4, "float32")
    state["3.bias"] = np.array([0.0, np.nan], "float32")
    del state["0.bias"], state["17.running_var"]
    message = refused(cnn7_model(), state)
    for part in (
        "'normalize.mean': of no known kind",
        "'20' (dense): the model has no such layer",
        "'6.weight' has shape (2, 4, 3, 3), and layer",
        "takes (4, 2, 3, 3)",
        "'12.scale': layer",
        "'3.bias' holds NaN",
        "finds no '0.bias'",
        "'17.weight', '17.bias', '17.running_mean': of no known kind",
        "(BatchNormalization) finds no weights",
    ):
        assert part in message, part


@pytest.mark.parametrize("key", sorted(two_layer_state()))
def test_every_entry_is_needed(key):
    state = two_layer_state()
    del state[key]
    assert "does not fit" in refused(two_layer_model(), state)


def test_a_network_of_other_depth_is_refused():
    state = cnn7_state()
    message = refused(cnn7.cnn6((6, 4, 3), CLASSES, width=2, linear_size=7), state)
    assert "'12' (convolution): the model has no such layer" in message
    message = refused(cnn7.cnn7((6, 4, 3), CLASSES, width=2), state)
    assert "'16.weight' has shape (7, 24), and layer" in message


def test_integers_are_no_weights():
    state = two_layer_state()
    state["5.weight"] = state["5.weight"].astype("int32")
    assert "'5.weight' holds" in refused(two_layer_model(), state)


def test_without_a_dense_layer_there_are_no_classes():
    with pytest.raises(InputError, match="ends in a dense layer"):
        state_dicts.num_classes({"0.weight": np.zeros((2, 2, 3, 3), "float32")})


def test_arrays_of_numpy_need_no_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    state = cnn7_state()
    np.savez(tmp_path / "weights.npz", **state)
    read = torch_weights.read_state_dict(tmp_path / "weights.npz")
    assert list(read) == list(state)
    model = cnn7_model()
    load_state_dict(model, read)
    assert_same_logits(model, cnn7_forward, state)
    (tmp_path / "weights.pth").write_bytes(b"something")
    with pytest.raises(InputError, match=r"robust_tf\[torch\]"):
        torch_weights.read_state_dict(tmp_path / "weights.pth")


def test_arrays_of_numpy_are_not_unpickled(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, **{"0.weight": np.array([object()])})
    with pytest.raises(InputError, match="could not be read as weights"):
        torch_weights.read_state_dict(path)
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match="could not be read as weights"):
        torch_weights.read_state_dict(path)
    with pytest.raises(InputError, match="There is no file of weights"):
        torch_weights.read_state_dict(tmp_path / "none.npz")


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is an extra of its own")


@pytest.fixture
def published(torch):
    """The two-layer network of CROWN-IBP in PyTorch, as its system defines it."""
    torch.manual_seed(0)
    nn = torch.nn
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 4, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(4, 8, 4, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(48, 11), nn.ReLU(), nn.Linear(11, CLASSES)),
    )


@pytest.mark.parametrize("is_legacy", [False, True])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_files_of_pytorch(torch, published, tmp_path, wrapper, is_legacy):
    content = published.state_dict()
    if wrapper:  # Errors are numbers of NumPy in published checkpoints.
        errors = {"robust_err": np.float64(0.1), "clean_err": np.float32(0.02)}
        content = {wrapper: content, "epoch": 99, **errors}
    path = tmp_path / "model.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not is_legacy)
    model = two_layer_model()
    load_state_dict(model, torch_weights.read_state_dict(path))
    images = images_for(model)
    with torch.no_grad():
        wanted = published(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    found = np.asarray(model(images, training=False))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


class Malicious:
    """What runs code where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("is_legacy", [False, True])
def test_code_in_a_file_is_not_run(torch, published, tmp_path, is_legacy):
    path, trace = tmp_path / "model.pth", tmp_path / "trace"
    content = {"state_dict": published.state_dict(), "more": Malicious(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=not is_legacy)
    with pytest.raises(InputError, match="holds more than weights"):
        torch_weights.read_state_dict(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([1, 2], "must hold a state dict"),
        ({}, "Received: nothing"),
        ({"epoch": 3, "weights": {}}, r"other values under \['epoch', 'weights'\]"),
        ({"state_dict": {}, "model": {}}, "several, under"),
    ],
)
def test_files_without_a_state_dict(torch, tmp_path, content, text):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(InputError, match=text):
        torch_weights.read_state_dict(tmp_path / "model.pth")


def test_damaged_files(torch, published, tmp_path):
    path = tmp_path / "model.pth"
    for content in (b"", b"no weights at all"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"could not be read|is not opened"):
            torch_weights.read_state_dict(path)
    torch.save(published.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(InputError, match=r"could not be read|is not opened"):
        torch_weights.read_state_dict(path)


def test_small_floats_are_read_exactly(torch, tmp_path):
    values = torch.tensor([1.5, -0.25, 3.0])
    half = {"a.weight": values.bfloat16(), "b.weight": values.half()}
    torch.save(half, tmp_path / "model.pth")
    read = torch_weights.read_state_dict(tmp_path / "model.pth")
    for value in read.values():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, values.numpy())
