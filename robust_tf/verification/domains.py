"""Subproblems of branch and bound: how they are kept, and how they are split."""

import dataclasses

import numpy as np

from robust_tf.errors import InputError

_FIRST_CAPACITY = 256
# float16 holds numbers up to here; a multiplier may be any number of at least 0.
_LARGEST = 6e4


@dataclasses.dataclass(frozen=True)
class Domains:
    """Parts of one example's region, each with one clause to exclude there.

    All arrays have one entry for each domain; `neurons` are the root's unstable ones.

    Attributes:
        lower: proved margin of the clause, float64.
        clause: number of the clause.
        signs: `[domains, neurons]`, int8: 1 where a neuron is split to `z >= 0`, -1 for
            `z <= 0`, 0 where it is not split.
        slopes: lower slopes, `[domains, rows, neurons]`; float16, as any is valid.
        multipliers: of the splits, the same; at least 0.
        candidates: neurons to split next, best first, `[domains, candidates]`.
        scores: of the candidates; at most 0 where there is none.
    """

    lower: np.ndarray
    clause: np.ndarray
    signs: np.ndarray
    slopes: np.ndarray
    multipliers: np.ndarray
    candidates: np.ndarray
    scores: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "slopes", self.slopes.astype(np.float16, copy=False))
        multipliers = np.minimum(self.multipliers, _LARGEST).astype(
            np.float16, copy=False
        )
        object.__setattr__(self, "multipliers", multipliers)

    def __len__(self) -> int:
        return len(self.lower)

    def take(self, index) -> "Domains":
        """Returns some of the domains, by position or mask."""
        return Domains(*(array[index] for array in self.arrays()))

    def arrays(self) -> list[np.ndarray]:
        """All arrays, in the order of the attributes."""
        return [getattr(self, field.name) for field in dataclasses.fields(self)]

    @property
    def bytes_each(self) -> int:
        """Size of one domain."""
        return sum(array[:1].nbytes for array in self.arrays())

    def split(self, neurons: np.ndarray) -> "Domains":
        """Returns both halves of each domain: first all with `z >= 0`, then the rest.

        Args:
            neurons: one for each domain.
        """
        halves = []
        for sign in (1, -1):
            signs = self.signs.copy()
            signs[np.arange(len(self)), neurons] = sign
            halves.append(dataclasses.replace(self, signs=signs))
        arrays = zip(*(half.arrays() for half in halves), strict=True)
        return Domains(*(np.concatenate(pair) for pair in arrays))

    def split_all(self, neurons: np.ndarray) -> "Domains":
        """Returns all combinations of signs of several neurons of each domain.

        Args:
            neurons: `[domains, count]`.
        """
        domains = self
        for column in range(neurons.shape[1]):
            copies = len(domains) // len(self)
            domains = domains.split(np.tile(neurons[:, column], copies))
        return domains


class DomainPool:
    """Open domains in host memory; none is ever lost without being counted.

    Args:
        memory_budget_mb: for all of them, in MiB.
        max_domains: how many at most.
        is_depth_first: take the newest first, not those of the lowest bounds.

    Attributes:
        dropped: domains that found no room.
    """

    def __init__(
        self,
        memory_budget_mb: float = 2048.0,
        max_domains: int | None = None,
        is_depth_first: bool = False,
    ):
        if not memory_budget_mb > 0.0 or (max_domains is not None and max_domains < 1):
            raise InputError(
                "A pool of domains needs room: `memory_budget_mb` above 0 and "
                f"`max_domains` of at least 1. Received: {memory_budget_mb}, "
                f"{max_domains}"
            )
        self._bytes = memory_budget_mb * 2**20
        self._max_domains, self._is_depth_first = max_domains, is_depth_first
        self._arrays: list[np.ndarray] = []
        self._count, self.dropped = 0, 0

    def __len__(self) -> int:
        return self._count

    @property
    def lower(self) -> np.ndarray:
        """Margins of all domains."""
        return self._arrays[0][: self._count] if self._arrays else np.zeros([0])

    @property
    def clause(self) -> np.ndarray:
        """Clauses of all domains."""
        return self._arrays[1][: self._count] if self._arrays else np.zeros([0], int)

    def push(self, domains: Domains) -> None:
        """Adds domains, or as many as there is room for: the hardest are kept."""
        if not len(domains):
            return
        room = int(self._bytes // domains.bytes_each)
        if self._max_domains is not None:
            room = min(room, self._max_domains)
        room -= self._count
        if len(domains) > room:
            self.dropped += len(domains) - max(room, 0)
            domains = domains.take(np.argsort(domains.lower)[: max(room, 0)])
        self._reserve(domains)
        end = self._count + len(domains)
        for array, new in zip(self._arrays, domains.arrays(), strict=True):
            array[self._count : end] = new
        self._count = end

    def pop(self, count: int) -> Domains:
        """Takes domains out."""
        count = min(count, self._count)
        chosen = np.arange(self._count - count, self._count)
        if not self._is_depth_first and count < self._count:
            chosen = np.argpartition(self.lower, count - 1)[:count]
        domains = Domains(*(array[chosen] for array in self._arrays))
        rest = self._count - count
        # The last ones move into the gaps.
        is_gap = np.zeros(self._count, bool)
        is_gap[chosen] = True
        gaps, moved = np.flatnonzero(is_gap[:rest]), np.flatnonzero(~is_gap[rest:])
        for array in self._arrays:
            array[gaps] = array[rest + moved]
        self._count = rest
        return domains

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
