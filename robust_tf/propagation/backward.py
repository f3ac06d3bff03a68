"""Bounds of single edges by backward passes, row by row or window by window."""

import dataclasses
import math

import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.bounds import LinearForm
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation.window_plan import WindowPlan
from robust_tf.regions import Region
from robust_tf.regions import box_minimum

DEFAULT_MEMORY_BUDGET_MB = 1024.0
# Tensors of the size of the largest coefficients that a rule holds at a time.
_LIVE_TENSORS = 6


def minimum(reached, offset, region: Region, bounds) -> tf.Tensor:
    """Returns the lower bounds that the end of a backward pass implies.

    Args:
        reached: coefficients by edge, `[batch or 1, rows, *shape]`.
        offset: constants, `[batch or 1, rows]`.
        region: the set that edge 0 ranges over.
        bounds: intervals of the other edges.

    Returns:
        `[batch, rows]`.
    """
    total = offset
    for edge, rows in reached.items():
        if edge == 0:
            total += region.minimum(LinearForm(rows, tf.zeros([], rows.dtype)))
        else:
            total += box_minimum(rows, bounds[edge])
    return total


def backward_interval(
    graph: BoundGraph,
    edge: int,
    region: Region,
    bounds: dict[int, IntervalBound],
    choices: Choices | tuple[Choices, Choices],
    memory_budget_mb: float = DEFAULT_MEMORY_BUDGET_MB,
    within: IntervalBound | None = None,
    largest_batch: int | None = None,
) -> IntervalBound:
    """Bounds every neuron of an edge by a backward pass of its own.

    Neurons of convolutions go as windows where that is less work, others as rows of
    an identity. Rows go in chunks that keep within the memory budget; a chunk that
    cannot be allocated all the same is halved (in eager mode).

    Args:
        graph: the classifier.
        edge: number of the edge.
        region: the input set.
        bounds: intervals of the edges before it.
        choices: what the rules ask for; or a pair, for the lower and the upper ends.
        memory_budget_mb: for the coefficients of one chunk, in MiB.
        within: valid bounds of the edge. If they are given, vectors get backward
            passes only for neurons whose sign they leave open, and keep these for
            the rest.
        largest_batch: what the batch size does not exceed, where a graph leaves it
            open: chunks are then of one size, and one chunk needs no loop.

    Returns:
        Bounds on the edge, `[batch, *shape]`.
    """
    if within is not None and len(graph.shapes[edge]) == 1:
        rows = _UnstableRows(graph, edge, region, bounds, choices, within)
        ends = _in_chunks(rows, _chunk_size(rows, memory_budget_mb, largest_batch))
        return rows.completed(*ends)
    windows = WindowPlan.of(graph, edge)
    if windows and not windows.is_less_work:
        windows = None
    task = _WindowRows if windows else _DenseRows
    rows = task(graph, edge, region, bounds, choices, windows)
    chunk = _chunk_size(rows, memory_budget_mb, largest_batch)
    lower, upper = _in_chunks(rows, chunk)
    shape = [-1, *graph.shapes[edge]]
    return IntervalBound(tf.reshape(lower, shape), tf.reshape(upper, shape))


class _Rows:
    """Unit rows over one edge, of which `bound` treats a part."""

    def __init__(self, graph, edge, region, bounds, choices, windows):
        self.graph, self.edge, self.region = graph, edge, region
        self.bounds, self.windows = bounds, windows
        is_pair = isinstance(choices, tuple)
        self.choices = choices if is_pair else (choices,)
        # Of affine edges one form serves both ends, where rounding does not count.
        is_affine = edge in graph.affine_edges() and not is_pair
        self.is_affine = is_affine and choices.rounding is None
        self.batch = region.shape[0] or tf.shape(region.box.lower)[0]

    def _units(self, start, size, count, shape):
        """Rows `start` to `start + size` of an identity, `[1, rows, *shape]`."""
        index = start + tf.range(size)
        units = tf.one_hot(index, count, dtype=self.region.dtype)
        return tf.reshape(units, [1, -1, *shape])

    def _bound(self, start, size, units, region):
        """Ends of rows `start` to `start + size`, `[batch, rows]` each."""
        if len(self.choices) == 2:
            signed = (units, -units)
            ends = (
                region.minimum(self._pull_back(rows, choices))
                for rows, choices in zip(signed, self._chosen(start, size), strict=True)
            )
            lower, negated = ends
            return lower, -negated
        if not self.is_affine:
            units = tf.concat([units, -units], 1)
        form = self._pull_back(units, *self.choices)
        if not self.is_affine:
            lower, negated = tf.split(region.minimum(form), 2, -1)
            return lower, -negated
        negation = LinearForm(-form.coefficients, -form.offset)
        return region.minimum(form), -region.minimum(negation)

    def _chosen(self, start, size):
        """The choices of both ends, for a part of the rows."""
        del start, size
        return self.choices


class _DenseRows(_Rows):
    """Rows of an identity over all neurons of the edge."""

    @property
    def count(self) -> int:
        return math.prod(self.graph.shapes[self.edge])

    @property
    def most(self) -> int:
        """What `count` does not exceed."""
        return math.prod(self.graph.shapes[self.edge])

    @property
    def entries(self) -> int:
        """Coefficients that one row holds at most."""
        return max(map(math.prod, self.graph.shapes[: self.edge + 1]))

    def bound(self, start, size):
        shape = self.graph.shapes[self.edge]
        units = self._units(start, size, self.count, shape)
        return self._bound(start, size, units, self.region)

    def _pull_back(self, rows, choices) -> LinearForm:
        reached, offset = self.graph.propagate_backward(
            rows, self.edge, self.bounds, choices
        )
        return LinearForm(reached[0], offset)

    def _chosen(self, start, size):
        ranks = {
            node.layer.name: len(self.graph.shapes[node.output]) + 2
            for node in self.graph.nodes
        }
        index = tf.minimum(start + tf.range(size), self.count - 1)  # Last chunk: less.
        parts = []
        for choices in self.choices:
            slopes = {
                name: tf.gather(slope, index, axis=1)
                if slope.shape.rank == ranks[name]
                else slope
                for name, slope in choices.lower_slopes.items()
            }
            parts.append(dataclasses.replace(choices, lower_slopes=slopes))
        return parts


