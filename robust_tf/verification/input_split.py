"""Branch and bound over the inputs, for classifiers with few of them."""

import dataclasses
import math
import time

import numpy as np
import tensorflow as tf

from robust_tf.attacks.pgd import PGD
from robust_tf.errors import InputError
from robust_tf.graph import Choices
from robust_tf.propagation.crown import crown_bounds
from robust_tf.propagation.interval import interval_margins
from robust_tf.regions import Box
from robust_tf.rounding import difference_below
from robust_tf.rounding import largest_magnitude
from robust_tf.verification.combining import clause_forms
from robust_tf.verification.compiled import Compiled
from robust_tf.verification.stages import Stage
from robust_tf.verification.stages import attack_from
from robust_tf.verification.stages import intervals

_LAST_ROUND = 1.1
_ATTACK = PGD(steps=20, restarts=1)


@dataclasses.dataclass(frozen=True)
class InputSplit(Stage):
    """Halves boxes of inputs until each is decided, by CROWN in float64.

    Attributes:
        max_inputs: classifiers with more inputs are left to other stages.
        batch_size: boxes that are halved in a round.
        max_boxes: open ones at most; beyond, the example stays UNKNOWN.
        attack: on the points where relaxations are least; None for those alone.
        attack_every: rounds from one attack to the next.

    Raises:
        InputError: for values out of range.
    """

    max_inputs: int = 20
    batch_size: int = 512
    max_boxes: int = 2_000_000
    attack: PGD | None = _ATTACK
    attack_every: int = 5
    name = "input-split"
    is_batched = False

    def __post_init__(self):
        for name in ("max_inputs", "batch_size", "max_boxes", "attack_every"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"`{name}` must be at least 1. Received: {getattr(self, name)}"
                )

    def applies(self, task):
        size = math.prod(task.prover.graph.shapes[0])
        return size <= self.max_inputs and task.region([0]).is_box

    def run(self, task, indices):
        for index in indices:
            bounding = task.prover.once(
                self, lambda: _Bounding(task.prover, self.batch_size)
            )
            _Search(self, task, index, bounding).run()


class _Bounding:
    """CROWN over many boxes, compiled once."""

    def __init__(self, prover, batch_size: int):
        self._prover, self._largest_batch = prover, 2 * batch_size
        self.run = Compiled(self._margins)

    def _margins(self, shared, lower, upper):
        """Margins of rows, least points, and how much each input matters."""
        unsafe, known = shared
        graph, box = self._prover.graph, Box(lower, upper)
        rounding = self._prover.rounding()
        rounding.open_input(largest_magnitude(box.box))
        choices = Choices(rounding=rounding)
        bounds = crown_bounds(
            graph,
            box,
            (choices,),
            known=known,
            unstable_only=True,
            largest_batch=self._largest_batch,
        )
        # Without any relaxation all boxes would share the coefficients of one.
        rows = tf.repeat(unsafe.rows, tf.shape(lower)[0], 0)
        reached, offset = graph.propagate_backward(rows, graph.output, bounds, choices)
        constants = difference_below(offset, unsafe.thresholds)
        margins, forms = clause_forms(reached[0], constants, box.box, unsafe.clauses)
        by_interval = interval_margins(graph, box, bounds, unsafe.rows, choices)
        by_interval = difference_below(by_interval, unsafe.thresholds)
        margins = tf.maximum(margins, unsafe.clause_margins(by_interval))
        # What keeps the box open: its hardest clause.
        form = tf.gather(forms, tf.argmin(margins, -1), axis=1, batch_dims=1)
        points = box.box.center - tf.sign(form) * box.box.radius
        # Of all rows: in a combination their coefficients may cancel.
        effect = tf.reduce_sum(tf.abs(reached[0]), 1) * (upper - lower)
        return margins, points, effect


