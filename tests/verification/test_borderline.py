"""Radii at which the least margin is next to 0: nothing there is taken on trust."""

import keras
import numpy as np
import pytest

import robust_tf as rt
from robust_tf import layers
from robust_tf.graph import BoundGraph
from robust_tf.propagation.ascent import Ascent
from robust_tf.verification import stages
from robust_tf.verification.branch_and_bound import BranchAndBound
from robust_tf.verification.milp import minimal_margin
from robust_tf.verification.plan import Plan
from robust_tf.verification.result import Verdict
from robust_tf.verification.verify import Verifier
from tests import rational
from tests.verification import lp_cases


def network(seed):
    """3-5-4-2, float32; from the label 0 the other class can be reached."""
    rng = np.random.default_rng(seed)
    inputs = tensor = keras.Input((3,))
    for units in (5, 4):
        tensor = layers.ReLU()(layers.Dense(units)(tensor))
    model = keras.Model(inputs, layers.Dense(2)(tensor))
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape) * 0.9)
    center = rng.uniform(0.3, 0.7, size=(1, 3)).astype("float32").astype("float64")
    label = model(center.astype("float32")).numpy().argmax()
    return model, center, int(label)


class Border:
    """Bisection of the radius at which the least margin vanishes."""

    def __init__(self, seed):
        self.model, self.center, self.label = network(seed)
        self.graph = BoundGraph.from_model(self.model)
        self.row = np.where(np.arange(2) == self.label, 1.0, -1.0)

    def region(self, radius):
        return rt.Box(self.center - radius, self.center + radius)

    def margin(self, radius):
        """By the program, and of its point in exact arithmetic."""
        region = self.region(radius)
        bounds = lp_cases.crown(self.graph, region)
        found = minimal_margin(self.graph, region, bounds, self.row)
        ends = (end.numpy()[0] for end in (region.box.lower, region.box.upper))
        network = rational.ExactNetwork(self.model, *ends)
        return found.value, network.value(found.point) @ rational.rational(self.row)

    def radius(self, low=0.0, high=4.0):
        for _ in range(60):
            middle = (low + high) / 2.0
            value, _ = self.margin(middle)
            low, high = (middle, high) if value > 0.0 else (low, middle)
            if abs(value) < 1e-9:
                break
        return middle


@pytest.mark.parametrize("seed", [0, 1])
def test_nothing_is_verified_beyond_the_border(seed):
    border = Border(seed)
    radius = border.radius()
    plan = Plan(
        (
            stages.Interval(),
            stages.Crown(),
            BranchAndBound(batch_size=8, ascent=Ascent(10), attack=None),
        ),
        batch_size=8,
    )
    verifier = Verifier(border.model, plan)
    steps = (-1e-3, -1e-7, -1e-9, 0.0, 1e-9, 1e-7, 1e-3)
    radii = np.array([radius + step for step in steps])
    ends = border.center - radii[:, None], border.center + radii[:, None]
    results = verifier.verify(rt.Box(*ends), [border.label] * len(steps), 60.0)
    verdicts = []
    for one, step, result in zip(radii, steps, results, strict=True):
        value, exact = border.margin(one)
        assert abs(value) < (1e-7 if abs(step) < 1e-8 else 1e-1)
        if exact <= 0:
            assert result.verdict != Verdict.VERIFIED
        if result.verdict == Verdict.VERIFIED:
            assert 0.0 < result.lower_bound <= exact
        else:
            assert not result.lower_bound > 0.0
        verdicts.append(result.verdict)
    assert verdicts[0] == Verdict.VERIFIED
    assert verdicts[-1] == Verdict.FALSIFIED
