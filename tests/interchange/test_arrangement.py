"""Permutations as single transposes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from robust_tf.interchange import arrangement

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@given(shapes.flatmap(lambda s: st.tuples(st.just(s), st.permutations(range(len(s))))))
def test_transposes_are_found_again(drawn):
    shape, axes = drawn
    values = np.random.default_rng(0).random(shape)
    places = arrangement.in_place(shape).transpose(axes).reshape(-1)
    sizes, found = arrangement.factor(places)
    actual = values.reshape(sizes).transpose(found).reshape(-1)
    np.testing.assert_array_equal(actual, values.transpose(axes).reshape(-1))


@given(st.permutations(range(8)))
def test_other_permutations_are_told_apart(permutation):
    places = np.asarray(permutation)
    factors = arrangement.factor(places)
    if factors is not None:
        sizes, axes = factors
        moved = np.arange(8).reshape(sizes).transpose(axes).reshape(-1)
        np.testing.assert_array_equal(moved, places)
    else:
        assert not any(
            np.array_equal(moved, places) for moved in _single_transposes_of_8()
        )


def _single_transposes_of_8():
    yield np.arange(8)
    for first in (2, 4):
        yield np.arange(8).reshape(first, -1).T.reshape(-1)
    for axes in ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        yield np.arange(8).reshape(2, 2, 2).transpose(axes).reshape(-1)


def test_between_and_scatter():
    held = arrangement.channels_last((1, 2, 3, 4))
    values = np.random.default_rng(0).random((1, 2, 3, 4))
    image = arrangement.scatter(values, held).reshape(3, 4, 2)
    np.testing.assert_array_equal(image, values[0].transpose(1, 2, 0))
    places = arrangement.between(held, arrangement.in_place((1, 2, 3, 4)))
    np.testing.assert_array_equal(image.reshape(-1)[places], values.reshape(-1))
    first = arrangement.channels_first((3, 4, 2))
    np.testing.assert_array_equal(arrangement.scatter(image, first), values.reshape(-1))
