"""The open subproblems of branch and bound, in memory and past it on disk."""

import numpy as np

from robust_tf.errors import InputError
from robust_tf.verification.domains import Domains
from robust_tf.verification.spill import DiskBlocks

_FIRST_CAPACITY = 256


class DomainPool:
    """Open domains; none is ever lost without being counted.

    Past the memory budget those of the highest bounds (the oldest, where the newest
    come first) go to disk, and come back when those in memory are done.

    Args:
        memory_budget_mb: for domains in memory, in MiB.
        max_domains: how many at most, on disk too.
        is_depth_first: take the newest first, not those of the lowest bounds.
        disk_budget_mb: for domains on disk, in MiB, in the folder for temporary files;
            0: none.

    Attributes:
        dropped: domains that found no room.

    Raises:
        InputError: for budgets out of range.
    """

    def __init__(
        self,
        memory_budget_mb: float = 2048.0,
        max_domains: int | None = None,
        is_depth_first: bool = False,
        disk_budget_mb: float = 0.0,
    ):
        if not memory_budget_mb > 0.0 or (max_domains is not None and max_domains < 1):
            raise InputError(
                "A pool of domains needs room: `memory_budget_mb` above 0 and "
                f"`max_domains` of at least 1. Received: {memory_budget_mb}, "
                f"{max_domains}"
            )
        if not disk_budget_mb >= 0.0:
            raise InputError(
                f"`disk_budget_mb` must be at least 0. Received: {disk_budget_mb}"
            )
        self._bytes = memory_budget_mb * 2**20
        self._max_domains, self._is_depth_first = max_domains, is_depth_first
        self._memory, self._disk = _Rows(), DiskBlocks(disk_budget_mb)
        self._has_disk = disk_budget_mb > 0.0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._memory) + len(self._disk)

    @property
    def lower(self) -> np.ndarray:
        """Margins of all domains."""
        return np.concatenate([self._memory.column(0, float), *self._disk.lower])

    @property
    def clause(self) -> np.ndarray:
        """Clauses of all domains."""
        return np.concatenate([self._memory.column(1, int), *self._disk.clause])

    def push(self, domains: Domains) -> None:
        """Adds domains, or as many as there is room for: the hardest are kept."""
        if not len(domains):
            return
        in_memory = int(self._bytes // domains.bytes_each)
        room = np.inf if self._max_domains is None else self._max_domains - len(self)
        if not self._has_disk:
            room = min(room, in_memory - len(self._memory))
        if len(domains) > room:
            self.dropped += len(domains) - max(int(room), 0)
            domains = domains.take(np.argsort(domains.lower)[: max(int(room), 0)])
        self._memory.add(domains)
        if len(self._memory) > in_memory:
            self._spill(len(self._memory) - in_memory // 2)

    def pop(self, count: int) -> Domains:
        """Takes domains out."""
        while len(self._memory) < count and len(self._disk):
            self._memory.add(self._disk.read(self._is_depth_first))
        count = min(count, len(self._memory))
        size = len(self._memory)
        chosen = np.arange(size - count, size)
        if not self._is_depth_first and count < size:
            lower = self._memory.column(0, float)
            chosen = np.argpartition(lower, count - 1)[:count]
        return self._memory.take_out(chosen)

    def _spill(self, count):
        """Moves `count` domains to disk; what finds no room there is dropped."""
        if self._is_depth_first:
            self._memory.roll(count)
            chosen = np.arange(len(self._memory) - count, len(self._memory))
        else:
            lower = self._memory.column(0, float)
            chosen = np.argsort(-lower, kind="stable")[:count]
        domains = self._memory.take_out(chosen)
        if not self._disk.write(domains):
            self.dropped += len(domains)


class _Rows:
    """Arrays of domains that grow."""

    def __init__(self):
        self._arrays: list[np.ndarray] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def column(self, number: int, dtype) -> np.ndarray:
        """One of the arrays, as far as it is filled."""
        if not self._arrays:
            return np.zeros([0], dtype)
        return self._arrays[number][: self._count]

    def add(self, domains: Domains) -> None:
        """Adds domains at the end."""
        self._reserve(domains)
        end = self._count + len(domains)
        for array, new in zip(self._arrays, domains.arrays(), strict=True):
            array[self._count : end] = new
        self._count = end

    def take_out(self, chosen: np.ndarray) -> Domains:
        """Takes domains out by their places; the last ones move into the gaps."""
        domains = Domains(*(array[chosen] for array in self._arrays))
        rest = self._count - len(chosen)
        is_gap = np.zeros(self._count, bool)
        is_gap[chosen] = True
        gaps, moved = np.flatnonzero(is_gap[:rest]), np.flatnonzero(~is_gap[rest:])
        for array in self._arrays:
            array[gaps] = array[rest + moved]
        self._count = rest
        return domains

    def roll(self, count: int) -> None:
        """Moves the first `count` to the end; the order is kept otherwise."""
        order = np.roll(np.arange(self._count), -count)
        for array in self._arrays:
            array[: self._count] = array[order]

    def _reserve(self, domains):
        needed = self._count + len(domains)
        if not self._arrays:
            self._arrays = [
                np.empty([max(needed, _FIRST_CAPACITY), *new.shape[1:]], new.dtype)
                for new in domains.arrays()
            ]
        if needed > len(self._arrays[0]):
            for i, old in enumerate(self._arrays):
                self._arrays[i] = np.empty([2 * needed, *old.shape[1:]], old.dtype)
                self._arrays[i][: self._count] = old[: self._count]
