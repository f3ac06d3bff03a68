"""How certification works: which samples are drawn, and what they are worth."""

import dataclasses
import math

from robust_tf.errors import InputError
from robust_tf.experiments.settings import is_whole
from robust_tf.smoothing import noises
from robust_tf.smoothing import radius as bounds

_WHOLE = "a whole number of at least 1"
MODES = ("exact", "adaptive", "soft")
NOISES = {
    "gaussian": noises.Gaussian,
    "quantised gaussian": noises.QuantisedGaussian,
    "uniform": noises.Uniform.of_deviation,
}
NORMS = (1, 2, "inf")
_USUAL_NORM = 2  # Of records that name none.


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How certification works, whatever it certifies.

    Without `full` nothing is drawn that could not change any accuracy or average: an
    example whose candidate is not its label is skipped, and one that is sure to end in
    an abstention gets no more samples.

    Attributes:
        mode: "exact" for the certificates that n samples give; "adaptive" for a
            confidence sequence, which stops where more samples would add little;
            "soft" for those of the mean softmax output as well, with all samples.
        full: whether all n samples of all examples are drawn.
        batch_size: noisy copies that one call works through; results do not depend on
            it.
        block_size: noisy copies that the classifier is run on at once. It chooses the
            noise: another size gives other samples. Accelerators want 1,000 or more.
        max_examples: that are certified, at most; None for all.
        noise: "gaussian"; "quantised gaussian", in steps of 1/255 for images on that
            grid, whose certificates rest on no rounding error
            (`smoothing.QuantisedGaussian`); or "uniform", which certifies L1 radii.
        norm: of the radii: 1, 2 or "inf"; None for the noise's own, 1 for uniform and 2
            for Gaussian noise. Radii of another norm are converted, which is weak for
            "inf": they are divided by the root of the number of pixels.
        radii: "exact", "adaptive": all radii that are asked for, in pixels in [0, 1].
            An example gets no more samples once it is certain which of them it has, and
            its radius on record is the greatest of these. Empty for the radius itself.
        devices: such as ("GPU:0", "GPU:1"), which share the samples; empty for the
            default one.
        temperature: soft: logits are multiplied by it before the softmax.
        tolerance: adaptive: what more samples have to be expected to add to a radius,
            in units of sigma.
    """

    mode: str = "exact"
    full: bool = False
    batch_size: int = 1000
    block_size: int = 100
    max_examples: int | None = None
    noise: str = "gaussian"
    norm: int | str | None = None
    radii: tuple[float, ...] = ()
    devices: tuple[str, ...] = ()
    temperature: float = 1.0
    tolerance: float = 0.05

    def __post_init__(self):
        most = self.max_examples
        rules = {
            "mode": (self.mode in MODES, f"one of {MODES}"),
            "batch_size": (is_whole(self.batch_size, 1), _WHOLE),
            "block_size": (is_whole(self.block_size, 1), _WHOLE),
            "max_examples": (most is None or is_whole(most, 1), f"{_WHOLE}, or None"),
            "noise": (self.noise in NOISES, f"one of {tuple(NOISES)}"),
            "norm": (self.norm is None or self.norm in NORMS, f"one of {NORMS}"),
            "radii": (_are_radii(self.radii), "finite numbers of at least 0"),
            "temperature": (_is_number(self.temperature, 0.0), "above 0"),
            "tolerance": (
                self.tolerance == 0.0 or _is_number(self.tolerance, 0.0),
                "at least 0",
            ),
        }
        for name, (is_met, rule) in rules.items():
            if not is_met:
                raise InputError(
                    f"`{name}` must be {rule}. Received: {getattr(self, name)!r}"
                )
        if self.full and self.mode == "adaptive":
            raise InputError(
                "Adaptive certification never draws more samples than it needs. "
                "Received: full=True. Use mode 'exact' for all of them."
            )

        if self.radii and (self.full or self.mode == "soft"):
            raise InputError(
                "All samples are drawn, whatever radii are asked for. Received: radii "
                f"{self.radii} with {'full=True' if self.full else 'mode soft'}. Leave "
                "one of them out."
            )

    @property
    def values(self) -> dict:
        """What of it decides about certificates; what is as usual is left out."""
        mode = "full" if self.full and self.mode == "exact" else self.mode
        norm = self.norm_of_radii
        more = {"soft": ("temperature",), "adaptive": ("tolerance",)}.get(mode, ())
        return {
            "mode": mode,
            "noise": self.noise,
            "block_size": self.block_size,
            **{name: getattr(self, name) for name in more},
            **({} if norm == _USUAL_NORM else {"norm": norm}),
            **({"radii": sorted(map(float, self.radii))} if self.radii else {}),
        }

    @property
    def norm_of_radii(self) -> int | str:
        """`norm`, or that of the noise's own radii."""
        return self.noise_of(1.0).native_norm if self.norm is None else self.norm

    def noise_of(self, sigma: float) -> noises.Noise:
        """Returns the noise of a standard deviation, in pixels in [0, 1]."""
        return NOISES[self.noise](sigma)


def checked_values(sigma, n0, n, alpha, seed) -> dict:
    """Returns what decides about a certificate, by name.

    Args:
        sigma: standard deviation of the noise, in pixels in [0, 1].
        n0: samples of the selection.
        n: samples of the estimation, at most.
        alpha: probability of a wrong certificate, for each example.
        seed: of the noise.

    Raises:
        InputError: for values out of range, and samples too few ever to certify.
    """
    rules = {
        "sigma": (_is_number(sigma, 0.0), "a number above 0", sigma),
        "n0": (is_whole(n0, 1), _WHOLE, n0),
        "n": (is_whole(n, 1) and n >= n0, f"{_WHOLE}, and of n0 ({n0})", n),
        "alpha": (_is_number(alpha, 0.0) and alpha < 1.0, "in (0, 1)", alpha),
        "seed": (is_whole(seed, 0), "a whole number of at least 0", seed),
    }
    for name, (is_met, rule, value) in rules.items():
        if not is_met:
            raise InputError(f"`--{name}` must be {rule}. Received: {value!r}")
    bounds.check_can_certify(n, float(alpha))
    return {"sigma": sigma, "n0": n0, "n": n, "alpha": float(alpha), "seed": seed}


def _are_radii(values) -> bool:
    return isinstance(values, tuple | list) and all(
        value == 0.0 or _is_number(value, 0.0) for value in values
    )


def _is_number(value, low) -> bool:
    """Whether a value is a finite number above another one."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > low
