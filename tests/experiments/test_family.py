"""Families: members by index, range and name; a run folder and a seed for each."""

import json
import math
import pathlib
import re

import gin
import keras
import pytest
from absl import flags

import robust_tf as rt
from bin import train as program
from robust_tf import layers
from robust_tf.architectures import blocks
from robust_tf.architectures import gowal
from robust_tf.architectures import wong_kolter
from robust_tf.experiments import command_line
from robust_tf.experiments import configuration
from robust_tf.experiments import evaluate
from robust_tf.experiments import family
from robust_tf.experiments.family import Family
from robust_tf.experiments.settings import Run

CONFIGS = pathlib.Path(__file__).parents[2] / "gin_configs"
MNIST, CIFAR = (28, 28, 1), (32, 32, 3)
# By file: shape of the images; of each member parameters, and ReLUs where published.
MEMBERS = {
    "mnist_small": (
        MNIST,
        {
            "cnn_2layer_width_1": (52_182, 1_304),
            "cnn_2layer_width_2": (205_730, 2_608),
            "cnn_4layer_linear_256_width_1": (170_598, 6_392),
            "cnn_4layer_linear_256_width_2": (275_714, 12_272),
            "cnn_4layer_linear_512_width_1": (470_630, 6_904),
            "cnn_4layer_linear_512_width_2": (676_098, 12_784),
            "cnn_3layer_fixed_kernel_3_width_1": (27_170, 9_864),
            "cnn_3layer_fixed_kernel_3_width_2": (107_130, 19_728),
            "cnn_3layer_fixed_kernel_5_width_1": (21_090, 7_664),
            "cnn_3layer_fixed_kernel_5_width_2": (82_682, 15_328),
        },
    ),
    "mnist_medium": (
        MNIST,
        {
            "cnn_4layer_linear_256_width_4": (1_096_442, 24_544),
            "cnn_4layer_linear_512_width_4": (1_096_442, 24_544),
            "cnn_4layer_linear_512_width_8": (1_974_762, 48_064),
            "cnn_4layer_linear_512_width_16": (3_881_930, 95_104),
            "cnn_3layer_fixed_kernel_5_width_16": (2_833_802, 122_112),
            "cnn_3layer_fixed_kernel_5_width_8": (1_302_986, 61_312),
            "cnn_3layer_fixed_kernel_5_width_4": (625_130, 30_912),
            "cnn_3layer_fixed_kernel_3_width_8": (1_695_690, 78_912),
        },
    ),
    "cifar10_small": (
        CIFAR,
        {
            "cnn_2layer_width_2": (267_426, 3_328),
            "cnn_4layer_linear_256_width_1": (201_390, 8_192),
            "cnn_4layer_linear_256_width_2": (337_298, 15_872),
            "cnn_4layer_linear_512_width_1": (532_142, 8_704),
            "cnn_4layer_linear_512_width_2": (799_122, 16_384),
            "cnn_3layer_fixed_kernel_3_width_1": (2_187_786, 102_912),
            "cnn_3layer_fixed_kernel_3_width_2": (137_994, 25_728),
            "cnn_3layer_fixed_kernel_5_width_1": (27_946, 10_328),
            "cnn_3layer_fixed_kernel_5_width_2": (109_706, 20_656),
        },
    ),
    "cifar10_medium": (
        CIFAR,
        {
            "cnn_2layer_width_8": (560_106, 12_416),
            "cnn_2layer_width_16": (2_234_314, 24_832),
            "cnn_4layer_linear_256_width_8": (1_218_602, 61_952),
            "cnn_4layer_linear_256_width_16": (2_569_290, 123_392),
            "cnn_4layer_linear_512_width_8": (2_466_858, 62_464),
            "cnn_4layer_linear_512_width_16": (4_866_122, 123_904),
            "cnn_3layer_fixed_kernel_3_width_8": (1_136_394, 102_656),
            "cnn_3layer_fixed_kernel_3_width_16": (4_537_866, 205_312),
        },
    ),
    "gowal": (
        MNIST,
        {
            "dm_tiny": (79_510, None),
            "dm_small": (329_606, None),
            "dm_medium": (893_418, None),
            "dm_large": (13_257_290, 176_128),
            "dm_large_200": (5_426_402, None),
        },
    ),
    "wong_kolter_mnist": (
        MNIST,
        {
            "small": (166_406, 4_804),
            "large": (1_974_762, 48_064),
            "wide_1": (52_182, 1_304),
            "wide_2": (205_730, 2_608),
            "wide_4": (816_954, 5_216),
            "wide_8": (3_255_914, 10_432),
            "deep_1": (81_710, None),
            "deep_2": (85_902, None),
        },
    ),
    "wong_kolter_cifar10": (
        CIFAR,
        {
            "small": (214_918, None),
            "large": (2_466_858, 62_464),
            "resnet": (4_214_850, None),
        },
    ),
}
# Small networks on the embedded digits, one epoch.
DIGITS = """
include 'gin_configs/base/train.gin'
include 'gin_configs/datasets/digits.gin'
include 'gin_configs/methods/ibp.gin'
from __gin__ import dynamic_registration
from robust_tf import regions
from robust_tf.architectures import cnn
from robust_tf.attacks import pgd
from robust_tf.experiments import family
from robust_tf.experiments import settings

family.Family.members = (
    ('narrow', @narrow/cnn.mlp),
    ('deep', @deep/cnn.mlp),
)
narrow/cnn.mlp.hidden = (4,)
deep/cnn.mlp.hidden = (4, 4)
regions.Threat.epsilon = 0.01
settings.Data.batch_size = 128
settings.Run.epochs = 1
settings.Run.neuron_examples = 0
test/pgd.PGD.steps = 1
"""


