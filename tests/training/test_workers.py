"""Two workers, each a process of its own, on the loopback address."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.files import read_json_lines
from robust_tf.training import cluster
from robust_tf.training.distribution import strategy_for

ROOT = pathlib.Path(__file__).parents[2]
_EXPERIMENT = """
include 'gin_configs/base/train.gin'
include 'gin_configs/datasets/digits.gin'
include 'gin_configs/architectures/cnn_2layer.gin'
include 'gin_configs/methods/crown_ibp.gin'
from __gin__ import dynamic_registration
import keras
from robust_tf import regions
from robust_tf import schedules
from robust_tf.architectures import cnn
from robust_tf.experiments import settings

regions.Threat.epsilon = 0.05
settings.Data.batch_size = 64
settings.Run:
    optimizer = @keras.optimizers.SGD
    learning_rate = 0.05
    neuron_examples = 0
cnn.cnn_2layer:
    width = 1
    linear_size = 16
ramp/schedules.LinearRamp:
    start = 0
    length = 1
"""
# A lost worker is noticed by health checks, every 30 s, of up to 3 times 10 s.
_NOTICED_S = 180


@pytest.fixture
def program(tmp_path):
    """Starts training processes; ends what is left of them."""
    (tmp_path / "experiment.gin").write_text(_EXPERIMENT)
    running = []

    def start(workdir, epochs, workers=None, index=0):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment.pop("TF_CONFIG", None)
        if workers:
            task = {"type": "worker", "index": index}
            config = {"cluster": {"worker": workers}, "task": task}
            environment["TF_CONFIG"] = json.dumps(config)
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "bin.train"),
                f"--gin_file={tmp_path / 'experiment.gin'}",
                f"--workdir={tmp_path / workdir}",
                f"--gin_param=settings.Run.epochs = {epochs}",
            ],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def addresses(count=2):
    """Free ports of this machine."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    found = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return found


def train_by_two(program, workdir, epochs):
    workers = addresses()
    pair = [program(workdir, epochs, workers, index) for index in range(2)]
    for process in pair:
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said[-2000:]


def weights(folder):
    return keras.models.load_model(folder / "model.keras").get_weights()


def assert_equal_runs(one, other):
    for first, second in zip(weights(one), weights(other), strict=True):
        np.testing.assert_allclose(first, second, rtol=0, atol=1e-6)


def test_two_workers_train_as_one(program, tmp_path):
    train_by_two(program, "two", epochs=2)
    alone = program("one", 2)
    _, said = alone.communicate(timeout=600)
    assert alone.returncode == 0, said[-2000:]
    assert_equal_runs(tmp_path / "one", tmp_path / "two")
    for name in ("metrics.jsonl", "summary.json"):
        one, two = (
            read_json_lines(tmp_path / run / name)
            if name.endswith("l")
            else [json.loads((tmp_path / run / name).read_text())]
            for run in ("one", "two")
        )
        assert len(one) == len(two)
        for first, second in zip(one, two, strict=True):
            assert first.keys() == second.keys()
            for key in ("loss", "clean_accuracy", "certified_accuracy"):
                if key in first:
                    assert first[key] == pytest.approx(second[key], abs=1e-5)


@pytest.mark.slow
def test_a_lost_worker_ends_the_other_and_both_resume(program, tmp_path):
    log = tmp_path / "two" / "metrics.jsonl"
    workers = addresses()
    first, second = (program("two", 10_000, workers, index) for index in range(2))
    begun = time.monotonic()
    while not (log.is_file() and log.read_text().count("\n") >= 2):
        assert time.monotonic() - begun < 300
        assert first.poll() is None
        time.sleep(0.5)
    second.send_signal(signal.SIGKILL)
    _, said = first.communicate(timeout=_NOTICED_S)
    assert first.returncode == 1
    assert "Another worker has gone" in said
    assert "Traceback" not in said
    epochs = log.read_text().count("\n") + 2
    train_by_two(program, "two", epochs)
    alone = program("one", epochs)
    assert alone.wait(timeout=600) == 0
    assert_equal_runs(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", '
        '"index": 0}}',
        '{"cluster": {"worker": ["a:1"], "ps": []}, "task": {"type": "worker", '
        '"index": 0}}',
    ],
)
def test_other_clusters_are_refused(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(InputError, match="TF_CONFIG"):
        cluster.count_workers()


def test_one_process_is_its_own_chief(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert cluster.count_workers() == 1
    assert cluster.is_chief()


def test_devices_beside_workers_are_refused(monkeypatch):
    task = {"type": "worker", "index": 1}
    config = {"cluster": {"worker": ["a:1", "b:1"]}, "task": task}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert not cluster.is_chief()
    with pytest.raises(InputError, match="Leave them out"):
        strategy_for(("CPU:0",))


def test_a_missing_tpu_is_named(monkeypatch):
    def resolve(tpu):
        raise OSError(f"no route to {tpu}")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", resolve)
    with pytest.raises(InputError, match="TPU 'nowhere'.*no route"):
        strategy_for(("TPU:nowhere",))
