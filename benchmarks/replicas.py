r"""Step time of training on one and two devices, and in micro-batches, in turn.

python -m benchmarks.replicas --rounds=5 --out=FILE

One step is a CROWN-IBP step (`CertifiedModel.train_step`, update included) of a small
CNN on 256 random images of MNIST's shape. Devices are logical ones of the CPU: they
share its cores, so that two of them show what `tf.distribute.MirroredStrategy` costs,
and not what a second device would bring. Each way runs in a process of its own; they
take turns, and one computes at a time. Before anything is timed, the losses of three
steps must agree. Medians over the turns are reported, and their ratios to one device
without micro-batches.
"""

import contextlib
import os
import sys

from absl import app
from absl import flags
from rich import console

from benchmarks import protocol
from benchmarks import replica_steps

_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each way.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 2, "Steps of a turn.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 256, "Examples, of all devices.", lower_bound=4)
_THREADS = flags.DEFINE_integer(
    "threads", len(os.sched_getaffinity(0)), "Threads of each way.", lower_bound=1
)
_OUT = flags.DEFINE_string("out", None, "JSON file for all numbers; none if not given.")


def measure(root: str) -> dict:
    """Returns the turns of each way; of each turn, what `protocol.measure` does."""
    turns, losses = {way: [] for way in replica_steps.WAYS}, {}
    with contextlib.ExitStack() as stack:
        sides = {}
        for way in replica_steps.WAYS:
            module = ("benchmarks.replicas", "side")
            side = stack.enter_context(protocol.Side(sys.executable, module, root))
            workload = ":".join(str(number) for number in (*way, _BATCH.value))
            side.ask("start", workload=workload, threads=_THREADS.value)
            losses[way] = side.ask("verify")["losses"]  # Builds the graph.
            sides[way] = side
        replica_steps.check(losses)
        for _ in range(_ROUNDS.value):
            for way, side in sides.items():
                turns[way].append(side.ask("measure", steps=_STEPS.value))
    return turns


def main(argv):
    """Measures, prints the table and writes the file."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}", exitcode=2)
    parts = max(devices * parts for devices, parts in replica_steps.WAYS)
    if _BATCH.value % parts:
        raise app.UsageError(
            f"--batch must be a multiple of {parts}. Received: {_BATCH.value}",
            exitcode=2,
        )
    before = os.getloadavg()
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        turns = measure(root)
    except (protocol.ContestantError, replica_steps.DisagreementError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    records, after = replica_steps.summarize(turns), os.getloadavg()
    console.Console().print(replica_steps.render(records))
    print(
        f"{_THREADS.value} threads; load {before[0]:.1f} before, {after[0]:.1f} after"
    )
    if _OUT.value:
        from robust_tf.files import write_json

        every = [
            {**record, "turns": turns[way]}
            for way, record in zip(replica_steps.WAYS, records, strict=True)
        ]
        loads = {"load_average_before": before, "load_average_after": after}
        write_json(_OUT.value, {"ways": every, "threads": _THREADS.value, **loads})


if __name__ == "__main__":
    if sys.argv[1:] == ["side"]:
        protocol.serve(replica_steps.prepare)
    else:
        app.run(main)
