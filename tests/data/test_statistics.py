import pytest

from robust_tf.data import statistics
from robust_tf.errors import InputError


def test_cifar10_has_the_published_values():
    mean, std = statistics.normalization("cifar10")
    assert mean == (0.4914, 0.4822, 0.4465)
    assert std == (0.2023, 0.1994, 0.2010)


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion_mnist", "mnist:3.0.1"])
def test_grey_sets_are_not_normalised(name):
    assert statistics.normalization(name) == ((0.0,), (1.0,))


@pytest.mark.parametrize("name", sorted(statistics.NORMALIZATIONS))
def test_every_entry_is_a_pair_per_channel(name):
    mean, std = statistics.normalization(name)
    assert len(mean) == len(std) in (1, 3)
    assert all(0.0 <= value < 1.0 for value in mean)
    assert all(0.0 < value <= 1.0 for value in std)


def test_refuses_unknown_set():
    with pytest.raises(InputError, match="known only of.*Received: 'stl10'"):
        statistics.normalization("stl10")
