"""The search over signs of neurons: coverage, book-keeping, and what it may claim."""

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.attacks.pgd import PGD
from robust_tf.errors import InputError
from robust_tf.propagation.ascent import Ascent
from robust_tf.verification import leaves
from robust_tf.verification import stages
from robust_tf.verification.branch_and_bound import BranchAndBound
from robust_tf.verification.branching import Branching
from robust_tf.verification.domains import Domains
from robust_tf.verification.result import Verdict
from robust_tf.verification.subproblems import Subproblems
from tests.verification import verifying
from tests.verification.verifying import VERIFIED
from tests.verification.verifying import Bench
from tests.verification.verifying import assert_counterexample
from tests.verification.verifying import below
from tests.verification.verifying import logits_at
from tests.verification.verifying import searched
from tests.verification.verifying import slow

SIZES = (4, 10, 10, 3)
ASCENT = Ascent(iterations=20)


@pytest.fixture(scope="module")
def bench():
    """The frozen network "two", in float32."""
    bench = Bench(SIZES)
    model, region, _ = verifying.frozen_model("two")
    bench.model.set_weights(model.get_weights())
    bench.region = region
    points = verifying.samples(region, 50_000, 1)
    bench.least = (logits_at(bench, points) @ [1.0, -1.0, 0.0]).min()
    return bench


EXACT = -0.14260984


@pytest.mark.parametrize(
    ("heuristic", "reduce"),
    [
        ("babsr", "min"),
        ("fsb", "min"),
        ("upb", "min"),
        slow("babsr", "max"),
        slow("kfsb", "min"),
        slow("kfsb", "max"),
        slow("supc", "min"),
        slow("intercept", "min"),
    ],
)
def test_every_heuristic_decides(bench, heuristic, reduce):
    branching = Branching(heuristic, reduce=reduce)
    safe = searched(bench, below(EXACT - 0.1, 3), branching=branching)
    assert safe.verdict is VERIFIED
    assert 0.0 < safe.lower_bound <= 0.1 + 1e-6
    unsafe = below(EXACT + 0.05, 3)
    result = searched(bench, unsafe, branching=branching)
    assert_counterexample(bench.model, bench.region, unsafe, result)


def test_unknown_heuristics_are_refused():
    for wrong in ({"heuristic": "best"}, {"reduce": "sum"}, {"candidates": 0}):
        with pytest.raises(InputError, match="Received"):
            Branching(**wrong)


@pytest.fixture(scope="module")
def parts(bench):
    prover = bench.prover
    unsafe = below(0.0, 3).cast(tf.float64)
    task = bench.task(bench.region, unsafe)
    bounds, charges = stages.intervals(task, [0])
    interval = prover.neurons.interval(bounds)
    unstable = ((interval.lower < 0.0) & (interval.upper > 0.0)).numpy()[0]
    one = Subproblems(prover, ASCENT, 0.1, 0.05, Branching("babsr"))
    start = prover.neurons.adaptive(bounds).numpy()[0]
    return one, (task.region([0]), bounds, charges), unstable, start


