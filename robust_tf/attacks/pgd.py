"""Projected gradient descent: a search for misclassified points in a region."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import tensorflow as tf

from robust_tf.attacks.projections import ascend
from robust_tf.attacks.projections import center_of
from robust_tf.attacks.projections import random_points
from robust_tf.errors import InputError
from robust_tf.regions import Region
from robust_tf.specifications import checked_labels


def margins_of(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns `z_y - max_{j != y} z_j`, `[batch]`.

    A point is classified correctly where its margin is positive. A tie, margin 0,
    counts as misclassified, as a robust example must have all margins above 0; a NaN
    does too. So an attack has succeeded where `~(margin > 0)`.

    Args:
        logits: `[batch, classes]`, at least 2 classes.
        labels: integer class indices, `[batch]`.

    Raises:
        InputError: for labels of wrong rank or type, or (eagerly) out of range.
    """
    logits = tf.convert_to_tensor(logits)
    labels = checked_labels(labels, logits.shape[-1])
    return _logit_of(labels, logits) - _greatest_other(logits, labels)


_KEEPS = ("best", "best_iterate", "last")
_LATE_DECAY = ((0.7, 0.3), (0.8, 0.1), (0.9, 0.03))


@dataclasses.dataclass(frozen=True)
class PGD:
    """Projected steepest ascent within a region.

    After arXiv:1706.06083; steps follow the norm of the region (see
    `projections.steepest_step`). A step size of 10 or so ends on the corner of the box
    that the first gradient points to, as single-step attacks in training do
    (arXiv:2305.13991).

    Attributes:
        steps: gradient steps of each run; 0 tries the start points alone.
        restarts: runs from different random points, for each class if multi-targeted.
        relative_step_size: length of a step in units of the radius (of the half
            width, coordinate by coordinate, for a `Box`).
        random_start: start at random points of the region, not at its centre.
        objective: what a run increases: "margin", `max_{j != y} z_j - z_y`, or
            "cross_entropy".
        multi_targeted: one run (or `restarts`) for each wrong class j, increasing
            `z_j - z_y` (arXiv:1910.09338), so `classes - 1` times the work.
        step_decay: pairs `(fraction, factor)`: once that fraction of the steps is done,
            steps have `factor * relative_step_size`. By default they shorten over the
            last three tenths of a run; `()` for steps of one length. A run from a
            random point crosses the region where the sizes of its steps add up to 2.
        keep: "best", the point of smallest margin among all iterates of all runs and
            the centre of the region, so that the result is never worse than the clean
            input; "best_iterate", that of greatest objective among the iterates of the
            one run; "last", where it ends, with no evaluation besides the gradients.

    Raises:
        InputError: for values out of range, or options that contradict each other.
    """

    steps: int = 40
    restarts: int = 1
    relative_step_size: float = 0.25
    random_start: bool = True
    objective: str = "margin"
    multi_targeted: bool = False
    step_decay: Sequence[tuple[float, float]] = _LATE_DECAY
    keep: str = "best"

    def __post_init__(self):
        _check_count("steps", self.steps, at_least=0)
        _check_count("restarts", self.restarts, at_least=1)
        if not 0.0 < self.relative_step_size < float("inf"):
            raise InputError(
                "`relative_step_size` must be above 0, in units of the radius. "
                f"Received: {self.relative_step_size}"
            )
        if self.objective not in _OBJECTIVES:
            raise InputError(
                f"`objective` must be one of {sorted(_OBJECTIVES)}. Received: "
                f"{self.objective!r}"
            )
        if self.multi_targeted and self.objective != "margin":
            raise InputError(
                "`multi_targeted` runs increase logit differences. Received: objective "
                f"{self.objective!r}. Leave it at 'margin'."
            )
        if self.restarts > 1 and not self.random_start:
            raise InputError(
                "Restarts from one point repeat each other. Received: restarts="
                f"{self.restarts}, random_start=False. Set one of them back."
            )
        _check_decay(self.step_decay)
        if self.keep not in _KEEPS:
            raise InputError(f"`keep` must be one of {_KEEPS}. Received: {self.keep!r}")
        if self.keep != "best" and (self.restarts > 1 or self.multi_targeted):
            raise InputError(
                "Only `keep='best'` chooses among several runs. Received: keep="
                f"{self.keep!r}, restarts={self.restarts}, multi_targeted="
                f"{self.multi_targeted}"
            )

    def __call__(
        self,
        logits_fn: Callable,
        region: Region,
        labels: tf.Tensor,
        seed: tf.Tensor,
        start: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns the point that is kept for each example, `[batch, *shape]`.

        It lies in `region` and carries no gradient. Works eagerly, in `tf.function`
        and under XLA, with a batch of any size. Weights are not watched; a tape that
        the caller holds open keeps what an eager attack computes, so attack first.

        Args:
            logits_fn: maps `[batch, *shape]`, in the type of the region, to logits
                `[batch, classes]`; each example by itself, as in inference mode.
            region: an `LpBall` or a `Box`.
            labels: integer class indices, `[batch]`.
            seed: two integers, `[2]`; they and the place in the batch decide the random
                points. (XLA draws others than TensorFlow's own kernels do.)
            start: points of the region, `[batch, *shape]`, at which the first run
                begins instead; further ones begin at random all the same.

        Raises:
            InputError: for seeds, labels or logits of the wrong shape or type.
        """
        seed = _checked_seed(seed)
        if self.keep != "best":
            begin = self._start(region, seed, 0, start)
            return tf.stop_gradient(self._single_run(logits_fn, region, labels, begin))
        center = center_of(region)
        logits = logits_fn(center)
        labels = _checked_batch(labels, logits, center)
        others = logits.shape[-1] - 1 if self.multi_targeted else 1

        def margin(logits):
            return margins_of(logits, labels)

        def run(index, best, best_margin):
            begin = self._start(region, seed, index, start)
            increase = self._increase(labels, index % others)
            climb = self._climb(logits_fn, region, increase, margin)
            return index + 1, *climb(begin, best, best_margin)

        _, best, _ = tf.while_loop(
            lambda index, *_: index < self.restarts * others,
            run,
            (tf.constant(0), center, margin(logits)),
        )
        return tf.stop_gradient(best)

    def _single_run(self, logits_fn, region, labels, start):
        """Where one run ends, or the best of its iterates."""

        def increase(logits):
            checked = _checked_batch(labels, logits, start)
            return _OBJECTIVES[self.objective](logits, checked)

        if self.keep == "best_iterate":
            climb = self._climb(
                logits_fn, region, increase, lambda logits: -increase(logits)
            )
            worst = tf.fill(tf.shape(start)[:1], start.dtype.max)
            return climb(start, start, worst)[0]
        return self._walk(logits_fn, region, increase, start)

    def _walk(self, logits_fn, region, increase, start):
        """The last point of a run."""
        sizes = tf.constant(self._step_sizes(), region.dtype)

        def step(index, points):
            _, gradient = _logits_and_gradient(logits_fn, increase, points)
            return index + 1, ascend(points, gradient, region, sizes[index])

        if self.steps == 1:
            return step(0, start)[1]
        return tf.while_loop(
            lambda index, _: index < self.steps, step, (tf.constant(0), start)
        )[1]

    def _start(self, region, seed, index, given):
        if not self.random_start:
            return center_of(region) if given is None else given
        points = random_points(region, tf.random.fold_in(seed, index, alg="philox"))
        return points if given is None else tf.where(index == 0, given, points)

    def _increase(self, labels, slot):
        """What a run increases, as a function from logits to `[batch]`."""
        if not self.multi_targeted:
            return lambda logits: _OBJECTIVES[self.objective](logits, labels)
        # Slot j stands for class j below the label, and for class j + 1 from it on.
        target = slot + tf.cast(slot >= labels, slot.dtype)
        return lambda logits: _logit_of(target, logits) - _logit_of(labels, logits)

    def _climb(self, logits_fn, region, increase, score):
        """One run, as a function from (start, best, its score) to a new best.

        The best point is that of smallest `score(logits)`, `[batch]`.
        """
        sizes = tf.constant(self._step_sizes(), region.dtype)

        def step(index, points, best, best_score):
            logits, gradient = _logits_and_gradient(logits_fn, increase, points)
            best, best_score = _better(points, score(logits), best, best_score)
            points = ascend(points, gradient, region, sizes[index])
            return index + 1, points, best, best_score

        def climb(start, best, best_score):
            _, last, best, best_score = tf.while_loop(
                lambda index, *_: index < self.steps,
                step,
                (tf.constant(0), start, best, best_score),
            )
            return _better(last, score(logits_fn(last)), best, best_score)

        return climb

    def _step_sizes(self):
        """Relative sizes of all steps; one entry where there are no steps."""
        sizes = []
        for index in range(max(self.steps, 1)):
            factors = [f for done, f in self.step_decay if index >= done * self.steps]
            sizes.append(self.relative_step_size * (factors[-1] if factors else 1.0))
        return sizes


def _logits_and_gradient(logits_fn, increase, points):
    """The logits, and the gradient of the sum of what is increased, at `points`."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(points)
        logits = logits_fn(points)
        objective = increase(logits)
    return logits, tape.gradient(
        objective, points, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )


def _better(points, score, best, best_score):
    """Of two points and their scores, the one of smaller score, by example."""
    is_better = score < best_score
    mask = tf.reshape(is_better, [-1] + [1] * (points.shape.rank - 1))
    return tf.where(mask, points, best), tf.where(is_better, score, best_score)


def _logit_of(classes, logits):
    """The logit of one class for each example, `[batch]`."""
    is_class = tf.range(logits.shape[-1], dtype=classes.dtype) == classes[:, None]
    return tf.reduce_sum(tf.where(is_class, logits, 0.0), -1)


def _greatest_other(logits, labels):
    is_own = tf.range(logits.shape[-1], dtype=labels.dtype) == labels[:, None]
    return tf.reduce_max(tf.where(is_own, logits.dtype.min, logits), -1)


def _negative_margin(logits, labels):
    return _greatest_other(logits, labels) - _logit_of(labels, logits)


def _cross_entropy(logits, labels):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


_OBJECTIVES = {"margin": _negative_margin, "cross_entropy": _cross_entropy}


def _checked_seed(seed):
    seed = tf.convert_to_tensor(seed)
    if not seed.dtype.is_integer or not seed.shape.is_compatible_with([2]):
        raise InputError(
            "`seed` must be two integers. Received: "
            f"{seed.dtype.name} of shape {seed.shape}. Write (seed, step), say."
        )
    return seed


def _checked_batch(labels, logits, center):
    """Labels as integers, where logits, labels and inputs fit together."""
    if logits.shape.rank != 2 or logits.shape[1] is None:
        raise InputError(
            "`logits_fn` must return [batch, classes], the number of classes known. "
            f"Received: shape {logits.shape}"
        )
    labels = checked_labels(labels, logits.shape[1])
    for name, tensor in (("labels", labels), ("logits", logits)):
        if not tensor.shape[:1].is_compatible_with(center.shape[:1]):
            raise InputError(
                f"There must be one of the {name} for each of the {center.shape[0]} "
                f"inputs. Received: {tensor.shape[0]}"
            )
    return labels


def _check_count(name, value, at_least):
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise InputError(
            f"`{name}` must be a whole number of at least {at_least}. Received: "
            f"{value!r}"
        )


def _check_decay(pairs):
    try:
        fractions = [float(fraction) for fraction, _ in pairs]
        is_valid = all(0.0 < float(factor) < float("inf") for _, factor in pairs)
    except (TypeError, ValueError):
        fractions, is_valid = [], False
    is_valid = is_valid and all(0.0 <= fraction < 1.0 for fraction in fractions)
    if not is_valid or fractions != sorted(fractions):
        raise InputError(
            "`step_decay` must hold pairs (fraction of the steps, factor), fractions "
            "ascending in [0, 1), factors above 0, such as ((0.5, 0.1), (0.75, 0.01)). "
            f"Received: {pairs!r}"
        )
