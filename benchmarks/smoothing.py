r"""Throughput of randomized smoothing, against the bare model and against PyTorch.

python -m benchmarks.smoothing --torch_python=.venv-benchmark/bin/python --out=FILE

One step is 1,000 noisy copies of one image: noise, forward pass, votes. Beside it
stands `model(x)` on 1,000 images in a `tf.function`, without any noise or votes; and
with `--torch_python` the published loop in plain PyTorch. Contestants take turns, one
computes at a time; medians of processor time over turns are reported.
"""

import os
import statistics

import numpy as np
import tensorflow as tf
from absl import app
from absl import flags
from rich import console
from rich import table

from benchmarks import protocol
from robust_tf.architectures.lenet import lenet
from robust_tf.architectures.resnet import cifar_resnet
from robust_tf.files import write_json
from robust_tf.smoothing import SmoothedClassifier

_TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", None, "Interpreter of an environment with torch and numpy."
)
_NETWORKS = flags.DEFINE_list("networks", ["lenet", "resnet_20"], "Which to time.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Turns of each contestant.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 5, "Steps of a turn.", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", 1, "Threads of each side.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "JSON file for all numbers; none if not given.")

BATCH, SIGMA = 1000, 0.25


def contestants(network: str, steps: int) -> dict:
    """Returns functions without arguments: a turn of `steps` steps each.

    Args:
        network: "lenet" or "resnet_20".
        steps: of one turn.
    """
    if network == "lenet":
        model = lenet((28, 28, 1), 10)
    else:
        model = cifar_resnet((32, 32, 3), 10, depth=20)
    shape = model.inputs[0].shape[1:]
    random = np.random.default_rng(0)
    image = random.random((1, *shape), np.float32)
    images = tf.constant(random.random((BATCH, *shape), np.float32))
    smooth = SmoothedClassifier(model, SIGMA)
    bare = tf.function(lambda x: model(x, training=False), autograph=False)

    def certify():
        # Two stages of half the samples each; all other work is a part of it.
        half = steps * BATCH // 2
        smooth.certify(image, n0=half, n=half, batch_size=BATCH, mode="full")

    def infer():
        for _ in range(steps):
            bare(images)

    return {"robust_tf": certify, "bare model": infer}


def measure(network: str, steps: int, rounds: int, side=None) -> dict:
    """Returns medians of processor milliseconds for each 1,000 images.

    Args:
        network: "lenet" or "resnet_20".
        steps: of one turn.
        rounds: turns of each contestant.
        side: PyTorch's process, or None.
    """
    turns = contestants(network, steps)
    taken = {name: [] for name in turns}
    if side is not None:
        side.ask("start", workload=f"{network}:{BATCH}", threads=_THREADS.value)
        side.ask("measure", steps=1)
        taken["PyTorch"] = []
    for turn in turns.values():
        turn()  # Builds the graphs.
    for _ in range(rounds):
        for name, turn in turns.items():
            found = protocol.measure(turn, 1)
            taken[name].append(found["cpu_seconds"] / steps)
        if side is not None:
            found = side.ask("measure", steps=steps)
            taken["PyTorch"].append(found["cpu_seconds"] / steps)
    medians = {name: 1e3 * statistics.median(every) for name, every in taken.items()}
    ours = medians["robust_tf"]
    ratios = {"share_of_bare": medians["bare model"] / ours}
    if side is not None:
        ratios["ratio_to_torch"] = ours / medians["PyTorch"]
    return {"cpu_ms": medians, **ratios}


def main(argv):
    """Measures what the flags ask for."""
    del argv
    tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
    tf.config.threading.set_inter_op_parallelism_threads(_THREADS.value)
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    found = {}
    for network in _NETWORKS.value:
        if _TORCH_PYTHON.value is None:
            found[network] = measure(network, _STEPS.value, _ROUNDS.value)
            continue
        module = ("benchmarks.smoothing_torch",)
        with protocol.Side(_TORCH_PYTHON.value, module, root) as side:
            found[network] = measure(network, _STEPS.value, _ROUNDS.value, side)
    _show(found)
    if _OUT.value:
        write_json(_OUT.value, found)


def _show(found):
    names = dict.fromkeys(name for one in found.values() for name in one["cpu_ms"])
    shown = table.Table(
        "1,000 images", *(f"{name}, ms" for name in names), "of bare", "of PyTorch"
    )
    for network, one in found.items():
        times = [f"{one['cpu_ms'][name]:.1f}" for name in names]
        ratio = one.get("ratio_to_torch")
        shown.add_row(
            network,
            *times,
            f"{one['share_of_bare']:.2f}",
            "" if ratio is None else f"{ratio:.2f}",
        )
    console.Console().print(shown)


if __name__ == "__main__":
    app.run(main)
