"""Small models, unsafe sets and witnesses for tests of the verifier."""

import dataclasses
import itertools
from collections.abc import Callable
from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.attacks.pgd import PGD
from robust_tf.graph import BoundGraph
from robust_tf.propagation.alpha_crown import AlphaCrown
from robust_tf.propagation.ascent import Ascent
from robust_tf.verification import stages
from robust_tf.verification.branch_and_bound import BranchAndBound
from robust_tf.verification.prover import Prover
from robust_tf.verification.replay import Replay
from robust_tf.verification.result import Claim
from robust_tf.verification.result import Verdict
from robust_tf.verification.stages import Stage
from robust_tf.verification.task import Clock
from robust_tf.verification.task import Task
from tests.verification.lp_cases import FROZEN

VERIFIED, FALSIFIED = Verdict.VERIFIED, Verdict.FALSIFIED
QUICK = PGD(steps=20, restarts=2)
SOON = 600.0  # Seconds; none of these tests may end by its deadline.


def layer(kind, *args, weights=None, dtype="float32", **kwargs):
    """A layer that starts from given weights, the kernel `[..., in, out]` first."""
    if weights is not None:
        kernel, bias = weights
        kwargs["kernel_initializer"] = keras.initializers.Constant(kernel)
        kwargs["bias_initializer"] = keras.initializers.Constant(bias)
    return kind(*args, dtype=dtype, **kwargs)


def random_weights(rng, shape, scale=1.0):
    fan_in = np.prod(shape[:-1])
    kernel = rng.normal(size=shape) * scale * np.sqrt(2 / fan_in)
    return kernel, rng.normal(size=shape[-1]) * 0.1


def mlp(sizes, seed=1, dtype="float32", activation=keras.layers.ReLU):
    """Dense layers of these sizes; between them activations."""
    rng = np.random.default_rng(seed)
    inputs = tensor = keras.Input(sizes[:1], dtype=dtype)
    for i, shape in enumerate(itertools.pairwise(sizes)):
        tensor = activation(dtype=dtype)(tensor) if i else tensor
        weights = random_weights(rng, shape)
        tensor = layer(keras.layers.Dense, shape[1], weights=weights, dtype=dtype)(
            tensor
        )
    return keras.Model(inputs, tensor)


def frozen_model(name):
    """A frozen network of `lp_cases` as a model, its box, and its exact margin."""
    seed, sizes, radius = FROZEN[name][:3]
    rng = np.random.default_rng(seed)
    inputs = tensor = keras.Input(sizes[:1], dtype="float64")
    for i, (fan_in, units) in enumerate(itertools.pairwise(sizes)):
        tensor = keras.layers.ReLU(dtype="float64")(tensor) if i else tensor
        kernel = rng.normal(size=(units, fan_in)) * np.sqrt(2 / fan_in)
        weights = kernel.T, rng.normal(size=units) * 0.1
        tensor = layer(keras.layers.Dense, units, weights=weights, dtype="float64")(
            tensor
        )
    center = rng.normal(size=sizes[:1]) * 0.3
    region = rt.Box(center[None] - radius, center[None] + radius)
    return keras.Model(inputs, tensor), region, FROZEN[name][-1]


def mixed_model(seed=4):
    """A strided convolution, leaky activations, and a residual block."""
    rng = np.random.default_rng(seed)
    inputs = keras.Input((5, 5, 1))
    weights = random_weights(rng, (3, 3, 1, 2))
    tensor = layer(keras.layers.Conv2D, 2, 3, 2, "same", weights=weights)(inputs)
    tensor = keras.layers.Flatten()(keras.layers.LeakyReLU(negative_slope=0.1)(tensor))
    weights = random_weights(rng, (18, 5))
    first = layer(keras.layers.Dense, 5, weights=weights)(tensor)
    weights = random_weights(rng, (5, 5))
    branch = layer(keras.layers.Dense, 5, weights=weights)(keras.layers.ReLU()(first))
    tensor = keras.layers.ReLU()(keras.layers.Add()([first, branch]))
    weights = random_weights(rng, (5, 3))
    return keras.Model(inputs, layer(keras.layers.Dense, 3, weights=weights)(tensor))


