"""A network of a convolution and a kernel over its flattened output."""

import pytest

from tests.interchange.graphs import node
from tests.interchange.graphs import weights
from tests.interchange.graphs import write


@pytest.fixture
def image_net(tmp_path):
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", "c", "r"),
        node("Flatten", "r", "f"),
        node("Gemm", "f k b", "y"),
    ]
    constants = {"w": weights(3, 2, 3, 3), "k": weights(27, 4), "b": weights(4)}
    return write(tmp_path / "image.onnx", nodes, constants)
