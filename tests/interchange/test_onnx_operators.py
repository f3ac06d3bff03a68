"""Every operator against ONNX Runtime, on images without symmetry."""

import numpy as np
import pytest

import robust_tf as rt
from robust_tf.interchange.onnx_reader import read_onnx
from tests.interchange import operator_cases
from tests.interchange import shape_cases
from tests.interchange.graphs import asymmetric
from tests.interchange.graphs import channels_last
from tests.interchange.graphs import run
from tests.interchange.graphs import write

CASES = [*operator_cases.CASES, *shape_cases.CASES]


@pytest.mark.parametrize(("nodes", "constants", "shape", "options"), CASES)
def test_equals_the_runtime(tmp_path, nodes, constants, shape, options):
    keeps_channels_last = options.pop("channels_last_input", False)
    path = write(tmp_path / "net.onnx", nodes, constants, shape, **options)
    network = read_onnx(path, box=(-1.0, 1.0))
    points = asymmetric((1, *shape) if len(shape) == 1 or shape[0] != 1 else shape)
    wanted = run(path, points, shape)
    held = points if keeps_channels_last else channels_last(points)
    assert network.model.inputs[0].shape[1:] == held.shape[1:]
    actual = np.asarray(network.model(held))
    np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)
    assert abs(wanted).max() > 1e-3
    assert network.num_outputs == wanted.shape[1]
    if network.model.layers[1:] and not network.ends_in_softmax:
        converted = np.asarray(rt.convert(network.model)(held))
        np.testing.assert_allclose(converted, wanted, rtol=1e-4, atol=1e-5)
