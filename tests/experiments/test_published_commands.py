"""The published training commands of arXiv:2103.17268 and arXiv:2305.13991, as a table.

Every row is a file in `gin_configs/experiments/`, and what the file configures is what
the row says. That each of them trains is tested with all experiments.
"""

import dataclasses
import pathlib

import gin
import keras
import numpy as np
import pytest

from robust_tf import layers
from robust_tf import regions
from robust_tf import schedules
from robust_tf.architectures import initializers
from robust_tf.attacks.pgd import PGD
from robust_tf.data import statistics
from robust_tf.data.augmentation import RandomFlipAndCrop
from robust_tf.experiments import configuration
from robust_tf.experiments import settings
from robust_tf.objectives import certified_training
from robust_tf.objectives import expressive
from robust_tf.objectives import terms
from robust_tf.objectives.forward import Adversary
from robust_tf.objectives.regularizers import BoundTightness
from robust_tf.objectives.regularizers import ReluBalance

CONFIGS = pathlib.Path(__file__).parents[2] / "gin_configs"
EXPERIMENTS = CONFIGS / "experiments"
# By data set: name in `settings.Data`, batch size, augmentation, radii as they are
# written there.
MNIST = ("mnist", 256, None)
CIFAR = ("cifar10", 128, RandomFlipAndCrop(True, 2, "edge"))
TINY = ("tiny_imagenet", 128, RandomFlipAndCrop(True, 4, "edge"))
IMAGENET = ("imagenet_resized/64x64", 128, RandomFlipAndCrop(True, 4, "edge"))
RADII = {"1_255": 0.00392, "2_255": 0.00784, "8_255": 0.03137}
RADII |= {text: float(text) for text in ("0.1", "0.3", "0.4")}
# Published start (epochs counted from 1) and length of the ramp, milestones, epochs.
S_MNIST = (1, 20, (50, 60), 70)
S_CIFAR = (2, 80, (120, 140), 160)
S_TINY = (2, 20, (61, 71), 80)
E_LONG = (2, 80, (180, 220), 260)
E_IMAGENET = (2, 20, (60, 70), 80)
ONE, EIGHT = (1, 10.0), (8, 0.25)  # Steps of the attack, and their size.
LOSSES = {
    "vanilla_ibp": (terms.IntervalCrossEntropy, None),
    "fast_ibp": (terms.IntervalCrossEntropy, None),
    "cc_ibp": (expressive.CcIbp, "coefficient"),
    "mtl_ibp": (expressive.MtlIbp, "coefficient"),
    "exp_ibp": (expressive.ExpIbp, "coefficient"),
    "sabr": (terms.IntervalCrossEntropy, None),
}
# What makes a network small enough to build at once.
SHRINK = {
    "cnn7": ("width = 1", "linear_size = 2"),
    "wide_resnet": ("channels = (2, 2, 2)", "stem = 2", "linear_size = 2"),
    "resnext": ("base_width = 1", "stem = 2", "linear_size = 2"),
}


@dataclasses.dataclass(frozen=True)
class Command:
    """One command; defaults are those of both systems.

    `published` holds clean and certified accuracy, as far as they are at hand, and
    whether there is a source for them.
    """

    data: tuple
    radius: str
    method: str
    schedule: tuple
    architecture: str = "cnn7"
    regularizer: float = 0.5
    coefficient: float | None = None
    l1: float = 0.0
    attack: tuple | None = None
    radius_factor: float = 1.0  # `train-eps-mul`
    attack_factor: float = 1.0
    micro_batches: int = 1
    validation_share: float = 0.0
    published: tuple[str, ...] = ()
    is_verified: bool = True

    @property
    def name(self):
        dataset = self.data[0].replace("imagenet_resized/64x64", "imagenet64")
        default = "cnn7_64x64" if "imagenet" in dataset else "cnn7"
        net = "" if self.architecture == default else f"_{self.architecture}"
        return f"{dataset}_eps{self.radius}_{self.method}{net}"


def _fast(data, radius, schedule, architectures, published, **options):
    """Both methods of fast certified training on all three networks."""
    for architecture in architectures:
        for method in ("vanilla_ibp", "fast_ibp"):
            is_known = method == "fast_ibp" and architecture.startswith("cnn7")
            yield Command(
                data,
                radius,
                method,
                schedule,
                architecture,
                published=published if is_known else (),
                **options,
            )


NETS = ("cnn7", "wide_resnet_8", "resnext")
LARGE_NETS = ("cnn7_64x64", "wide_resnet_10_64x64", "resnext_64x64")
TABLE = [
    *_fast(MNIST, "0.4", S_MNIST, NETS, ("89.02",)),
    *_fast(CIFAR, "8_255", S_CIFAR, NETS, ("34.97",)),
    *_fast(
        TINY,
        "1_255",
        S_TINY,
        LARGE_NETS,
        ("17.87",),
        regularizer=0.2,
        micro_batches=2,
    ),
]