@pytest.fixture(autouse=True)
def clear_configuration():
    yield
    gin.clear_config()


@pytest.fixture
def launch(monkeypatch, tmp_path):
    """A function that runs `bin/train.py` in this process; it returns the status."""
    file = tmp_path / "digits.gin"
    file.write_text(DIGITS)

    def run(*arguments, folder=tmp_path / "runs"):
        values = flags.FlagValues()
        program.define_flags(values)
        given = ["train.py", f"--gin_file={file}", f"--workdir={folder}", *arguments]
        command_line.parse_flags(given, values)
        monkeypatch.setattr(program, "_FLAGS", values)
        return command_line.guarded(program.main, ["train.py"])

    return run


def neurons(model):
    relus = (layer for layer in model.layers if isinstance(layer, layers.ReLU))
    return sum(math.prod(layer.output.shape[1:]) for layer in relus)


@pytest.mark.parametrize("name", MEMBERS)
def test_published_members(name, monkeypatch):
    """Order, ids and sizes; nothing is drawn, which takes time."""
    monkeypatch.setattr(blocks, "fan_in_uniform", lambda _: "zeros")
    monkeypatch.setattr(wong_kolter, "fan_out_normal", lambda _: "zeros")
    monkeypatch.setattr(gowal.keras.initializers, "Orthogonal", lambda: "zeros")
    configuration.parse([str(CONFIGS / "members" / f"{name}.gin")], None)
    shape, wanted = MEMBERS[name]
    found = configuration.call(Family)
    assert found.names == tuple(wanted)
    for (member, build), (parameters, relus) in zip(
        found.members, wanted.values(), strict=True
    ):
        model = build(shape, 10)
        assert (member, model.count_params()) == (member, parameters)
        assert relus in (None, neurons(model))


def test_every_file_of_members_is_checked():
    assert {path.stem for path in (CONFIGS / "members").glob("*.gin")} == set(MEMBERS)


@pytest.mark.parametrize("path", sorted((CONFIGS / "families").glob("*.gin")))
def test_families_say_what_is_published(path):
    header = path.read_text().partition("include")[0]
    assert re.search(r"^# Published: ", header, re.M)
    assert "arXiv:" in header


