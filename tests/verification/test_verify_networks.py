"""Verdicts on other networks, and random ones that must not be refuted."""

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf.errors import InputError
from robust_tf.propagation.ascent import Ascent
from robust_tf.verification import stages
from robust_tf.verification.branch_and_bound import BranchAndBound
from robust_tf.verification.exact import Milp
from robust_tf.verification.result import Claim
from robust_tf.verification.result import Verdict
from tests.verification import verifying
from tests.verification.verifying import CHEAP
from tests.verification.verifying import FALSIFIED
from tests.verification.verifying import SEARCH
from tests.verification.verifying import SIZES
from tests.verification.verifying import SOON
from tests.verification.verifying import VERIFIED
from tests.verification.verifying import Bench
from tests.verification.verifying import assert_counterexample
from tests.verification.verifying import below
from tests.verification.verifying import only
from tests.verification.verifying import predictions


def test_tie_is_unsafe(centers):
    model = verifying.mlp(SIZES, seed=2)
    *rest, kernel, bias = model.get_weights()
    kernel[:, 1], bias[1] = kernel[:, 0], bias[0]
    bias[2] = -10.0
    model.set_weights([*rest, kernel, bias])
    tied = centers[:5]
    region = rt.LpBall(tied, 0.01)
    results = rt.verify(model, region, np.zeros(len(tied), int))
    for index, result in enumerate(results):
        unsafe = rt.UnsafeSet.misclassified(np.zeros(len(tied), int), 3)
        assert_counterexample(model, region, unsafe, result, index)


class TestOtherNetworks:
    """Against mixed-integer programs, or samples where there are none."""

    def exact(self, model, region):
        """The least `y_0 - y_1`, by bisection of the MILP stage's answers."""
        verifier = rt.Verifier(model, rt.Plan((stages.Interval(), Milp(200))))
        low, high, claims = -20.0, 20.0, set()
        while high - low > 1e-3:
            middle = (low + high) / 2
            result = only(verifier.verify(region, unsafe=below(middle, 3)))
            assert result.verdict in (VERIFIED, FALSIFIED)
            if result.method == "milp" and result.verdict is VERIFIED:
                claims.add(result.claim)
            low, high = (middle, high) if result.verdict is VERIFIED else (low, middle)
        assert claims == {Claim.TOLERANCE}
        return low, high

    def test_convolution_leaky_residual(self):
        model = verifying.mixed_model()
        center = np.random.default_rng(2).uniform(size=(1, 5, 5, 1)).astype("float32")
        region = rt.LpBall(center, 0.3)
        low, high = self.exact(model, region)
        verifier = rt.Verifier(model, rt.Plan((stages.Interval(), SEARCH)))
        safe, unsafe = below(low - 1e-3, 3), below(high + 1e-3, 3)
        found = only(verifier.verify(region, timeout_s=SOON, unsafe=safe))
        assert found.verdict is VERIFIED
        assert found.domains > 1
        assert found.lower_bound <= high - low + 1e-3 + 1e-5
        found = only(verifier.verify(region, timeout_s=SOON, unsafe=unsafe))
        assert_counterexample(model, region, unsafe, found)

    @pytest.mark.parametrize(
        ("make", "radius", "reason"),
        [
            (verifying.pooled_model, 0.06, "pool"),
            (verifying.mixed_activations, 0.3, "activation"),
        ],
    )
    def test_incomplete_searches_say_so(self, make, radius, reason):
        model = make()
        shape = model.input_shape[1:]
        center = np.random.default_rng(2).uniform(size=(1, *shape)).astype("float32")
        region = rt.LpBall(center, radius)
        points = verifying.samples(region, 20_000, 1).astype("float32")
        least = (verifying.outputs_of(model, points) @ [1.0, -1.0, 0.0]).min()
        verifier = rt.Verifier(model, rt.Plan((*CHEAP[1:3], SEARCH)))
        low, high = least - 4.0, least + 0.1
        for _ in range(16):  # What lies between what is safe and what is not.
            middle = (low + high) / 2
            unsafe = below(middle, 3)
            result = only(verifier.verify(region, timeout_s=SOON, unsafe=unsafe))
            assert result.lower_bound <= least - middle + 1e-5
            if result.verdict is VERIFIED:
                low = middle
            elif result.verdict is FALSIFIED:
                assert_counterexample(model, region, unsafe, result)
                high = middle
            else:
                break
        assert result.verdict is Verdict.UNKNOWN
        assert "incomplete" in result.reason
        assert reason in result.reason
        assert least - 4.0 < low < least
        unsafe = below(least + 0.1, 3)
        result = only(verifier.verify(region, timeout_s=SOON, unsafe=unsafe))
        assert_counterexample(model, region, unsafe, result)

    def test_executed_claim_proves_no_more(self):
        lower = {}
        for claim in (Claim.SOUND, Claim.EXECUTED):
            bench = Bench((4, 8, 8, 3), claim)
            bench.randomize(5)
            points = np.random.default_rng(6).uniform(size=(6, 4)).astype("float32")
            labels = predictions(bench.model, points)
            unsafe = rt.UnsafeSet.misclassified(labels, 3, tf.float64)
            task = bench.task(rt.LpBall(points, 0.01), unsafe)
            ladder = (stages.Interval(), stages.CrownIbp())
            lower[claim] = bench.lower_bounds(task, ladder)
            proved = [r.claim for r in task.results if r is not None]
            assert set(proved) == {claim}
        for name, sound in lower[Claim.SOUND].items():
            assert (lower[Claim.EXECUTED][name] < sound).all()
            assert (lower[Claim.EXECUTED][name] > sound - 1e-4).all()

    def test_weights_that_are_no_numbers_are_refused(self):
        model = verifying.mlp(SIZES, seed=2)
        weights = model.get_weights()
        weights[2][3, 4] = np.nan
        model.set_weights(weights)
        with pytest.raises(InputError, match="Weights must be finite"):
            rt.verify(model, rt.LpBall(np.full([1, 4], 0.5, "float32"), 0.1), [0])