def pooled_model(seed=5):
    """A convolution, ReLU, a maximum over windows, and a dense layer."""
    rng = np.random.default_rng(seed)
    inputs = keras.Input((5, 5, 1))
    weights = random_weights(rng, (2, 2, 1, 2))
    tensor = layer(keras.layers.Conv2D, 2, 2, weights=weights)(inputs)
    tensor = keras.layers.MaxPooling2D(2)(keras.layers.ReLU()(tensor))
    weights = random_weights(rng, (8, 3))
    tensor = keras.layers.Flatten()(tensor)
    return keras.Model(inputs, layer(keras.layers.Dense, 3, weights=weights)(tensor))


def mixed_activations(seed=6):
    """Three inputs, ReLU, a sigmoid."""
    rng = np.random.default_rng(seed)
    inputs = keras.Input((3,))
    tensor = layer(keras.layers.Dense, 5, weights=random_weights(rng, (3, 5)))(inputs)
    weights = random_weights(rng, (5, 5), 2.0)
    tensor = layer(keras.layers.Dense, 5, weights=weights)(keras.layers.ReLU()(tensor))
    tensor = keras.layers.Activation("sigmoid")(tensor)
    weights = random_weights(rng, (5, 3), 2.0)
    return keras.Model(inputs, layer(keras.layers.Dense, 3, weights=weights)(tensor))


def below(threshold, classes, first=0, second=1):
    """Unsafe: `y_first - y_second <= threshold`."""
    return rt.UnsafeSet.from_clauses(
        [([row_between(classes, first, second)], [threshold])]
    )


def row_between(classes, first=0, second=1):
    row = np.zeros(classes)
    row[first], row[second] = 1.0, -1.0
    return row


def outputs_of(model, points):
    return model(np.asarray(points), training=False).numpy().astype("float64")


def clause_margins(unsafe, outputs, index=0):
    """By NumPy alone: the greatest margin in each clause, `[points, clauses]`."""
    rows, ends = unsafe.rows.numpy(), unsafe.thresholds.numpy()
    one = min(index, len(rows) - 1)
    margins = outputs.astype("float64") @ rows[one].T - ends[one]
    clauses = np.asarray(unsafe.clauses)
    return np.stack(
        [margins[:, clauses == c].max(-1) for c in range(clauses.max() + 1)], -1
    )


def grid_of(region, count=201, index=0):
    """Points of a 2-D box, its ends among them, float32."""
    low = region.box.lower.numpy()[index]
    high = region.box.upper.numpy()[index]
    axes = [np.linspace(*ends, count) for ends in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*axes), -1).reshape(-1, 2).astype("float32")


def samples(region, count, seed, index=0):
    """Points of a box, some at corners, in the region's type."""
    rng = np.random.default_rng(seed)
    low = region.box.lower.numpy()[index]
    high = region.box.upper.numpy()[index]
    shares = rng.uniform(size=(count, *low.shape))
    shares[::3] = np.round(shares[::3])
    return np.clip(low + shares * (high - low), low, high)


def assert_counterexample(model, region, unsafe, result, index=0):
    """The point lies in the region by exact arithmetic, and the model is unsafe there.

    The region is taken as given, before any of its ends is computed.
    """
    assert result.verdict is FALSIFIED
    point = result.counterexample
    assert point.dtype == np.dtype(model.inputs[0].dtype)
    assert point.shape == tuple(region.shape[1:])
    assert is_within([Fraction(float(v)) for v in point.ravel()], region, index)
    margins = clause_margins(unsafe, outputs_of(model, point[None]), index)
    assert not (margins > 0.0).all()
    assert result.upper_bound <= 0.0


