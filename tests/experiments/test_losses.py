"""Losses over a data set: equal to direct computation, in their order, and recorded."""

import json
import re

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from bin import losses as program
from robust_tf import data as datasets
from robust_tf import layers
from robust_tf.attacks.pgd import PGD
from robust_tf.experiments import command_line
from robust_tf.experiments.losses import Selected
from robust_tf.experiments.losses import losses
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Examples
from robust_tf.objectives.forward import Adversary
from robust_tf.objectives.survey import METHODS
from robust_tf.objectives.survey import survey
from robust_tf.regions import Threat
from tests.experiments import programs

DIGITS = Data("digits")
EPSILON = 0.04
COEFFICIENTS = (0.0, 0.01, 0.25, 0.5, 0.9, 1.0)
ATTACK = PGD(steps=5, objective="cross_entropy", step_decay=(), keep="best_iterate")
EXAMPLES = Examples(start=300, count=45, batch_size=20)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A small network whose moving statistics are not those of any batch."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8, 8, 1))
    tensor = layers.Conv2D(4, 3, 2, "same")(inputs)
    tensor = layers.BatchNormalization(name="norm")(tensor)
    tensor = layers.Flatten()(layers.ReLU()(tensor))
    tensor = layers.ReLU()(layers.Dense(12)(tensor))
    model = keras.Model(inputs, layers.Dense(10)(tensor))
    random = np.random.default_rng(0)
    norm = model.get_layer("norm")
    scales = [random.uniform(0.5, 1.5, 4) for _ in norm.get_weights()]
    norm.set_weights(scales)
    file = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(file)
    return file


@pytest.fixture(scope="module")
def measured(path):
    """Of some of the images, at all coefficients, by an attack in the same ball."""
    return measure(path)


def measure(path, examples=EXAMPLES, coefficients=COEFFICIENTS, **more):
    arguments = {"attack": ATTACK, "threat": Threat(EPSILON)} | more
    (record,) = losses(
        None,
        models=[path],
        data=DIGITS,
        examples=examples,
        coefficients=coefficients,
        **arguments,
    )["models"]
    return record


def middle(logits_fn, region, labels, seed):
    """An attack that draws nothing, and is none: halfway to the lower ends."""
    return (region.x + region.box.lower) / 2.0


def cross_entropy(margins):
    return np.log1p(np.exp(-np.asarray(margins, np.float64)).sum(-1))


class Direct:
    """The losses by numbers alone, from the library's own bounds of single boxes."""

    def __init__(self, path, factor=1.0, start=300, stop=345):
        self.model = rt.convert(path)
        test = datasets.load("digits", "test")
        self.images = tf.constant(test.floats(slice(start, stop)))
        self.labels = test.labels[start:stop]
        self.rows = rt.margin_specification(self.labels, 10)
        self.ball = rt.LpBall(self.images, EPSILON)
        wide = rt.LpBall(self.images, factor * EPSILON)
        self.wide, self.points = wide, middle(None, wide, None, None)
        self.ibp = self.bound(self.ball, "ibp")
        self.crown = np.maximum(self.bound(self.ball, "crown"), self.ibp)
        self.adversarial = self.margins(self.points)

    def bound(self, region, method):
        bound = rt.compute_bounds(self.model, region, method, self.rows)
        return bound.lower.numpy().astype(np.float64)

    def margins(self, images):
        logits = self.model(images, training=False)
        return tf.linalg.matvec(self.rows, logits).numpy()

    def small_box(self, share):
        """Pixel by pixel, as arXiv:2210.04871 has it, within the ball."""
        radius = share * self.wide.radius.numpy()
        low, high = self.wide.box.lower.numpy(), self.wide.box.upper.numpy()
        center = np.maximum(self.points.numpy(), low + radius)
        center = np.minimum(center, high - radius)
        return rt.Box(
            np.maximum(center - radius, low), np.minimum(center + radius, high)
        )

    def losses(self, coefficient):
        certified, attacked = cross_entropy(self.ibp), cross_entropy(self.adversarial)
        mixed = coefficient * self.ibp + (1.0 - coefficient) * self.adversarial
        small = self.bound(self.small_box(coefficient), "ibp")
        power = np.mean(certified) ** coefficient
        return {
            "cc-ibp": np.mean(cross_entropy(mixed)),
            "mtl-ibp": np.mean(coefficient * certified + (1 - coefficient) * attacked),
            "exp-ibp": power * np.mean(attacked) ** (1.0 - coefficient),
            "sabr": np.mean(cross_entropy(small)),
        }