def test_milp_keeps_to_what_it_can_do(model):
    region = rt.LpBall(np.full([1, 4], 0.5, "float32"), 0.4)
    few = rt.Plan((Milp(max_unstable=0),))
    result = only(rt.verify(model, region, [0], plan=few))
    assert result.verdict is Verdict.UNKNOWN
    assert "unstable" in result.reason
    smooth = verifying.mixed_activations()
    region = rt.LpBall(np.full([1, 3], 0.5, "float32"), 0.4)
    result = only(rt.verify(smooth, region, [0], plan=rt.Plan((Milp(),))))
    assert result.verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(("name", "least_share"), [("tanh", 0.2), ("mixed", 0.05)])
def test_lines_of_smooth_activations_prove_more(name, least_share):
    """Of CROWN's distance to samples; found in float32, proved in float64."""
    if name == "tanh":
        model = verifying.mlp((3, 6, 6, 3), activation=layers.Tanh)
    else:
        model = verifying.mixed_activations()
    region = rt.LpBall(np.full([1, 3], 0.5, "float32"), 0.4)
    ladder = (stages.Interval(), stages.Crown(), stages.AlphaCrownStage())
    lower = []
    for count in (2, 3):  # No margin passes this threshold.
        plan = rt.Plan(ladder[:count])
        result = only(rt.verify(model, region, unsafe=below(50.0, 3), plan=plan))
        assert result.verdict is Verdict.UNKNOWN
        lower.append(result.lower_bound + 50.0)
    crown, found = lower
    outputs = verifying.outputs_of(model, verifying.samples(region, 4000, 0))
    least = (outputs[:, 0] - outputs[:, 1]).min()
    assert crown + least_share * (least - crown) < found <= least
    unsafe = below((crown + found) / 2, 3)
    result = only(rt.verify(model, region, unsafe=unsafe, plan=rt.Plan(ladder)))
    assert result.verdict is VERIFIED
    assert result.method == "alpha-crown"
    assert result.claim is Claim.SOUND


def test_no_point_falls_below_what_is_proved(bench):
    """Random networks, random regions; samples and attacks against every stage."""
    search = BranchAndBound(
        batch_size=16, attack=None, ascent=Ascent(iterations=10), max_domains=16
    )
    decided = 0
    for seed in range(10):
        bench.randomize(seed)
        rng = np.random.default_rng(seed)
        points = rng.uniform(size=(6, 4)).astype("float32")
        radii = rng.uniform(0.02, 0.3, size=6).astype("float32")
        region = rt.LpBall(points, radii)
        labels = predictions(bench.model, points)
        labels[:2] = rng.integers(3, size=2)
        unsafe = rt.UnsafeSet.misclassified(labels, 3, tf.float64)
        task = bench.task(region, unsafe)
        task.suspect = lambda *_: False  # Proofs alone: they go on where points are.
        found = bench.lower_bounds(task, verifying.cheap_stages())
        search.run(task, task.open[:3])
        found["bab"] = task.lower
        attacked = stages.attack_points(task, verifying.QUICK, region, unsafe, seed)
        for index in range(6):
            tried = verifying.samples(region, 2000, seed, index)
            tried = np.concatenate([tried, attacked[index : index + 1]])
            outputs = bench.graph.inference()(tf.constant(tried, tf.float64))
            outputs = outputs.numpy().astype("float64")
            least = verifying.clause_margins(unsafe, outputs, index).min(0)
            for name, lower in found.items():
                assert (lower[index] <= least + 1e-5).all(), (seed, index, name)
        decided += np.sum([r is not None for r in task.results])
    assert decided > 12