class TestSubproblems:
    """Halves of halves, against points that lie in them."""

    def values(self, bench, count):
        """Random points, their values before activations, and margins."""
        points = verifying.samples(bench.region, count, 3)
        values = {0: tf.constant(points)}
        for node in bench.graph.nodes:
            (source,) = node.inputs
            weights = [w.astype("float64") for w in node.layer.get_weights()]
            values[node.output] = (
                values[source] @ weights[0] + weights[1]
                if weights
                else tf.nn.relu(values[source])
            )
        before = [values[edge].numpy() for edge in bench.prover.neurons.edges]
        logits = values[bench.graph.output].numpy()
        return np.concatenate(before, -1), logits[:, 0] - logits[:, 1]

    def bounded(self, parts, signs, slopes, multipliers, iterations=20):
        one, root, _, _ = parts
        rows = np.tile(verifying.row_between(3), [len(signs), 1, 1])
        ends = np.zeros([len(signs), 1])
        if iterations:
            slopes, multipliers = one.search(
                root, rows, ends, signs, slopes, multipliers, iterations
            )
        margins, points, *_ = one.decide(root, rows, ends, signs, slopes, multipliers)
        return margins.numpy()[:, 0], slopes, multipliers, points.numpy()

    def test_bounds_hold_in_every_part(self, bench, parts):
        _, _, unstable, start = parts
        before, margins = self.values(bench, 30_000)
        rng = np.random.default_rng(4)
        # Signs at random points: all of them, most, or few; and none.
        signs = np.sign(before[rng.integers(len(before), size=64)]) * unstable
        kept = np.linspace(0.0, 1.5, 64)[:, None]
        signs *= rng.uniform(size=signs.shape) < kept
        slopes = np.tile(start, [64, 1, 1])
        lower, *_ = self.bounded(parts, signs, slopes, np.zeros_like(slopes))
        wild = rng.uniform(0, 3, slopes.shape)  # Any multipliers, any slopes.
        other, *_ = self.bounded(
            parts, signs, rng.uniform(-1, 2, slopes.shape), wild, iterations=0
        )
        seen, gaps = 0, []
        for row, one, two in zip(signs, lower, other, strict=True):
            inside = (row * before >= 0.0).all(-1)
            seen += inside.any()
            least = margins[inside].min(initial=np.inf)
            assert max(one, two) <= least + 1e-9
            gaps.append(least - one)
        assert seen == 64
        # Where all signs are known, the search comes near; with wrong signs, never.
        assert min(gaps[-20:]) < 0.1
        assert np.median(gaps[-20:]) < 0.4

    def test_halves_cover_and_gain(self, bench, parts):
        _, _, unstable, start = parts
        before, _ = self.values(bench, 2000)
        count = int(unstable.sum())
        signs = np.zeros([1, len(unstable)])
        slopes = start[None, None]
        root, slopes, multipliers, _ = self.bounded(
            parts, signs, slopes, np.zeros_like(slopes)
        )
        domains = Domains(
            lower=np.tile(root, count),
            clause=np.zeros(count, int),
            signs=np.zeros([count, len(unstable)], np.int8),
            slopes=np.tile(slopes, [count, 1, 1]),
            multipliers=np.tile(multipliers, [count, 1, 1]),
            candidates=np.zeros([count, 1], np.int32),
            scores=np.zeros([count, 1], np.float32),
        )
        halves = domains.split(np.flatnonzero(unstable))
        covered = (halves.signs[:, None] * before >= 0.0).all(-1)
        assert (covered[:count] | covered[count:]).all()
        lower, *_ = self.bounded(parts, halves.signs, halves.slopes, halves.multipliers)
        inherited = np.fmax(lower, halves.lower)
        worse = np.minimum(inherited[:count], inherited[count:])
        assert (worse >= root).all()
        assert worse.max() > root + 1e-3
        assert (lower[:count] > root - 0.05).all()  # Warm start: little to lose.

    def test_row_of_padding_proves_nothing(self, parts):
        one, root, unstable, start = parts
        signs = np.zeros([1, len(unstable)])
        rows, ends = np.zeros([1, 1, 3]), np.ones([1, 1])
        slopes = start[None, None]
        arguments = (root, rows, ends, signs, slopes, np.zeros_like(slopes))
        margins, *_ = one.decide(*arguments)
        assert -1.0 - 1e-9 <= margins.numpy() <= -1.0
        slopes, multipliers = one.search(*arguments, 20)
        margins, *_ = one.decide(root, rows, ends, signs, slopes, multipliers)
        assert margins.numpy() <= -1.0


class TestLimits:
    """Domains that were given up are never counted as proved."""

    # Safe by far, but not without many splits.
    safe = below(EXACT - 0.05, 3)

    def test_the_same_with_room(self, bench):
        result = searched(bench, self.safe)
        assert result.verdict is VERIFIED
        assert result.domains > 50

    @pytest.mark.parametrize(
        "options",
        [
            {"max_domains": 1, "batch_size": 8},
            {"max_domains": 3, "batch_size": 1},
            {"memory_budget_mb": 1e-3, "disk_budget_mb": 0.0, "batch_size": 4},
            {"memory_budget_mb": 1e-3, "disk_budget_mb": 1e-3, "batch_size": 4},
            {"max_domains": 2, "batch_size": 2, "is_depth_first": True},
        ],
    )
    def test_no_room(self, bench, options):
        result = searched(bench, self.safe, **options)
        assert result.verdict is Verdict.UNKNOWN
        assert "memory" in result.reason
        assert result.lower_bound < 0.0

    def test_room_on_disk(self, bench):
        options = {"memory_budget_mb": 1e-3, "batch_size": 4}
        result = searched(bench, self.safe, **options)
        assert result.verdict is VERIFIED
        assert result.lower_bound > 0.0

    def test_depth_first_decides_too(self, bench):
        result = searched(bench, self.safe, is_depth_first=True, batch_size=4)
        assert result.verdict is VERIFIED

    @pytest.mark.slow
    def test_more_iterations(self, bench):
        options = {"ascent": Ascent(iterations=3), "batch_size": 4}
        assert searched(bench, self.safe, grows=True, **options).verdict is VERIFIED
        assert_counterexample(
            bench.model,
            bench.region,
            unsafe := below(EXACT + 0.01, 3),
            searched(bench, unsafe, grows=True, **options),
        )

    def test_early_termination(self, bench):
        options = {
            "early_terminate": True,
            "batch_size": 1,
            "multiplier_rate": 1e-30,  # Thousands of domains would be needed.
            "branching": Branching("babsr"),
        }
        easy = searched(bench, below(EXACT - 1.5, 3), **options)  # Builds the graphs.
        assert easy.verdict is VERIFIED
        assert easy.domains > 2
        hopeless = searched(bench, below(EXACT - 1e-3, 3), timeout_s=5.0, **options)
        assert hopeless.verdict is Verdict.UNKNOWN
        assert hopeless.reason == "early termination"
        assert hopeless.lower_bound <= 0.0

    def test_deadline(self, bench):
        result = searched(bench, self.safe, timeout_s=0.3, batch_size=1)
        assert result.verdict is Verdict.TIMEOUT
        assert -10.0 < result.lower_bound <= 0.0

    def test_want_of_memory_shrinks_batches(self, bench, monkeypatch):
        sizes, split = [], Domains.split_all

        def greedy(self, neurons):
            sizes.append(len(self))
            if len(self) > 2:
                raise tf.errors.ResourceExhaustedError(None, None, "no room")
            return split(self, neurons)

        monkeypatch.setattr(Domains, "split_all", greedy)
        result = searched(bench, self.safe, batch_size=8)
        assert result.verdict is VERIFIED
        assert max(sizes) > 2