def is_within(point, region, index):
    def exact(tensor):
        return [Fraction(float(value)) for value in np.ravel(tensor)]

    if isinstance(region, rt.Box):
        low, high = exact(region.box.lower[index]), exact(region.box.upper[index])
        return all(a <= p <= b for a, p, b in zip(low, point, high, strict=True))
    if region.valid_range is not None:
        low, high = map(Fraction, region.valid_range)
        if not all(low <= p <= high for p in point):
            return False
    radii = np.ravel(region.radius)
    radius = Fraction(float(radii[index if len(radii) > 1 else 0]))
    away = [abs(p - c) for p, c in zip(point, exact(region.x[index]), strict=True)]
    if np.isinf(region.norm):
        return max(away) <= radius
    return sum(d**2 if region.norm == 2.0 else d for d in away) <= radius ** (
        2 if region.norm == 2.0 else 1
    )


class Fake(Stage):
    """A stage that does what a test says."""

    def __init__(self, act: Callable, name="fake", is_batched=True):
        self.act, self.name, self.is_batched = act, name, is_batched

    def run(self, task, indices):
        self.act(task, indices)


def cheap_stages():
    """All of the ladder that splits nothing."""
    return (
        stages.Interval(),
        stages.CrownIbp(),
        stages.Crown(),
        stages.AlphaCrownStage(AlphaCrown(ascent=Ascent(iterations=10))),
    )


@dataclasses.dataclass
class Bench:
    """One architecture whose graphs are traced once, for many weights."""

    sizes: tuple[int, ...]
    claim: Claim = Claim.SOUND

    def __post_init__(self):
        self.model = rt.convert(mlp(self.sizes))
        self.graph = BoundGraph.from_model(self.model)
        self.prover = Prover(self.graph, self.claim)
        run = tf.function(lambda points: self.model(points, training=False))
        self.replay = Replay(run, self.graph, "float32")

    def randomize(self, seed):
        rng = np.random.default_rng(seed)
        shapes = itertools.pairwise(self.sizes)
        pairs = [random_weights(rng, shape) for shape in shapes]
        self.model.set_weights([array for pair in pairs for array in pair])

    def task(self, region, unsafe, timeout_s=SOON) -> Task:
        """The task of a batch of examples; unsafe sets are one for each."""
        region, unsafe = tf.nest.map_structure(
            lambda tensor: tf.cast(tensor, tf.float64), (region, unsafe)
        )
        clock = Clock(region.shape[0], timeout_s)
        return Task(self.prover, self.replay, region, unsafe, clock)

    def lower_bounds(self, task, ladder) -> dict[str, np.ndarray]:
        """Runs stages on all examples; what is proved after each, by clause."""
        found, everything = {}, list(range(len(task.results)))
        for stage in ladder:
            parts = [everything] if stage.is_batched else [[i] for i in everything]
            for indices in parts:
                stage.run(task, indices)
            found[stage.name] = task.lower.copy()
        return found


def predictions(model, points):
    return outputs_of(model, points).argmax(-1)


def only(results):
    (result,) = results
    return result


SEARCH = BranchAndBound(attack=QUICK, ascent=Ascent(iterations=20))
CHEAP = (stages.Clean(), stages.Attack(QUICK), *cheap_stages())
LADDER = (*CHEAP, SEARCH)
SIZES = (4, 10, 10, 3)


def logits_at(bench, points):
    return bench.graph.inference()(tf.constant(points, "float32")).numpy()


def searched(bench, unsafe, timeout_s=SOON, region=None, **options):
    """What one search finds out; bounds of the root by IBP."""
    task = bench.task(bench.region if region is None else region, unsafe, timeout_s)
    task.clock.start([0], "bab")
    stages.Interval().run(task, [0])
    if task.results[0] is None:
        BranchAndBound(
            **{"ascent": Ascent(iterations=20), "attack": None} | options
        ).run(task, [0])
    task.clock.stop()
    if task.results[0] is None:
        is_late = task.is_late[0]
        verdict = Verdict.TIMEOUT if is_late else Verdict.UNKNOWN
        task.fail(0, verdict, task.reasons[0])
    (result,) = task.finished()
    return result


def slow(*values):
    """A case that takes long."""
    return pytest.param(*values, marks=pytest.mark.slow)
