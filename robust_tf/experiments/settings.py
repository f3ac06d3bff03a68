"""What a configuration chooses, in groups."""

import dataclasses
import math
from collections.abc import Callable

from robust_tf import data as datasets
from robust_tf.data import soft_targets
from robust_tf.data import subset as subsets
from robust_tf.errors import InputError
from robust_tf.training.gradients import GradientRule
from robust_tf.verification.plan import Plan


@dataclasses.dataclass(frozen=True)
class Data:
    """Which images a run reads, and how.

    Attributes:
        name: "digits", or a TFDS name such as "mnist".
        batch_size: examples in a training batch, over all replicas.
        validation_share: share of the training split held out; 0 for none.
        validation_shuffle_seed: of the permutation that the share is cut from; None
            for the stored order.
        augmentation: of training batches, such as `RandomFlipAndCrop`.
        data_dir: TFDS data folder; None for the default one.
        soft_targets: file with probabilities of the classes for each image of the
            training split, by `bin/soft_targets.py`; None for none.
        subset: file that chooses the examples of the training split that are trained
            on (`data.subset`), as the stages of a cascade have; None for all.
        evaluation_crop: `crops.CentreCrop`, which makes images of many shapes one;
            None for sets whose images have one.
    """

    name: str
    batch_size: int = 256
    validation_share: float = 0.0
    validation_shuffle_seed: int | None = None
    augmentation: Callable | None = None
    data_dir: str | None = None
    soft_targets: str | None = None
    subset: str | None = None
    evaluation_crop: datasets.CentreCrop | None = None

    def __post_init__(self):
        if not isinstance(self.evaluation_crop, datasets.CentreCrop | None):
            raise InputError(
                "`evaluation_crop` must be a `crops.CentreCrop`, or None. Received: "
                f"{self.evaluation_crop!r}"
            )
        if self.soft_targets is not None and self.validation_share:
            raise InputError(
                "Soft targets belong to the whole training split, and a share that is "
                "held out has none. Received: `soft_targets` and `validation_share` "
                f"{self.validation_share}. Leave one of them out."
            )
        if self.soft_targets is not None and self.subset is not None:
            raise InputError(
                "Soft targets belong to the whole training split, and chosen examples "
                "have none. Received: `soft_targets` and `subset`. Leave one of them "
                "out."
            )
        if self.batch_size < 1 or not 0.0 <= self.validation_share < 1.0:
            raise InputError(
                "`batch_size` must be at least 1, `validation_share` in [0, 1). "
                f"Received: {self}"
            )

    def load(self, split: str) -> datasets.LabelledImages:
        """Returns one split: "train", "validation" or "test"."""
        images = datasets.load(
            self.name,
            split,
            self.data_dir,
            validation_share=self.validation_share,
            validation_shuffle_seed=self.validation_shuffle_seed,
            evaluation_crop=self.evaluation_crop,
        )
        if split == "train" and self.soft_targets is not None:
            return soft_targets.attach(images, self.soft_targets)
        if split == "train" and self.subset is not None:
            return subsets.choose(images, self.subset)
        return images


@dataclasses.dataclass(frozen=True)
class Run:
    """How long, how fast and where a run trains.

    Attributes:
        epochs: passes over the training split.
        seed: of weights, data order, augmentation and attacks.
        optimizer: factory, called with `learning_rate=`.
        learning_rate: a number, or a schedule with times in epochs.
        ramp: share of the radius, a schedule with times in epochs.
        radius_factor: radius in training, over that of the threat.
        min_radius: least radius in training, in pixels in [0, 1].
        max_gradient_norm: clips the gradient of the whole batch; None: not.
        micro_batches: parts that a batch is worked through in.
        devices: such as ("GPU:0", "GPU:1"); empty for the default one.
        jit_compile: whether steps are compiled by XLA.
        keep: "last" weights at the end, or the "best" on the validation split.
        gradient_rule: such as `gradients.SharpnessAware` (SAM) or `gradients.
            LessCertain` (EDAC); None for plain gradients.
        average_from: first epoch, from 0, whose weights count in an average that is
            validated and kept (`averaging.WeightAverage`), with statistics of its own;
            None for no average.
        precise_statistics: when those of BatchNormalization are taken over the clean
            training split (`precise_statistics.PopulationStatistics`): after each
            "epoch", before its validation; at the "end", for the weights that are
            kept; None for moving ones. Batches are those of `batch_size`, shuffled
            once; what fills none is left out.
        statistics_batches: how many of them; None for all.
        neuron_examples: the first images of the training split, over which the shares
            of active, inactive and unstable neurons are taken after each epoch; 0: no
            shares.
    """

    epochs: int
    optimizer: Callable
    learning_rate: float | Callable
    ramp: Callable
    radius_factor: float = 1.0
    min_radius: float = 0.0
    seed: int = 0
    max_gradient_norm: float | None = None
    micro_batches: int = 1
    devices: tuple[str, ...] = ()
    jit_compile: bool = False
    keep: str = "last"
    gradient_rule: GradientRule | None = None
    average_from: int | None = None
    precise_statistics: str | None = None
    statistics_batches: int | None = None
    neuron_examples: int = 512

    def __post_init__(self):
        rate, norm = self.learning_rate, self.max_gradient_norm
        rules = {
            "epochs": (is_whole(self.epochs, 1), "a whole number of at least 1"),
            "seed": (is_whole(self.seed, 0, 2**32), "a whole number in [0, 2^32)"),
            "micro_batches": (
                is_whole(self.micro_batches, 1),
                "a whole number of at least 1",
            ),
            "max_gradient_norm": (norm is None or norm > 0.0, "above 0, or None"),
            "radius_factor": (self.radius_factor > 0.0, "above 0"),
            "min_radius": (self.min_radius >= 0.0, "at least 0"),
            "learning_rate": (
                callable(rate) or isinstance(rate, int | float),
                "a number, or a schedule such as `schedules.StepDecay`",
            ),
            "keep": (self.keep in ("last", "best"), "'last' or 'best'"),
            "average_from": (
                _is_whole_or_none(self.average_from, 0, self.epochs),
                f"a whole number in [0, {self.epochs}), the epochs; or None",
            ),
            "precise_statistics": (
                self.precise_statistics in (None, "epoch", "end"),
                "'epoch', 'end' or None",
            ),
            "statistics_batches": (
                _is_whole_or_none(self.statistics_batches, 1),
                "a whole number of at least 1, or None",
            ),
            "neuron_examples": (
                is_whole(self.neuron_examples, 0),
                "a whole number of at least 0",
            ),
        }
        for name, (is_met, rule) in rules.items():
            if not is_met:
                raise InputError(
                    f"`{name}` must be {rule}. Received: {getattr(self, name)!r}"
                )


