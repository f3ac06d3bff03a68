r"""Step time and peak memory of MMR training, relative to plain training.

python -m benchmarks.max_margin --rounds=5 --out=FILE

One step is `CertifiedModel.train_step` on a batch of noise. Each method of each network
runs in a process of its own, so that peaks of memory are its own; they take turns, and
one computes at a time. Medians of processor time over the turns are reported.
"""

import os
import statistics
import sys

from absl import app
from absl import flags
from rich import console
from rich import table

from benchmarks import protocol

_NETWORKS = flags.DEFINE_list(
    "networks",
    [
        "fc1:28x28x1",
        "fc10:28x28x1",
        "cnn_lenet_small:28x28x1",
        "cnn_lenet_small:32x32x3",
    ],
    "Which to time: NAME:HEIGHTxWIDTHxCHANNELS, names of architectures.max_margin.",
)
_METHODS = flags.DEFINE_list(
    "methods",
    ["plain", "at", "mmr", "mmr+at", "mmr-universal", "kw"],
    "Which to time; the first is what others are relative to.",
)
_BATCH = flags.DEFINE_integer("batch", 128, "Examples in a step.", lower_bound=2)
_MICRO = flags.DEFINE_integer("micro_batches", 1, "Parts of a batch.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each method.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 1, "Steps of a turn.", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", 1, "Threads of each side.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "JSON file for all numbers; none if not given.")


def prepare(workload: str, threads: int) -> protocol.Contestant:
    """Returns the step of `NETWORK:SHAPE:METHOD:BATCH:MICRO_BATCHES`."""
    import numpy as np
    import tensorflow as tf

    from benchmarks.max_margin_step import training_step

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    name, shape, method, batch, parts = workload.split(":")
    shape = tuple(int(size) for size in shape.split("x"))
    step = training_step(name, shape, method, int(batch), int(parts))
    versions = {"tensorflow": tf.__version__, "numpy": np.__version__}
    return protocol.Contestant(step, dict, versions)


def measure(network: str, root: str) -> dict:
    """Returns processor milliseconds and peak MiB of each method."""
    sides, found = {}, {method: [] for method in _METHODS.value}
    memory = {}
    try:
        for method in _METHODS.value:
            side = protocol.Side(
                sys.executable, ("benchmarks.max_margin", "side"), root
            )
            sides[method] = side
            workload = f"{network}:{method}:{_BATCH.value}:{_MICRO.value}"
            side.ask("start", workload=workload, threads=_THREADS.value)
            side.ask("measure", steps=1)  # Builds the graph.
        for _ in range(_ROUNDS.value):
            for method, side in sides.items():
                answer = side.ask("measure", steps=_STEPS.value)
                found[method].append(1e3 * answer["cpu_seconds"] / answer["steps"])
                memory[method] = answer["peak_memory_mib"]
    finally:
        for side in sides.values():
            side.close()
    medians = {method: statistics.median(times) for method, times in found.items()}
    return {"cpu_ms": medians, "peak_memory_mib": memory}


def main(argv):
    """Measures what the flags ask for."""
    del argv
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    results = {network: measure(network, root) for network in _NETWORKS.value}
    shown = table.Table("network", "method", "ms", "of plain", "peak MiB")
    for network, one in results.items():
        base = one["cpu_ms"][_METHODS.value[0]]
        for method, time in one["cpu_ms"].items():
            peak = one["peak_memory_mib"][method]
            shown.add_row(
                network, method, f"{time:.1f}", f"{time / base:.1f}", f"{peak:.0f}"
            )
    console.Console().print(shown)
    if _OUT.value:
        from robust_tf.files import write_json

        write_json(_OUT.value, results)


if __name__ == "__main__":
    if sys.argv[1:] == ["side"]:
        protocol.serve(prepare)
    else:
        app.run(main)
