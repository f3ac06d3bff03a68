"""Devices that share the batches of an evaluation."""

import gin
import keras
import pytest

import robust_tf as rt
from robust_tf.attacks.pgd import PGD
from robust_tf.experiments import configuration
from robust_tf.experiments.evaluate import evaluate
from robust_tf.experiments.settings import Bounds
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Examples
from robust_tf.regions import Threat

CONFIGURATION = "gin_configs/base/evaluate.gin"


@pytest.fixture
def path(tmp_path):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    model.save(tmp_path / "model.keras")
    return str(tmp_path / "model.keras")


def test_devices_make_no_difference(path):
    """45 images, in batches of 20: the last one is filled up, and works alone."""
    found = []
    for devices in ((), ("CPU:0", "CPU:1")):
        result = evaluate(
            None,
            models=[path],
            data=Data("digits"),
            threat=Threat(0.03),
            examples=Examples(count=45, batch_size=20),
            bounds=Bounds(("ibp",)),
            attack=PGD(steps=2),
            devices=devices,
        )
        (record,) = result["models"]
        del record["seconds"]
        found.append(record)
    assert found[0] == found[1]
    assert found[0]["examples"] == 45
    assert 0.0 < found[0]["certified_accuracy"] < found[0]["clean_accuracy"]


def test_devices_are_a_binding(path):
    bindings = [
        "evaluate.evaluate.devices = ('CPU:0', 'GPU:7')",
        "settings.Data.name = 'digits'",
        "regions.Threat.epsilon = 0.1",
    ]
    configuration.parse([CONFIGURATION], bindings)
    try:
        with pytest.raises(rt.InputError, match=r"no device \['GPU:7'\]"):
            configuration.call(evaluate, workdir=None, models=(path,))
    finally:
        gin.clear_config()
