"""Training steps on one and two devices and in micro-batches, and what they took.

Apart from `replicas`, so that it can be imported beside other benchmarks: their flags
have the same names.
"""

import functools
import statistics

from rich import table

from benchmarks import protocol

# Devices and micro-batches; the first is what others are relative to.
WAYS = ((1, 1), (2, 1), (1, 2), (1, 4))
VERIFIED_STEPS = 3
_TOLERANCE = 1e-3  # Of a loss: what float32 rounding makes of three updates.
_EPSILON, _CLASSES, _RATE = 0.1, 10, 5e-4
_TIMES = ("wall_ms", "cpu_ms")


def prepare(workload: str, threads: int) -> protocol.Contestant:
    """Returns the step of `DEVICES:MICRO_BATCHES:BATCH`, with the devices it needs."""
    import tensorflow as tf

    devices, parts, batch = (int(number) for number in workload.split(":"))
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * devices,
    )
    step = training_step(devices, parts, batch)

    def verify():
        return {"losses": [step() for _ in range(VERIFIED_STEPS)]}

    return protocol.Contestant(step, verify, {"tensorflow": tf.__version__})


def training_step(devices: int, micro_batches: int, batch: int):
    """Returns a function that trains one step on a fixed batch, and returns its loss.

    Args:
        devices: logical ones of the CPU, which must be there.
        micro_batches: parts that each device's share is worked through in.
        batch: examples, of all devices.
    """
    import keras
    import tensorflow as tf

    from robust_tf import schedules
    from robust_tf.architectures.cnn import cnn_2layer
    from robust_tf.objectives import terms
    from robust_tf.regions import Threat
    from robust_tf.training.certified_model import CertifiedModel
    from robust_tf.training.distribution import local_strategy_for

    names = tuple(f"CPU:{number}" for number in range(devices))
    strategy = local_strategy_for(names if devices > 1 else ())
    keras.utils.set_random_seed(0)
    with strategy.scope():
        classifier = cnn_2layer((28, 28, 1), _CLASSES, width=4, linear_size=100)
        model = CertifiedModel(
            classifier,
            terms.robust_natural(0.5, 0.5),
            Threat(_EPSILON),
            schedules.Constant(1.0),
            micro_batches=micro_batches,
        )
        model.compile(keras.optimizers.Adam(_RATE), jit_compile=False)
        model.optimizer.build(classifier.trainable_variables)
    images = tf.random.stateless_uniform([batch, 28, 28, 1], (0, 0))
    labels = tf.random.stateless_uniform([batch], (0, 1), 0, _CLASSES, tf.int32)
    shares = [
        strategy.experimental_distribute_values_from_function(
            functools.partial(_share_of, values, batch // devices)
        )
        for values in (images, labels)
    ]
    train = tf.function(lambda *share: model.train_step(share), autograph=False)

    def step() -> float:
        model.reset_metrics()  # The loss is a mean over steps.
        strategy.run(train, shares)
        return float(model.get_metrics_result()["loss"])

    return step


def _share_of(values, size, context):
    """The part of one replica."""
    begin = context.replica_id_in_sync_group * size
    return values[begin : begin + size]


class DisagreementError(RuntimeError):
    """Two ways of training computed different losses."""


def check(losses: dict) -> None:
    """Raises for losses, by way, that are not those of the first way."""
    expected, *_ = losses.values()
    for way, found in losses.items():
        pairs = zip(expected, found, strict=True)
        if not all(abs(a - b) <= _TOLERANCE * abs(a) for a, b in pairs):
            raise DisagreementError(
                f"Losses must agree to {_TOLERANCE:g}. Received: {found} of {way} "
                f"(devices, micro-batches), and {expected} of {WAYS[0]}. Nothing is "
                "timed before they do."
            )


def summarize(turns: dict) -> list[dict]:
    """Returns a record for each way: medians for one step, and ratios to the first."""
    records = []
    for (devices, parts), every in turns.items():
        record = {"devices": devices, "micro_batches": parts}
        for name in _TIMES:
            key = name.replace("_ms", "_seconds")
            times = [1e3 * turn[key] / turn["steps"] for turn in every]
            record[name] = statistics.median(times)
        record["peak_memory_mib"] = every[-1]["peak_memory_mib"]
        records.append(record)
    for record in records:
        for name in _TIMES:
            ratio = record[name] / records[0][name]
            record[name.replace("_ms", "_ratio")] = ratio
    return records


def render(records: list[dict]) -> table.Table:
    """Returns the records as a table."""
    shown = table.Table()
    for column in (
        "devices",
        "micro-batches",
        "wall ms",
        "ratio",
        "CPU ms",
        "ratio",
        "peak MiB",
    ):
        shown.add_column(column, justify="right", no_wrap=True)
    for record in records:
        shown.add_row(
            str(record["devices"]),
            str(record["micro_batches"]),
            f"{record['wall_ms']:.0f}",
            f"{record['wall_ratio']:.2f}",
            f"{record['cpu_ms']:.0f}",
            f"{record['cpu_ratio']:.2f}",
            f"{record['peak_memory_mib']:.0f}",
        )
    return shown
