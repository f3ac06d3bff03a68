"""Every gin file trains; flags win; bad input is told in one message."""

import dataclasses
import itertools
import json
import pathlib
import re

import gin
import numpy as np
import pytest
import tensorflow as tf

from bin import train as program
from robust_tf import data as datasets
from robust_tf.data import ImageDataset
from robust_tf.data import soft_targets
from robust_tf.experiments import command_line
from robust_tf.experiments import configuration
from robust_tf.training.certified_model import CertifiedModel
from tests.experiments import programs

CONFIGS = pathlib.Path(__file__).parents[2] / "gin_configs"
# Of the data sets: shapes of images, numbers of classes. Images of 64x64 are made
# smaller: on CPUs, TensorFlow 2.21 corrupts memory in the gradient of their 1x1
# convolutions with stride 2, where they have as few channels as `TINY_FILE` gives them.
SHAPES = {
    "digits": (8, 8, 1),
    "mnist": (28, 28, 1),
    "fashion_mnist": (28, 28, 1),
    "tiny_imagenet": (16, 16, 3),
    "imagenet_resized/64x64": (16, 16, 3),
    "imagenet2012": (16, 16, 3),
}
CLASSES = {
    "tiny_imagenet": 200,
    "imagenet_resized/64x64": 1000,
    "imagenet2012": 1000,
}
EXPERIMENT = str(CONFIGS / "experiments" / "digits_eps0.1_crown_ibp.gin")
# One step, on few neurons.
TINY = (
    "settings.Run.epochs = 1",
    "settings.Data.batch_size = 8",
    "cnn.cnn_2layer.width = 1",
    "cnn.cnn_2layer.linear_size = 8",
    "test/pgd.PGD.steps = 1",
)
# The same for every family of networks, at the full radius at once.
TINY_FILE = """
from __gin__ import dynamic_registration
from robust_tf import schedules
from robust_tf.architectures import cnn
from robust_tf.architectures import cnn7
from robust_tf.architectures import lenet
from robust_tf.architectures import max_margin
from robust_tf.architectures import residual
from robust_tf.architectures import resnet
from robust_tf.architectures import wong_kolter
from robust_tf.attacks import pgd
from robust_tf.data import crops
from robust_tf.experiments import settings
from robust_tf.training import reweighting

crops.RandomResizedCrop.size = 16
settings.Run.epochs = 1
settings.Data.batch_size = 8
test/pgd.PGD.steps = 1
ramp/schedules.LinearRamp:
    start = 0
    length = 0
ramp/schedules.SmoothedRamp:
    start = 0
    length = 0
FIRST_EPOCH = 0
reweighting.Reweighting.least_accuracy = 0.0
cnn.cnn_2layer:
    width = 1
    linear_size = 8
cnn7.cnn6:
    width = 4
    linear_size = 8
cnn7.cnn7:
    width = 4
    linear_size = 8
residual.resnext:
    base_width = 2
    stem = 4
    linear_size = 8
lenet.lenet:
    filters = (2, 3)
    linear_size = 8
max_margin.cnn_lenet_large:
    filters = (2, 3)
    linear_size = 8
max_margin.cnn_lenet_small:
    filters = (2, 3)
    linear_size = 8
max_margin.fc1.units = 8
max_margin.fc10.hidden = (8, 7, 6, 5)
max_margin.lenet_3conv:
    filters = (2, 3, 4)
    linear_size = 8
resnet.cifar_resnet:
    depth = 8
    channels = (4, 4, 8)
resnet.resnet_50:
    stem = 4
    blocks_per_stage = (1, 1)
residual.wide_resnet:
    channels = (4, 8, 8)
    stem = 4
    linear_size = 8
wong_kolter.wong_kolter_large:
    filters = (2, 3)
    linear_size = 8
wong_kolter.wong_kolter_residual:
    stem = 2
    linear_size = 8
wong_kolter.wong_kolter_small:
    filters = (2, 3)
    linear_size = 8
"""
# Members of families have values of their own.
TINY_MEMBERS = {
    "cnn.cnn_2layer": ("width = 1", "linear_size = 8"),
    "cnn.cnn_4layer": ("width = 1", "linear_size = 8"),
    "cnn.cnn_3layer_fixed": ("width = 1", "linear_size = 8"),
    "gowal.dm_tiny": ("linear_size = 8",),
    "wong_kolter.wong_kolter_small": ("filters = (2, 3)", "linear_size = 8"),
}
# What files leave open lies in [0, 1], but for these.
OPEN_VALUES = {
    "settings.Run.average_from": 0,
    "noise.Noise.copies": 2,
    "smoothadv.SmoothPGD.steps": 2,
    "smoothadv.SmoothDDN.steps": 2,
    "smooth_mix.MixPGD.steps": 2,
    "sphere_noise.SpherePGD.steps": 2,
    "FIRST_EPOCH": 0,
    "reweighting.Reweighting.least_accuracy": 0.0,
    "settings.Data.soft_targets": "'targets.npz'",
}


