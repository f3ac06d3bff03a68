"""Schedules against golden values."""

import keras
import pytest
import tensorflow as tf

from robust_tf import schedules
from robust_tf.errors import InputError
from robust_tf.objectives.terms import FollowsRadius
from tests import golden_cases

GOLDEN = golden_cases.cases()["I_schedules"]
SMOOTHED = golden_cases.losses()["schedules"]["rows"]


@pytest.mark.parametrize("case", GOLDEN["eps"], ids=lambda case: case["name"])
def test_radius(case):
    kind = {"linear": schedules.LinearRamp, "smoothed": schedules.SmoothedRamp}
    ramp = kind[case["schedule_type"]](
        start=case["schedule_start"],
        length=case["schedule_length"] - 1,
        final=case["final_eps"],
        steps_per_epoch=case["steps_per_epoch"],
    )
    for row in case["values"]:
        step = row["epoch"] * case["steps_per_epoch"] + row["batch"]
        assert float(ramp(tf.constant(step))) == pytest.approx(
            row["eps"], rel=1e-5, abs=1e-7
        ), row


@pytest.mark.parametrize("case", GOLDEN["lr_step"], ids=lambda case: case["name"])
def test_learning_rate(case):
    decay = schedules.StepDecay(
        case["lr"],
        case["factor"],
        start=case["schedule_start"] + case["schedule_length"] - 1,
        every=case["lr_decay_step"],
        steps_per_epoch=7,
    )
    for row in case["values"]:
        for step in (7 * row["epoch"], 7 * row["epoch"] + 6):
            assert float(decay(tf.constant(step))) == pytest.approx(row["lr"], rel=1e-6)


@pytest.mark.parametrize("row", GOLDEN["kappa_beta"], ids=str)
def test_kappa_and_beta_follow_the_radius(row):
    weight = FollowsRadius(1.0, row["final"])
    assert float(weight(row["eps"] / row["max_eps"])) == pytest.approx(row["value"])


def test_milestones():
    rate = schedules.MilestoneDecay(1.0, 0.1, (2, 4), steps_per_epoch=5)
    values = [float(rate(tf.constant(step))) for step in (0, 9, 10, 19, 20, 99)]
    assert values == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    ("decay", "drops"),
    [
        (schedules.StepDecay(0.1, 0.1, start=1, every=50), (51, 101)),
        (schedules.StepDecay(0.1, 0.1, every=50), (50, 100)),
        (schedules.StepDecay(0.01, 0.1, start=1, every=30), (31, 61)),
        (schedules.MilestoneDecay(0.01, 0.1, (199, 399)), (199, 399)),
    ],
    ids=str,
)
def test_published_drops_for_smoothing(decay, drops):
    """Epochs from 0; see `gin_configs/base/*smoothing*.gin`."""
    for place, epoch in enumerate(drops):
        before, after = (float(decay(tf.constant(one))) for one in (epoch - 1, epoch))
        assert before == pytest.approx(decay.initial * 0.1**place)
        assert after == pytest.approx(decay.initial * 0.1 ** (place + 1))


def test_staircases_are_constant_within_an_epoch():
    """`min(1, (e + 1) / 10)` in epoch e, counted from 0 (arXiv:1906.04584)."""
    ramp = schedules.Staircase(length=10, steps_per_epoch=5)
    for epoch, wanted in ((0, 0.1), (1, 0.2), (8, 0.9), (9, 1.0), (10, 1.0), (99, 1.0)):
        for step in (5 * epoch, 5 * epoch + 4):
            assert float(ramp(tf.constant(step))) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("length", [0, 1])
def test_short_staircases_jump_at_their_start(length):
    ramp = schedules.Staircase(length, start=31, steps_per_epoch=3)
    assert [float(ramp(tf.constant(step))) for step in (0, 92, 93)] == [0.0, 0.0, 1.0]
    ramp = schedules.Staircase(length, steps_per_epoch=3)
    assert float(ramp(tf.constant(0))) == 1.0