@dataclasses.dataclass(frozen=True)
class Examples:
    """Which examples of a data set are measured.

    Attributes:
        split: "test", "validation" or "train".
        start: index of the first one.
        count: how many; None for all from `start` on.
        batch_size: examples worked on at a time; results do not depend on it.
    """

    split: str = "test"
    start: int = 0
    count: int | None = None
    batch_size: int = 200

    def indices_in(self, images: datasets.LabelledImages) -> range:
        """Returns the indices of the examples in a data set, of at least one.

        Raises:
            InputError: where the data set does not hold them all.
        """
        return datasets.evaluation_positions(images, self.start, self.count)


@dataclasses.dataclass(frozen=True)
class Certification:
    """How a classifier that will be smoothed is certified while it is trained.

    Attributes:
        split: whose examples; not those of training.
        start: index of the first one.
        count: how many.
        every: epochs from one certification to the next; 0: at the end alone.
        first_epoch: none before so many epochs.
        n0: samples that choose the class.
        n: samples that bound its probability.
        alpha: failure probability of each certificate.
        batch_size: noisy images at a time; results do not depend on it.
    """

    split: str = "test"
    start: int = 0
    count: int = 500
    every: int = 0
    first_epoch: int = 0
    n0: int = 100
    n: int = 1000
    alpha: float = 0.001
    batch_size: int = 1000

    def __post_init__(self):
        for name, least in {
            "start": 0,
            "count": 1,
            "every": 0,
            "first_epoch": 0,
        }.items():
            if not is_whole(getattr(self, name), least):
                raise InputError(
                    f"`{name}` must be a whole number of at least {least}. Received: "
                    f"{getattr(self, name)!r}"
                )


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Which certificates are computed.

    Attributes:
        methods: of `compute_bounds`.
        relaxation: of `compute_bounds`.
        memory_budget_mb: of `compute_bounds`.
    """

    methods: tuple[str, ...] = ("ibp", "crown-ibp", "crown")
    relaxation: str = "adaptive"
    memory_budget_mb: float | None = None


@dataclasses.dataclass(frozen=True)
class Exact:
    """How robust error is bounded from both sides (`robust_error`).

    Attributes:
        plan: of verification.
        timeout_s: seconds of work for each example.
        distance_limit: the largest distance that is tried by the convex adversarial
            polytope, in pixels in [0, 1]; None for no such distances.
        distance_steps: of its bisection.
        has_regions: whether linear regions are measured too, of classifiers of affine
            layers and (leaky) ReLUs; others have none.
    """

    plan: Plan = Plan()  # noqa: RUF009
    timeout_s: float = 120.0
    distance_limit: float | None = None
    distance_steps: int = 14
    has_regions: bool = True

    def __post_init__(self):
        limit = self.distance_limit
        if limit is not None and not 0.0 < limit < math.inf:
            raise InputError(
                "`distance_limit` must be finite and above 0, or None. Received: "
                f"{limit}"
            )
        if not is_whole(self.distance_steps, 1):
            raise InputError(
                "`distance_steps` must be a whole number of at least 1. Received: "
                f"{self.distance_steps!r}"
            )


def _is_whole_or_none(value, low, end=math.inf):
    return value is None or is_whole(value, low, end)


def is_whole(value, low: int, end: float = math.inf) -> bool:
    """Whether a value is a whole number, of at least `low`, below `end`."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return is_integer and low <= value < end
