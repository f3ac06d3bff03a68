r"""Losses, time and memory of training steps with the published CNN7, for each method.

python -m benchmarks.training_steps --settings=cifar10_2,cifar10_8 --data_dir=DATA \
    --out=steps.json

Each method in a process of its own, as its gin files configure it, but for one thing:
the ramp stands still, at `--ramp`, and the radius is the full one all the same. So the
loss is one function of the weights, in which every part is at work (at a ramp of 1 the
regularizers and CROWN-IBP have left it), and where it falls, training did it.

The steps are on one batch (`--batches`: on several, in turn): with `--data_dir` the
first of the published training, else random images. The loss of the first batch is
taken before the first and after the last step, each time with the same seed of the
attack and with moving statistics, which attacks see, of that batch. Hours are those of
the published schedule at the time of the median step.
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from unittest import mock

from absl import app
from absl import flags
from absl import logging
from rich import console
from rich import table

from benchmarks.training_settings import METHODS
from benchmarks.training_settings import SETTINGS

_SETTINGS = flags.DEFINE_list("settings", list(SETTINGS), "Data sets and radii.")
_METHODS = flags.DEFINE_list(
    "methods", [], "What to train; by default all that a processor can do."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Real images; random ones without.")
_STEPS = flags.DEFINE_integer(
    "steps", 3, "Steps that are timed, after the first one.", lower_bound=1
)
_BATCHES = flags.DEFINE_integer("batches", 1, "Batches to take in turn.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Examples.", lower_bound=1)
_MICRO_BATCHES = flags.DEFINE_integer(
    "micro_batches", 1, "Parts that each batch is worked through in.", lower_bound=1
)
_RAMP = flags.DEFINE_float(
    "ramp", 0.5, "Where the ramp stands.", lower_bound=0.01, upper_bound=1.0
)
_THREADS = flags.DEFINE_integer(
    "threads", len(os.sched_getaffinity(0)), "Threads of TensorFlow.", lower_bound=1
)
_OUT = flags.DEFINE_string("out", None, "JSON file for all numbers; none if not given.")
_CHILD = flags.DEFINE_bool("child", False, "Train one method and print one JSON line.")

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_TIMED = ("cpu_ms", "wall_ms", "cpu_hours", "wall_hours")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a method is measured.

    Attributes:
        steps: that are timed, after the first one.
        batches: that are taken in turn.
        batch_size: examples in each.
        micro_batches: parts of each.
        ramp: where it stands, in (0, 1].
        data_dir: real images; None for random ones.
        params: gin bindings that come last.
    """

    steps: int = 3
    batches: int = 1
    batch_size: int = 128
    micro_batches: int = 1
    ramp: float = 0.5
    data_dir: str | None = None
    params: tuple[str, ...] = ()


class _Measured(BaseException):
    """Carries the result out of a training that has served its end."""


def measure(method: str, name: str, plan: Plan) -> dict:
    """Returns losses, medians of the times of a step, and the peak memory.

    Args:
        method: one of `METHODS`.
        name: one of `SETTINGS`.
        plan: what is done.
    """
    from robust_tf.experiments import configuration
    from robust_tf.experiments import train
    from robust_tf.training.certified_model import CertifiedModel

    def fit(model, batches, **options):
        del options
        raise _Measured(_run(model, list(batches.take(plan.batches)), plan))

    setting = SETTINGS[name]
    bindings = [
        *setting.params(method),
        f"settings.Data.batch_size = {plan.batch_size}",
        f"settings.Data.data_dir = {plan.data_dir!r}",
        f"settings.Run.micro_batches = {plan.micro_batches}",
        "settings.Run.neuron_examples = 0",
        *plan.params,
    ]
    configuration.parse(setting.files(method), bindings)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(mock.patch.object(CertifiedModel, "fit", fit))
        if plan.data_dir is None:
            load = _random_images(setting, plan)
            stack.enter_context(mock.patch("robust_tf.data.load", load))
        try:
            configuration.call(train.train, workdir=folder)
        except _Measured as measured:
            (result,) = measured.args
            return result
    raise RuntimeError("The training ended before it began.")


def _random_images(setting, plan):
    """What stands in for `data.load`."""
    import numpy as np

    from robust_tf.data import ImageDataset

    def load(name, split, *rest, **more):
        del rest, more
        random = np.random.default_rng(0)
        count = 2 * plan.batch_size * plan.batches
        images = random.integers(0, 256, (count, *setting.input_shape), np.uint8)
        labels = random.integers(0, setting.classes, count)
        return ImageDataset(name, images, labels, setting.classes, split)

    return load


def _run(model, batches, plan) -> dict:
    """Trains a model on those batches, and takes its losses and times."""
    import tensorflow as tf

    from benchmarks import protocol
    from robust_tf import schedules
    from robust_tf.training.precise_statistics import PopulationStatistics

    model.ramp = schedules.Constant(plan.ramp)
    model.radius_factor /= plan.ramp
    images, labels = batches[0]
    clean = tf.data.Dataset.from_tensors(images)
    normalize = PopulationStatistics(model.graph, clean)
    objective, train = tf.function(_objective), tf.function(model.train_step)
    turns, losses = [], []

    def step(batch):
        model.reset_metrics()
        losses.append(float(train(batch)["loss"]))

    normalize()
    before = float(objective(model, images, labels))
    for batch in itertools.islice(itertools.cycle(batches), plan.steps + 1):
        turns.append(protocol.measure(lambda batch=batch: step(batch), 1))
    peak_memory_mib = turns[-1]["peak_memory_mib"]
    normalize()
    after = float(objective(model, images, labels))
    timed = turns[1:]  # The first is traced.
    return {
        "loss_before": before,
        "loss_after": after,
        "step_losses": losses,
        "cpu_ms": 1e3 * statistics.median(turn["cpu_seconds"] for turn in timed),
        "wall_ms": 1e3 * statistics.median(turn["wall_seconds"] for turn in timed),
        "peak_memory_mib": peak_memory_mib,
        "turns": turns,
    }