def test_a_staircase_that_starts_late_climbs_from_there():
    ramp = schedules.Staircase(length=2, start=3, steps_per_epoch=2)
    values = [float(ramp(tf.constant(step))) for step in (5, 6, 7, 8, 20)]
    assert values == [0.0, 0.5, 0.5, 1.0, 1.0]


def test_slopes_meet_in_the_smoothed_ramp():
    ramp = schedules.SmoothedRamp(0, 400)
    values = [float(ramp(tf.constant(step))) for step in range(98, 104)]
    slopes = [after - before for before, after in zip(values, values[1:], strict=False)]
    assert max(slopes) / min(slopes) < 1.07
    assert float(ramp(tf.constant(0))) == 0.0
    assert float(ramp(tf.constant(400))) == 1.0


def test_a_ramp_of_length_zero_jumps():
    for kind in (schedules.LinearRamp, schedules.SmoothedRamp):
        ramp = kind(start=2, length=0, steps_per_epoch=3)
        assert [float(ramp(tf.constant(step))) for step in (5, 6)] == [0.0, 1.0]


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.Constant(0.5),
        schedules.LinearRamp(1, 2),
        schedules.Staircase(3),
        schedules.SmoothedRamp(0, 3),
        schedules.Tent(0, 3),
        schedules.Window(1, 2),
        schedules.StepDecay(0.5, start=1, every=2),
        schedules.MilestoneDecay(0.5, milestones=(2, 4)),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_rate_survives_serialisation(schedule):
    rate = schedules.ScheduledRate(schedule)
    config = keras.saving.serialize_keras_object(rate)
    copy = keras.saving.deserialize_keras_object(config)
    for step in range(6):
        assert float(copy(tf.constant(step))) == float(rate(tf.constant(step)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedules.LinearRamp(start=-1),
        lambda: schedules.SmoothedRamp(length=-1),
        lambda: schedules.SmoothedRamp(middle=0.0),
        lambda: schedules.StepDecay(1.0, every=0),
        lambda: schedules.Staircase(length=-1),
        lambda: schedules.Staircase(steps_per_epoch=0),
    ],
)
def test_impossible_times_are_refused(make):
    with pytest.raises(InputError, match="Received"):
        make()


@pytest.mark.parametrize("row", SMOOTHED, ids=lambda row: row["name"])
def test_published_smoothed_radii(row):
    ramp = schedules.SmoothedRamp(
        start=row["start"],
        length=row["length"],
        final=row["epsilon"],
        steps_per_epoch=row["steps_per_epoch"],
    )
    first, middle, last = row["s0"], row["sm"], row["s1"]
    steps = (
        first + 1,
        first + (middle - first) // 2,
        middle,
        (middle + last) // 2,
        last - 1,
    )
    values = [float(ramp(tf.constant(step))) for step in steps]
    assert values == pytest.approx(row["values"], rel=2e-5)
    assert float(ramp(tf.constant(first))) == 0.0
    assert float(ramp(tf.constant(last))) == pytest.approx(row["epsilon"])


def test_milestones_count_finished_epochs():
    decay = schedules.MilestoneDecay(5e-4, 0.2, (120, 140), steps_per_epoch=391)
    for epoch, wanted in (
        (0, 5e-4),
        (119, 5e-4),
        (120, 1e-4),
        (139, 1e-4),
        (140, 2e-5),
    ):
        for step in (391 * epoch, 391 * epoch + 390):
            assert float(decay(tf.constant(step))) == pytest.approx(wanted, rel=1e-6)


def test_tents_and_windows():
    tent = schedules.Tent(start=1, length=4, peak=0.5, steps_per_epoch=10)
    for step, wanted in ((0, 0), (10, 0), (20, 0.25), (30, 0.5), (45, 0.125), (50, 0)):
        assert float(tent(tf.constant(step))) == pytest.approx(wanted), step
    window = schedules.Window(start=1, length=2, value=0.5, steps_per_epoch=10)
    for step, wanted in ((9, 0), (10, 0.5), (29, 0.5), (30, 0)):
        assert float(window(tf.constant(step))) == wanted
    for kind in (schedules.Tent, schedules.Window):
        with pytest.raises(InputError, match="`start` and `length`"):
            kind(start=-1)