@pytest.mark.parametrize("factor", [1.0, 2.1])
def test_losses_equal_those_of_a_direct_computation(path, factor):
    direct = Direct(path, factor)
    record = measure(path, attack=middle, adversary=Adversary(middle, factor))
    tested = direct.margins(middle(None, direct.ball, None, None))
    expected = {
        "natural": cross_entropy(direct.margins(direct.images)).mean(),
        "adversarial": cross_entropy(tested).mean(),
        "crown": cross_entropy(direct.crown).mean(),
        "ibp": cross_entropy(direct.ibp).mean(),
    }
    assert record["losses"] == pytest.approx(expected, abs=1e-6)
    for place, coefficient in enumerate(COEFFICIENTS):
        found = {name: record["by_method"][name][place] for name in METHODS}
        assert found == pytest.approx(direct.losses(coefficient), abs=1e-6)
    assert record["examples"] == 45
    assert record["attack_eps_factor"] == factor


def test_order(measured):
    """At equal statistics, with the attack inside of what is bounded."""
    one, slack = measured["losses"], 1e-6
    assert one["natural"] <= one["adversarial"] <= one["crown"] <= one["ibp"]
    assert one["ibp"] - one["adversarial"] > 0.01  # So that the order says something.
    by_method = measured["by_method"]
    for cc, mtl, exp, small in zip(*map(by_method.get, METHODS), strict=True):
        assert one["adversarial"] - slack <= min(cc, exp, small)
        assert max(cc, exp) <= mtl + slack
        assert max(mtl, small) <= one["ibp"] + slack
    for values in by_method.values():
        assert values == sorted(values)


def test_ends(measured):
    for values in measured["by_method"].values():
        assert values[0] == pytest.approx(measured["losses"]["adversarial"], abs=1e-6)
        assert values[-1] == pytest.approx(measured["losses"]["ibp"], abs=1e-6)


def test_mixtures_differ_in_between(measured):
    inner = {round(values[3], 9) for values in measured["by_method"].values()}
    assert len(inner) == len(METHODS)


def test_a_greater_radius_is_for_training_losses_alone(path, measured):
    wide = measure(path, adversary=Adversary(ATTACK, 2.0))
    assert wide["losses"] == pytest.approx(measured["losses"], abs=1e-6)
    doubled = measure(path, threat=Threat(2 * EPSILON), coefficients=(1.0,))
    sabr = wide["by_method"]["sabr"][-1]
    assert sabr == pytest.approx(doubled["losses"]["ibp"], abs=1e-5)
    assert wide["by_method"]["mtl-ibp"][0] > measured["losses"]["adversarial"]


def test_another_attack_of_training(path, measured):
    weak = measure(path, adversary=Adversary(PGD(steps=0, random_start=False)))
    assert weak["losses"] == measured["losses"]
    natural = pytest.approx(measured["losses"]["natural"], abs=1e-6)
    assert weak["by_method"]["cc-ibp"][0] == natural


