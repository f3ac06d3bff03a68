r"""Time and memory of training steps with the published CNN7, for each method.

python -m benchmarks.training_steps --settings=cifar10_2,cifar10_8 --out=steps.json

Random images, batches of 128, each method in a process of its own. Hours are those of
the published schedule at the time of the median step.
"""

import collections
import dataclasses
import json
import os
import statistics
import subprocess
import sys

from absl import app
from absl import flags
from absl import logging
from rich import console
from rich import table


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is trained on.

    Attributes:
        input_shape: `(height, width, channels)`.
        classes: how many.
        epsilon: radius of the bounds, in pixels of [0, 1].
        last_stride: of CNN7's last convolution.
        attack_steps: of each attack on a batch: one to a corner, or several short ones.
        radius_factor: of the attack.
        regularizer_weight: of the warm-up regularizers.
        epochs: of the published schedule.
        steps_per_epoch: batches of 128.
    """

    input_shape: tuple
    classes: int
    epsilon: float
    last_stride: int
    attack_steps: int
    radius_factor: float
    regularizer_weight: float
    epochs: int
    steps_per_epoch: int


_CIFAR10 = {"input_shape": (32, 32, 3), "classes": 10, "steps_per_epoch": 390}
SETTINGS = {
    "cifar10_2": Setting(
        epsilon=2 / 255,
        last_stride=1,
        attack_steps=8,
        radius_factor=2.1,
        regularizer_weight=0.5,
        epochs=160,
        **_CIFAR10,
    ),
    "cifar10_8": Setting(
        epsilon=8 / 255,
        last_stride=1,
        attack_steps=1,
        radius_factor=1.0,
        regularizer_weight=0.5,
        epochs=260,
        **_CIFAR10,
    ),
    "tiny_imagenet_1": Setting(
        input_shape=(64, 64, 3),
        classes=200,
        epsilon=1 / 255,
        last_stride=2,
        attack_steps=1,
        radius_factor=1.0,
        regularizer_weight=0.2,
        epochs=160,
        steps_per_epoch=781,
    ),
}
"""By data set and radius in 255ths: arXiv:2103.17268, arXiv:2305.13991."""

METHODS = (
    "vanilla_ibp",
    "fast_ibp",
    "fast_crown_ibp",
    "cc_ibp",
    "mtl_ibp",
    "exp_ibp",
    "sabr",
    "taps",
)
"""As in `gin_configs/methods`."""

_SETTINGS = flags.DEFINE_list("settings", list(SETTINGS), "Data sets and radii.")
_METHODS = flags.DEFINE_list("methods", list(METHODS), "What to time.")
_STEPS = flags.DEFINE_integer("steps", 3, "Timed steps of each.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Examples.", lower_bound=1)
_MICRO_BATCHES = flags.DEFINE_integer(
    "micro_batches", 1, "Parts that each batch is worked through in.", lower_bound=1
)
_THREADS = flags.DEFINE_integer(
    "threads", len(os.sched_getaffinity(0)), "Threads of TensorFlow.", lower_bound=1
)
_OUT = flags.DEFINE_string("out", None, "JSON file for all numbers; none if not given.")
_CHILD = flags.DEFINE_bool("child", False, "Time one method and print one JSON line.")

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_COEFFICIENT = 0.5  # Between the losses, or of the box; no matter to the time.
_L1_WEIGHT = 1e-6
_RAMP = 0.5  # Regularizers and CROWN-IBP are at work.
_MIN_RADIUS = 1e-6
_MAX_GRADIENT_NORM = 10.0
_LEARNING_RATE = 5e-4
_WARM_UPS = 2  # Steps before the timed ones; the first is traced.


def objective(method: str, setting: Setting):
    """Returns the published loss of a method, regularizers included.

    Args:
        method: one of `METHODS`.
        setting: says radius, attack and weights.
    """
    from robust_tf.attacks.pgd import PGD
    from robust_tf.objectives import expressive
    from robust_tf.objectives import fusion
    from robust_tf.objectives import taps
    from robust_tf.objectives import terms
    from robust_tf.objectives.certified_training import certified_training
    from robust_tf.objectives.forward import Adversary

    losses = {
        "vanilla_ibp": terms.IntervalCrossEntropy(),
        "fast_ibp": terms.IntervalCrossEntropy(),
        "fast_crown_ibp": fusion.FusedCrownIbpCrossEntropy(),
        "cc_ibp": expressive.CcIbp(_COEFFICIENT),
        "mtl_ibp": expressive.MtlIbp(_COEFFICIENT),
        "exp_ibp": expressive.ExpIbp(_COEFFICIENT),
        "sabr": terms.IntervalCrossEntropy(),
        "taps": taps.Taps(PGD(20, relative_step_size=0.4, step_decay=((0.7, 0.1),))),
    }
    adversary = None
    if method in ("cc_ibp", "mtl_ibp", "exp_ibp", "sabr"):
        is_single = setting.attack_steps == 1
        attack = PGD(
            setting.attack_steps,
            relative_step_size=10.0 if is_single else 0.25,
            objective="cross_entropy",
            step_decay=(),
            keep="last" if is_single else "best_iterate",
        )
        adversary = Adversary(
            attack,
            setting.radius_factor,
            _COEFFICIENT if method == "sabr" else None,
            "adversarial",
        )
    return certified_training(
        losses[method],
        method,
        adversary=adversary,
        regularizer_weight=0.0
        if method == "vanilla_ibp"
        else setting.regularizer_weight,
        l1_weight=0.0 if adversary is None else _L1_WEIGHT,
    )


def measure(method: str, setting: Setting) -> dict:
    """Returns medians of processor and wall time of a step, and the peak memory."""
    import keras
    import numpy as np
    import tensorflow as tf

    from benchmarks import protocol
    from robust_tf import schedules
    from robust_tf.architectures.cnn7 import cnn7
    from robust_tf.regions import Threat
    from robust_tf.training.certified_model import CertifiedModel

    tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
    tf.config.threading.set_inter_op_parallelism_threads(_THREADS.value)
    keras.utils.set_random_seed(0)
    model = cnn7(setting.input_shape, setting.classes, last_stride=setting.last_stride)
    trained = CertifiedModel(
        model,
        objective(method, setting),
        Threat(setting.epsilon),
        schedules.Constant(_RAMP),
        min_radius=_MIN_RADIUS,
        max_gradient_norm=_MAX_GRADIENT_NORM,
        micro_batches=_MICRO_BATCHES.value,
    )
    trained.compile(keras.optimizers.Adam(_LEARNING_RATE), jit_compile=False)
    trained.optimizer.build(model.trainable_variables)
    generator = np.random.default_rng(0)
    shape = (_BATCH_SIZE.value, *setting.input_shape)
    images = tf.constant(generator.uniform(size=shape).astype("float32"))
    labels = tf.constant(generator.integers(0, setting.classes, _BATCH_SIZE.value))
    train = tf.function(trained.train_step)

    def step():
        return float(train((images, labels))["loss"])

    for _ in range(_WARM_UPS):
        step()
    turns = [protocol.measure(step, 1) for _ in range(_STEPS.value)]
    return {
        "cpu_ms": 1e3 * statistics.median(turn["cpu_seconds"] for turn in turns),
        "wall_ms": 1e3 * statistics.median(turn["wall_seconds"] for turn in turns),
        "peak_memory_mib": turns[-1]["peak_memory_mib"],
        "turns": turns,
    }


def run_apart(method: str, name: str) -> dict:
    """Measures in a process of its own and adds what the schedule takes."""
    arguments = {
        "child": True,
        "settings": name,
        "methods": method,
        "steps": _STEPS.value,
        "batch_size": _BATCH_SIZE.value,
        "micro_batches": _MICRO_BATCHES.value,
        "threads": _THREADS.value,
    }
    command = [sys.executable, "-m", "benchmarks.training_steps"]
    command += [f"--{key}={value}" for key, value in arguments.items()]
    before = os.getloadavg()
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:  # Of its memory, say; the others go on.
        logging.error("%s, %s: exit status %s", name, method, done.returncode)
        return {"exit_status": done.returncode}
    result = json.loads(done.stdout.splitlines()[-1])
    setting = SETTINGS[name]
    steps = setting.epochs * setting.steps_per_epoch
    return {
        **result,
        "cpu_hours": result["cpu_ms"] * steps / 3.6e6,
        "wall_hours": result["wall_ms"] * steps / 3.6e6,
        "load_average_before": before,
        "load_average_after": os.getloadavg(),
    }


def render(results: dict) -> table.Table:
    """Returns the results as a table."""
    shown = table.Table()
    shown.add_column("setting", no_wrap=True)
    shown.add_column("method", no_wrap=True)
    columns = {
        "cpu_ms": "CPU ms",
        "wall_ms": "wall ms",
        "peak_memory_mib": "peak MiB",
        "cpu_hours": "CPU hours",
        "wall_hours": "wall hours",
    }
    for column in (*columns.values(), "load"):
        shown.add_column(column, justify="right", no_wrap=True)
    for name, methods in results.items():
        for method, result in methods.items():
            if "exit_status" in result:
                shown.add_row(name, method, "failed")
                continue
            load = (result["load_average_before"][0], result["load_average_after"][0])
            values = [f"{result[key]:.0f}" for key in columns]
            shown.add_row(name, method, *values, "{:.1f} to {:.1f}".format(*load))
        shown.add_section()
    return shown


def main(argv):
    """Measures all that was asked for, prints the table and writes the file."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}", exitcode=2)
    for given, known in ((_SETTINGS.value, SETTINGS), (_METHODS.value, METHODS)):
        if not given or not set(given) <= set(known):
            raise app.UsageError(
                f"Known are {', '.join(known)}. Received: {', '.join(given) or 'none'}",
                exitcode=2,
            )
    if _CHILD.value:
        (method,), (name,) = _METHODS.value, _SETTINGS.value
        print(json.dumps(measure(method, SETTINGS[name])))
        return
    results = collections.defaultdict(dict)
    for name in _SETTINGS.value:
        for method in _METHODS.value:
            logging.info("%s, %s", name, method)
            results[name][method] = run_apart(method, name)
            if _OUT.value:  # Rewritten each time: a long run may be cut short.
                with open(_OUT.value, "w") as file:
                    json.dump({"argv": sys.argv, "results": results}, file, indent=2)
    console.Console(width=125).print(render(results))


if __name__ == "__main__":
    app.run(main)