class TestMultipliers:
    def test_less_is_proved_without(self, bench, monkeypatch):
        monkeypatch.setattr(leaves.Leaves, "solve", lambda *_: -np.inf)
        with_them, without = (
            searched(
                bench,
                below(EXACT - 0.01, 3),
                batch_size=64,
                multiplier_rate=rate,
                branching=Branching("babsr"),
            )
            for rate in (0.05, 1e-30)
        )
        assert with_them.verdict is VERIFIED
        assert without.verdict is Verdict.UNKNOWN
        assert without.domains > 2 * with_them.domains
        assert without.lower_bound < -0.01


def hidden_spike():
    """A narrow dip that gradients from afar do not see, and a decoy slope."""
    model = verifying.mlp((2, 6, 2))
    at, width = 0.62, 0.01
    first = np.zeros([2, 6])
    first[0, :3] = 1.0  # A dip in x_0: three kinks.
    first[1, 3] = 1.0  # The decoy, in x_1.
    shift = np.array([width - at, -at, -width - at, 0.0, 0.0, 0.0])
    second = np.zeros([6, 2])
    dip = np.array([1.0, -2.0, 1.0]) / width
    second[:3, 0] = -2.0 * dip
    second[3, 0] = -0.5
    model.set_weights([first, shift, second, np.array([1.0, 0.0])])
    return model


def test_attack_inside_finds_what_attacks_miss():
    model = hidden_spike()
    region = rt.Box(np.zeros([1, 2], "float32"), np.ones([1, 2], "float32"))
    unsafe = below(0.0, 2)
    plain = (stages.Clean(), stages.Attack(PGD(steps=50, restarts=2)))
    alone = rt.verify(model, region, unsafe=unsafe, plan=rt.Plan(plain))[0]
    assert alone.verdict is Verdict.UNKNOWN
    for attack in (None, verifying.QUICK):
        search = BranchAndBound(attack=attack, ascent=ASCENT)
        plan = rt.Plan((*plain, stages.Interval(), search))
        found = rt.verify(model, region, unsafe=unsafe, plan=plan)[0]
        assert_counterexample(model, region, unsafe, found)
        assert found.method == "bab"


def test_least_margin_was_seen_inside_the_region(bench, monkeypatch):
    """The least of a bound may lie outside a ball that a range cuts, or be rounded."""
    check, inside, domains = bench.replay.check, [], 0

    def noted(*args):
        found = check(*args)
        if found.is_inside:
            inside.append(found.executed)
        return found

    monkeypatch.setattr(bench.replay, "check", noted)
    for corner in np.eye(4, dtype="float32"):
        inside.clear()
        region = rt.LpBall(corner[None], 0.5, 2)
        margin = logits_at(bench, corner[None])[0] @ [1.0, -1.0, 0.0]
        unsafe = below(margin - 0.8, 3)
        result = searched(bench, unsafe, region=region, attack=verifying.QUICK)
        domains += result.domains
        assert result.upper_bound == min(inside, default=np.inf)
    assert domains > 4


def test_wrong_options_are_refused():
    for wrong in (
        {"batch_size": 0},
        {"slope_rate": 0.0},
        {"multiplier_rate": -1.0},
        {"attack_every": 0},
        {"max_domains": 0},
        {"memory_budget_mb": 0.0},
    ):
        with pytest.raises(InputError, match="Received"):
            BranchAndBound(**wrong)
