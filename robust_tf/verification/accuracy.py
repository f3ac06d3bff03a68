"""Clean, attacked and certified accuracy of a classifier on a data set."""

import dataclasses
import itertools
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from robust_tf.attacks.pgd import margins_of
from robust_tf.errors import InputError
from robust_tf.layers.convert import convert
from robust_tf.propagation.compute import compute_bounds
from robust_tf.regions import LpBall
from robust_tf.regions import Threat
from robust_tf.replicas import run_on_replicas
from robust_tf.specifications import margin_specification

# Float32 bounds err by about 1e-6; a margin below this proves nothing.
LEAST_MARGIN = 1e-5


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """What is known of each example; all arrays are `[examples]`, of booleans.

    Attributes:
        clean: the prediction is right.
        attacked: it is right, and no attack was found; None where none was tried.
        certified: by method, all margins are proved positive (float32, by more than
            `LEAST_MARGIN`).
    """

    clean: np.ndarray
    attacked: np.ndarray | None
    certified: dict[str, np.ndarray]

    @property
    def certified_by_any(self) -> np.ndarray:
        """Whether any method proves the example."""
        proofs = list(self.certified.values())
        return np.logical_or.reduce(proofs) if proofs else np.zeros_like(self.clean)

    def summary(self) -> dict:
        """Fractions, by the names of the run folder's records."""
        record = {"examples": len(self.clean), "clean_accuracy": self.clean.mean()}
        if self.attacked is not None:
            record["pgd_accuracy"] = self.attacked.mean()
        if self.certified:
            by_method = {name: hit.mean() for name, hit in self.certified.items()}
            record["certified_accuracy"] = self.certified_by_any.mean()
            record["certified_by"] = by_method
        return {key: _rounded(value) for key, value in record.items()}


def measure(
    model: keras.Model, batches: Iterable, threat: Threat, **options
) -> Accuracy:
    """Measures a classifier on padded batches.

    Args:
        model: from `robust_tf.convert`.
        batches: of (images, labels, weights); weight 0 marks padding.
        threat: radius, norm and valid range.
        **options: of `measure_radii`.

    Raises:
        InputError: for batches without examples.
        RuntimeError: where an attack and a proof contradict each other.
    """
    (result,) = measure_radii(model, batches, threat, [threat.epsilon], **options)
    return result


def measure_radii(
    model: keras.Model,
    batches: Iterable,
    threat: Threat,
    radii: Sequence[float],
    *,
    methods: tuple[str, ...] = ("ibp", "crown-ibp"),
    attack: Callable | None = None,
    relaxation: str = "adaptive",
    memory_budget_mb: float | None = None,
    seed: int = 0,
    strategy: tf.distribute.Strategy | None = None,
    progress: Callable = lambda _: None,
) -> list[Accuracy]:
    """Measures a classifier at several radii, one after the other.

    Each batch is worked on whole, by one replica, and its attack is seeded by its
    number: what is found does not depend on how many replicas there are.

    Args:
        model: from `robust_tf.convert`.
        batches: of (images, labels, weights); weight 0 marks padding. They are gone
            through once for each radius.
        threat: norm and valid range; its radius is not used.
        radii: in pixels in [0, 1].
        methods: of `compute_bounds`.
        attack: such as `attacks.pgd.PGD`; None for no attack.
        relaxation: of `compute_bounds`.
        memory_budget_mb: of `compute_bounds`.
        seed: of the attack.
        strategy: deals the batches out over its replicas, all of this process, each
            with a copy of the weights; None for the current one, which is one device
            outside of any scope.
        progress: called with the number of examples done after each batch.

    Raises:
        InputError: for batches without examples.
        RuntimeError: where an attack and a proof contradict each other.
    """
    strategy = strategy or tf.distribute.get_strategy()
    model = _on_every_replica(model, strategy)

    @tf.function(autograph=False, reduce_retracing=True)
    def examine(images, labels, seed, radius):
        region = LpBall(images, radius, threat.norm, threat.valid_range)
        return _examine(
            model,
            images,
            labels,
            region,
            methods,
            attack,
            seed,
            relaxation=relaxation,
            memory_budget_mb=memory_budget_mb,
        )

    threats = [dataclasses.replace(threat, epsilon=radius) for radius in radii]
    results = []
    for one in threats:  # Each was checked.
        radius = tf.constant(one.epsilon, tf.float64)
        examined = _examined(strategy, examine, batches, seed, radius)
        results.append(_gathered(examined, progress))
        _check_consistency(results[-1])
    return results


def _on_every_replica(model, strategy) -> keras.Model:
    """The model; or a copy, where replicas would read the variables of one device."""
    is_there = strategy.extended.variable_created_in_scope
    if all(is_there(variable.value) for variable in model.variables):
        return model
    with strategy.scope():
        return convert(model)


def _examined(strategy, examine, batches, seed, radius) -> Iterator[tuple]:
    """What `examine` finds on each batch, and the batch's weights, in order."""
    replicas = strategy.num_replicas_in_sync
    numbered = enumerate(batches)
    while dealt := list(itertools.islice(numbered, replicas)):
        shares = [
            (images, labels, tf.constant([seed, number]), radius)
            for number, (images, labels, _) in dealt
        ]
        # All run at once. Those left without a batch repeat one, and are not asked.
        idle = replicas - len(dealt)
        found = run_on_replicas(strategy, examine, shares + shares[:1] * idle)
        for (_, (_, _, weights)), one in zip(dealt, found[: len(dealt)], strict=True):
            yield one, weights


def _gathered(examined, progress) -> Accuracy:
    """The findings on all examples, without padding."""
    parts = []
    for found, weights in examined:
        is_real = np.asarray(weights) > 0
        parts.append({key: value.numpy()[is_real] for key, value in found.items()})
        progress(int(is_real.sum()))
    if not parts:
        raise InputError("There are no examples to measure on. Raise `count`.")
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return Accuracy(
        clean=joined.pop("clean"),
        attacked=joined.pop("attacked", None),
        certified=joined,
    )


def _examine(model, images, labels, region, methods, attack, seed, **options):
    """Booleans by name, `[batch]`."""
    logits = model(images, training=False)
    is_clean = margins_of(logits, labels) > 0.0
    found = {"clean": is_clean}
    if attack is not None:
        points = attack(
            lambda points: model(points, training=False), region, labels, seed
        )
        attacked = margins_of(model(points, training=False), labels) > 0.0
        found["attacked"] = is_clean & attacked
    rows = margin_specification(labels, logits.shape[-1], images.dtype)
    for method in methods:
        bound = compute_bounds(model, region, method, rows, **options)
        # The prediction is in the set: a proof without it would be a rounding error.
        found[method] = is_clean & tf.reduce_all(bound.lower > LEAST_MARGIN, -1)
    return found


def _check_consistency(result):
    if result.attacked is None:
        return
    for method, proved in result.certified.items():
        both = np.flatnonzero(proved & ~result.attacked)
        if both.size:
            raise RuntimeError(
                f"Examples {both[:10].tolist()} were proved robust by {method}, and "
                "attacked with success: one of the two is wrong. Nothing is reported."
            )


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return value if isinstance(value, int) else round(float(value), 6)
