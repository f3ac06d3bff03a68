"""Certificates as the samples of their images come in."""

from collections.abc import Callable

import numpy as np

from robust_tf.smoothing.certificates import Certificates
from robust_tf.smoothing.certificates import Setting
from robust_tf.smoothing.radius import concluded
from robust_tf.smoothing.sampling import Tally


class Collector:
    """Turns tallies into certificates.

    Args:
        setting: how they are made.
        rule: of `stopping`.
        chosen: tallies of the selection, one for each image.
        progress: called with the place and the certificate of each image that is
            done, if given.

    Attributes:
        candidate: the class with most votes, the lowest of several, `[examples]`.
        certificates: of all images; whole once each is closed or skipped.
    """

    def __init__(
        self,
        setting: Setting,
        rule,
        chosen: list[Tally],
        progress: Callable | None = None,
    ):
        counts = np.stack([tally.counts for tally in chosen])
        self.candidate = counts.argmax(-1)
        examples = len(counts)
        self.certificates = Certificates(
            prediction=self.candidate.copy(),
            radius=np.zeros(examples),
            candidate=self.candidate,
            selection_counts=counts,
            counts=np.zeros_like(counts),
            samples=np.zeros(examples, np.int64),
            lower=np.zeros(examples),
            is_skipped=np.zeros(examples, bool),
            setting=setting,
        )
        self._rule, self._progress = rule, progress

    def is_done(self, tally: Tally) -> bool:
        """Whether an image needs no more samples."""
        return self._rule.is_done(self._hits(tally), tally.drawn)

    def close(self, tally: Tally) -> None:
        """Enters the certificate of an image that is done."""
        place, found = tally.place, self.certificates
        lower, radius = self._rule.conclude(self._hits(tally), tally.drawn)
        found.prediction[place], found.radius[place] = concluded(
            self.candidate[place], lower, lambda _: radius
        )
        found.lower[place] = lower
        found.counts[place] = tally.counts
        found.samples[place] = tally.drawn
        self._tell(place)

    def skip(self, place: int) -> None:
        """Enters an image whose candidate is not its label."""
        self.certificates.is_skipped[place] = True
        self._tell(place)

    def _tell(self, place):
        if self._progress is not None:
            self._progress(place, self.certificates.at(place))

    def _hits(self, tally) -> int:
        return int(tally.counts[self.candidate[tally.place]])
