"""What randomized smoothing says of examples."""

import dataclasses

import numpy as np

from robust_tf.smoothing.noises import Noise
from robust_tf.smoothing.radius import ABSTAIN


@dataclasses.dataclass(frozen=True)
class Setting:
    """How certificates were made; without it their counts mean nothing.

    Attributes:
        noise: which noise.
        norm: of the radii: 1, 2 or "inf".
        is_converted: whether the noise certifies another norm, and the radii were
            divided to fit in that norm's ball.
        n0: samples of the selection.
        n: samples of the estimation, at most.
        alpha: probability that a certificate is wrong, for each example.
        seed: of the noise.
        block_size: samples in a block of noise.
        mode: "full", "exact", "adaptive" or "soft".
        radii: that samples were drawn for; radii of "exact" are then one of these.
    """

    noise: Noise
    norm: int | str
    is_converted: bool
    n0: int
    n: int
    alpha: float
    seed: int
    block_size: int
    mode: str
    radii: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Certificates:
    """Certified radii of examples; all arrays have one entry or row for each.

    Where `prediction` is a class, the smoothed classifier has that class in the whole
    open ball of `radius`, with probability `1 - alpha` for each example by itself.

    Attributes:
        prediction: int64; `ABSTAIN`, -1, where nothing is certified. Where the example
            was skipped, the candidate: no certificate.
        radius: float64, in pixels in [0, 1]; 0 where nothing is certified.
        candidate: the class that the selection chose, int64.
        selection_counts: votes of the n0 samples, int64 `[examples, classes]`.
        counts: votes of the estimation, int64 `[examples, classes]`. They add up to
            `samples`, and bound nothing by themselves where that is below n.
        samples: of the estimation, int64; less than n where that was certain to change
            nothing (or, in "adaptive", hardly anything).
        lower: lower bound of the candidate's probability, float64.
        is_skipped: the candidate is not the label, so there was no estimation.
        setting: how they were made.
    """

    prediction: np.ndarray
    radius: np.ndarray
    candidate: np.ndarray
    selection_counts: np.ndarray
    counts: np.ndarray
    samples: np.ndarray
    lower: np.ndarray
    is_skipped: np.ndarray
    setting: Setting

    def __len__(self):
        return len(self.prediction)

    @property
    def is_certified(self) -> np.ndarray:
        """Whether the prediction is a certificate, `[examples]`."""
        return ~self.is_skipped & (self.prediction != ABSTAIN)

    @property
    def share_saved(self) -> float:
        """Which share of the n samples of all examples was not needed."""
        return 1.0 - self.samples.sum() / (self.setting.n * max(len(self), 1))

    def correct(self, labels) -> np.ndarray:
        """Whether the certified class is the label, `[examples]`."""
        return self.is_certified & (self.prediction == np.asarray(labels))

    def at(self, place: int) -> "Certificates":
        """Returns the certificate of one example, with arrays of length 1."""
        return _at(self, place)


@dataclasses.dataclass(frozen=True)
class SoftCertificates:
    """Certified radii of the mean of softmax outputs (arXiv:2001.02378).

    It is another smoothed classifier than the vote: its class is the one of the
    greatest mean output under noise.

    Attributes:
        prediction: int64; `ABSTAIN`, -1, where nothing is certified.
        radius: float64, in pixels in [0, 1].
        candidate: of the greatest sum in the selection, int64.
        totals: sums of the outputs in the estimation, float64 `[examples, classes]`.
        squares: sums of their squares.
        lower: lower bound of the candidate's mean output, float64.
        hard: certificates of the vote, from the same noise; what `certify` returns.
        setting: how they were made.
    """

    prediction: np.ndarray
    radius: np.ndarray
    candidate: np.ndarray
    totals: np.ndarray
    squares: np.ndarray
    lower: np.ndarray
    hard: Certificates
    setting: Setting

    def __len__(self):
        return len(self.prediction)

    def correct(self, labels) -> np.ndarray:
        """Whether the certified class is the label, `[examples]`."""
        is_certified = self.prediction != ABSTAIN
        return is_certified & (self.prediction == np.asarray(labels))

    def at(self, place: int) -> "SoftCertificates":
        """Returns the certificate of one example, with arrays of length 1."""
        return _at(self, place)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The likeliest class of examples under noise, without a radius.

    Attributes:
        prediction: int64; `ABSTAIN`, -1, where the vote does not decide.
        counts: votes, int64 `[examples, classes]`.
        p_value: of the two-sided test of the first two classes, float64.
    """

    prediction: np.ndarray
    counts: np.ndarray
    p_value: np.ndarray


def _at(certificates, place):
    parts = {}
    for field in dataclasses.fields(certificates):
        value = getattr(certificates, field.name)
        if isinstance(value, np.ndarray):
            parts[field.name] = value[place : place + 1]
        elif isinstance(value, Certificates):
            parts[field.name] = value.at(place)
    return dataclasses.replace(certificates, **parts)
