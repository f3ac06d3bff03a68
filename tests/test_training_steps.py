"""The benchmark of training steps: all methods, in all settings, as configured."""

import pathlib
import re

import gin
import numpy as np
import pytest

from benchmarks import training_settings
from benchmarks import training_steps
from robust_tf.experiments import configuration

CONFIGS = pathlib.Path(__file__).parents[1] / "gin_configs"
SETTINGS = training_settings.SETTINGS
# Included by others; no methods of their own.
SHARED = {"fast", "expressive"}
# For classifiers that will be smoothed: other networks, other optimizers.
SMOOTHED = {"smoothing"} | {
    path.stem
    for path in (CONFIGS / "methods").glob("*.gin")
    if re.search(r"^include '.*/(smoothing|gaussian)\.gin'", path.read_text(), re.M)
}
# Timed by `benchmarks.max_margin`, on networks of their own.
MARGINS = {"mmr", "mmr_at", "mmr_universal", "half_adversarial", "convex_adversarial"}
# Their backward passes for each neuron ask for smaller networks.
BY_PASSES = {"convex_adversarial_projections", "crown"}
FEW_NEURONS = ("cnn7.cnn7.width = 4", "cnn7.cnn7.linear_size = 8")


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


def test_every_method_is_named():
    methods = {path.stem for path in (CONFIGS / "methods").glob("*.gin")}
    methods -= SHARED | SMOOTHED | MARGINS | BY_PASSES
    assert set(training_settings.METHODS) == methods
    assert len(set(training_settings.METHODS)) == len(training_settings.METHODS)
    for setting in SETTINGS.values():
        assert set(setting.left_out) < set(setting.bindings) == methods


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("method", training_settings.METHODS)
def test_configurations_are_whole(name, method):
    setting = SETTINGS[name]
    configuration.parse(setting.files(method), setting.params(method))
    assert gin.query_parameter("regions.Threat.epsilon") == setting.epsilon
    assert gin.query_parameter("settings.Data.batch_size") == 128


def test_published_experiments_are_taken():
    (file,) = SETTINGS["cifar10_2"].files("mtl_ibp")
    assert file == str(CONFIGS / "experiments" / "cifar10_eps2_255_mtl_ibp.gin")
    *parts, method = SETTINGS["cifar10_2"].files("edac")
    assert method == str(CONFIGS / "methods" / "edac.gin")
    assert all(pathlib.Path(part).is_file() for part in (*parts, method))


@pytest.mark.parametrize(
    "method, options",
    [
        ("fast_ibp", {"steps": 8}),
        ("mtl_ibp", {"steps": 8}),
        ("edac", {"steps": 1, "micro_batches": 2, "batches": 2}),
    ],
)
def test_losses_on_random_images(method, options):
    plan = training_steps.Plan(batch_size=8, params=FEW_NEURONS, **options)
    result = training_steps.measure(method, "cifar10_8", plan)
    assert len(result["step_losses"]) == len(result["turns"]) == plan.steps + 1
    assert np.isfinite(result["step_losses"]).all()
    assert result["wall_ms"] > 0.0 < result["peak_memory_mib"]
    if plan.batches == 1:
        assert result["loss_after"] < result["loss_before"]
