"""The stages of the ladder: each sees what earlier ones left open."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from robust_tf.attacks.pgd import PGD
from robust_tf.attacks.projections import center_of
from robust_tf.propagation.alpha_crown import AlphaCrown
from robust_tf.propagation.ascent import Ascent
from robust_tf.propagation.slopes import SmoothLines
from robust_tf.verification.prover import SEARCHING
from robust_tf.verification.prover import cast
from robust_tf.verification.task import Task


class Stage:
    """One method of deciding examples.

    Attributes:
        name: in results, as `method`.
        is_batched: works on several examples at once.
    """

    name = ""
    is_batched = True

    def applies(self, task: Task) -> bool:
        """Whether the stage can do anything for the classifier of a task."""
        del task
        return True

    def run(self, task: Task, indices: Sequence[int]) -> None:
        """Works on examples that are open; enters what it finds into the task.

        Args:
            task: the batch.
            indices: which of its examples; one alone unless `is_batched`.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Clean(Stage):
    """Runs the centre of each region."""

    name = "clean"

    def run(self, task, indices):
        centers = center_of(task.region(indices)).numpy()
        predictions = task.replay.outputs(centers).argmax(-1)
        for index, center, prediction in zip(
            indices, centers, predictions, strict=True
        ):
            task.predictions[index] = int(prediction)
            task.suspect(index, center, self.name)


@dataclasses.dataclass(frozen=True)
class Attack(Stage):
    """Searches counterexamples by gradients.

    Attributes:
        attack: such as `PGD`. It sees a classifier with one class for each clause, and
            one, the label, for none of them.
        name: in results.
    """

    attack: Callable = PGD(steps=100, restarts=5)  # noqa: RUF009
    name: str = "attack"

    def run(self, task, indices):
        points = attack_points(
            task, self.attack, task.region(indices), task.unsafe(indices), indices[0]
        )
        for index, point in zip(indices, points, strict=True):
            task.suspect(index, point, self.name)


@dataclasses.dataclass(frozen=True)
class Interval(Stage):
    """Interval bound propagation, the last layer merged with the rows."""

    name = "ibp"

    def run(self, task, indices):
        margins, bounds, charges = task.prover.interval(
            task.region(indices), task.unsafe(indices)
        )
        task.keep("bounds", indices, (bounds, charges))
        task.prove(indices, margins, self.name)


@dataclasses.dataclass(frozen=True)
class CrownIbp(Stage):
    """One backward pass over the intervals."""

    name = "crown-ibp"

    def run(self, task, indices):
        bounds, charges = intervals(task, indices)
        region, unsafe = task.region(indices), task.unsafe(indices)
        margins = task.prover.crown_ibp(region, unsafe, bounds, charges)
        task.prove(indices, margins, self.name)


@dataclasses.dataclass(frozen=True)
class Crown(Stage):
    """Backward passes for all intermediate bounds too.

    Attributes:
        relaxation: lower slopes of unstable ReLUs, of `layers.activations.RELAXATIONS`.
    """

    relaxation: str = "adaptive"
    name = "crown"

    def run(self, task, indices):
        bounds, _ = intervals(task, indices)
        margins, bounds, charges = task.prover.crown(
            task.region(indices), task.unsafe(indices), bounds, self.relaxation
        )
        task.keep("bounds", indices, (bounds, charges))
        task.prove(indices, margins, self.name)


@dataclasses.dataclass(frozen=True)
class ConvexAdversarial(Crown):
    """The convex adversarial polytope (arXiv:1711.00851), cut to the range of pixels.

    CROWN with both lines of a ReLU of one slope. The range and the intersection with
    the interval rule tighten intermediate bounds; as slopes follow from those, single
    margins may still be looser than published ones.
    """

    relaxation: str = "same-slope"
    name = "convex-adversarial"


@dataclasses.dataclass(frozen=True)
class AlphaCrownStage(Stage):
    """Slopes searched in float32, and what they prove in float64.

    Attributes:
        search: for the slopes.
    """

    search: AlphaCrown = AlphaCrown(ascent=Ascent(iterations=30))  # noqa: RUF009
    name = "alpha-crown"

    def applies(self, task):
        graph = task.prover.graph
        return task.prover.neurons.total + SmoothLines.of(graph).total > 0

    def run(self, task, indices):
        bounds, charges = intervals(task, indices)
        region, unsafe = task.region(indices), task.unsafe(indices)
        slopes = task.prover.search(self.search, region, unsafe, bounds)
        margins, bounds, charges = task.prover.by_slopes(
            region, unsafe, bounds, charges, slopes
        )
        task.keep("bounds", indices, (bounds, charges))
        task.keep("slopes", indices, slopes.rows)
        task.prove(indices, margins, self.name)


def intervals(task: Task, indices):
    """Returns the best intervals and charges so far; by IBP where there are none."""
    kept = task.kept("bounds", indices)
    if kept is None:
        Interval().run(task, indices)
        kept = task.kept("bounds", indices)
    return kept


def attack_points(
    task, attack, region, unsafe, number: int, start: np.ndarray | None = None
) -> np.ndarray:
    """Returns the worst points that an attack found, float64, `[batch, *shape]`.

    Args:
        task: whose classifier is attacked.
        attack: such as `PGD`.
        region: float64.
        unsafe: float64, rows with a batch axis.
        number: with the task's seed, the seed of the attack.
        start: points to begin from, `[batch, *shape]`; None for the attack's own.
    """
    region, unsafe = cast((region, unsafe), SEARCHING)
    seed = tf.constant([task.seed, number])
    if start is not None:
        start = tf.cast(start, SEARCHING)
    points = task.prover.attacked(attack, region, unsafe, seed, start)
    return points.numpy().astype("float64")


def attack_from(task, index: int, attack, region, points, number: int, method: str):
    """Attacks one example from several points, and tries where that ends.

    Args:
        task: of the example.
        index: its place in the task.
        attack: such as `PGD`.
        region: of the example, `[1, *shape]`, float64.
        points: to begin from, `[points, *shape]`.
        number: with the task's seed, the seed of the attack.
        method: what asks for it.
    """

    def repeated(tensor):
        return tf.repeat(tensor, len(points), 0) if tensor.shape.rank else tensor

    region, unsafe = tf.nest.map_structure(repeated, (region, task.unsafe([index])))
    found = attack_points(task, attack, region, unsafe, number, points)
    task.try_points(index, found, method)
