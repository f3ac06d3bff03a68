"""Boxes of inputs with signs of neurons: how they are kept, and how they are split."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Parts of one example's region; all arrays have one entry for each.

    Attributes:
        lower: ends, `[boxes, inputs]`.
        upper: the other ends.
        signs: `[boxes, neurons]`, int8: 1 where a neuron is split to `z >= 0`, -1 for
            `z <= 0`, 0 where it is not split.
        margins: proved, of the clauses, `[boxes, clauses]`.
        effect: how much each input matters, `[boxes, inputs]`.
        neuron: to split next; -1 for the input that matters most.
    """

    lower: np.ndarray
    upper: np.ndarray
    signs: np.ndarray
    margins: np.ndarray
    effect: np.ndarray
    neuron: np.ndarray

    @classmethod
    def whole(cls, lower, upper, margins, neurons: int) -> "Boxes":
        """Returns one box, nothing of which is split.

        Args:
            lower: ends, `[inputs]`.
            upper: the other ends.
            margins: of the clauses.
            neurons: how many there are.
        """
        return cls(
            lower[None],
            upper[None],
            np.zeros([1, neurons], np.int8),
            margins[None],
            np.ones([1, len(lower)]),
            np.full([1], -1, np.int32),
        )

    def __len__(self) -> int:
        return len(self.lower)

    def arrays(self) -> list[np.ndarray]:
        """All arrays, in the order of the attributes."""
        return [getattr(self, field.name) for field in dataclasses.fields(self)]

    def take(self, index) -> "Boxes":
        """Returns some of the boxes, by position or mask."""
        return Boxes(*(array[index] for array in self.arrays()))

    def joined(self, other: "Boxes") -> "Boxes":
        """Returns the boxes of both."""
        pairs = zip(self.arrays(), other.arrays(), strict=True)
        return Boxes(*map(np.concatenate, pairs))

    def by_inputs(self) -> "Boxes":
        """Returns the boxes with no neuron to split."""
        return dataclasses.replace(self, neuron=np.full_like(self.neuron, -1))

    def split(self) -> "Boxes | None":
        """Returns all first halves, then all others; None where there is no half."""
        middle = (self.lower + self.upper) / 2.0
        has_middle = (middle > self.lower) & (middle < self.upper)
        by_neuron = self.neuron >= 0
        if not (by_neuron | has_middle.any(-1)).all():
            return None
        first, second = (
            {name: getattr(self, name).copy() for name in ("lower", "upper", "signs")}
            for _ in range(2)
        )
        places = np.flatnonzero(by_neuron)
        first["signs"][places, self.neuron[places]] = 1
        second["signs"][places, self.neuron[places]] = -1
        # Inputs without any effect come after all others, the widest first.
        width = self.upper - self.lower
        worth = self.effect + 1e-12 * width * (1.0 + self.effect.max(-1, keepdims=True))
        axis = np.where(has_middle, worth, -1.0).argmax(-1)
        places = np.flatnonzero(~by_neuron)
        halved = places, axis[places]
        first["upper"][halved] = second["lower"][halved] = middle[halved]
        halves = (dataclasses.replace(self, **parts) for parts in (first, second))
        return next(halves).joined(next(halves))
