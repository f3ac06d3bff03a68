"""Chunks of rows: the memory budget changes how bounds are computed, not which."""

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation import backward
from robust_tf.propagation.interval import interval_bounds
from robust_tf.propagation.window_plan import WindowPlan
from tests.propagation import networks

# (network, edge, whether windows serve it): rows that go in windows, and dense ones.
EDGES = [("patches", 3, True), ("patches", 3, False), ("mlp", 3, False)]
each_edge = pytest.mark.parametrize(("name", "edge", "is_windowed"), EDGES)


def setting(name, norm="inf"):
    model = networks.converted(name, dtype="float64")
    center = networks.centers(model, 2, dtype="float64")
    return BoundGraph.from_model(model), rt.LpBall(center, 0.1, norm)


def edge_bounds(graph, edge, region, budget):
    bounds = interval_bounds(graph, region, Choices(), budget)
    result = backward.backward_interval(graph, edge, region, bounds, Choices(), budget)
    return result.lower, result.upper


def budget_for(graph, edge, region, is_windowed, count):
    """MiB into which chunks of so many rows fit."""
    windows = WindowPlan.of(graph, edge) if is_windowed else None
    kind = backward._WindowRows if is_windowed else backward._DenseRows
    rows = kind(graph, edge, region, {}, Choices(), windows)
    bytes_each = rows.entries * 2 * backward._LIVE_TENSORS * 8 * rows.batch
    return (count + 0.5) * bytes_each / 2**20


def sizes_of_chunks(monkeypatch, fail_above=None):
    """Records the rows of every chunk; larger ones than given cannot be allocated."""
    sizes = []
    for kind in (backward._DenseRows, backward._WindowRows):

        def bound(self, start, size, original=kind.bound):
            sizes.append(size)
            if fail_above is not None and size > fail_above:
                raise tf.errors.ResourceExhaustedError(None, None, "out of memory")
            return original(self, start, size)

        monkeypatch.setattr(kind, "bound", bound)
    return sizes


@each_edge
@pytest.mark.parametrize("count", [1, 2, 5])
def test_small_budgets_give_the_same_bounds(
    name, edge, is_windowed, count, monkeypatch
):
    graph, region = setting(name)
    assert (WindowPlan.of(graph, edge) is not None) or not is_windowed
    monkeypatch.setattr(WindowPlan, "is_less_work", is_windowed)
    wanted = edge_bounds(graph, edge, region, 1024.0)
    sizes = sizes_of_chunks(monkeypatch)
    budget = budget_for(graph, edge, region, is_windowed, count)
    actual = edge_bounds(graph, edge, region, budget)
    for one, other in zip(actual, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)
    shape = graph.shapes[edge]
    rows = shape[-1] if is_windowed else np.prod(shape)
    assert sum(sizes) == rows
    assert sizes[0] == min(count, rows)


@each_edge
@pytest.mark.parametrize("is_static", [True, False], ids=["static", "dynamic"])
def test_chunks_in_a_graph(name, edge, is_windowed, is_static, monkeypatch):
    graph, region = setting(name)
    monkeypatch.setattr(WindowPlan, "is_less_work", is_windowed)
    wanted = edge_bounds(graph, edge, region, 1024.0)
    # The last chunk is not full.
    budget = budget_for(graph, edge, region, is_windowed, 2 if is_windowed else 5)
    batch = 2 if is_static else None
    signature = tf.TensorSpec([batch, *region.shape[1:]], tf.float64)

    @tf.function(input_signature=[signature])
    def compiled(center):
        return edge_bounds(graph, edge, rt.LpBall(center, 0.1), budget)

    for one, other in zip(compiled(region.x), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def test_budget_is_kept():
    """A row of a chunk needs what `entries` says, for each example and both ends."""
    graph, region = setting("patches")
    rows = backward._DenseRows(graph, 3, region, {}, Choices(), None)
    bytes_each = rows.entries * 2 * backward._LIVE_TENSORS * 8 * rows.batch
    for count in (1, 3, 7):
        assert backward._chunk_size(rows, count * bytes_each / 2**20) == count
    assert backward._chunk_size(rows, 1e-9) == 1
    assert backward._chunk_size(rows, 1e9) == rows.count


@each_edge
def test_failed_allocations_halve_the_chunk(name, edge, is_windowed, monkeypatch):
    graph, region = setting(name)
    monkeypatch.setattr(WindowPlan, "is_less_work", is_windowed)
    wanted = edge_bounds(graph, edge, region, 1024.0)
    limit = 1 if is_windowed else 5
    sizes = sizes_of_chunks(monkeypatch, fail_above=limit)
    actual = edge_bounds(graph, edge, region, 1024.0)
    for one, other in zip(actual, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)
    failed = [size for size in sizes if size > limit]
    assert len(failed) >= 1
    assert next(size for size in sizes if size <= limit) == failed[-1] // 2
    assert [one // 2 for one in failed[:-1]] == failed[1:]  # Halved, and never raised.
    succeeded = sum(size for size in sizes if size <= limit)
    assert succeeded == (
        graph.shapes[edge][-1] if is_windowed else rows_of(graph, edge)
    )


def rows_of(graph, edge):
    return int(np.prod(graph.shapes[edge]))


@each_edge
def test_one_row_that_does_not_fit_is_an_error(name, edge, is_windowed, monkeypatch):
    graph, region = setting(name)
    monkeypatch.setattr(WindowPlan, "is_less_work", is_windowed)
    sizes = sizes_of_chunks(monkeypatch, fail_above=0)
    with pytest.raises(tf.errors.ResourceExhaustedError, match="out of memory"):
        edge_bounds(graph, edge, region, 1024.0)
    assert sizes[-1] == 1


def test_balls_are_chunked_too():
    _, region = setting("patches", norm=2)
    model = networks.converted("patches", dtype="float64")
    for method in ("ibp", "crown"):
        wanted = rt.compute_bounds(model, region, method)
        actual = rt.compute_bounds(model, region, method, memory_budget_mb=0.01)
        np.testing.assert_allclose(actual.lower, wanted.lower, rtol=0, atol=1e-12)
        np.testing.assert_allclose(actual.upper, wanted.upper, rtol=0, atol=1e-12)