def names(folder):
    return sorted(path.stem for path in (CONFIGS / folder).glob("*.gin"))


def included(part):
    """What a file includes, such as "methods/fast"."""
    text = (CONFIGS / f"{part}.gin").read_text()
    return re.findall(r"^include 'gin_configs/([\w/]+)\.gin'", text, re.M)


def text_of(part):
    """The text of a file, and of those that it includes."""
    parts = map(text_of, included(part))
    return "\n".join([*parts, (CONFIGS / f"{part}.gin").read_text()])


def methods():
    """Without what others include, and which names no loss itself."""
    parts = {one for name in names("methods") for one in included(f"methods/{name}")}
    shared = {p for p in parts if not re.search(r"= @terms\.|\bloss = @", text_of(p))}
    return [name for name in names("methods") if f"methods/{name}" not in shared]


def open_values(part):
    """Bindings for what a file requires."""
    text, value = text_of(part) + "\n", r" = %gin\.REQUIRED"
    required = re.findall(rf"^([\w./]+){value}", text, re.M)
    for block, lines in re.findall(r"^([\w./]+):.*\n((?:    .*\n)+)", text, re.M):
        found = re.findall(rf"^    (\w+){value}", lines, re.M)
        required += [f"{block}.{name}" for name in found]
    return [f"{name} = {OPEN_VALUES.get(name, 0.5)}" for name in required]


def load(name, split, data_dir=None, **cut):
    """Random images of the right shape, whatever the set."""
    random = np.random.default_rng(len(split))
    name = name.split(":")[0]
    shape, classes = SHAPES.get(name, (32, 32, 3)), CLASSES.get(name, 10)
    images = random.integers(0, 256, (8, *shape), np.uint8)
    return ImageDataset(name, images, random.integers(0, 10, 8), classes, split)


def attach(dataset, path):
    """Soft targets that say nothing."""
    assert path == "targets.npz"
    shape = (len(dataset), dataset.num_classes)
    return dataclasses.replace(
        dataset, targets=np.full(shape, 1.0 / dataset.num_classes)
    )


@pytest.fixture
def random_data(monkeypatch):
    monkeypatch.setattr(datasets, "load", load)
    monkeypatch.setattr(soft_targets, "attach", attach)


def files_left_open(part):
    """Bindings for files that an experiment leaves to its user."""
    left_open = [one for one in open_values(part) if "targets.npz" in one]
    return params(left_open)


@pytest.fixture
def launch(monkeypatch, tmp_path):
    """A function that runs `bin/train.py` in this process; it returns the status."""

    def run(*arguments, folder=tmp_path):
        given = (f"--workdir={folder}", *arguments)
        return programs.launch(monkeypatch, program, *given, name="train.py")

    yield run
    gin.clear_config()


def params(bindings):
    return [f"--gin_param={binding}" for binding in bindings]