class _UnstableRows(_DenseRows):
    """Rows of those neurons of a vector whose sign is open, example by example.

    As many for each as the most open example has; the others' rows are filled up with
    neurons of known sign.
    """

    def __init__(self, graph, edge, region, bounds, choices, within):
        super().__init__(graph, edge, region, bounds, choices, None)
        self._within = within
        is_open = tf.cast((within.lower < 0.0) & (within.upper > 0.0), tf.int32)
        most = tf.reduce_max(tf.reduce_sum(is_open, -1))
        self._index = tf.math.top_k(is_open, most).indices
        self._most = int(most) if tf.executing_eagerly() else most

    @property
    def count(self):
        return self._most

    def _units(self, start, size, count, shape):
        (width,) = shape
        place = tf.minimum(start + tf.range(size), count - 1)
        index = tf.gather(self._index, place, axis=1)
        return tf.one_hot(index, width, dtype=self.region.dtype)

    def completed(self, lower, upper) -> IntervalBound:
        """The bounds of all neurons, from those of the rows."""
        batch = tf.shape(self._index)[0]
        examples = tf.broadcast_to(tf.range(batch)[:, None], tf.shape(self._index))
        places = tf.stack([examples, self._index], -1)
        return IntervalBound(
            tf.tensor_scatter_nd_max(self._within.lower, places, lower),
            tf.tensor_scatter_nd_min(self._within.upper, places, upper),
        )


class _WindowRows(_Rows):
    """One row for each channel; all positions of the edge share it."""

    @property
    def count(self) -> int:
        return self.graph.shapes[self.edge][-1]

    most = count

    @property
    def entries(self) -> int:
        """Coefficients that one row of all positions holds at most."""
        return self.windows.entries

    def bound(self, start, size):
        channels = self.graph.shapes[self.edge][-1]
        region = self.region.map(self._view.gather)
        units = self._units(start, size, channels, (1, 1, channels))
        lower, upper = self._bound(start, size, units, region)
        return tuple(self._by_neuron(ends) for ends in (lower, upper))

    def _by_neuron(self, ends):
        """`[batch * positions, rows]` to `[batch, positions, rows]`."""
        positions = math.prod(self.graph.shapes[self.edge][:2])
        return tf.reshape(ends, [-1, positions, tf.shape(ends)[-1]])

    @property
    def _view(self):
        return self.windows.view(0, self.batch)

    def _pull_back(self, rows, choices) -> LinearForm:
        form, is_clear = self.windows.pull_back(rows, self.bounds, choices, self.batch)
        if is_clear or self.region.is_box:  # Boxes have no width outside.
            return form
        return LinearForm(self._view.clear(form.coefficients), form.offset)


def _chunk_size(rows, memory_budget_mb, largest_batch=None):
    """Rows that fit into the budget; a tensor where the batch size is one."""
    ends = 1 if rows.is_affine else 2
    bytes_each = rows.entries * ends * _LIVE_TENSORS * rows.region.dtype.size
    budget = int(memory_budget_mb * 2**20)
    batch = rows.batch if isinstance(rows.batch, int) else largest_batch
    if batch is not None:
        return min(max(budget // (bytes_each * max(batch, 1)), 1), rows.most)
    batch = tf.cast(tf.maximum(rows.batch, 1), tf.int64)
    fitting = tf.constant(budget // bytes_each, tf.int64) // batch
    return tf.cast(tf.clip_by_value(fitting, 1, rows.most), tf.int32)


def _in_chunks(rows, chunk):
    """Bounds all rows, chunk by chunk, and joins them on the last axis."""
    if tf.executing_eagerly():
        return _in_shrinking_chunks(rows, int(chunk))
    if isinstance(chunk, int) and chunk >= rows.most:
        return rows.bound(0, rows.count)
    parts = tf.map_fn(  # Rows past the last one are 0, and cut off.
        lambda start: tf.stack(rows.bound(start, chunk)),
        tf.range(0, rows.count, chunk),
        fn_output_signature=rows.region.dtype,
        parallel_iterations=1,
    )
    # `[chunks, 2, batch, ..., chunk]` to `[2, batch, ..., rows]`.
    rank = 5 if rows.windows else 4
    parts = tf.ensure_shape(parts, [None, 2] + [None] * (rank - 2))
    parts = tf.transpose(parts, [*range(1, rank - 1), 0, rank - 1])
    shape = tf.concat([tf.shape(parts)[:-2], [-1]], 0)
    lower, upper = tf.unstack(tf.reshape(parts, shape)[..., : rows.count], 2)
    return lower, upper


def _in_shrinking_chunks(rows, chunk):
    """Halves the chunk when an allocation fails, and goes on."""
    if not rows.count:
        return rows.bound(0, 0)
    start, parts = 0, []
    while start < rows.count:
        size = min(chunk, rows.count - start)
        try:
            parts.append(rows.bound(start, size))
        except tf.errors.ResourceExhaustedError:
            if size == 1:
                raise
            chunk = size // 2
            continue
        start += size
    return tuple(tf.concat(ends, -1) for ends in zip(*parts, strict=True))
