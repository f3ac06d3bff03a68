"""Runs that several files of tests look at."""

import functools

import gin
import pytest

from bin import certify as certify_program
from bin import plot as plot_program
from robust_tf.experiments import certification
from robust_tf.smoothing import SmoothedClassifier
from tests.experiments import programs
from tests.experiments.certification.cases import certify
from tests.experiments.certification.cases import save


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model") / "model.keras")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, path):
    """The folder and the summary of a run without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, certify(folder, path)


@pytest.fixture(scope="module")
def smoothed_of(path):
    """One smoothed classifier for each noise: tracing takes longer than the work."""

    @functools.cache
    def make(noise, block_size):
        return SmoothedClassifier(path, noise=noise, block_size=block_size)

    return make


@pytest.fixture
def quick(monkeypatch, smoothed_of):
    """The same classifier in every run; for runs of `path`."""

    def make(_model, noise, strategy, block_size):
        assert strategy is None
        return smoothed_of(noise, block_size)

    monkeypatch.setattr(certification, "SmoothedClassifier", make)


@pytest.fixture
def launch(monkeypatch):
    """A function that runs `bin/certify.py` in this process, and returns the status."""
    yield functools.partial(programs.launch, monkeypatch, certify_program)
    gin.clear_config()


@pytest.fixture
def plot(monkeypatch):
    """A function that runs `bin/plot.py` in this process, and returns the status."""
    return functools.partial(programs.launch, monkeypatch, plot_program)
