"""Distances to what is nearest, and gradients at inputs."""

import numpy as np
import pytest

from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.propagation import surroundings
from tests.propagation import margin_cases


@pytest.mark.parametrize("key", margin_cases.NORMS)
@pytest.mark.parametrize("net", margin_cases.NETS)
def test_golden_distances(net, key, monkeypatch):
    monkeypatch.setattr(surroundings, "_EXAMPLES_AT_ONCE", 2)
    cases = margin_cases.golden()[net]["cases"]
    images, labels = map(np.asarray, margin_cases.points(net, cases))
    graph = BoundGraph.from_model(margin_cases.network(net))
    told = []
    found = surroundings.nearest_distances(
        graph, images, labels, margin_cases.NORMS[key], told.append
    )
    assert sum(told) == len(cases)
    for place, case in enumerate(cases):
        expected = case["distances"]["exact"][key]
        parts = [np.ravel(part) for part in expected["region_per_layer"]]
        regions = [value for part in parts for value in part if _is_finite(value)]
        decisions = [value for value in expected["decision"] if value is not None]
        np.testing.assert_allclose(found.region[place], min(regions), rtol=1e-9)
        np.testing.assert_allclose(found.decision[place], min(decisions), rtol=1e-9)


def _is_finite(value):
    return value is not None and np.isfinite(float(value))


def test_gradients_are_differences_of_losses():
    cases = margin_cases.golden()["conv_net_1"]["cases"]
    images, labels = map(np.asarray, margin_cases.points("conv_net_1", cases))
    model = margin_cases.network("conv_net_1")
    gradients = surroundings.input_gradients(
        BoundGraph.from_model(model), images, labels
    )
    assert gradients.shape == images.shape and gradients.dtype == np.float64
    direction = np.random.default_rng(0).normal(size=images.shape)

    def losses(points):
        logits = np.asarray(model(points))
        own = logits[np.arange(len(labels)), labels]
        return np.log(np.exp(logits).sum(-1)) - own

    step = 1e-6
    slopes = losses(images + step * direction) - losses(images - step * direction)
    expected = (gradients * direction).sum((1, 2, 3))
    np.testing.assert_allclose(slopes / (2 * step), expected, atol=1e-7)
    assert np.abs(expected).min() > 1e-4


@pytest.mark.parametrize("count", [0, 2])
def test_labels_must_be_as_many_as_images(count):
    graph = BoundGraph.from_model(margin_cases.network("fc_net"))
    images, labels = np.zeros((count, 3)), np.zeros(0, "int32")
    with pytest.raises(InputError, match=f"{count} images, 0 labels"):
        surroundings.nearest_distances(graph, images, labels, np.inf)
    with pytest.raises(InputError, match=f"{count} images, 0 labels"):
        surroundings.input_gradients(graph, images, labels)
