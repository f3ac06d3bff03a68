"""Noise on images, and the radii that it certifies; all in pixels in [0, 1].

Noise is never clipped. Each block of noise is a function of its key alone, two 64-bit
integers, through Philox: other keys give independent noise, as far as that generator
goes. Uniform bits come from TensorFlow, the same on every device; what is computed from
them can differ between devices in the last digits.

What certificates assume of `Gaussian` and `Uniform`: real numbers. Images plus noise in
floating point carry traces of the image that a contrived classifier could read
(Voracek and Hein, ICLR 2023). `QuantisedGaussian` assumes nothing of the kind.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from scipy import special

from robust_tf.errors import InputError
from robust_tf.smoothing.radius import check_positive
from robust_tf.smoothing.radius import checked_bounds
from robust_tf.smoothing.radius import gaussian_radius

_NORMS = {1: 1.0, 2: 2.0, "inf": math.inf}


@dataclasses.dataclass(frozen=True)
class Noise:
    """Noise of independent pixels; a subclass states its sampling and its radius."""

    native_norm = 2

    def sample(self, shape: Sequence[int], seed: tf.Tensor, dtype="float32"):
        """Returns noise of a shape.

        Args:
            shape: of the result.
            seed: `[2]` integers, the key of the block.
            dtype: "float32" or "float64".
        """
        raise NotImplementedError

    def add(self, images: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Returns noisy images; the shapes broadcast."""
        return images + noise

    def check_images(self, images: np.ndarray) -> None:
        """Refuses images that this noise cannot be added to."""

    @property
    def scale(self) -> float:
        """The noise's size, in pixels in [0, 1]: radii are in units of it."""
        raise NotImplementedError

    def is_converted(self, norm) -> bool:
        """Whether radii in this norm are those of another one, divided to fit in it."""
        return norm != self.native_norm

    def radius(self, p_lower, norm=None, dimensions: int | None = None) -> np.ndarray:
        """Returns the radius that a bound on the probability of a class certifies.

        A radius of a norm that the noise has no certificate of its own for is that of
        `native_norm`, divided by `dimensions ** max(0, 1 / native - 1 / norm)`, so that
        the ball lies in the native one; for Gaussian noise and Linf, by the root of the
        dimensions.

        Args:
            p_lower: lower bound of the probability; below 1/2 the radius is 0.
            norm: 1, 2 or "inf"; None for `native_norm`.
            dimensions: entries of one input.

        Raises:
            InputError: for other norms, and where `dimensions` is needed and missing.
        """
        native = self._native_radius(checked_bounds(p_lower), dimensions)
        return native / self._conversion(norm, dimensions)

    def _native_radius(self, p_lower, dimensions):
        raise NotImplementedError

    def _conversion(self, norm, dimensions) -> float:
        norm = self.native_norm if norm is None else norm
        if not isinstance(norm, int | str) or norm is True or norm not in _NORMS:
            raise InputError(f"`norm` must be 1, 2 or 'inf'. Received: {norm!r}")
        power = max(0.0, 1.0 / _NORMS[self.native_norm] - 1.0 / _NORMS[norm])
        if not power:
            return 1.0
        return _needed(dimensions) ** power


