"""When an example has had enough samples, and what they certify then.

A rule sees the hits of the candidate and the samples so far, after whole blocks, so
that it stops at the same sample for every batch size.
"""

import bisect
import dataclasses
import math
from collections.abc import Callable

from robust_tf.smoothing import radius as bounds

# Adaptive rules look after so many samples, and again whenever they are so many more.
_FIRST_LOOK, _GROWTH = 100, 1.1
# Standard errors by which the rest of the samples may do better than those so far.
_OPTIMISM = 4.0


@dataclasses.dataclass(frozen=True)
class Exact:
    """Clopper-Pearson of n samples, or fewer where an abstention is certain.

    Prediction and radius are those of all n samples: what is left out cannot change
    them, so nothing is paid for looking.

    Attributes:
        n: samples.
        alpha: level.
        radius_of: the radius that a bound certifies.
        least: hits without which nothing is certified; 0 to draw all samples.
    """

    n: int
    alpha: float
    radius_of: Callable
    least: int

    def is_done(self, hits: int, drawn: int) -> bool:
        """Whether the result is certain."""
        return drawn >= self.n or hits + self.n - drawn < self.least

    def conclude(self, hits: int, drawn: int) -> tuple[float, float]:
        """Returns bound and radius; hits that are missing would raise the bound."""
        del drawn
        lower = float(bounds.clopper_pearson_lower(hits, self.n, self.alpha))
        return lower, float(self.radius_of(lower))


@dataclasses.dataclass(frozen=True)
class Listed:
    """Clopper-Pearson of n samples, as far as it takes to know which radii it has.

    Certified accuracies at these radii are those of all n samples.

    Attributes:
        n: samples.
        alpha: level.
        radii: ascending, the first one 0.
        counts: hits that certify each of them, as many as n samples can certify.
    """

    n: int
    alpha: float
    radii: tuple[float, ...]
    counts: tuple[int, ...]

    def is_done(self, hits: int, drawn: int) -> bool:
        """Whether it is certain which radii are certified."""
        most = hits + self.n - drawn
        return self._reached(hits) == self._reached(most)

    def conclude(self, hits: int, drawn: int) -> tuple[float, float]:
        """Returns a bound and the largest of the radii that is certified."""
        del drawn
        reached = self._reached(hits)
        hits = self.counts[reached - 1] if reached else hits
        lower = float(bounds.clopper_pearson_lower(hits, self.n, self.alpha))
        return lower, self.radii[reached - 1] if reached else 0.0

    def _reached(self, hits):
        return bisect.bisect_right(self.counts, hits)


@dataclasses.dataclass(frozen=True)
class Adaptive:
    """A confidence sequence, as far as more samples would matter.

    Its bound holds for all numbers of samples at once, so for every way to stop: a
    certificate is wrong with probability at most alpha. The price is a bound that is a
    little lower than Clopper-Pearson's after as many samples.

    It stops once the last of `levels` is reached and the rest of the samples would
    raise the radius by at most `gain`, if the candidate goes on as it did; and where
    the next level would be missed though it did four standard errors better.

    Attributes:
        n: samples at most.
        alpha: level.
        radius_of: the radius that a bound certifies.
        levels: bounds that are wanted, ascending, the first one 1/2.
        gain: in pixels in [0, 1]; infinite where the last level is all that is wanted.
        looks: numbers of samples after which it may stop.
    """

    n: int
    alpha: float
    radius_of: Callable
    levels: tuple[float, ...]
    gain: float
    looks: frozenset[int]

    def is_done(self, hits: int, drawn: int) -> bool:
        """Whether more samples would hardly matter."""
        if drawn >= self.n or drawn not in self.looks:
            return drawn >= self.n
        for level in self.levels:
            if not self._excludes(level, hits, drawn):
                return not self._may_reach(level, hits, drawn)
        return self.gain == math.inf or self._expected_gain(hits, drawn) <= self.gain

    def conclude(self, hits: int, drawn: int) -> tuple[float, float]:
        """Returns bound and radius."""
        lower = float(bounds.confidence_sequence_lower(hits, drawn, self.alpha))
        return lower, float(self.radius_of(lower))

    def _excludes(self, level, hits, drawn) -> bool:
        if hits <= level * drawn:
            return False
        evidence = bounds.evidence_against(hits, drawn, level)
        return bool(evidence >= -math.log(self.alpha))

    def _may_reach(self, level, hits, drawn) -> bool:
        share = hits / drawn
        error = math.sqrt(share * (1.0 - share) / drawn) + 1.0 / drawn
        share = min(1.0, share + _OPTIMISM * error)
        return self._excludes(level, hits + share * (self.n - drawn), self.n)

    def _expected_gain(self, hits, drawn) -> float:
        later = round(hits / drawn * self.n)
        _, expected = self.conclude(later, self.n)
        return expected - self.conclude(hits, drawn)[1]


def exact(n: int, alpha: float, radius_of: Callable, radii=None):
    """Returns the rule of mode "exact": nothing that is asked for changes.

    Args:
        n: samples.
        alpha: level.
        radius_of: the radius that a bound certifies.
        radii: all that is asked for, ascending; None for the radius itself.
    """
    if radii is None:
        return Exact(n, alpha, radius_of, bounds.smallest_count(n, alpha))
    radii = with_zero(radii)
    counts = [bounds.count_for(radius, radius_of, n, alpha) for radius in radii]
    counts = tuple(count for count in counts if count is not None)
    return Listed(n, alpha, radii, counts)


def adaptive(
    n: int, alpha: float, radius_of: Callable, radii, gain: float, block_size: int
) -> Adaptive:
    """Returns the rule of mode "adaptive".

    Args:
        n: samples at most.
        alpha: level.
        radius_of: the radius that a bound certifies.
        radii: that are wanted, ascending; None for the greatest one.
        gain: of a radius, by which the rest of the samples would have to raise it, if
            no radii are listed.
        block_size: samples between two looks, at least.
    """
    wanted = with_zero(radii or ())
    levels = [bounds.level_for(radius, radius_of) for radius in wanted]
    levels = tuple(level for level in levels if level is not None)
    looks, look = set(), 0
    while look < n:
        step = max(_FIRST_LOOK, math.ceil((_GROWTH - 1.0) * look))
        look += -(-step // block_size) * block_size
        looks.add(look)
    gain = math.inf if radii else gain
    return Adaptive(n, alpha, radius_of, levels, gain, frozenset(looks))


def with_zero(radii) -> tuple[float, ...]:
    """Returns radii ascending, with 0: whether there is an abstention at all."""
    return tuple(sorted({0.0, *(float(radius) for radius in radii)}))
