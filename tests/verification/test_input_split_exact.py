"""Input splitting against all activation patterns of small networks, one by one.

Linear programs find the least margin of a clause for each pattern. Thresholds are set
so that the least of all becomes what a case asks for, often at a corner of the box, and
just there. No look at points helps the search, which must not lose an unsafe one.
"""

import itertools

import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf

import robust_tf as rt
from robust_tf.verification import input_split
from robust_tf.verification import stages
from robust_tf.verification.input_split import InputSplit
from robust_tf.verification.result import Verdict
from tests.verification import verifying
from tests.verification.verifying import Bench

SIZES = ((2, 4, 3, 3), (3, 4, 3, 3))
CLAUSES = ((0,), (0, 0), (0, 1, 1), (0, 0, 0))
# How far below 0 the least margin of an unsafe case is.
DEPTHS = (0.0, 1e-12, 1e-9, 1e-7, 1e-5, 1e-3, 0.05)
# The same above 0, of safe ones.
HEIGHTS = (1e-4, 1e-2)
ROUNDS = 150


@pytest.fixture(scope="module")
def benches():
    return [Bench(sizes) for sizes in SIZES]


class Case:
    """Weights, a box, an unsafe set, and the points where margins can be least."""

    def __init__(self, bench, seed, target):
        rng = np.random.default_rng(seed)
        is_coarse = seed % 3 == 0
        shapes = list(itertools.pairwise(bench.sizes))
        arrays = [
            array
            for pair in (verifying.random_weights(rng, shape, 1.5) for shape in shapes)
            for array in pair
        ]
        low = rng.normal(size=bench.sizes[0]) * 0.5
        width = rng.choice([0.25, 1.0, 2.0]) * (rng.random(low.shape) > 0.1)
        if is_coarse:  # Values at corners are exact, and often tie.
            arrays, low = [np.round(4.0 * a) / 4.0 for a in arrays], np.round(low)
        bench.model.set_weights(arrays)
        arrays = [array.astype("float64") for array in bench.model.get_weights()]
        self.weights = list(zip(arrays[::2], arrays[1::2], strict=True))
        self.low = low.astype("float32").astype("float64")
        self.high = (low + width).astype("float32").astype("float64")
        self.clauses = np.asarray(CLAUSES[seed % len(CLAUSES)])
        self.rows = rng.normal(size=(len(self.clauses), bench.sizes[-1]))
        if len(self.rows) > 1 and seed % 2:
            self.rows[-2] = -self.rows[-1]
        self.ends = 0.3 * rng.normal(size=len(self.clauses))
        self.patterns = self._patterns()
        points = [self._lowest(clause) for clause in range(self.clauses.max() + 1)]
        least = self.margins(self.points(points)).min(0)
        # One clause decides; others are easier.
        targets = np.full_like(least, 0.2)
        targets[rng.integers(len(targets))] = target
        self.ends += (least - targets)[self.clauses]
        self.all_points = self.points(points)
        while target <= 0.0 < self.margins(self.all_points).min():  # By rounding.
            self.ends = np.nextafter(self.ends, np.inf)

    def points(self, lowest):
        """Those of least margins, and a grid."""
        axes = [np.linspace(*ends, 9) for ends in zip(self.low, self.high, strict=True)]
        grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, len(axes))
        return np.concatenate([*lowest, grid])

    def run(self, points):
        """Values of all neurons, and outputs."""
        values, found = np.asarray(points), []
        for kernel, bias in self.weights:
            found.append(values @ kernel + bias)
            values = np.maximum(found[-1], 0.0)
        return np.concatenate(found[:-1], -1), found[-1]

    def margins(self, points):
        values = self.run(points)[1] @ self.rows.T - self.ends
        members = [self.clauses == c for c in range(self.clauses.max() + 1)]
        return np.stack([values[:, member].max(-1) for member in members], -1)

    def _lowest(self, clause):
        """Where the margin is least, for each pattern that occurs."""
        member, found = self.clauses == clause, []
        for signs, below, ends in self.patterns:
            form, offset = np.eye(len(self.low)), np.zeros(len(self.low))
            for (kernel, bias), sign in zip(self.weights, [*signs, None], strict=True):
                form, offset = kernel.T @ form, kernel.T @ offset + bias
                if sign is not None:
                    form, offset = form * sign[:, None], offset * sign
            rows, level = self.rows[member] @ form, self.rows[member] @ offset
            matrix = np.pad(np.concatenate([below, rows]), ((0, 0), (0, 1)))
            matrix[len(below) :, -1] = -1.0
            ends = np.concatenate([ends, self.ends[member] - level])
            point = self._solved(matrix, ends)
            if point is not None:
                found.append(np.clip(point[:-1], self.low, self.high))
        return np.asarray(found)

    def _patterns(self):
        """Signs by layer, with `below @ x <= ends` where they hold."""
        size = len(self.low)
        start = np.eye(size), np.zeros(size)
        pending = [((), *start, np.zeros([0, size]), np.zeros([0]))]
        for kernel, bias in self.weights[:-1]:
            following = []
            for signs, form, offset, below, ends in pending:
                rows, level = kernel.T @ form, kernel.T @ offset + bias
                for choice in itertools.product([0.0, 1.0], repeat=len(level)):
                    sign = np.asarray(choice)
                    flips = 1.0 - 2.0 * sign
                    more = np.concatenate([below, rows * flips[:, None]])
                    limits = np.concatenate([ends, -level * flips])
                    matrix = np.pad(more, ((0, 0), (0, 1)))
                    if self._solved(matrix, limits) is not None:
                        parts = rows * sign[:, None], level * sign
                        following.append(((*signs, sign), *parts, more, limits))
            pending = following
        return [(signs, below, ends) for signs, _, _, below, ends in pending]

    def _solved(self, matrix, ends):
        """Least last variable over the box; None where nothing is feasible."""
        bounds = [*zip(self.low, self.high, strict=True), (-1e3, 1e3)]
        found = scipy.optimize.linprog(
            np.eye(len(bounds))[-1], matrix, ends, bounds=bounds
        )
        return found.x if found.status == 0 else None


