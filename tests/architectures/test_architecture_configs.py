"""Gin files of published networks, and their sizes."""

import math
import pathlib

import gin
import numpy as np
import pytest

import robust_tf as rt
from robust_tf.architectures import blocks
from robust_tf.architectures import max_margin
from robust_tf.architectures import residual
from robust_tf.architectures import resnet
from robust_tf.experiments import configuration
from tests.propagation import networks

FOLDER = pathlib.Path(__file__).parents[2] / "gin_configs" / "architectures"
MNIST, CIFAR, LARGE = (28, 28, 1), (32, 32, 3), (64, 64, 3)
IMAGENET = (224, 224, 3)
# Trainable parameters, by input shape and number of classes.
SIZES = {
    "cnn6": {(CIFAR, 10): 4_263_594, (MNIST, 10): 3_279_978},
    "cnn6_no_bn": {(CIFAR, 10): 4_262_698, (MNIST, 10): 3_279_082},
    "cnn7": {(CIFAR, 10): 17_192_650, (MNIST, 10): 13_259_338},
    "cnn7_64x64": {(LARGE, 200): 17_290_120, (LARGE, 1000): 17_700_520},
    "cnn7_64x64_bn_4": {(LARGE, 200): 17_288_840},
    "cnn7_bn_convolutions": {(CIFAR, 10): 17_191_626, (MNIST, 10): 13_258_314},
    "cnn7_no_bn": {(CIFAR, 10): 17_190_602, (MNIST, 10): 13_257_290},
    "cnn7_wide": {(CIFAR, 10): 35_189_642, (MNIST, 10): 27_323_018},
    "cnn_lenet_large": {
        (MNIST, 10): 1_953_482,
        (CIFAR, 10): 2_446_026,
        (CIFAR, 43): 2_462_955,
    },
    "cnn_lenet_small": {
        (MNIST, 10): 166_406,
        (CIFAR, 10): 214_918,
        (CIFAR, 43): 218_251,
    },
    "fc1": {(MNIST, 10): 814_090, (CIFAR, 10): 3_157_002, (CIFAR, 43): 3_190_827},
    "fc10": {(MNIST, 10): 193_242, (CIFAR, 10): 476_954, (CIFAR, 43): 479_825},
    "lenet": {(MNIST, 10): 431_080},
    "lenet_3conv": {(MNIST, 10): 168_334, (CIFAR, 10): 216_590, (CIFAR, 43): 219_923},
    "resnet_20": {(CIFAR, 10): 272_474},
    "resnet_50": {(IMAGENET, 1000): 25_557_032},
    "resnet_56": {(CIFAR, 10): 855_770},
    "resnet_110": {(CIFAR, 10): 1_730_714},
    "resnext": {(CIFAR, 10): 17_611_018, (MNIST, 10): 13_677_706},
    "resnext_4_20": {(CIFAR, 10): 21_960_746, (MNIST, 10): 17_044_394},
    "resnext_64x64": {(LARGE, 200): 16_981_960},
    "resnext_no_bn": {(CIFAR, 10): 17_604_490, (MNIST, 10): 13_671_178},
    "wide_resnet_10_64x64": {(LARGE, 200): 91_424_776},
    "wide_resnet_8": {(CIFAR, 10): 21_547_882, (MNIST, 10): 17_615_434},
    "wide_resnet_8_no_bn": {(CIFAR, 10): 21_541_450, (MNIST, 10): 17_609_002},
}
# What makes a network small enough to run, by the function that builds it.
TINY = {
    "cnn7": ("width = 4", "linear_size = 8"),
    "cnn6": ("width = 4", "linear_size = 8"),
    "wide_resnet": ("channels = (4, 6, 8)", "stem = 4", "linear_size = 8"),
    "resnext": ("base_width = 2", "stem = 4", "linear_size = 8"),
    "cnn_lenet_large": ("filters = (2, 3)", "linear_size = 8"),
    "cnn_lenet_small": ("filters = (2, 3)", "linear_size = 8"),
    "fc1": ("units = 8",),
    "fc10": ("hidden = (8, 7, 6, 5)",),
    "lenet": ("filters = (2, 3)", "linear_size = 8"),
    "lenet_3conv": ("filters = (2, 3, 4)", "linear_size = 8"),
    "cifar_resnet": ("depth = 8", "channels = (4, 4, 8)"),
    "resnet_50": ("stem = 4", "blocks_per_stage = (1, 1)"),
}
# Sides that its unpadded convolutions leave something of.
TINY_SIDE = {"lenet": 16}


@pytest.fixture(autouse=True)
def clear_configuration():
    yield
    gin.clear_config()


def architecture(name, *params):
    """The factory that a file of that name binds."""
    configuration.parse([str(FOLDER / f"{name}.gin")], params)
    return gin.query_parameter("train.train.architecture").scoped_configurable_fn


def published(name):
    return (FOLDER / f"{name}.gin").read_text()


@pytest.fixture
def draw_nothing(monkeypatch):
    """Weights of 0, which take no time."""
    monkeypatch.setattr(blocks, "fan_in_uniform", lambda _: "zeros")
    for module in (residual, resnet):
        monkeypatch.setattr(module, "fan_out_normal", lambda _: "zeros")
    monkeypatch.setattr(max_margin, "fan_in_truncated_normal", lambda _: "zeros")


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name, draw_nothing):
    build = architecture(name)
    for (shape, classes), parameters in SIZES[name].items():
        variables = build(shape, classes).trainable_variables
        assert sum(math.prod(v.shape) for v in variables) == parameters
        header = published(name).partition("from __gin__")[0]
        assert f"{parameters:,}" in header
        assert "x".join(map(str, shape)) in header


@pytest.mark.parametrize("name", SIZES)
def test_bounds_of_a_tiny_version(name):
    chosen = published(name).partition("architecture = @")[2].split()[0]
    module, function = chosen.split(".")
    params = [f"{module}.{function}.{line}" for line in TINY[function]]
    shape = (TINY_SIDE.get(function, 8),) * 2 + (3,)
    model = networks.randomize(architecture(name, *params)(shape, 3), seed=0)
    images = np.random.default_rng(0).uniform(size=(2, *shape)).astype("float32")
    bounds = rt.compute_bounds(model, rt.LpBall(images, 0.01), "ibp")
    logits = model(images).numpy()
    assert (bounds.lower.numpy() <= logits + 1e-5).all()
    assert (bounds.upper.numpy() >= logits - 1e-5).all()
    assert (bounds.lower.numpy() < bounds.upper.numpy()).all()


def test_every_size_that_is_stated_is_checked():
    files = [path.stem for path in FOLDER.glob("*.gin")]
    assert {name for name in files if "# Parameters" in published(name)} == set(SIZES)
