"""Subproblems of branch and bound: how they are kept, and how they are split."""

import dataclasses

import numpy as np

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