def _objective(model, images, labels):
    """The mean loss of a batch as in training; nothing changes, seeds are fixed."""
    import keras
    import tensorflow as tf

    from robust_tf.objectives.forward import CertifiedForward

    ramp, losses = model.ramp(0), []
    parts = (tf.split(tensor, model.micro_batches) for tensor in (images, labels))
    for part in zip(*parts, strict=True):
        with keras.StatelessScope():
            forward = CertifiedForward(
                graph=model.graph,
                images=part[0],
                labels=part[1],
                region=model.training_region(part[0], ramp),
                ramp=ramp,
                seed=tf.constant([0, len(losses)], tf.int64),
                training=True,
                relaxation=model.relaxation,
                adversary=model.objective.adversary,
                is_at_variables=False,
            )
            losses.append(tf.reduce_mean(model.objective(forward)[0]))
    return tf.add_n(losses) / len(losses)


def run_apart(method: str, name: str, plan: Plan) -> dict:
    """Measures in a process of its own and adds what the schedule takes."""
    arguments = {
        "settings": name,
        "methods": method,
        "steps": plan.steps,
        "batches": plan.batches,
        "batch_size": plan.batch_size,
        "micro_batches": plan.micro_batches,
        "ramp": plan.ramp,
        "threads": _THREADS.value,
    }
    command = [sys.executable, "-m", "benchmarks.training_steps", "--child"]
    command += [f"--{key}={value}" for key, value in arguments.items()]
    if plan.data_dir is not None:
        command.append(f"--data_dir={plan.data_dir}")
    before = os.getloadavg()
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:  # Of its memory, say; the others go on.
        logging.error("%s, %s: exit status %s", name, method, done.returncode)
        return {"exit_status": done.returncode}
    result = json.loads(done.stdout.splitlines()[-1])
    steps = SETTINGS[name].steps
    return {
        **result,
        "cpu_hours": result["cpu_ms"] * steps / 3.6e6,
        "wall_hours": result["wall_ms"] * steps / 3.6e6,
        "load_average_before": before,
        "load_average_after": os.getloadavg(),
    }


def render(results: dict) -> table.Table:
    """Returns the table of all methods."""
    shown = table.Table(title=f"Steps of {_BATCH_SIZE.value} images")
    for column in ("setting", "method"):
        shown.add_column(column, no_wrap=True)
    numbers = ("loss before", "after", "CPU ms", "wall ms", "CPU h", "wall h", "MiB")
    for column in (*numbers, "load"):
        shown.add_column(column, justify="right", no_wrap=True)
    for name, methods in results.items():
        for method, result in methods.items():
            if "exit_status" in result:
                shown.add_row(name, method, "failed")
                continue
            values = [f"{result[key]:.3f}" for key in ("loss_before", "loss_after")]
            keys = (*_TIMED, "peak_memory_mib")
            values += [f"{result[key]:,.0f}" for key in keys]
            load = (result["load_average_before"][0], result["load_average_after"][0])
            shown.add_row(name, method, *values, "{:.1f} to {:.1f}".format(*load))
        shown.add_section()
    return shown


def main(argv):
    """Measures all that was asked for, prints the table and writes the file."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}", exitcode=2)
    for given, known in ((_SETTINGS.value, SETTINGS), (_METHODS.value, METHODS)):
        if not set(given) <= set(known):
            raise app.UsageError(
                f"Known are {', '.join(known)}. Received: {', '.join(given)}",
                exitcode=2,
            )
    plan = Plan(
        _STEPS.value,
        _BATCHES.value,
        _BATCH_SIZE.value,
        _MICRO_BATCHES.value,
        _RAMP.value,
        _DATA_DIR.value and os.path.abspath(_DATA_DIR.value),
    )
    if _CHILD.value:
        _measure_here(plan)
        return
    results = collections.defaultdict(dict)
    for name in _SETTINGS.value:
        left_out = SETTINGS[name].left_out
        for method in _METHODS.value or [m for m in METHODS if m not in left_out]:
            logging.info("%s, %s", name, method)
            results[name][method] = run_apart(method, name, plan)
            if _OUT.value:  # Rewritten each time: a long run may be cut short.
                with open(_OUT.value, "w") as file:
                    json.dump({"argv": sys.argv, "results": results}, file, indent=2)
    console.Console(width=125).print(render(results))


def _measure_here(plan):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
    tf.config.threading.set_inter_op_parallelism_threads(_THREADS.value)
    (method,), (name,) = _METHODS.value, _SETTINGS.value
    print(json.dumps(measure(method, name, plan)))


if __name__ == "__main__":
    app.run(main)
