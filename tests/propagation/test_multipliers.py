"""Bounds over parts of a region, by multipliers of signs (beta-CROWN)."""

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.bounds import IntervalBound
from robust_tf.propagation.ascent import Ascent
from robust_tf.propagation.ascent import Parameter
from robust_tf.propagation.crown import crown_margins
from robust_tf.propagation.slopes import Neurons
from robust_tf.verification.lp_bounds import lp_bound
from robust_tf.verification.milp import minimal_margin
from tests.verification import lp_cases

NETWORKS = {
    "conv": lp_cases.conv_net,
    "pooling": lp_cases.pooling_net,
    "leaky": lp_cases.leaky_net,
    "residual": lp_cases.residual_net,
}


class Splits:
    """Every single split of one network, as a batch of subproblems."""

    def __init__(self, name):
        if name in lp_cases.FROZEN:
            self.graph, self.region, self.bounds = lp_cases.frozen(name)
        else:
            self.graph = NETWORKS[name]()
            self.region = lp_cases.box_around(self.graph, 0.25)
            self.bounds = lp_cases.crown(self.graph, self.region)
        self.row = lp_cases.row_over(self.graph)
        self.neurons = Neurons.of(self.graph)
        interval = self.neurons.interval(self.bounds)
        is_open = ((interval.lower < 0.0) & (interval.upper > 0.0)).numpy()[0]
        unit = np.eye(self.neurons.total)[is_open]
        self.signs = np.concatenate([unit, -unit])

    def by_edge(self, number):
        parts = self.neurons.split(tf.constant(self.signs[number]))
        return {edge: part.numpy().astype(np.int8) for edge, part in parts.items()}

    def searched(self, iterations, sign=1.0):
        """Margins and multipliers of all splits, `[splits]` and `[splits, neurons]`.

        Args:
            iterations: of the ascent.
            sign: -1 for the wrong convention.
        """
        count, neurons = len(self.signs), self.neurons
        signs = tf.constant(self.signs)
        bounds = {
            edge: IntervalBound(*(tf.repeat(end, count, 0) for end in ends))
            for edge, ends in ((e, (b.lower, b.upper)) for e, b in self.bounds.items())
        }
        for edge, one in neurons.split(signs).items():
            low, high = bounds[edge].lower, bounds[edge].upper
            bounds[edge] = IntervalBound(
                tf.where(one > 0.0, 0.0, low), tf.where(one < 0.0, 0.0, high)
            )
        region = rt.Box.from_interval(bounds[0])
        rows = tf.constant(self.row[None, None])

        def evaluate(values):
            slopes, multipliers = values
            signed = sign * multipliers * signs[:, None]
            choices = neurons.choices(slopes, signed)
            return crown_margins(self.graph, region, bounds, rows, choices), []

        start = neurons.adaptive(bounds)[:, None]
        parameters = [
            Parameter(start, 0.3, neurons.project, by_row=True),
            Parameter(tf.zeros_like(start), 0.15, tf.nn.relu, by_row=True),
        ]
        # All steps together must reach as far as the multipliers lie.
        ascent = Ascent(iterations, decay=0.985, patience=iterations)
        run = tf.function(
            lambda: ascent.maximise(evaluate, parameters)[:2], autograph=False
        )
        margins, (_, multipliers) = run()
        return margins.numpy()[:, 0], multipliers.numpy()[:, 0]

    def programs(self):
        """Optima of the linear programs with each split."""
        arguments = self.graph, self.region, self.bounds, self.row
        found = [
            lp_bound(*arguments, splits=self.by_edge(number)).value
            for number in range(len(self.signs))
        ]
        assert len(found) >= 8
        assert not np.isnan(found).any()
        return np.array(found)


@pytest.mark.parametrize("name", ["one", "two", "four"])
def test_every_single_split(name):
    splits = Splits(name)
    programs = splits.programs()
    margins, multipliers = splits.searched(300)
    assert (margins <= programs + 1e-9).all()
    assert (margins > programs - 1e-2).all()
    assert ((multipliers > 1e-3) <= (splits.signs != 0.0)).all()
    assert (multipliers > 1e-3).any(-1).sum() >= 3
    for number in range(0, len(splits.signs), 4):
        exact = minimal_margin(
            splits.graph,
            splits.region,
            splits.bounds,
            splits.row,
            splits=splits.by_edge(number),
        )
        assert margins[number] <= exact.value + 1e-6
    wrong, _ = splits.searched(60, sign=-1.0)
    assert (wrong > programs + 0.1).any()  # The other sign is no bound.


@pytest.mark.parametrize("name", NETWORKS)
def test_across_other_layers(name):
    splits = Splits(name)
    programs = splits.programs()
    margins, multipliers = splits.searched(60)
    assert (margins <= programs + 1e-9).all()
    assert (multipliers > 1e-3).any()
    wrong, _ = splits.searched(60, sign=-1.0)
    assert (wrong > programs + 1e-3).any()
    # No sample of a part lies below its bound.
    values = lp_cases.values_on(splits.graph, lp_cases.samples(splits.region, 2000))
    held = splits.neurons.join(values).numpy()
    at_samples = values[splits.graph.output].numpy() @ splits.row
    for signs, margin in zip(splits.signs, margins, strict=True):
        inside = (held * signs >= 0.0).all(-1)
        assert (at_samples[inside] >= margin - 1e-9).all()


def test_constraints_may_belong_to_rows():
    """`[batch, rows, *shape]`: each row has its own part."""
    graph = lp_cases.conv_net()
    region = lp_cases.box_around(graph, 0.3)
    bounds, neurons = lp_cases.crown(graph, region), Neurons.of(graph)
    rows = tf.constant(np.random.default_rng(1).normal(size=(1, 2, 3)))
    multipliers = np.random.default_rng(2).normal(size=(1, 2, neurons.total))
    slopes = neurons.adaptive(bounds)
    both = crown_margins(
        graph, region, bounds, rows, neurons.choices(slopes, tf.constant(multipliers))
    )
    for row in range(2):
        part = tf.constant(multipliers[:, row : row + 1])
        single = crown_margins(
            graph,
            region,
            bounds,
            rows[:, row : row + 1],
            neurons.choices(slopes, part),
        )
        np.testing.assert_allclose(both[:, row], single[:, 0], atol=1e-12)
    assert abs(both[0, 0] - both[0, 1]) > 1e-3