def _expressive(data, radius, schedule, rows, **shared):
    """Rows of (method, coefficient, l1, published)."""
    for method, coefficient, l1, published in rows:
        options = {"attack": ONE, **shared}
        TABLE.append(
            Command(
                data,
                radius,
                method,
                schedule,
                coefficient=coefficient,
                l1=l1,
                published=published,
                **options,
            )
        )


_expressive(
    MNIST,
    "0.1",
    S_MNIST,
    [
        ("cc_ibp", 0.1, 2e-6, ("99.30", "98.43")),
        ("mtl_ibp", 1e-2, 1e-5, ("99.25", "98.38")),
    ],
    radius_factor=2.0,
    is_verified=False,
)
_expressive(
    MNIST,
    "0.3",
    S_MNIST,
    [
        ("cc_ibp", 0.3, 3e-6, ("98.81", "93.58")),
        ("mtl_ibp", 8e-2, 1e-6, ("98.80", "93.62")),
    ],
    radius_factor=1.334,
    is_verified=False,
)
_expressive(
    CIFAR,
    "2_255",
    S_CIFAR,
    [
        ("cc_ibp", 1e-2, 3e-6, ("80.09", "63.78")),
        ("mtl_ibp", 4e-3, 3e-6, ("80.11", "63.24")),
        ("exp_ibp", 9.5e-2, 4e-6, ("80.61", "61.65")),
    ],
    attack=EIGHT,
    attack_factor=2.1,
)
_expressive(
    CIFAR,
    "8_255",
    E_LONG,
    [
        ("cc_ibp", 0.5, 0.0, ("53.71", "35.27")),
        ("mtl_ibp", 0.5, 1e-7, ("53.35", "35.44")),
        ("exp_ibp", 0.5, 0.0, ("53.97", "35.04")),
    ],
)
_expressive(
    TINY,
    "1_255",
    S_CIFAR,
    [
        ("cc_ibp", 1e-2, 5e-5, ("38.61", "26.39")),
        ("mtl_ibp", 1e-2, 5e-5, ("37.56", "26.09")),
        ("exp_ibp", 4e-2, 5e-5, ("38.71", "26.18")),
    ],
    architecture="cnn7_64x64",
    regularizer=0.2,
    is_verified=False,
)
_expressive(
    IMAGENET,
    "1_255",
    E_IMAGENET,
    [
        ("cc_ibp", 5e-2, 1e-5, ("19.62", "11.87")),
        ("mtl_ibp", 5e-2, 1e-5, ("20.15", "12.13")),
        ("exp_ibp", 5e-2, 1e-5, ("22.73", "13.30")),
    ],
    architecture="cnn7_64x64",
    regularizer=0.2,
    is_verified=False,
)
_expressive(
    CIFAR,
    "2_255",
    S_CIFAR,
    [("sabr", 3e-2, 3e-6, ())],
    attack=EIGHT,
    attack_factor=2.1,
    validation_share=0.2,
)
_expressive(CIFAR, "8_255", E_LONG, [("sabr", 0.6, 0.0, ())], validation_share=0.2)

BY_NAME = {command.name: command for command in TABLE}


@pytest.fixture(autouse=True)
def clear_configuration():
    yield
    gin.clear_config()


@pytest.fixture(params=TABLE, ids=lambda command: command.name)
def command(request):
    """A row, its file being the configuration."""
    configuration.parse([str(EXPERIMENTS / f"{request.param.name}.gin")], None)
    return request.param


def referred(parameter):
    """What a reference in the configuration stands for."""
    return gin.query_parameter(parameter).scoped_configurable_fn


def bindings():
    return {line for line in gin.config_str().splitlines() if " = " in line}


def includes(path):
    """All files that a file includes, itself among them, relative to the folder."""
    found = {str(path.relative_to(CONFIGS))}
    for line in path.read_text().splitlines():
        if line.startswith("include 'gin_configs/"):
            found |= includes(CONFIGS.parent / line.split("'")[1])
    return found


def test_there_is_a_row_for_every_file_and_a_file_for_every_row():
    assert len(BY_NAME) == len(TABLE) == 36
    bases = {"mnist_fast", "cifar10_fast", "tiny_imagenet_fast", "imagenet64_fast"}
    ours = {f"base/{name}.gin" for name in bases}
    methods = {f"methods/{name}.gin" for name in LOSSES}
    parts = {path.stem: includes(path) for path in EXPERIMENTS.glob("*.gin")}
    files = {name for name, used in parts.items() if used & ours and used & methods}
    assert files == set(BY_NAME)