def search(bench, case, monkeypatch, options):
    """The task after a search that sees no points, and how many were unsafe."""
    margins = case.margins(case.all_points)
    unsafe = case.all_points[~(margins > 0.0).all(-1)]
    before, _ = case.run(unsafe)
    step, rounds = input_split._Search._step, []

    def watched(self):
        step(self)
        boxes = self._open
        for point, values in zip(unsafe, before, strict=True):
            is_in = ((point >= boxes.lower) & (point <= boxes.upper)).all(-1)
            assert (is_in & (boxes.signs * values >= -1e-9).all(-1)).any(), point
        rounds.append(len(boxes))
        self._is_stuck |= len(rounds) >= ROUNDS

    monkeypatch.setattr(input_split._Search, "_step", watched)
    members = [case.clauses == c for c in range(case.clauses.max() + 1)]
    unsafe_set = rt.UnsafeSet.from_clauses(
        [(case.rows[member], case.ends[member]) for member in members]
    )
    region = rt.Box(tf.constant(case.low[None]), tf.constant(case.high[None]))
    task = bench.task(region, unsafe_set)
    monkeypatch.setattr(task, "try_points", lambda *_: False)
    stages.Interval().run(task, [0])
    if task.results[0] is None:
        InputSplit(**{"attack": None, "max_boxes": 1000} | options).run(task, [0])
    assert (task.lower[0] <= margins.min(0) + 1e-10).all()
    return task, len(unsafe)


OPTIONS = (
    {"long_after": 0, "open_share": 1.0, "batch_size": 16},
    {"long_after": 0, "open_share": 0.0, "batch_size": 64},
    {"long_after": 20, "open_share": 1.0, "batch_size": 4},
)


@pytest.mark.parametrize("seed", range(14))
def test_no_unsafe_point_gets_lost(benches, monkeypatch, seed):
    bench = benches[seed % 2]
    case = Case(bench, seed, -DEPTHS[seed % len(DEPTHS)])
    options = OPTIONS[seed % len(OPTIONS)]
    task, count = search(bench, case, monkeypatch, options)
    assert count
    assert task.results[0] is None


@pytest.mark.parametrize("seed", range(20, 26))
def test_safe_boxes_are_proved(benches, monkeypatch, seed):
    bench = benches[seed % 2]
    case = Case(bench, seed, HEIGHTS[seed // 2 % len(HEIGHTS)])
    task, count = search(bench, case, monkeypatch, OPTIONS[0])
    assert not count
    assert task.results[0].verdict is Verdict.VERIFIED
