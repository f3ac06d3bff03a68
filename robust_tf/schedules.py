"""Scalars as functions of the optimizer step, safe inside `tf.function`.

Times are counted in periods of `steps_per_epoch` steps, so with its default of 1 they
are steps; a training run sets it, and they are epochs.
"""

import dataclasses
import math

import keras
import tensorflow as tf

from robust_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same value at every step."""

    value: float
    steps_per_epoch: int = 1

    def __call__(self, step) -> tf.Tensor:
        del step
        return tf.constant(self.value, tf.float32)


@dataclasses.dataclass(frozen=True)
class LinearRamp:
    """From `initial` to `final` in a straight line, over whole epochs.

    Attributes:
        start: epochs before the ramp (natural epochs, where it is the radius's).
        length: epochs that the ramp takes; 0 jumps at its start. A published
            `schedule_length` of L (arXiv:1906.06316) is a ramp over L - 1 epochs.
        initial: value before.
        final: value after.
        steps_per_epoch: optimizer steps in one epoch.
    """

    start: float = 0.0
    length: float = 0.0
    initial: float = 0.0
    final: float = 1.0
    steps_per_epoch: int = 1

    def __post_init__(self):
        _check_times(self)

    def __call__(self, step) -> tf.Tensor:
        first, last = _ends(self)
        step = tf.cast(step, tf.float32)
        if last == first:
            fraction = tf.cast(step >= first, tf.float32)
        else:
            fraction = tf.clip_by_value((step - first) / (last - first), 0.0, 1.0)
        return self.initial + fraction * (self.final - self.initial)


@dataclasses.dataclass(frozen=True)
class Staircase:
    """`(epoch + 1) / length` throughout an epoch counted from 0, at most 1.

    The warm-up of attacks on smoothed classifiers (arXiv:1906.04584).

    Attributes:
        length: epochs until 1 is reached, a whole number; 0 and 1: from the start.
        start: epochs before, at 0.
        steps_per_epoch: optimizer steps in one epoch.
    """

    length: int = 0
    start: int = 0
    steps_per_epoch: int = 1

    def __post_init__(self):
        _check_times(self)

    def __call__(self, step) -> tf.Tensor:
        epoch = tf.cast(step, tf.int64) // self.steps_per_epoch - self.start
        done = tf.cast(epoch + 1, tf.float32) / max(self.length, 1)
        return tf.clip_by_value(done, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class SmoothedRamp:
    """A power of the step at first, then a straight line, of one slope where they meet.

    The radius schedule of arXiv:2002.12920. Attributes are those of `LinearRamp`, and

    Attributes:
        middle: share of the ramp before the straight line.
        power: exponent of the first part.
    """

    start: float = 0.0
    length: float = 0.0
    initial: float = 0.0
    final: float = 1.0
    middle: float = 0.25
    power: float = 4.0
    steps_per_epoch: int = 1

    def __post_init__(self):
        _check_times(self)
        if not 0.0 < self.middle < 1.0 or not self.power >= 1.0:
            raise InputError(
                "`middle` must lie between 0 and 1, `power` must be at least 1. "
                f"Received: {self}"
            )

    def __call__(self, step) -> tf.Tensor:
        first, last = _ends(self)
        middle = first + math.floor((last - first) * self.middle)
        if middle <= first:  # Too short to bend.
            return LinearRamp(
                self.start, self.length, self.initial, self.final, self.steps_per_epoch
            )(step)
        span, rest = float(middle - first), float(last - middle)
        # The values are those of a u^power, u the steps since `first` over `span`.
        share = span / (rest * self.power + span)
        step = tf.cast(step, tf.float32)
        begun = tf.clip_by_value((step - first) / span, 0.0, 1.0)
        line = tf.clip_by_value((step - middle) / rest, 0.0, 1.0)
        fraction = share * begun**self.power + (1.0 - share) * line
        return self.initial + fraction * (self.final - self.initial)


@dataclasses.dataclass(frozen=True)
class Tent:
    """In a straight line from 0 to `peak` and, as fast, back to 0 (arXiv:2002.12920).

    Attributes:
        start: epochs before.
        length: epochs of both halves.
        peak: value halfway.
        steps_per_epoch: optimizer steps in one epoch.
    """

    start: float = 0.0
    length: float = 0.0
    peak: float = 1.0
    steps_per_epoch: int = 1

    def __post_init__(self):
        _check_times(self)

    def __call__(self, step) -> tf.Tensor:
        first, last = _ends(self)
        half = max((last - first) / 2, 1.0)
        distance = tf.abs(tf.cast(step, tf.float32) - (first + half))
        return self.peak * tf.nn.relu(1.0 - distance / half)


@dataclasses.dataclass(frozen=True)
class Window:
    """`value` over whole epochs, 0 before and after (arXiv:2002.12920).

    Attributes:
        start: epochs before.
        length: epochs that it lasts.
        value: within.
        steps_per_epoch: optimizer steps in one epoch.
    """

    start: float = 0.0
    length: float = 0.0
    value: float = 1.0
    steps_per_epoch: int = 1

    def __post_init__(self):
        _check_times(self)

    def __call__(self, step) -> tf.Tensor:
        first, last = _ends(self)
        step = tf.cast(step, tf.int64)
        return self.value * tf.cast((step >= first) & (step < last), tf.float32)


@dataclasses.dataclass(frozen=True)
class StepDecay:
    """`initial * factor ** floor((epoch - start) / every)`, and `initial` before.

    Attributes:
        initial: value until `start + every`.
        factor: of each decay.
        start: epoch from which periods are counted.
        every: epochs between decays.
        steps_per_epoch: optimizer steps in one epoch.
    """

    initial: float
    factor: float = 0.5
    start: int = 0
    every: int = 10
    steps_per_epoch: int = 1

    def __post_init__(self):
        if self.every < 1 or self.start < 0 or self.steps_per_epoch < 1:
            raise InputError(
                f"`every` must be at least 1, `start` at least 0. Received: {self}"
            )

    def __call__(self, step) -> tf.Tensor:
        epoch = tf.cast(step, tf.int64) // self.steps_per_epoch
        count = tf.maximum(epoch - self.start, 0) // self.every
        return self.initial * tf.pow(
            tf.constant(self.factor, tf.float32), tf.cast(count, tf.float32)
        )


@dataclasses.dataclass(frozen=True)
class MilestoneDecay:
    """`initial * factor ** (number of milestones reached)`; milestones are epochs."""

    initial: float
    factor: float = 0.1
    milestones: tuple[int, ...] = ()
    steps_per_epoch: int = 1

    def __call__(self, step) -> tf.Tensor:
        epoch = tf.cast(step, tf.int64) // self.steps_per_epoch
        reached = epoch >= tf.constant(list(self.milestones), tf.int64)
        count = tf.reduce_sum(tf.cast(reached, tf.float32))
        return self.initial * tf.pow(tf.constant(self.factor, tf.float32), count)


@keras.saving.register_keras_serializable(package="robust_tf")
class ScheduledRate(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that follows one of the schedules above."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def __call__(self, step):
        return self.schedule(step)

    def get_config(self):
        return {
            "kind": type(self.schedule).__name__,
            "values": dataclasses.asdict(self.schedule),
        }

    @classmethod
    def from_config(cls, config):
        by_name = {kind.__name__: kind for kind in _KINDS}
        return cls(by_name[config["kind"]](**config["values"]))


_KINDS = (
    Constant,
    LinearRamp,
    Staircase,
    SmoothedRamp,
    Tent,
    Window,
    StepDecay,
    MilestoneDecay,
)


def in_epochs(schedule, steps_per_epoch: int):
    """Returns the schedule with its times counted in epochs of that many steps."""
    return dataclasses.replace(schedule, steps_per_epoch=steps_per_epoch)


def _ends(schedule) -> tuple[int, int]:
    """First and last step of a ramp."""
    steps = schedule.steps_per_epoch
    first = round(schedule.start * steps)
    return first, round((schedule.start + schedule.length) * steps)


def _check_times(schedule):
    if min(schedule.start, schedule.length) < 0 or schedule.steps_per_epoch < 1:
        raise InputError(
            "`start` and `length` must be at least 0, `steps_per_epoch` at least 1. "
            f"Received: {schedule}"
        )
