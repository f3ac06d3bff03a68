"""Planes through three points, and what neurons are on them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from robust_tf import layers
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation import plane as planes
from robust_tf.propagation.plane import Plane
from robust_tf.propagation.plane import Section
from robust_tf.propagation.plane import boundary_lines
from robust_tf.propagation.segments import clip_lines
from robust_tf.propagation.segments import zero_segments
from tests.propagation import margin_cases

SQUARE = np.array([[-1.0, 2.0], [0.0, 3.0]])


def golden_plane():
    return Plane.through(np.array(margin_cases.golden()["plane"]["points"]))


def random_plane(shape, seed=0):
    generator = np.random.default_rng(seed)
    return Plane.through(generator.uniform(size=(3, *shape)))


def one_hidden_layer():
    """A classifier with a neuron that is constant, and one that is always 0."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((2, 3, 1), dtype="float64")
    tensor = layers.Flatten(dtype="float64")(inputs)
    tensor = layers.ReLU(dtype="float64")(layers.Dense(9, dtype="float64")(tensor))
    model = keras.Model(inputs, layers.Dense(3, dtype="float64")(tensor))
    hidden = model.layers[2]
    kernel, bias = hidden.get_weights()
    kernel[:, :2] = 0.0
    bias[:] = np.linspace(-0.2, 0.3, 9)
    bias[0] = 0.0
    hidden.set_weights([kernel, bias])
    return BoundGraph.from_model(model)


def test_golden_plane():
    golden, plane = margin_cases.golden()["plane"], golden_plane()
    first, second = plane.directions
    np.testing.assert_allclose(first, golden["e1"], atol=1e-9)
    np.testing.assert_allclose(second, golden["e2"], atol=1e-9)
    np.testing.assert_allclose(plane.coordinates, golden["coordinates"], atol=1e-9)
    graph = BoundGraph.from_model(margin_cases.network("fc_net"))
    lines = boundary_lines(graph, plane)
    np.testing.assert_allclose(lines, golden["first_layer_lines_a_b_c"], atol=1e-9)


def test_points_of_images():
    plane = random_plane((4, 3, 2))
    again = plane.points(plane.coordinates)
    np.testing.assert_allclose(again, [plane.origin, *again[1:]], atol=1e-15)
    flat = plane.directions.reshape(2, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(2), atol=1e-14)
    given = np.random.default_rng(0).uniform(size=(3, 4, 3, 2))
    np.testing.assert_allclose(again, given, atol=1e-14)


def test_window_is_a_square_around_the_points():
    plane = golden_plane()
    width = np.ptp(plane.coordinates, 0).max()
    (left, right), (low, high) = plane.window(margin=0.25)
    np.testing.assert_allclose([right - left, high - low], 1.5 * width)
    u, v = plane.coordinates.T
    np.testing.assert_allclose(
        [left, right], [u.min() - width / 4, u.max() + width / 4]
    )
    assert low < v.min() - width / 4 and high > v.max() + width / 4


@pytest.mark.parametrize(
    "points",
    [
        [[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]],
        [[0.3, 0.1], [0.3, 0.1], [1.0, 0.0]],
        [[0.3, 0.1], [1.0, 0.0], [0.3, 0.1]],
        [[0.3, 0.1], [1.0, 0.0], [1.0, 0.0]],
        [[0.3, 0.1]] * 3,
        # Images in float32 whose third is the mean of the others, up to rounding.
        np.float32([[0.1, 0.7, 0.3], [0.9, 0.2, 0.6], [0.5, 0.45, 0.45]]),
    ],
)
def test_points_on_a_line_are_refused(points):
    with pytest.raises(InputError, match="unless they lie on one line"):
        Plane.through(np.array(points))


def test_other_numbers_of_points_are_refused():
    with pytest.raises(InputError, match=r"three points.*\(4, 2\)"):
        Plane.through(np.eye(4)[:, :2])


