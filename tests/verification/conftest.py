"""A small classifier, and verifiers whose graphs are traced once."""

import numpy as np
import pytest

import robust_tf as rt
from tests.verification import verifying


@pytest.fixture(scope="session")
def model(centers):
    """All classes are frequent among the centres, so that none is far from another."""
    model = verifying.mlp(verifying.SIZES, seed=2)
    *rest, bias = model.get_weights()
    bias -= np.median(verifying.outputs_of(model, centers), 0).astype("float32")
    model.set_weights([*rest, bias])
    return model


@pytest.fixture(scope="session")
def ladder(model):
    return rt.Verifier(model, rt.Plan(verifying.LADDER))


@pytest.fixture(scope="session")
def bench():
    return verifying.Bench((4, 8, 8, 3))


@pytest.fixture(scope="session")
def centers():
    rng = np.random.default_rng(3)
    return rng.uniform(0.2, 0.8, size=(24, 4)).astype("float32")
