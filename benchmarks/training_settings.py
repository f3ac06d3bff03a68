"""What `training_steps` trains: published settings, put together of gin files.

Standard library only.
"""

import dataclasses
import pathlib

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "gin_configs"
METHODS = (
    "vanilla_ibp",
    "fast_ibp",
    "fast_crown_ibp",
    "cc_ibp",
    "mtl_ibp",
    "exp_ibp",
    "sabr",
    "staps",
    "taps",
    "ibp_r",
    "ibp",
    "crown_ibp",
    "crown_ibp_natural",
    "natural",
    "pgd",
    "edac",
    "mart",
    "arow",
)
"""Files of `gin_configs/methods`; those that others only include are left out."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A data set and a radius.

    Attributes:
        experiment: what the names of its published experiments begin with.
        parts: gin files that stand before the method's.
        epsilon: radius, in pixels in [0, 1], rounded as published.
        input_shape: `(height, width, channels)`.
        classes: how many.
        steps: of the published schedule, in batches of 128.
        bindings: by method, what it leaves open or has otherwise in this setting.
        left_out: methods that need more memory or time than a processor has, unless
            they are asked for.
    """

    experiment: str
    parts: tuple[str, ...]
    epsilon: float
    input_shape: tuple[int, int, int]
    classes: int
    steps: int
    bindings: dict[str, tuple[str, ...]]
    left_out: tuple[str, ...] = ()

    def files(self, method: str) -> list[str]:
        """Returns the gin files of a method: its published experiment, if there is one.

        Args:
            method: one of `METHODS`.
        """
        published = CONFIGS / "experiments" / f"{self.experiment}_{method}.gin"
        if published.exists():
            return [str(published)]
        return [str(CONFIGS / f"{part}.gin") for part in self._parts(method)]

    def params(self, method: str) -> list[str]:
        """Returns the gin bindings that come after them."""
        return [f"regions.Threat.epsilon = {self.epsilon}", *self.bindings[method]]

    def _parts(self, method):
        return (*self.parts, f"methods/{method}")


def _of_each_method(**bindings):
    return {method: bindings.get(method, ()) for method in METHODS}


_L1 = "certified_training.certified_training.l1_weight = {}"
_SHARE = "forward.Adversary.box_share = {}"
_CIFAR10 = {"input_shape": (32, 32, 3), "classes": 10}
SETTINGS = {
    "cifar10_2": Setting(
        "cifar10_eps2_255",
        ("base/cifar10_fast", "schedules/160_epochs", "architectures/cnn7"),
        0.00784,
        **_CIFAR10,
        steps=160 * 390,
        bindings=_of_each_method(
            taps=("taps.Taps.classifier_relus = 5", _L1.format(2e-6)),
            staps=(
                "taps.Taps.gradient_weight = 2.0",
                _SHARE.format(0.1),
                "forward.Adversary.unstable_share = 0.8",
                _L1.format(2e-6),
            ),
        ),
        left_out=("taps",),
    ),
    "cifar10_8": Setting(
        "cifar10_eps8_255",
        ("base/cifar10_fast", "schedules/260_epochs", "architectures/cnn7"),
        0.03137,
        **_CIFAR10,
        steps=260 * 390,
        bindings=_of_each_method(
            taps=(_L1.format(2e-6),), staps=(_SHARE.format(0.7), _L1.format(2e-6))
        ),
    ),
    "tiny_imagenet_1": Setting(
        "tiny_imagenet_eps1_255",
        ("base/tiny_imagenet_fast", "schedules/160_epochs", "architectures/cnn7_64x64"),
        0.00392,
        input_shape=(64, 64, 3),
        classes=200,
        steps=160 * 781,
        bindings=_of_each_method(
            sabr=(_SHARE.format(0.4), _L1.format(1e-6)),
            staps=(_SHARE.format(0.6), _L1.format(1e-6)),
            edac=("gradients.LessCertain.step_size = 0.1",),
        ),
        # A row or an attack for each of the 199 other classes.
        left_out=("crown_ibp", "crown_ibp_natural", "taps", "staps"),
    ),
}
"""By data set and radius in 255ths: arXiv:2103.17268, 2305.13991, 2305.04574."""
