"""Operations of the benchmarks' workloads, counted by hand."""

import pytest

from benchmarks import workloads

# Multiply-adds of CNN7's layers for one example of 28x28x1.
FIRST = 28 * 28 * 9 * 64
FORWARD = (
    FIRST
    + 28 * 28 * 9 * 64 * 64
    + 14 * 14 * 9 * 64 * 128
    + 2 * 14 * 14 * 9 * 128 * 128
    + 14 * 14 * 128 * 512
    + 512 * 10
)


@pytest.mark.parametrize(
    "name, passes",
    [
        ("ibp_cnn7_mnist_64", 9),
        # One more for the clean images, two for the attack's step.
        ("mtl_ibp_cnn7_mnist_64_1", 12),
        # Sixteen for the attack's steps, one for the last iterate.
        ("mtl_ibp_cnn7_mnist_64_8", 27),
    ],
)
def test_operations_of_a_step(name, passes):
    # The images of three passes need no gradient.
    expected = 2 * 64 * (passes * FORWARD - 3 * FIRST)
    assert workloads.operations(workloads.WORKLOADS[name]) == expected
