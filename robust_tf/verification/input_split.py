"""Branch and bound over the inputs, for classifiers with few of them."""

import dataclasses
import math

import numpy as np

from robust_tf.attacks.pgd import PGD
from robust_tf.errors import InputError
from robust_tf.regions import Box
from robust_tf.verification.box_bounds import BoxBounds
from robust_tf.verification.boxes import Boxes
from robust_tf.verification.rounds import in_rounds
from robust_tf.verification.stages import Stage
from robust_tf.verification.stages import attack_from
from robust_tf.verification.stages import intervals

_ATTACK = PGD(steps=20, restarts=1)
# What boxes lose has margins above this.
_CLIPPED_MARGIN = 1e-6


@dataclasses.dataclass(frozen=True)
class InputSplit(Stage):
    """Halves boxes of inputs until each is decided, by CROWN in float64.

    Inputs alone need very many boxes where a classifier is near to unsafe. So where the
    search is long, boxes lose what the bounds of their rows exclude of them, and it is
    neurons that are split in boxes where few are left whose sign is open.

    Attributes:
        max_inputs: classifiers with more inputs are left to other stages.
        batch_size: boxes that are halved in a round.
        max_boxes: open ones at most; beyond, the example stays UNKNOWN.
        open_share: a neuron is split, not an input, where at most this share of all
            has no known sign; 0 splits inputs alone.
        long_after: boxes that are bounded before a search is long.
        attack: on the points where relaxations are least; None for those alone.
        attack_every: rounds from one attack to the next.

    Raises:
        InputError: for values out of range.
    """

    max_inputs: int = 20
    batch_size: int = 512
    max_boxes: int = 2_000_000
    open_share: float = 0.15
    long_after: int = 8192
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
        if not 0.0 <= self.open_share <= 1.0 or self.long_after < 0:
            raise InputError(
                "`open_share` must be in [0, 1], `long_after` at least 0. "
                f"Received: {self.open_share}, {self.long_after}"
            )

    def applies(self, task):
        size = math.prod(task.prover.graph.shapes[0])
        return size <= self.max_inputs and task.region([0]).is_box

    def run(self, task, indices):
        for index in indices:
            bounds = task.prover.once(
                (BoxBounds, self.open_share),
                lambda: BoxBounds(task.prover, self.open_share, _CLIPPED_MARGIN),
            )
            _Search(self, task, index, bounds).run()


class _Search:
    """The search on one example."""

    def __init__(self, options: InputSplit, task, index: int, bounds: BoxBounds):
        self._options, self._task, self._index = options, task, index
        self._bounds = bounds
        region = task.region([index])
        self._shape = region.shape[1:]
        self._unsafe = task.unsafe([index])
        self._shared = self._unsafe, intervals(task, [index])[0]
        box = region.box
        # The ends of an Linf ball were rounded: outward by a little more.
        self._open = Boxes.whole(
            np.nextafter(box.lower.numpy().reshape(-1), -np.inf),
            np.nextafter(box.upper.numpy().reshape(-1), np.inf),
            task.lower[index].copy(),
            bounds.neurons.total,
        )
        self._proved = np.full([self._unsafe.num_clauses], np.inf)
        self._round, self._is_stuck = 0, False

    def run(self):
        task, index = self._task, self._index
        in_rounds(task, index, self._step, self._goes_on)
        if task.results[index] is None:
            bounds = self._proved
            if len(self._open):
                # Clauses that were proved of a box count with what was proved.
                bounds = np.minimum(bounds, self._open.margins.min(0))
            task.prove_clauses(index, bounds, self._options.name)

    def _goes_on(self, remaining, last) -> bool:
        del remaining, last
        if len(self._open) > self._options.max_boxes:
            self._task.reasons[self._index] = "max_boxes: boxes found no room"
            return False
        if self._is_stuck:
            self._task.reasons[self._index] = "numeric: a box cannot be halved"
            return False
        return len(self._open) > 0

    def _step(self):
        """Splits the hardest boxes."""
        is_long = self._task.domains[self._index] >= self._options.long_after
        is_chosen = self._hardest()
        parents = self._open.take(is_chosen)
        halves = (parents if is_long else parents.by_inputs()).split()
        if halves is None:
            self._is_stuck = True
            return
        margins, points, lower, upper, effect, neuron = self._bounds.run(
            self._shared, halves.lower, halves.upper, halves.signs
        )
        self._task.domains[self._index] += len(halves)
        margins = np.fmax(halves.margins, margins)
        is_open = ~(margins > 0.0).all(-1)
        self._note(margins[~is_open])
        if is_long:
            is_clipped = (lower != halves.lower) | (upper != halves.upper)
            lost = margins[is_open & is_clipped.any(-1)]
            # Of open clauses, the margins of points that were lost.
            self._note(np.where(lost > 0.0, lost, _CLIPPED_MARGIN))
        else:
            lower, upper = halves.lower, halves.upper
        effect *= upper - lower
        found = Boxes(lower, upper, halves.signs, margins, effect, neuron).take(is_open)
        self._open = self._open.take(~is_chosen).joined(found)
        self._try(points[is_open], found)
        self._round += 1

    def _note(self, margins):
        """Keeps the least margins of what is proved and dropped."""
        if len(margins):
            self._proved = np.minimum(self._proved, margins.min(0))

    def _hardest(self) -> np.ndarray:
        """Which open boxes are split next, as a mask."""
        hardness = self._open.margins.min(-1)
        is_chosen = np.ones(len(hardness), bool)
        count = self._options.batch_size
        if count < len(hardness):
            is_chosen[np.argpartition(hardness, count - 1)[count:]] = False
        return is_chosen

    def _try(self, points, boxes):
        """Runs centres, and points where relaxations are least."""
        if not len(points):
            return
        centers = (boxes.lower + boxes.upper) / 2.0
        task, index = self._task, self._index
        both = np.concatenate([points, centers]).reshape([-1, *self._shape])
        if task.try_points(index, both, self._options.name):
            return
        options = self._options
        if options.attack is None or self._round % options.attack_every:
            return
        hardest = both[np.argsort(boxes.margins.min(-1))[:10]]
        attack_from(
            task,
            index,
            options.attack,
            Box.from_interval(task.region([index]).box),
            hardest,
            self._round,
            options.name,
        )
