"""Rounds end with the example, with its time, or with the search."""

import types

import pytest

from robust_tf.verification import rounds


class Bench:
    """A task whose clock each round moves on by what the test says."""

    def __init__(self, timeout_s, durations, monkeypatch, decides_after=None):
        self.now, self._durations = 0.0, list(durations)
        self.task = types.SimpleNamespace(results=[None], is_late=[False])
        self.task.clock = types.SimpleNamespace(
            remaining=lambda _: timeout_s - self.now
        )
        self._decides_after, self.count, self.told = decides_after, 0, []
        monkeypatch.setattr(rounds.time, "monotonic", lambda: self.now)

    def step(self):
        self.now += self._durations[self.count]
        self.count += 1
        if self.count == self._decides_after:
            self.task.results[0] = "decided"

    def goes_on(self, remaining, last):
        self.told.append((remaining, last))
        return self.count < len(self._durations)

    def run(self):
        rounds.in_rounds(self.task, 0, self.step, self.goes_on)
        return self


def test_a_result_ends_it(monkeypatch):
    bench = Bench(100.0, [1.0] * 9, monkeypatch, decides_after=4).run()
    assert bench.count == 4
    assert not bench.task.is_late[0]


def test_the_search_ends_it(monkeypatch):
    bench = Bench(100.0, [5.0, 1.0, 2.0], monkeypatch).run()
    assert bench.count == 3
    assert not bench.task.is_late[0]
    assert bench.told == [(100.0, 0.0), (95.0, 0.0), (94.0, 1.0), (92.0, 1.0)]


@pytest.mark.parametrize(
    ("durations", "count"),
    [
        ([2.0] * 9, 4),  # 2 seconds are left then, less than 1.1 times a round.
        ([8.0, 0.5, 0.5, 0.5, 0.5], 4),  # The first builds graphs.
        ([1.0, 7.0, 1.0, 0.5, 0.5], 3),  # So may a later one.
    ],
)
def test_time_ends_it(monkeypatch, durations, count):
    bench = Bench(10.0, durations, monkeypatch).run()
    assert bench.count == count
    assert bench.task.is_late[0]