def assert_trained(folder, method=None):
    summary = json.loads((folder / "summary.json").read_text())
    if "sigma" not in summary:  # Classifiers to be smoothed are certified elsewhere.
        assert 0.0 <= summary["certified_accuracy"] <= summary["pgd_accuracy"]
    assert 0.0 <= summary["clean_accuracy"] <= 1.0
    assert method in (None, summary["method"])
    (line,) = (folder / "metrics.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["step"] >= 1
    assert np.isfinite([value for value in record.values()]).all()
    written = {path.name for path in folder.iterdir()}
    assert written >= {"operative_config.gin", "environment.json", "model.keras"}


@pytest.fixture
def one_step(launch, random_data, monkeypatch, tmp_path):
    """A function that makes all that is configured, and takes one step, eagerly."""

    class SteppedError(Exception):
        pass

    def fit(self, batches, **options):
        images, labels = next(iter(batches))
        assert images.shape[1:] == self.classifier.input_shape[1:]
        for values in tf.nest.flatten(labels):
            assert len(values) == len(images) == 8
        before = [variable.numpy() for variable in self.classifier.trainable_variables]
        record = self.train_step((images, labels))
        assert np.isfinite([float(value) for value in record.values()]).all(), record
        after = [variable.numpy() for variable in self.classifier.trainable_variables]
        assert all(np.isfinite(values).all() for values in after)
        changed = [(old != new).any() for old, new in zip(before, after, strict=True)]
        assert any(changed)
        raise SteppedError

    def run(*arguments):
        (tmp_path / "tiny.gin").write_text(TINY_FILE)
        files = [a for a in arguments if a.startswith("--gin_file")]
        rest = [a for a in arguments if a not in files]
        with pytest.raises(SteppedError):
            launch(*files, f"--gin_file={tmp_path / 'tiny.gin'}", *rest)

    monkeypatch.setattr(CertifiedModel, "fit", fit)
    return run


def assembled(folder, *parts):
    """A file that includes those parts, on the embedded digits."""
    first = ["base/train", "datasets/digits", "architectures/cnn_2layer"]
    lines = [f"include 'gin_configs/{part}.gin'" for part in (*first, *parts)]
    lines += ["regions.Threat.epsilon = 0.1"]
    (folder / "all.gin").write_text("\n".join(lines))
    return f"--gin_file={folder / 'all.gin'}"


RATE = "settings.Run.learning_rate = 1e-3"


@pytest.mark.parametrize("method", methods())
def test_methods_step(one_step, tmp_path, method):
    file = assembled(tmp_path, f"methods/{method}")
    one_step(file, *params([RATE, *open_values(f"methods/{method}")]))


@pytest.mark.slow
@pytest.mark.parametrize("method", methods())
def test_methods_train(launch, random_data, tmp_path, method):
    file = assembled(tmp_path, f"methods/{method}")
    assert (
        launch(file, *params([*TINY, RATE, *open_values(f"methods/{method}")])) is None
    )
    assert_trained(tmp_path, method.removesuffix("_natural").replace("_", "-"))


@pytest.mark.parametrize("method", ["cc_ibp"])
def test_a_method_trains(launch, random_data, tmp_path, method):
    test_methods_train(launch, random_data, tmp_path, method)


@pytest.mark.parametrize("name", names("experiments"))
def test_experiments_step(one_step, name):
    """All is made that an experiment names, with few neurons."""
    file = f"--gin_file={CONFIGS / 'experiments' / name}.gin"
    one_step(file, *files_left_open(f"experiments/{name}"))


@pytest.mark.parametrize("name", names("families"))
def test_families_step(one_step, name, tmp_path):
    """The first member takes a step; the others differ from it in the network alone."""
    (members,) = [part for part in included(f"families/{name}") if "members" in part]
    member, factory = re.search(
        r"\('(\w+)',\s+@\1/([\w.]+)\)", text_of(members)
    ).groups()
    shrunk = [f"{member}/{factory}.{line}" for line in TINY_MEMBERS[factory]]
    file = f"--gin_file={CONFIGS / 'families' / name}.gin"
    one_step(file, "--model_subset=0", *params(shrunk))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [member]


@pytest.mark.slow
@pytest.mark.parametrize("name", names("experiments"))
def test_experiments_train(launch, random_data, tmp_path, name):
    (tmp_path / "tiny.gin").write_text(TINY_FILE)
    path = CONFIGS / "experiments" / f"{name}.gin"
    tiny = f"--gin_file={tmp_path / 'tiny.gin'}"
    given = files_left_open(f"experiments/{name}")
    assert launch(f"--gin_file={path}", tiny, *given) is None
    is_cascade = (tmp_path / "cascade.json").is_file()
    assert is_cascade == ("cascade.Cascade" in path.read_text())
    assert_trained(tmp_path / "stage_1" if is_cascade else tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "method"),
    list(itertools.product(names("architectures"), methods())),
)
def test_architectures_step(one_step, architecture, method):
    parts = ("base/train", "datasets/mnist", f"architectures/{architecture}")
    arguments = [f"--gin_file={CONFIGS / part}.gin" for part in parts]
    arguments.append(f"--gin_file={CONFIGS / 'methods' / method}.gin")
    bindings = ["regions.Threat.epsilon = 0.1", RATE, *open_values(f"methods/{method}")]
    one_step(*arguments, *params(bindings))


# Files that change how a run trains, whatever its method.
OPTIONS = [
    f"{folder}/{n}" for folder in ("schedules", "training") for n in names(folder)
]


@pytest.mark.parametrize("option", OPTIONS)
def test_options_step(one_step, tmp_path, option):
    file = assembled(tmp_path, "methods/fast_ibp", option)
    one_step(file, *params(open_values(option)))


@pytest.mark.slow
@pytest.mark.parametrize("option", names("training"))
def test_options_train(launch, random_data, tmp_path, option):
    file = assembled(tmp_path, "methods/fast_ibp", f"training/{option}")
    bindings = [*TINY, RATE, *open_values(f"training/{option}")]
    assert launch(file, *params(bindings)) is None
    assert_trained(tmp_path)


def test_every_folder_is_covered():
    covered = {"architectures", "base", "datasets", "experiments", "methods"}
    covered |= {"schedules", "training"}
    covered |= {"families", "members"}  # The latter by test_family.py, too.
    covered |= {"plans"}  # By verification/test_verify_program.py.
    assert {path.name for path in CONFIGS.iterdir() if path.is_dir()} <= covered
    assert not list(CONFIGS.glob("*.gin"))