def some_family():
    return Family(tuple((name, lambda *_: None) for name in ("a", "b", "c", "d1")))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (None, [0, 1, 2, 3]),
        ("2", [2]),
        ("0,2-3", [0, 2, 3]),
        ("3, 1", [1, 3]),
        ("d1,a", [0, 3]),
        ("0-0", [0]),
    ],
)
def test_subsets(text, wanted):
    assert some_family().subset(text) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4", r"Received: '4' in '4'. The members are: 0 a, 1 b, 2 c, 3 d1"),
        ("0,e", "Received: 'e' in '0,e'"),
        ("", "Received: '' in ''"),
        ("1,", "Received: '' in '1,'"),
        ("3-1", "Received: '3-1'"),
        ("2-9", "Received: '2-9'"),
        ("-1", "Received: '-1'"),
        ("0-2,b", "must name each member once. Received: b twice, in '0-2,b'"),
    ],
)
def test_bad_subsets(text, message):
    with pytest.raises(rt.InputError, match=message):
        some_family().subset(text)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ((), r"pairs of a name and a factory.*Received: \(\)"),
        (3, "Received: 3"),
        ((("a", 1),), "pairs of a name and a factory"),
        ((("../a", len),), "names become folders"),
        ((("a", len), ("a", len)), "names of their own. Received: a twice"),
    ],
)
def test_bad_families(members, message):
    with pytest.raises(rt.InputError, match=message):
        Family(members)


def test_seeds_depend_on_the_family_and_on_the_name_alone():
    """Values written down: they must not change from one version to the next."""
    assert family.seed_of(0, "cnn_2layer_width_1") == 2_705_079_003
    assert family.seed_of(1, "cnn_2layer_width_1") == 2_228_854_287


def read(path):
    return json.loads(path.read_text())


def test_members_train_resume_and_are_skipped(launch, tmp_path, capsys):
    runs = tmp_path / "runs"
    assert launch("--model_subset=deep", "--seed=5") is None
    assert {path.name for path in runs.iterdir()} == {"deep"}
    assert read(runs / "deep" / family.RECORD)["index"] == 1
    (runs / "deep" / "metrics.jsonl").write_text("Nobody comes here again.")
    capsys.readouterr()
    assert launch("--seed=5") is None
    assert {path.name for path in runs.iterdir()} == {"narrow", "deep"}
    assert (runs / "deep" / "metrics.jsonl").read_text() == "Nobody comes here again."
    lines = capsys.readouterr().out.splitlines()
    first = [line.split()[0] for line in lines if line.strip()]
    assert [word for word in first if word in ("narrow", "deep")] == ["narrow", "deep"]
    for name in ("narrow", "deep"):
        assert read(runs / name / "summary.json")["seed"] == family.seed_of(5, name)
    assert launch("--seed=6", "--model_subset=1") == command_line.EXIT_BAD_INPUT
    assert "belongs to another run" in capsys.readouterr().err
    check_that_a_member_replays(runs / "deep")
    check_evaluation(runs)


def check_that_a_member_replays(run):
    """Its configuration is that of a single run, with its network and its seed."""
    configuration.parse([str(run / "operative_config.gin")], None)
    assert not family.is_configured()
    assert configuration.call(Run).seed == family.seed_of(5, "deep")
    reference = gin.query_parameter("train.train.architecture")
    built = keras.models.load_model(run / "model.keras").count_params()
    assert reference.scoped_configurable_fn((8, 8, 1), 10).count_params() == built


def check_evaluation(runs):
    """The folder of a family stands for its members, in the order of their indices."""
    names = [pathlib.Path(path).name for path in evaluate.members_of(runs)]
    assert names == ["narrow", "deep"]
    assert evaluate.dataset_of(runs) == "digits"
    (runs / "narrow" / "model.keras").unlink()
    with pytest.raises(rt.InputError, match="not trained to the end: narrow. Go on"):
        evaluate.members_of(runs)


def test_bad_input(launch, capsys, tmp_path):
    assert launch("--model_subset=7") == command_line.EXIT_BAD_INPUT
    assert "The members are: 0 narrow, 1 deep" in capsys.readouterr().err
    bound = "--gin_param=robust_tf.experiments.train.train.architecture=@cnn.mlp"
    assert launch(bound) == command_line.EXIT_BAD_INPUT
    assert "must be left out where `family.Family.members`" in capsys.readouterr().err
    single = f"--gin_file={CONFIGS / 'experiments' / 'digits_eps0.1_crown_ibp.gin'}"
    plain = DIGITS.partition("family.Family")[0].replace("family\n", "settings\n", 1)
    (tmp_path / "digits.gin").write_text(plain)
    assert launch(single, "--model_subset=0") == command_line.EXIT_BAD_INPUT
    assert "chooses members of a family. Received: '0'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