def test_batches_make_no_difference(path):
    records = [
        measure(path, Examples(count=30, batch_size=size), attack=middle)
        for size in (7, 30)
    ]
    values = [(record["losses"], record["by_method"]["exp-ibp"]) for record in records]
    assert values[0][0] == pytest.approx(values[1][0], abs=1e-6)
    assert values[0][1] == pytest.approx(values[1][1], abs=1e-6)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_other_splits(path, split):
    (record,) = losses(
        None,
        models=[path],
        data=Data("digits", validation_share=0.2),
        examples=Examples(split, count=7),
        threat=Threat(EPSILON),
        attack=middle,
        coefficients=[0.5],
    )["models"]
    images = datasets.load("digits", split, validation_share=0.2)
    logits = rt.convert(path)(images.floats(slice(7)), training=False)
    natural = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = float(natural(images.labels[:7], logits))
    assert record["losses"]["natural"] == pytest.approx(expected, abs=1e-6)
    assert (record["split"], record["examples"]) == (split, 7)


@pytest.mark.parametrize("method", METHODS)
def test_tuning_statistics(path, method):
    direct = Direct(path)
    found = measure(path, attack=middle, selected=Selected(method, 0.3))["tuning"]
    verified = cross_entropy(direct.crown)
    certified, attacked = cross_entropy(direct.ibp), cross_entropy(direct.adversarial)
    mixed = 0.3 * direct.ibp + 0.7 * direct.adversarial
    training = {
        "cc-ibp": cross_entropy(mixed),
        "mtl-ibp": 0.3 * certified + 0.7 * attacked,
        "exp-ibp": certified**0.3 * attacked**0.7,  # Each example by itself.
        "sabr": cross_entropy(direct.bound(direct.small_box(0.3), "ibp")),
    }[method]
    expected = {
        "training_loss": training.mean(),
        "verified_loss": verified.mean(),
        "mean_difference": (training - verified).mean(),
        "rms_difference": np.sqrt(np.mean((training - verified) ** 2)),
        "verified_accuracy": (direct.crown > 1e-5).all(-1).mean(),
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-6)
    assert (found["verifier"], found["examples"], found["start"]) == ("crown", 45, 300)
    assert (found["method"], found["coefficient"]) == (method, 0.3)
    assert ("exp_ibp_means" in found) == (method == "exp-ibp")


def test_tuning_statistics_of_the_whole_split(path):
    selected = Selected("cc-ibp", 0.1)
    found = measure(path, attack=middle, selected=selected)["tuning"]["whole_split"]
    direct = Direct(path, start=0, stop=360)
    logits = direct.model(direct.images, training=False).numpy()
    assert found == pytest.approx(
        {
            "examples": 360,
            "clean_accuracy": (logits.argmax(-1) == direct.labels).mean(),
            "natural_loss": cross_entropy(direct.margins(direct.images)).mean(),
            "adversarial_loss": cross_entropy(direct.adversarial).mean(),
            "ibp_loss": cross_entropy(direct.ibp).mean(),
        },
        abs=1e-6,
    )


class Generous:
    """A verifier that proves each margin to be 5 more than bounds say."""

    name = "generous"

    def __init__(self, direct):
        self.direct, self.done = direct, 0

    def __call__(self, model, region, labels, margins):
        until = self.done + len(margins)
        images = self.direct.images[self.done : until]
        np.testing.assert_array_equal(region.x, images)
        np.testing.assert_array_equal(labels, self.direct.labels[self.done : until])
        known = self.direct.crown[self.done : until]
        np.testing.assert_allclose(margins, known, atol=1e-5)
        assert float(region.radius) == pytest.approx(EPSILON)
        assert model.output_shape == (None, 10)
        self.done = until
        return margins + 5.0


def test_a_verifier_slots_in(path):
    direct = Direct(path)
    verifier = Generous(direct)
    found = measure(path, selected=Selected("cc-ibp", 0.1), verifier=verifier)["tuning"]
    assert verifier.done == 45
    assert found["verifier"] == "generous"
    expected = cross_entropy(direct.crown + 5.0).mean()
    assert found["verified_loss"] == pytest.approx(expected, abs=1e-5)