def _outcome(folder):
    """The result of a run, without its times."""
    summary = json.loads((folder / "summary.json").read_text())
    (record,) = (folder / "checkpoints").glob("epoch-*.json")
    return summary | {"train_seconds": None}, json.loads(record.read_text())["sha256"]


def test_flags_win_and_the_operative_configuration_replays(
    launch, random_data, tmp_path
):
    first, second = tmp_path / "first", tmp_path / "second"
    given = ("--epsilon=8/255", "--norm=2", "--seed=3", f"--data_dir={tmp_path}")
    file = f"--gin_file={EXPERIMENT}"
    assert launch(file, *given, *params(TINY), folder=first) is None
    operative = (first / "operative_config.gin").read_text()
    for line in (
        f"Threat.epsilon = {8 / 255!r}",
        "Threat.norm = '2'",
        "Run.seed = 3",
        f"Data.data_dir = '{tmp_path}'",
        "cnn_2layer.linear_size = 8",
        "PGD.steps = 1",
    ):
        assert f"{line}\n" in operative.replace("\\\n    ", "")
    summary, _ = _outcome(first)
    wanted = {"epsilon": 8 / 255, "norm": "2", "seed": 3}
    assert {key: summary[key] for key in wanted} == wanted
    replayed = f"--gin_file={first / 'operative_config.gin'}"
    assert launch(replayed, folder=second) is None
    assert _outcome(second) == _outcome(first)
    assert (second / "operative_config.gin").read_text() == operative
    command = json.loads((first / "environment.json").read_text())["command_line"]
    assert "--epsilon=8/255" in command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "`--gin_file` must name a configuration"),
        (["--gin_file=none.gin"], "There is no gin file `none.gin`"),
        (
            ["--gin_file=gin_configs/base/train.gin"],
            r"values unset:\n  .*Threat\.epsilon \(.*\n  .*Run\.epochs \(",
        ),
        (
            ["--gin_file=gin_configs/base/train.gin", *params(TINY[:1])]
            + params(["regions.Threat.epsilon = 0.1"]),
            r"Required bindings for|missing .* required",
        ),
        (params(["settings.Data.name = 'no_such_set'"]), "no_such_set"),
        (
            [*params(["settings.Data.name = 'mnist'"]), "--data_dir=/none/such"],
            "/none/such",
        ),
        (params(["settings.Data.batch_size = 1438"]), "1437 examples.* 1438"),
        (params(["settings.Data.batch_size = 0"]), "`batch_size`"),
        (params(["settings.Run.devices = ('GPU:7',)"]), "no device .'GPU:7'"),
        (params(["settings.Run.keep = 'best'"]), "validation_share"),
        (params(["settings.Run.jit = True"]), "no parameter `jit`"),
        (params(["settings.Run.epochs = 0"]), "`epochs`"),
        (["--epsilon=-0.1"], "`--epsilon` must be"),
        (["--epsilon=8"], "pixels in"),
        (["--norm=0.5"], "`norm` must be"),
        (["--seed=-1"], "`seed` must be"),
    ],
)
def test_bad_input(launch, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(CONFIGS.parent)
    if arguments and "--gin_file" not in arguments[0]:
        arguments = [f"--gin_file={EXPERIMENT}", *arguments]
    assert launch(*arguments) == command_line.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert error.startswith("train.py: ")
    assert "Traceback" not in error
    assert re.search(message, error), error


def test_odd_sides(launch, random_data, capsys, monkeypatch):
    monkeypatch.setitem(SHAPES, "digits", (9, 9, 1))
    assert launch(f"--gin_file={EXPERIMENT}", *params(TINY)) == 2
    assert "must be divisible by 4. Received: input shape (9, 9, 1)" in (
        capsys.readouterr().err
    )


def test_a_refused_run_leaves_the_folder_of_another_as_it_was(
    launch, random_data, capsys, tmp_path
):
    file = f"--gin_file={EXPERIMENT}"
    assert launch(file, *params(TINY)) is None
    files = ("operative_config.gin", "environment.json", "summary.json")
    before = [(tmp_path / name).read_text() for name in files]
    assert launch(file, *params(TINY), "--seed=9") == 2
    assert "belongs to another run:\n  seed: '0' there, '9' here" in (
        capsys.readouterr().err
    )
    assert [(tmp_path / name).read_text() for name in files] == before


def test_the_flag_sets_a_radius_that_is_left_open(launch, random_data, tmp_path):
    """`--epsilon` is enough where a configuration leaves the radius open."""
    parts = ("base/train", "datasets/digits", "architectures/cnn_2layer")
    arguments = [f"--gin_file={CONFIGS / part}.gin" for part in parts]
    arguments.append(f"--gin_file={CONFIGS / 'methods' / 'natural'}.gin")
    assert launch(*arguments, "--epsilon=0.1", *params(TINY)) is None
    assert configuration.operative()
