"""What file names of published models say."""

import dataclasses
import datetime

import pytest

from robust_tf.errors import InputError
from robust_tf.interchange.model_names import ModelName
from robust_tf.interchange.model_names import parse_name

MARGIN = "2019-02-17 01:54:16 dataset=mnist nn_type=cnn_lenet_small p_norm=inf "


def stated(name):
    """The fields that are not left open."""
    fields = dataclasses.asdict(name)
    return {key: value for key, value in fields.items() if value not in (None, {})}


def test_maximum_margin():
    name = MARGIN + "lmbd=0.5 gamma_rb=0.2 gamma_db=0.2 ae_frac=0.5 epoch=100.mat"
    assert stated(parse_name(f"models/mmr+at/{name}")) == {
        "convention": "max-margin",
        "timestamp": datetime.datetime(2019, 2, 17, 1, 54, 16),
        "dataset": "mnist",
        "architecture": "cnn_lenet_small",
        "norm": "inf",
        "weight": 0.5,
        "gamma_region": 0.2,
        "gamma_decision": 0.2,
        "gamma_unit": 1.0,
        "adversarial_share": 0.5,
        "epoch": 100,
    }


def test_keys_of_newer_and_older_files():
    name = parse_name(
        "2019-02-25 15:20:35 dataset=fmnist nn_type=fc1 p_norm=2 lr=0.001 "
        "stage1hpl=0.1 n_epochs=100 epoch=50.mat"
    )
    assert (name.learning_rate, name.epochs, name.epoch) == (0.001, 100, 50)
    assert name.others == {"stage1hpl": "0.1"}
    assert name.weight is None and name.gamma_unit is None


# Published training divides both by 255 where the second is at least 1, for l-inf.
@pytest.mark.parametrize(
    ("norm", "gamma_rb", "gamma_db", "unit"),
    [
        ("inf", "6.0", "6.0", 1 / 255),
        ("inf", "0.2", "1.0", 1 / 255),
        ("inf", "6.0", "0.9", 1.0),
        ("inf", "0.2", "0.2", 1.0),
        ("2", "6.0", "6.0", 1.0),
    ],
)
def test_gammas_are_undivided_and_their_unit_is_told(norm, gamma_rb, gamma_db, unit):
    name = parse_name(
        f"2019-02-25 15:20:35 dataset=gts nn_type=fc1 p_norm={norm} "
        f"gamma_rb={gamma_rb} gamma_db={gamma_db}.mat"
    )
    assert name.gamma_region == float(gamma_rb)
    assert name.gamma_decision == float(gamma_db)
    assert name.gamma_unit == unit


def test_convex_adversarial_polytopes():
    name = parse_name(
        "kw/p_norm=inf dataset=gts_model=cnn_lenet_small_method=robust_eps=0.015686"
        "_checkpoint.mat"
    )
    assert stated(name) == {
        "convention": "polytope",
        "norm": "inf",
        "dataset": "gts",
        "architecture": "cnn_lenet_small",
        "method": "robust",
        "epsilon": 0.015686,
    }


@pytest.mark.parametrize("word", ["lambdas", "lmabdas"])
@pytest.mark.parametrize(
    ("gammas", "unit"), [((1.0, 0.175), 1.0), ((6.0, 6.0), 1 / 255)]
)
def test_universal(word, gammas, unit):
    name = parse_name(
        f"mmr_univ_gts_gammas_{gammas[0]}_{gammas[1]}_{word}_3.0_12.0.mat"
    )
    assert stated(name) == {
        "convention": "universal",
        "dataset": "gts",
        "norm": "univ",
        "gamma_l1": gammas[0],
        "gamma_linf": gammas[1],
        "gamma_unit": unit,
        "weight_l1": 3.0,
        "weight_linf": 12.0,
    }


def test_names_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelName("max-margin").dataset = "mnist"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.mat", "Received: 'model.mat'"),
        (f"{MARGIN}epoch=1", "The name of a published model is"),
        ("2019-02-30 01:54:16 dataset=mnist.mat", "The name of a published model is"),
        ("dataset=mnist nn_type=fc1.mat", "The name of a published model is"),
        (f"{MARGIN}epoch.mat", "`key=value`, each key once. Received: 'epoch'"),
        (f"{MARGIN}epoch=.mat", "Received: 'epoch='"),
        (f"{MARGIN}p_norm=2.mat", "Received: 'p_norm=2'"),
        (f"{MARGIN}lmbd=high.mat", "`lmbd` .* must be a number. Received: 'high'"),
        (f"{MARGIN}gamma_rb=nan.mat", "`gamma_rb` .* a number. Received: 'nan'"),
        (f"{MARGIN}epoch=1.5.mat", "`epoch` .* a whole number. Received: '1.5'"),
        (
            "mmr_univ_gts_gammas_a_1.0_lambdas_3.0_12.0.mat",
            "`gamma_l1` .* Received: 'a'",
        ),
        (
            "p_norm=2 dataset=gts_model=fc1_method=robust_eps=x_checkpoint.mat",
            "`eps` .* Received: 'x'",
        ),
    ],
)
def test_other_names_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        parse_name(name)