def test_lines_have_the_signs_of_neurons():
    graph, plane = one_hidden_layer(), random_plane((2, 3, 1))
    lines = boundary_lines(graph, plane)
    places = np.random.default_rng(2).uniform(-2.0, 2.0, (200, 2))
    points = tf.constant(plane.points(places))
    neurons = graph.values(points, Choices())[2].numpy()
    expected = places @ lines[:, :2].T + lines[:, 2]
    np.testing.assert_allclose(neurons, expected, atol=1e-12)
    assert ((neurons > 0.0).any(0) & (neurons < 0.0).any(0)).sum() >= 5


def test_clipping():
    lines = [
        [1.0, 0.0, -1.0],  # u = 1
        [0.0, -2.0, 1.0],  # v = 1/2
        [1.0, -1.0, 0.0],  # v = u
        [1.0, 0.0, -5.0],  # Beside the window.
        [1.0, 1.0, -5.5],  # Beyond a corner.
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 1.0],
    ]
    segments, found = clip_lines(np.array(lines), SQUARE)
    assert found.tolist() == [0, 1, 2]
    ends = [np.sort(segment, 0).tolist() for segment in segments]
    expected = [[[1, 0], [1, 3]], [[-1, 0.5], [2, 0.5]], [[0, 0], [2, 2]]]
    np.testing.assert_allclose(ends, expected, atol=1e-15)


def test_clipped_lines_end_on_the_border():
    lines = np.random.default_rng(3).normal(size=(400, 3))
    segments, found = clip_lines(lines, SQUARE)
    inside = np.stack(np.meshgrid(*(np.linspace(*ends, 60) for ends in SQUARE)), -1)
    values = inside @ lines[:, :2].T + lines[:, 2]
    changes = np.flatnonzero((values > 0).any((0, 1)) & (values < 0).any((0, 1)))
    assert set(changes) <= set(found) and 100 < len(changes) < 400
    heights = np.einsum("ned,nd->ne", segments, lines[found, :2]) + lines[found, 2:]
    np.testing.assert_allclose(heights, 0.0, atol=1e-12)
    gaps = np.abs(segments[..., None] - SQUARE).min((-1, -2))
    np.testing.assert_allclose(gaps, 0.0, atol=1e-12)


def test_zeros_of_an_affine_function_are_its_line():
    across, up = np.linspace(*SQUARE[0], 8), np.linspace(*SQUARE[1], 11)
    u, v = np.meshgrid(across, up)
    values = np.stack([u - 2.0 * v + 0.3, np.ones_like(u), 0.7 - u], -1)
    segments, found = zero_segments(values, across, up)
    assert set(found) == {0, 2}
    first, last = segments[found == 0], segments[found == 2]
    np.testing.assert_allclose(first @ [1.0, -2.0], -0.3, atol=1e-14)
    np.testing.assert_allclose(last[..., 0], 0.7, atol=1e-14)
    # Together they are as long as the lines within the window, with no gaps.
    for part, line in ((first, [1.0, -2.0, 0.3]), (last, [-1.0, 0.0, 0.7])):
        (whole,), _ = clip_lines(np.array([line]), SQUARE)
        lengths = np.linalg.norm(part[:, 1] - part[:, 0], axis=-1)
        np.testing.assert_allclose(lengths.sum(), np.linalg.norm(whole[1] - whole[0]))


def test_zero_is_below():
    segments, _ = zero_segments(np.zeros((3, 3, 1)), np.arange(3.0), np.arange(3.0))
    assert segments.shape == (0, 2, 2)
    corner = np.zeros((2, 2, 1))
    corner[1, 1] = 2.0
    segments, _ = zero_segments(corner, np.arange(2.0), np.arange(2.0))
    np.testing.assert_array_equal(np.sort(segments[0], 0), [[0, 0], [1, 1]])