@dataclasses.dataclass(frozen=True)
class Gaussian(Noise):
    """`N(0, sigma^2)` on every pixel: `sigma * Phi^-1(p)` in L2 (arXiv:1902.02918).

    By Box and Muller's transform of 32 bits each, so deviations end at 6.7 sigma;
    beyond it lie 3e-11 of a pixel's probability.

    Attributes:
        sigma: standard deviation.
    """

    sigma: float

    def __post_init__(self):
        check_positive(self.sigma, "sigma")

    @property
    def scale(self):
        return self.sigma

    def sample(self, shape, seed, dtype="float32"):
        dtype = tf.as_dtype(dtype)
        size = math.prod(shape)
        pairs = -(-size // 2)
        bits = _bits([2, pairs], seed, tf.int32)
        # In (0, 1], finer towards 0, where the largest deviations come from.
        share = tf.cast(tf.bitwise.bitwise_and(bits[0], 2**31 - 1), dtype)
        share = (share + 0.5) * 2.0**-31
        length = self.sigma * tf.sqrt(-2.0 * tf.math.log(share))
        angle = (math.pi * 2.0**-31) * tf.cast(bits[1], dtype)
        values = tf.concat([length * tf.cos(angle), length * tf.sin(angle)], 0)
        return tf.reshape(values[:size], shape)

    def _native_radius(self, p_lower, dimensions):
        del dimensions
        return gaussian_radius(p_lower, self.sigma)


@dataclasses.dataclass(frozen=True)
class Uniform(Noise):
    """Uniform on `[-half_width, half_width]` for every pixel, for L1.

    The radius is `2 * half_width * (p - 1/2)` (arXiv:2002.08118, table 1).

    Attributes:
        half_width: lambda there.
    """

    half_width: float
    native_norm = 1

    def __post_init__(self):
        check_positive(self.half_width, "half_width")

    @classmethod
    def of_deviation(cls, sigma: float) -> "Uniform":
        """Returns the noise of a standard deviation, as wide as `sqrt(3) * sigma`."""
        check_positive(sigma, "sigma")
        return cls(math.sqrt(3.0) * sigma)

    @property
    def scale(self):
        return self.half_width

    def sample(self, shape, seed, dtype="float32"):
        dtype = tf.as_dtype(dtype)
        bits = _bits(shape, seed, tf.int32)
        return (self.half_width * 2.0**-31) * (tf.cast(bits, dtype) + 0.5)

    def _native_radius(self, p_lower, dimensions):
        del dimensions
        return 2.0 * self.half_width * (np.maximum(p_lower, 0.5) - 0.5)


@dataclasses.dataclass(frozen=True)
class QuantisedGaussian(Noise):
    """Gaussian noise on 8-bit images, rounded to their grid: sound in floating point.

    The base classifier sees `round(255 (x + noise)) / 255`, a classifier like any
    other, whose smoothing by real Gaussian noise is what is certified. For x on the
    grid of multiples of 1/255, the noise rounded alone has the same effect: an integer,
    here drawn by inversion of its distribution from 64 bits, and added exactly
    (after Voracek and Hein, ICLR 2023). So nothing rests on rounding errors, but on the
    images being 8-bit, the one tested, and on the deployed noise being this one.

    The distribution's table has errors of less than 2^-50 each, and is cut 8 sigma from
    0; what all pixels together may so differ from true noise is taken off the radius.

    Attributes:
        sigma: standard deviation before rounding.
    """

    sigma: float

    def __post_init__(self):
        check_positive(self.sigma, "sigma")

    @property
    def scale(self):
        return self.sigma

    def sample(self, shape, seed, dtype="float32"):
        """Returns noise in steps of 1/255, `shape`."""
        ends = self._table()
        bits = tf.reshape(_bits([math.prod(shape)], seed, tf.int64), [1, -1])
        steps = tf.searchsorted(tf.constant(ends[None]), bits, side="right")
        steps = tf.cast(tf.reshape(steps, shape) - len(ends) // 2, dtype)
        return steps / 255.0

    def add(self, images, noise):
        """Returns the sum of whole numbers of steps, divided by 255 at the end."""
        return (tf.round(images * 255.0) + tf.round(noise * 255.0)) / 255.0

    def check_images(self, images):
        """Refuses images that are not on the grid, to within rounding to float32."""
        steps = np.asarray(images, np.float64) * 255.0
        if np.any(np.abs(steps - np.round(steps)) > 1e-4):
            raise InputError(
                "Quantised noise needs images in steps of 1/255. Received: values "
                "between them. Round them first; certificates are then of what they "
                "were rounded to."
            )

    def difference(self, dimensions: int) -> float:
        """How far the distribution of all pixels may be from that of true noise.

        In total variation: of any event's probability.
        """
        entries = len(self._table()) + 1
        tails = 2.0 * special.ndtr(-0.5 * entries / (255.0 * self.sigma))
        return dimensions * (entries * 2.0**-50 + tails)

    def _native_radius(self, p_lower, dimensions):
        # Once for what was drawn here, once for what is drawn near it.
        difference = self.difference(_needed(dimensions))
        lost = gaussian_radius(0.5 + difference, self.sigma)
        radius = gaussian_radius(p_lower - difference, self.sigma)
        return np.maximum(radius - lost, 0.0)

    def _table(self) -> np.ndarray:
        """Where the bits of one step end and those of the next begin, ascending."""
        most = math.ceil(8.0 * 255.0 * self.sigma)
        ends = (np.arange(-most, most) + 0.5) / (255.0 * self.sigma)
        # Both halves from the lower tail, which float64 knows better.
        below = np.array([int(share * 2.0**64) for share in special.ndtr(ends[:most])])
        below = [int(end) - 2**63 for end in below]
        return np.array([*below, *(-end for end in reversed(below))], np.int64)


def _bits(shape, seed, dtype):
    """Uniform over all integers of a type."""
    return tf.random.stateless_uniform(shape, seed, None, None, dtype, alg="philox")


def _needed(dimensions) -> int:
    if dimensions is None:
        raise InputError(
            "This radius depends on the number of entries of an input. Received: "
            "`dimensions=None`"
        )
    return dimensions
