"""All clauses as one: the network ends in a tree of maxima of their margins."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.graph import Node
from robust_tf.layers.activations import ReLU
from robust_tf.layers.affine import Dense
from robust_tf.layers.structural import Add
from robust_tf.specifications import UnsafeSet
from robust_tf.verification.prover import DECIDING
from robust_tf.verification.prover import Prover
from robust_tf.verification.replay import Replay
from robust_tf.verification.result import Claim
from robust_tf.verification.stages import Stage
from robust_tf.verification.task import Task


@dataclasses.dataclass(frozen=True)
class TreeOfMaxima(Stage):
    """Runs complete stages on one row, `-max_k (threshold_k - <row_k, y>)`.

    `max(a, b) = b + relu(a - b)`, in a tree over the clauses: one search for each
    example instead of a row of the search for each class, over a looser relaxation and
    with more ReLUs to split (the system behind arXiv:2305.13991 does so). Verdicts are
    those of the clauses; what is proved of the worst is proved of each.

    Attributes:
        stages: in order, beginning with intervals; `stages.Interval`, `stages.
            AlphaCrownStage`, `branch_and_bound.BranchAndBound`.
        name: in results.

    Raises:
        InputError: for no stages.
    """

    stages: Sequence[Stage] = ()
    name: str = "max-tree"
    is_batched = False

    def __post_init__(self):
        if not self.stages:
            raise InputError(
                "A tree of maxima needs `stages` that decide it, such as "
                "(Interval(), AlphaCrownStage(), BranchAndBound()). Received: none"
            )

    def applies(self, task):
        """For clauses of one row each, as labels make them, in real arithmetic."""
        clauses = task.unsafe([0]).clauses
        is_single = len(set(clauses)) == len(clauses) > 1
        return is_single and task.prover.claim is Claim.SOUND

    def run(self, task, indices):
        for index in indices:
            self._run_one(task, index)

    def _run_one(self, task, index):
        unsafe = task.unsafe([index])
        rows, ends = unsafe.rows.numpy()[0], unsafe.thresholds.numpy()[0]
        if not _is_exact(rows) or not _is_exact(ends):
            return  # Weights of layers are in float32.
        key = type(self), rows.tobytes(), ends.tobytes()
        prover, replay = task.prover.once(key, lambda: _folded(task, rows, ends))
        sub = Task(
            prover,
            replay,
            task.region([index]),
            UnsafeSet.from_clauses([([[-1.0]], [0.0])], DECIDING),
            _Share(task.clock, index),
            task.seed,
        )
        for stage in self.stages:
            if sub.open and stage.applies(sub) and task.clock.remaining(index) > 0.0:
                stage.run(sub, [0])
        task.domains[index] += sub.domains[0]
        task.is_late[index] |= sub.is_late[0]
        task.reasons[index] = sub.reasons[0] or task.reasons[index]
        found = sub.results[0]
        if found is not None and found.counterexample is not None:
            task.suspect(index, found.counterexample, self.name)
        if task.results[index] is None and sub.lower[0, 0] > -np.inf:
            task.prove_clauses(index, np.full(len(rows), sub.lower[0, 0]), self.name)


class _Share:
    """One example's part of a batch's clock."""

    def __init__(self, clock, index):
        self._clock, self._index = clock, index
        self.seconds, self.stages = np.zeros(1), [{}]

    def remaining(self, index: int) -> float:
        """Seconds until the deadline."""
        del index
        return self._clock.remaining(self._index)


def _folded(task, rows, ends):
    """The prover of the longer network, and what runs its points."""
    graph = with_worst(task.prover.graph, -rows, ends)

    def worst(points):
        margins = task.replay.outputs(points) @ rows.T.astype(task.replay.dtype)
        return (ends - margins).max(-1, keepdims=True)

    return Prover(graph), Replay(worst, graph, task.replay.dtype)


def with_worst(graph: BoundGraph, rows: np.ndarray, offsets: np.ndarray) -> BoundGraph:
    """Returns the graph of `max_k (<rows_k, y> + offsets_k)`, `[batch, 1]`.

    Args:
        graph: of a classifier with outputs y.
        rows: `[rows, outputs]`, that float32 holds exactly, as it does offsets.
        offsets: `[rows]`.
    """
    builder = _Builder(graph)
    builder.dense(graph.output, rows, "margins", offsets)
    count = len(rows)
    while count > 1:
        edge, pairs = builder.last, count // 2
        identity = np.eye(count)
        first, second = identity[0 : 2 * pairs : 2], identity[1 : 2 * pairs : 2]
        rest = identity[2 * pairs :]
        excess = builder.relu(builder.dense(edge, first - second, "difference"))
        # What has no partner gets nothing added.
        spread = np.concatenate([np.eye(pairs), np.zeros([len(rest), pairs])])
        builder.add(
            builder.dense(excess, spread, "excess"),
            builder.dense(edge, np.concatenate([second, rest]), "second"),
        )
        count = pairs + len(rest)
    return builder.graph()


class _Builder:
    """A graph that grows at its end."""

    def __init__(self, graph: BoundGraph):
        self._nodes, self._shapes = list(graph.nodes), list(graph.shapes)

    @property
    def last(self) -> int:
        """The newest edge."""
        return len(self._shapes) - 1

    def graph(self) -> BoundGraph:
        """All so far; its output is the newest edge."""
        return BoundGraph(tuple(self._nodes), tuple(self._shapes), self.last)

    def dense(self, edge, rows, name, offsets=None) -> int:
        """`rows z + offsets`."""
        layer = Dense(len(rows), use_bias=offsets is not None, name=self._name(name))
        layer.build((None, rows.shape[1]))
        layer.set_weights([rows.T] if offsets is None else [rows.T, offsets])
        return self._append(layer, (edge,), len(rows))

    def relu(self, edge) -> int:
        """`relu(z)`."""
        return self._append(ReLU(name=self._name("relu")), (edge,))

    def add(self, first, second) -> int:
        """The sum of two edges."""
        layer = Add(name=self._name("sum"))
        layer.build([(None, *self._shapes[edge]) for edge in (first, second)])
        return self._append(layer, (first, second))

    def _append(self, layer, edges, size=None) -> int:
        shape = self._shapes[edges[0]] if size is None else (size,)
        self._nodes.append(Node(layer, edges, len(self._shapes)))
        self._shapes.append(tuple(shape))
        return self.last

    def _name(self, name) -> str:
        return f"worst_{name}_{len(self._shapes)}"


def _is_exact(values) -> bool:
    return bool(np.array_equal(values.astype(np.float32).astype(values.dtype), values))