def test_sabr_is_for_boxes(path):
    euclidean = {"threat": Threat(0.1, 2), "attack": middle}
    record = measure(path, **euclidean)
    assert set(record["by_method"]) == set(METHODS) - {"sabr"}
    with pytest.raises(rt.InputError, match="needs perturbations in the Linf norm"):
        measure(path, selected=Selected("sabr", 0.1), **euclidean)


def test_no_examples(path):
    model = rt.convert(path)
    with pytest.raises(rt.InputError, match="no examples"):
        survey(model, [], Threat(0.1), attack=middle)


@pytest.mark.parametrize(
    ("method", "coefficient", "message"),
    [("mtl", 0.1, "`method` must be one of"), ("sabr", 1.5, r"must lie in \[0, 1\]")],
)
def test_selections_that_are_refused(method, coefficient, message):
    with pytest.raises(rt.InputError, match=message):
        Selected(method, coefficient)


# The program.


@pytest.fixture
def launch(monkeypatch, tmp_path, path):
    """A function that runs `bin/losses.py` in this process; it returns the status."""

    def run(*arguments, folder=tmp_path):
        given = (f"--workdir={folder}", f"--model={path}", *arguments)
        return programs.launch(monkeypatch, program, *given, name="losses.py")

    yield run
    gin.clear_config()


SOME = ("--dataset=digits", "--epsilon=0.04", "--count=20", "--start=5")
QUICK = ("--gin_param=test/pgd.PGD.steps = 2", "--coefficients=0,0.5,1")


def test_program(launch, tmp_path, capsys):
    given = (*SOME, *QUICK, "--seed=3", "--attack_eps_factor=1.5")
    assert launch(*given, "--method=exp-ibp", "--coefficient=0.25") is None
    (record,) = json.loads((tmp_path / "losses.json").read_text())["models"]
    assert record["coefficients"] == [0.0, 0.5, 1.0]
    assert set(record["by_method"]) == set(METHODS)
    assert (record["seed"], record["start"], record["examples"]) == (3, 5, 20)
    assert record["attack_eps_factor"] == 1.5
    assert record["tuning"]["method"] == "exp-ibp"
    assert record["tuning"]["whole_split"]["examples"] == 360
    assert record["model_digest"] and record["data_digest"]
    shown = capsys.readouterr().out
    for value in (record["losses"]["ibp"], record["by_method"]["cc-ibp"][1]):
        assert f"{value:.4f}" in shown
    assert "Exp-IBP: powers of the means of the whole set" in shown
    assert "margins verified by: crown" in shown
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
    again = tmp_path / "again"
    assert launch(f"--gin_file={tmp_path / 'losses_config.gin'}", folder=again) is None
    (replayed,) = json.loads((again / "losses.json").read_text())["models"]
    assert replayed | {"seconds": 0} == record | {"seconds": 0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method=mtl-ibp"], "need both `--method` and `--coefficient`"),
        (["--coefficient=0.5"], "need both `--method` and `--coefficient`"),
        (["--method=mtl-ibp", "--coefficient=2"], r"must lie in \[0, 1\].*Received"),
        (["--coefficients="], "`--coefficients` must be numbers"),
        (["--coefficients=0,x"], "Received: 'x' in '0,x'"),
        (["--coefficients=0.1,0.10"], "must name each number once"),
        (["--coefficients=0,1.5"], r"`--coefficients` must lie in \[0, 1\]"),
        (["--attack_eps_factor=0"], "`radius_factor` must be above 0"),
        (["--count=361"], "has 360 examples"),
        (["--epsilon=8"], "pixels in"),
        (["--model=none.keras"], "does not exist"),
    ],
)
def test_bad_input(launch, capsys, arguments, message):
    assert launch(*SOME, *arguments) == command_line.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert error.startswith("losses.py: ") or "\nlosses.py: " in error
    assert "Traceback" not in error
    assert re.search(message, error, re.DOTALL), error