def test_section_of_one_hidden_layer():
    graph, plane = one_hidden_layer(), random_plane((2, 3, 1))
    section = Section.of(graph, plane, resolution=12)
    assert section.num_neurons == 9 and set(section.neurons) <= set(range(2, 9))
    lines = boundary_lines(graph, plane)[section.neurons]
    heights = np.einsum("ned,nd->ne", section.boundaries, lines[:, :2]) + lines[:, 2:]
    np.testing.assert_allclose(heights, 0.0, atol=1e-12)
    np.testing.assert_array_equal(section.window, plane.window())
    assert section.classes.shape == (13, 13)
    across, up = (np.linspace(*ends, 13) for ends in section.window)
    corner = plane.points(np.array([[across[7], up[2]]]))
    logits = graph.values(tf.constant(corner), Choices())[graph.output]
    assert section.classes[2, 7] == np.argmax(logits)


def test_section_of_a_deep_network(monkeypatch):
    graph = BoundGraph.from_model(margin_cases.network("conv_net_2"))
    plane = random_plane(graph.shapes[0], seed=4)
    section = Section.of(graph, plane, resolution=150)
    regions = [edge for edge in range(1, len(graph.shapes)) if _feeds_relu(graph, edge)]
    sizes = [int(np.prod(graph.shapes[edge])) for edge in regions]
    assert section.num_neurons == sum(sizes)
    # At the middles of segments, their neuron is nearly 0; others are not.
    middles = section.boundaries.mean(1)
    values = graph.values(tf.constant(plane.points(middles)), Choices())
    neurons = np.concatenate(
        [np.reshape(values[edge], (len(middles), -1)) for edge in regions], -1
    )
    own = np.abs(neurons[np.arange(len(middles)), section.neurons])
    assert own.max() < 1e-3 < np.median(np.abs(neurons))
    is_later = section.neurons >= sizes[0]
    assert is_later.any() and (~is_later).any()
    assert own[~is_later].max() < 1e-12
    # Strips of a few rows give the same.
    monkeypatch.setattr(planes, "_VALUES_AT_ONCE", 2**17)
    strips = Section.of(graph, plane, resolution=150)
    np.testing.assert_array_equal(strips.classes, section.classes)
    assert len(strips.boundaries) == len(section.boundaries)
    np.testing.assert_allclose(
        _sorted(strips.boundaries), _sorted(section.boundaries), atol=1e-12
    )


def test_decisions_lie_between_classes():
    graph, plane = BoundGraph.from_model(margin_cases.network("fc_net")), golden_plane()
    section = Section.of(graph, plane, np.array([[-4.0, 4.0]] * 2), resolution=80)
    ends = np.linspace(-4.0, 4.0, 81)

    def logits(places):
        points = tf.constant(plane.points(places.reshape(-1, 2)))
        found = graph.values(points, Choices())[graph.output]
        return np.reshape(found, (*places.shape[:-1], 3))

    # The gap of two logits is 0 in the triangle, so it is no more than they change.
    grid = logits(np.stack(np.meshgrid(ends, ends), -1))
    change = max(np.abs(np.diff(grid, axis=axis)).max() for axis in (0, 1))
    ordered = np.sort(logits(section.decisions.mean(1)), -1)
    gaps = ordered[:, 2] - ordered[:, 1]
    assert gaps.max() < 4.0 * change and np.median(gaps) < 0.01 * change
    # Between neighbours of two classes there is an end of a segment.
    rows, columns = np.nonzero(np.diff(section.classes))
    assert len(rows) > 20
    found = section.decisions.reshape(-1, 2)
    for row, column in zip(rows, columns, strict=True):
        u = found[np.abs(found[:, 1] - ends[row]) < 1e-12, 0]
        assert ((ends[column] <= u) & (u <= ends[column + 1])).any()


def test_refusals():
    graph = one_hidden_layer()
    with pytest.raises(InputError, match=r"inputs of shape \(2, 3, 1\).*\(6,\)"):
        Section.of(graph, random_plane((6,)))
    with pytest.raises(InputError, match="`resolution` must be at least 1"):
        Section.of(graph, random_plane((2, 3, 1)), resolution=0)


def _feeds_relu(graph, edge):
    return any(isinstance(node.layer, layers.ReLU) for node in graph.consumers(edge))


def _sorted(segments):
    flat = segments.reshape(len(segments), -1)
    return flat[np.lexsort(flat.round(9).T)]
