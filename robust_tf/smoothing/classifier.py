"""Randomized smoothing: prediction and certified radii of any classifier."""

import functools
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from robust_tf.errors import InputError
from robust_tf.smoothing import radius as bounds
from robust_tf.smoothing import soft
from robust_tf.smoothing import stopping
from robust_tf.smoothing.base import BaseClassifier
from robust_tf.smoothing.certificates import Certificates
from robust_tf.smoothing.certificates import Predictions
from robust_tf.smoothing.certificates import Setting
from robust_tf.smoothing.certificates import SoftCertificates
from robust_tf.smoothing.collecting import Collector
from robust_tf.smoothing.examples import Examples
from robust_tf.smoothing.noises import Gaussian
from robust_tf.smoothing.noises import Noise
from robust_tf.smoothing.sampling import ESTIMATION
from robust_tf.smoothing.sampling import MAX_BLOCKS
from robust_tf.smoothing.sampling import PREDICTION
from robust_tf.smoothing.sampling import SELECTION
from robust_tf.smoothing.sampling import Sampler

_MODES = ("exact", "full", "adaptive")


class SmoothedClassifier:
    """The class that a classifier gives most often under noise (arXiv:1902.02918).

    It is a classifier of its own: certificates are of it, not of the base classifier,
    and hold for the base classifier as it runs here, in its own floating point.

    Noise is a function of (seed, data-set index, stage, number of a block) and never of
    the batch size, the order, or what else is certified; so are all counts.

    Args:
        model: a Keras model or the path of a `.keras` file, of which a copy is made; or
            a `BaseClassifier`. Inputs are pixels in [0, 1].
        sigma: standard deviation of Gaussian noise, in pixels in [0, 1].
        noise: another noise instead, of `smoothing.noises`.
        strategy: a `tf.distribute.Strategy` whose replicas share the samples.
        block_size: samples of a block of noise, on which the classifier is run at once.
            100 is best on a CPU; accelerators want 1,000 or more. It is part of what
            chooses the noise.
        jit_compile: whether XLA compiles the sampling; slower on CPUs.

    Raises:
        InputError: for values out of range, and models that `robust_tf.convert`
            refuses.
    """

    def __init__(
        self,
        model,
        sigma: float | None = None,
        noise: Noise | None = None,
        strategy=None,
        block_size: int = 100,
        *,
        jit_compile: bool = False,
    ):
        if (sigma is None) == (noise is None):
            raise InputError("Give either `sigma` or `noise`, and not both.")
        bounds.check_samples(block_size, "block_size")
        self.noise = Gaussian(sigma) if noise is None else noise
        if not isinstance(self.noise, Noise):
            raise InputError(
                "`noise` must be one of `robust_tf.smoothing.noises`. Received: "
                f"{type(noise).__name__}"
            )
        is_base = isinstance(model, BaseClassifier)
        self.base = model if is_base else BaseClassifier.from_model(model)
        self.block_size = block_size
        self._make_sampler = functools.cache(
            functools.partial(
                Sampler,
                self.base,
                self.noise,
                block_size,
                strategy,
                jit_compile=jit_compile,
            )
        )

    def certify(
        self,
        x,
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        batch_size: int = 1000,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        labels: Sequence[int] | None = None,
        norm: int | str = 2,
        mode: str = "exact",
        *,
        radii: Sequence[float] | None = None,
        tolerance: float = 0.05,
        progress: Callable[[int, Certificates], None] | None = None,
    ) -> Certificates:
        """Certifies a radius around each image, or abstains.

        n0 samples choose a candidate; n others bound its probability. For each image a
        certificate is wrong with probability at most alpha, by itself: of N images
        about `alpha * N` may be.

        Modes. "exact": prediction and radius are those of n samples; an image whose
        abstention is certain gets no more. With `radii`, an image gets no more once it
        is certain which of them it has, and its radius is the largest of them. "full":
        all n samples. "adaptive": a confidence sequence (`stopping.Adaptive`), which
        may stop at any time, as soon as it has the largest of `radii`, or without them
        once more samples would add little; at most n.

        Args:
            x: float images in [0, 1], `[examples, *shape]`.
            n0: samples of the selection.
            n: samples of the estimation, at most.
            alpha: probability that a certificate is wrong.
            batch_size: samples that one call of the device works through.
            seed: of the noise.
            indices: of the images in their data set; None for 0, 1, ...
            labels: with these, images whose candidate is not the label are skipped:
                they count as nothing in every accuracy anyhow.
            norm: of the radius: 1, 2 or "inf". The noise's own is tight; another one is
                converted (`Certificates.setting.is_converted`).
            mode: "exact", "full" or "adaptive".
            radii: all radii that are asked for.
            tolerance: adaptive, without `radii`: what the rest of the samples has to be
                expected to add to the radius, in units of the noise's scale.
            progress: called with the place and the certificate of each image, as soon
                as it is done.

        Raises:
            InputError: for values out of range or shapes that do not fit, and for
                logits that are NaN.
        """
        examples = self._checked(x, indices, labels, n, seed, batch_size)
        bounds.check_selection(n0, n)
        setting = self._setting(norm, n0, n, alpha, seed, mode, radii)
        rule = self._rule(setting, tolerance)
        sampler = self._make_sampler()
        chosen = self._select(sampler, examples, n0, seed, batch_size)
        found = Collector(setting, rule, chosen, progress)
        tallies = []
        for place, index in enumerate(examples.indices):
            if examples.labels and examples.labels[place] != found.candidate[place]:
                found.skip(place)
                continue
            tallies.append(sampler.tally(index, place, ESTIMATION, n, found.is_done))
        sampler.fill(examples.images, tallies, seed, batch_size, found.close)
        return found.certificates

    def certify_soft(
        self,
        x,
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        batch_size: int = 1000,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        norm: int | str = 2,
        *,
        bound: str = "empirical-bernstein",
        temperature: float = 1.0,
    ) -> SoftCertificates:
        """Certifies the mean softmax output, and the vote, from the same noise.

        As `certify` with mode "full"; each of the two is wrong with probability at most
        alpha, by itself (arXiv:2001.02378).

        Args:
            x: float images in [0, 1], `[examples, *shape]`.
            n0: samples of the selection.
            n: samples of the estimation.
            alpha: probability that a certificate is wrong.
            batch_size: samples that one call of the device works through.
            seed: of the noise.
            indices: of the images in their data set; None for 0, 1, ...
            norm: of the radius.
            bound: "empirical-bernstein" or "hoeffding".
            temperature: logits are multiplied by it before the softmax (beta there).
        """
        examples = self._checked(x, indices, None, n, seed, batch_size)
        bounds.check_selection(n0, n)
        soft.check(bound, temperature, n, alpha)
        setting = self._setting(norm, n0, n, alpha, seed, "full", None)
        rule, sampler = self._rule(setting, 0.0), self._make_sampler(temperature)
        chosen = self._select(sampler, examples, n0, seed, batch_size)
        hard = Collector(setting, rule, chosen)
        tallies = [
            sampler.tally(index, place, ESTIMATION, n)
            for place, index in enumerate(examples.indices)
        ]
        sampler.fill(examples.images, tallies, seed, batch_size, hard.close)
        radius_of = self._radius_of(norm)
        return soft.concluded(chosen, tallies, bound, radius_of, hard.certificates)

    def predict(
        self,
        x,
        n: int = 100_000,
        alpha: float = 0.001,
        batch_size: int = 1000,
        seed: int = 0,
        indices: Sequence[int] | None = None,
    ) -> Predictions:
        """Predicts the likeliest class under noise, or abstains.

        By the two-sided exact test of the first two classes of a vote: another class
        than the likeliest is returned with probability at most alpha
        (arXiv:1902.02918, section 3.2.1). It needs no majority, so it abstains less
        often than `certify`.

        Args:
            x: float images in [0, 1], `[examples, *shape]`.
            n: samples, other ones than those of `certify`.
            alpha: probability that a prediction is wrong.
            batch_size: samples that one call of the device works through.
            seed: of the noise.
            indices: of the images in their data set; None for 0, 1, ...
        """
        examples = self._checked(x, indices, None, n, seed, batch_size)
        bounds.check_can_decide(n, alpha)
        sampler = self._make_sampler()
        tallies = [
            sampler.tally(index, place, PREDICTION, n)
            for place, index in enumerate(examples.indices)
        ]
        sampler.fill(examples.images, tallies, seed, batch_size)
        counts = np.stack([tally.counts for tally in tallies])
        second, first = np.sort(counts, -1)[:, -2:].T
        p_value = np.array(list(map(bounds.vote_p_value, first, second)))
        prediction = np.where(p_value <= alpha, counts.argmax(-1), bounds.ABSTAIN)
        return Predictions(prediction, counts, p_value)

    def largest_radius(self, n: int, alpha: float, norm: int | str = 2) -> float:
        """Returns the radius that n samples, agreeing, would certify.

        Raises:
            InputError: for (n, alpha) that certify nothing, and for other norms.
        """
        return bounds.largest_of(self._radius_of(norm), n, alpha)

    def votes(self, images, seed, stage: int, size: int):
        """Counts votes within a graph (`sampling.Sampler.votes`), int64."""
        return self._make_sampler().votes(images, seed, stage, size)

    def _select(self, sampler, examples, n0, seed, batch_size):
        """Tallies of the samples that choose the candidates."""
        tallies = [
            sampler.tally(index, place, SELECTION, n0)
            for place, index in enumerate(examples.indices)
        ]
        sampler.fill(examples.images, tallies, seed, batch_size)
        return tallies

    def _radius_of(self, norm):
        dimensions = int(np.prod(self.base.input_shape))
        return functools.partial(self.noise.radius, norm=norm, dimensions=dimensions)

    def _rule(self, setting, tolerance):
        n, alpha, radius_of = setting.n, setting.alpha, self._radius_of(setting.norm)
        if setting.mode == "adaptive":
            bounds.check_can_certify(n, alpha, bounds.confidence_sequence_lower)
            bounds.check_positive(tolerance, "tolerance")
            gain = tolerance * self.noise.scale
            radii, size = setting.radii, self.block_size
            return stopping.adaptive(n, alpha, radius_of, radii, gain, size)
        bounds.check_can_certify(n, alpha)
        if setting.mode == "full":
            return stopping.Exact(n, alpha, radius_of, 0)
        return stopping.exact(n, alpha, radius_of, setting.radii)

    def _setting(self, norm, n0, n, alpha, seed, mode, radii) -> Setting:
        if mode not in _MODES:
            raise InputError(f"`mode` must be one of {_MODES}. Received: {mode!r}")
        if radii is not None:
            radii = _checked_radii(radii, mode)
        is_converted = self.noise.is_converted(norm)
        return Setting(
            self.noise,
            norm,
            is_converted,
            n0,
            n,
            alpha,
            seed,
            self.block_size,
            mode,
            radii,
        )

    def _checked(self, x, indices, labels, n, seed, batch_size) -> Examples:
        bounds.check_samples(n)
        bounds.check_samples(batch_size, "batch_size")
        if n > self.block_size * MAX_BLOCKS:
            raise InputError(
                f"There are at most {MAX_BLOCKS:,} blocks of {self.block_size} "
                f"samples. Received: n = {n}. Use larger blocks."
            )
        if not (bounds.is_whole(seed) and 0 <= seed < 2**63):
            raise InputError(
                f"`seed` must be a whole number from 0, below 2^63. Received: {seed!r}"
            )
        examples = Examples.checked(self.base, x, indices, labels)
        self.noise.check_images(examples.images)
        return examples


def _checked_radii(radii, mode) -> tuple[float, ...]:
    radii = np.asarray(radii)
    if radii.ndim != 1 or radii.dtype.kind not in "fiu" or not radii.size:
        raise InputError(f"`radii` must be a list of numbers. Received: {radii!r}")
    if not np.all(np.isfinite(radii) & (radii >= 0.0)):
        raise InputError(f"`radii` must be finite, from 0. Received: {radii.tolist()}")
    if mode == "full":
        raise InputError(
            "Mode 'full' draws all samples, whatever radii are asked for. Received: "
            f"radii={radii.tolist()}. Use mode 'exact'."
        )
    return stopping.with_zero(radii)