def test_data(command):
    data = configuration.call(settings.Data)
    name, batch_size, augmentation = command.data
    assert data == settings.Data(
        name,
        batch_size,
        validation_share=command.validation_share,
        augmentation=augmentation,
    )
    threat = configuration.call(regions.Threat)
    assert threat == regions.Threat(RADII[command.radius])


def test_run(command):
    start, length, milestones, epochs = command.schedule
    run = configuration.call(settings.Run)
    assert run == settings.Run(
        epochs=epochs,
        optimizer=run.optimizer,
        learning_rate=schedules.MilestoneDecay(5e-4, 0.2, milestones),
        ramp=schedules.SmoothedRamp(start - 1, length),
        radius_factor=command.radius_factor,
        min_radius=0.0 if command.method == "vanilla_ibp" else 1e-6,
        max_gradient_norm=10.0,
        micro_batches=command.micro_batches,
    )
    optimizer = run.optimizer(learning_rate=5e-4)
    assert isinstance(optimizer, keras.optimizers.Adam)
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon) == (0.9, 0.999, 1e-8)
    initialization = gin.query_parameter("train.train.initialization")
    if command.method == "vanilla_ibp":
        assert initialization is None
    else:
        wrapped = initialization.scoped_configurable_fn.__wrapped__
        assert wrapped is initializers.ibp_initialization


def test_objective(command):
    objective = configuration.call(certified_training.certified_training)
    assert objective.method == command.method.replace("_", "-")
    kind, coefficient = LOSSES[command.method]
    loss = kind(command.coefficient) if coefficient else kind()
    expected = {
        terms.StandardCrossEntropy(): terms.BeforeRamp(),
        loss: terms.FromRamp(),
    }
    if command.method != "vanilla_ibp":
        falling = terms.FollowsRadius(command.regularizer, 0.0)
        expected |= {BoundTightness(0.5): falling, ReluBalance(0.5): falling}
    if command.l1:
        expected[terms.L1Penalty()] = command.l1
    assert dict(zip(objective.terms, objective.weights, strict=True)) == expected
    assert objective.adversary == adversary(command)


def adversary(command):
    if command.attack is None:
        return None
    steps, size = command.attack
    attack = PGD(
        steps=steps,
        relative_step_size=size,
        objective="cross_entropy",
        step_decay=(),
        keep="last" if steps == 1 else "best_iterate",
    )
    share = command.coefficient if command.method == "sabr" else None
    return Adversary(attack, command.attack_factor, share, "adversarial")


def test_attack_on_the_test_split(command):
    attack = referred("train.train.test_attack")()
    assert attack.steps == 40
    assert attack.restarts == 1
    assert attack.keep == "best"
    if command.attack:
        assert attack.relative_step_size == 0.1
        assert attack.objective == "cross_entropy"
        assert not attack.step_decay


def test_network(command):
    """The file's own, at its published width, normalised as the data set asks."""
    file = EXPERIMENTS / f"{command.name}.gin"
    function = referred("train.train.architecture").__name__
    configured = bindings()
    architecture = CONFIGS / "architectures" / f"{command.architecture}.gin"
    configuration.parse([str(architecture)], None)
    assert bindings()
    assert bindings() <= configured
    shrunk = [f"{function}.{line}" for line in SHRINK[function]]
    configuration.parse([str(file)], shrunk)
    name = command.data[0]
    mean, deviation = statistics.normalization(name)
    model = referred("train.train.architecture")((8, 8, len(mean)), 3)
    scales = [one for one in model.layers if isinstance(one, layers.Normalization)]
    assert len(scales) == (0 if name == "mnist" else 1)
    for layer in scales:
        assert layer is model.layers[1]
        np.testing.assert_allclose(np.ravel(layer.mean), mean, rtol=1e-6)
        np.testing.assert_allclose(
            np.ravel(layer.variance) ** 0.5, deviation, rtol=1e-6
        )


def test_header(command):
    """Source, rounding, published numbers, and whether those have a source."""
    lines = (EXPERIMENTS / f"{command.name}.gin").read_text().splitlines()
    header = " ".join(line[2:] for line in lines if line.startswith("# "))
    paper = "2103.17268" if command.attack is None else "2305.13991"
    assert f"arXiv:{paper}" in header
    if "_" in command.radius:
        radius = command.radius.replace("_", "/")
        assert f"eps {radius} ({RADII[command.radius]}, as rounded there)" in header
    for number in command.published:
        assert f"{number} %" in header
    assert ("unverified" in header) == (not command.is_verified)
    assert "Published" in header


def test_evaluation():
    path = CONFIGS / "base" / "evaluate_expressive.gin"
    configuration.parse([str(path)], ["regions.Threat.epsilon = 0.1"])
    attack = configuration.call(PGD)
    assert (attack.steps, attack.relative_step_size) == (40, 0.035)
    assert attack.objective == "cross_entropy"
    assert not attack.step_decay