class _Search:
    """The search on one example. Arrays hold one box in each row."""

    def __init__(self, options: InputSplit, task, index: int, bounding):
        self._options, self._task, self._index = options, task, index
        self._bounding = bounding
        region = task.region([index])
        self._shape = region.shape[1:]
        bounds, _ = intervals(task, [index])
        self._unsafe = task.unsafe([index])
        self._shared = self._unsafe, bounds
        box = region.box
        # The ends of an Linf ball were rounded: outward by a little more.
        self._open = _Boxes(
            np.nextafter(box.lower.numpy().reshape(1, -1), -np.inf),
            np.nextafter(box.upper.numpy().reshape(1, -1), np.inf),
            task.lower[index][None].copy(),
            np.ones([1, math.prod(self._shape)]),
        )
        self._proved = np.full([self._unsafe.num_clauses], np.inf)
        self._round = 0

    def run(self):
        task, index, last = self._task, self._index, 0.0
        while len(self._open.lower) and task.results[index] is None:
            if task.clock.remaining(index) < _LAST_ROUND * last:
                task.is_late[index] = True
                break
            if len(self._open.lower) > self._options.max_boxes:
                task.reasons[index] = "max_boxes: boxes found no room"
                break
            begun = time.monotonic()
            if not self._step():
                task.reasons[index] = "numeric: a box cannot be halved"
                break
            # The first round builds graphs, and says nothing of the next.
            last = time.monotonic() - begun if self._round > 1 else 0.0
        if task.results[index] is None:
            bounds = self._proved
            if len(self._open.lower):
                # Clauses that were proved of a box count with what was proved.
                bounds = np.minimum(bounds, self._open.margins.min(0))
            task.prove_clauses(index, bounds, self._options.name)

    def _step(self) -> bool:
        """Halves the hardest boxes; False where one is too small for that."""
        count = min(self._options.batch_size, len(self._open.lower))
        hardness = self._open.margins.min(-1)
        chosen = np.arange(len(hardness))
        if count < len(hardness):
            chosen = np.argpartition(hardness, count - 1)[:count]
        parents = self._open.take(chosen)
        halves = parents.halved()
        if halves is None:
            return False
        rest = np.ones(len(hardness), bool)
        rest[chosen] = False
        shape = [-1, *self._shape]
        margins, points, effect = self._bounding.run(
            self._shared,
            tf.reshape(tf.constant(halves.lower), shape),
            tf.reshape(tf.constant(halves.upper), shape),
        )
        self._task.domains[self._index] += len(halves.lower)
        margins = np.fmax(halves.margins, margins.numpy())
        is_open = ~(margins > 0.0).all(-1)
        done = margins[~is_open]
        if len(done):
            self._proved = np.minimum(self._proved, done.min(0))
        found = _Boxes(
            halves.lower,
            halves.upper,
            margins,
            effect.numpy().reshape(len(margins), -1),
        ).take(is_open)
        self._open = self._open.take(rest).joined(found)
        self._try(points.numpy()[is_open], found)
        self._round += 1
        return True

    def _try(self, points, boxes):
        """Runs centres, and points where relaxations are least."""
        if not len(points):
            return
        shape = points.shape
        centers = ((boxes.lower + boxes.upper) / 2.0).reshape(shape)
        task, index = self._task, self._index
        both = np.concatenate([points, centers])
        if task.try_points(index, both, self._options.name):
            return
        options = self._options
        if options.attack is None or self._round % options.attack_every:
            return
        hardest = points[np.argsort(boxes.margins.min(-1))[:10]]
        attack_from(
            task,
            index,
            options.attack,
            Box.from_interval(task.region([index]).box),
            hardest,
            self._round,
            options.name,
        )


@dataclasses.dataclass(frozen=True)
class _Boxes:
    """Ends, margins of clauses, and how much each input matters."""

    lower: np.ndarray
    upper: np.ndarray
    margins: np.ndarray
    effect: np.ndarray

    def take(self, index) -> "_Boxes":
        return _Boxes(
            self.lower[index],
            self.upper[index],
            self.margins[index],
            self.effect[index],
        )

    def joined(self, other) -> "_Boxes":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return _Boxes(*(np.concatenate(pair) for pair in pairs))

    def halved(self) -> "_Boxes | None":
        """All lower halves, then all upper ones; None where a box has no middle."""
        middle = (self.lower + self.upper) / 2.0
        has_middle = (middle > self.lower) & (middle < self.upper)
        if not has_middle.any(-1).all():
            return None
        # Inputs without any effect come after all others, the widest first.
        width = self.upper - self.lower
        worth = self.effect + 1e-12 * width * (1.0 + self.effect.max(-1, keepdims=True))
        axis = np.where(has_middle, worth, -1.0).argmax(-1)
        places = np.arange(len(axis)), axis
        lower, upper = self.lower.copy(), self.upper.copy()
        upper[places], lower[places] = middle[places], middle[places]
        return _Boxes(
            np.concatenate([self.lower, lower]),
            np.concatenate([upper, self.upper]),
            np.concatenate([self.margins, self.margins]),
            np.concatenate([self.effect, self.effect]),
        )
