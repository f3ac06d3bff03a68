"""Intervals that unstable ReLUs shrink, in training: an option of SABR and STAPS."""

import dataclasses

from robust_tf.graph import Choices
from robust_tf.layers import LeakyReLU
from robust_tf.layers import ReLU


@dataclasses.dataclass(frozen=True)
class ShrinkingChoices(Choices):
    """Interval passes in which an unstable ReLU keeps a share of its upper bound.

    Where `l < 0 < u`, the output is `[0, share u]` (arXiv:2210.04871, section 4, whose
    shrinking coefficient this is). Such intervals leave out reachable values: they slow
    the growth of small boxes in a loss, and prove nothing. Backward passes take their
    intervals as they find them.

    Attributes:
        unstable_share: in (0, 1].
    """

    unstable_share: float = 1.0

    def for_interval(self, layer) -> dict:
        """Keyword arguments for `propagate_interval`."""
        if isinstance(layer, ReLU | LeakyReLU):
            return {"unstable_share": self.unstable_share}
        return super().for_interval(layer)
