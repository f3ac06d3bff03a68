"""Open domains: none is lost without being counted."""

import numpy as np
import pytest

from robust_tf.errors import InputError
from robust_tf.verification.domains import Domains
from robust_tf.verification.pool import DomainPool


def domains_of(lower, neurons=3, **changes):
    count = len(lower)
    rng = np.random.default_rng(count)
    values = {
        "lower": np.asarray(lower, float),
        "clause": np.arange(count),
        "signs": np.zeros([count, neurons], np.int8),
        "slopes": rng.uniform(size=[count, 1, neurons]),
        "multipliers": rng.uniform(size=[count, 1, neurons]),
        "candidates": np.zeros([count, 2], np.int32),
        "scores": np.ones([count, 2], np.float32),
    }
    return Domains(**values | changes)


class TestPool:
    def test_lowest_first_and_none_is_lost(self):
        rng = np.random.default_rng(1)
        pool, expected = DomainPool(), []
        for round_ in range(60):
            lower = rng.normal(size=rng.integers(1, 40))
            clause = 1000 * round_ + np.arange(len(lower))
            pool.push(domains_of(lower, clause=clause))
            expected += list(zip(clause, lower, strict=True))
            taken = pool.pop(int(rng.integers(1, 45)))
            expected.sort(key=lambda pair: pair[1])
            front, expected = expected[: len(taken)], expected[len(taken) :]
            found = list(zip(taken.clause, taken.lower, strict=True))
            assert sorted(found) == sorted(front)
            assert len(pool) == len(expected)
            assert sorted(pool.clause) == sorted(clause for clause, _ in expected)
        assert pool.dropped == 0

    def test_depth_first(self):
        pool = DomainPool(is_depth_first=True)
        pool.push(domains_of([1.0, 2.0, 3.0]))
        pool.push(domains_of([5.0, 4.0], clause=np.array([7, 8])))
        assert set(pool.pop(2).clause) == {7, 8}
        assert pool.pop(1).clause == [2]
        assert len(pool) == 2

    def test_room_by_number_and_by_memory(self):
        one = domains_of([0.0]).bytes_each
        for options in (
            {"max_domains": 4},
            {"memory_budget_mb": 4.5 * one / 2**20},
        ):
            pool = DomainPool(**options)
            pool.push(domains_of([3.0, 1.0, 5.0]))
            pool.push(domains_of([2.0, 0.0, 4.0]))
            assert len(pool) == 4
            assert pool.dropped == 2
            assert sorted(pool.lower) == [0.0, 1.0, 3.0, 5.0]
            pool.push(domains_of([9.0]))
            assert (len(pool), pool.dropped) == (4, 3)

    def test_wrong_room(self):
        for wrong in ((0.0, None), (np.nan, None), (1.0, 0)):
            with pytest.raises(InputError, match="needs room"):
                DomainPool(*wrong)

    def test_all_signs_of_several_neurons(self):
        parents = domains_of([0.0, 1.0], neurons=5)
        found = parents.split_all(np.array([[0, 3, 4], [1, 2, 0]]))
        assert len(found) == 16
        for clause, neurons in ((0, [0, 3, 4]), (1, [1, 2, 0])):
            own = found.signs[found.clause == clause]
            assert len(np.unique(own[:, neurons], axis=0)) == 8
            assert (np.abs(own[:, neurons]) == 1).all()
            assert np.abs(own).sum() == 24
        np.testing.assert_array_equal(found.lower, np.tile(parents.lower, 8))
        np.testing.assert_array_equal(found.slopes, np.tile(parents.slopes, [8, 1, 1]))

    def test_multipliers_of_any_size(self):
        found = domains_of([0.0], multipliers=np.full([1, 1, 3], 1e30))
        assert np.isfinite(found.multipliers).all()


def contents(domains):
    """All that one domain is, comparable."""
    rows = zip(*(array.tolist() for array in domains.arrays()), strict=True)
    return sorted(map(repr, rows))


class TestDisk:
    ONE = domains_of([0.0]).bytes_each

    def pool(self, in_memory=20, **more):
        budget = (in_memory + 0.5) * self.ONE / 2**20
        return DomainPool(budget, **{"disk_budget_mb": 64.0} | more)

    def test_all_come_back_as_they_were(self):
        rng = np.random.default_rng(3)
        pool, pushed, popped, clause = self.pool(), [], [], 0
        for _ in range(40):
            lower = rng.normal(size=int(rng.integers(1, 30)))
            domains = domains_of(lower, clause=clause + np.arange(len(lower)))
            clause += len(lower)
            pool.push(domains)
            pushed += contents(domains)
            taken = pool.pop(int(rng.integers(1, 12)))
            popped += contents(taken)
            assert len(pool) == len(pushed) - len(popped) == len(pool.lower)
        waiting = set(pool.clause)
        assert len(pool) > 200 and len(waiting) == len(pool)
        while len(pool):
            popped += contents(pool.pop(7))
        assert sorted(popped) == sorted(pushed)
        assert pool.dropped == 0

    def test_the_easy_ones_wait(self):
        pool = self.pool(10)
        pool.push(domains_of(np.arange(12.0)))
        assert list(np.sort(pool.pop(5).lower)) == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert len(pool) == 7 and pool.lower.min() == 5.0
        assert list(np.sort(pool.pop(7).lower)) == list(np.arange(5.0, 12.0))

    def test_the_oldest_wait_where_the_newest_come_first(self):
        pool = self.pool(10, is_depth_first=True)
        pool.push(domains_of(np.zeros(12)))
        assert [int(pool.pop(1).clause[0]) for _ in range(5)] == [11, 10, 9, 8, 7]
        assert set(pool.pop(7).clause) == set(range(7))

    def test_where_the_disk_is_full_they_are_dropped_and_counted(self):
        pool = self.pool(10, disk_budget_mb=4.0 * self.ONE / 2**20)
        pool.push(domains_of(np.arange(12.0)))
        assert (len(pool), pool.dropped) == (5, 7)
        assert pool.lower.max() == 4.0

    def test_a_disk_that_refuses(self, monkeypatch):
        def refuse(path, *arrays):
            raise OSError("No space left on device")

        monkeypatch.setattr(np, "savez", refuse)
        pool = self.pool(10)
        pool.push(domains_of(np.arange(12.0)))
        assert (len(pool), pool.dropped) == (5, 7)

    def test_the_number_counts_those_on_disk(self):
        pool = self.pool(10, max_domains=14)
        pool.push(domains_of(np.arange(12.0)))
        pool.push(domains_of(np.arange(12.0)))
        assert (len(pool), pool.dropped) == (14, 10)

    def test_files_end_with_the_pool(self, monkeypatch, tmp_path):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        pool = self.pool(4)
        pool.push(domains_of(np.arange(30.0)))
        assert len(list(tmp_path.glob("domains-*/*.npz"))) == 1
        del pool
        assert not list(tmp_path.iterdir())
