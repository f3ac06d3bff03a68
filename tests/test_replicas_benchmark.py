"""The benchmark of replicas and micro-batches: every way trains the same."""

import numpy as np
import pytest

from benchmarks import replica_steps

WALL = {(1, 1): 2.0, (2, 1): 3.0, (1, 2): 1.0, (1, 4): 4.0}


def test_ways_have_the_same_losses():
    expected = None
    for devices, parts in ((1, 1), (2, 1), (1, 4)):
        step = replica_steps.training_step(devices, parts, batch=8)
        losses = [step() for _ in range(2)]
        expected = expected or losses
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert losses[1] < losses[0]


def test_losses_that_disagree():
    losses = {(1, 1): [2.0, 1.0], (2, 1): [2.0, 1.0005]}
    replica_steps.check(losses)
    for wrong in (1.01, float("nan")):
        with pytest.raises(replica_steps.DisagreementError, match=r"of \(1, 4\)"):
            replica_steps.check(losses | {(1, 4): [2.0, wrong]})


def test_ratios_are_to_the_first_way():
    """Medians of three turns of two steps each."""
    turns = {
        way: [
            {
                "steps": 2,
                "wall_seconds": factor * wall,
                "cpu_seconds": factor,
                "peak_memory_mib": 100 * factor,
            }
            for factor in (9.0, 1.0, 2.0)
        ]
        for way, wall in WALL.items()
    }
    records = replica_steps.summarize(turns)
    assert [one["wall_ms"] for one in records] == [2000.0, 3000.0, 1000.0, 4000.0]
    assert [one["wall_ratio"] for one in records] == [1.0, 1.5, 0.5, 2.0]
    assert [one["cpu_ratio"] for one in records] == [1.0] * 4
    assert [one["peak_memory_mib"] for one in records] == [200.0] * 4
    assert replica_steps.render(records).row_count == 4
