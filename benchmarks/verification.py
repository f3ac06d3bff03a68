r"""Times alpha-CROWN, branch and bound, and what each stage of verification is worth.

python -m benchmarks.verification --peer=FOLDER          (alpha-CROWN, against a peer)
python -m benchmarks.verification --model=RUN --data_dir=DATA --epsilon=0.1 --count=50

The peer is a folder with `fast_forms.py`, whose `make("alpha:small_mnist:8:20", ...)`
gives a step for the same network and images. Figures are seconds of processor time.
"""

import collections
import functools
import os
import statistics
import sys
import time

import numpy as np
import tensorflow as tf
from absl import app
from absl import flags
from rich import console
from rich import table

import robust_tf as rt
from benchmarks import tensorflow_side
from benchmarks import workloads
from robust_tf import data as datasets
from robust_tf.experiments.model_files import model_file
from robust_tf.files import write_json
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation.alpha_crown import AlphaCrown
from robust_tf.propagation.ascent import Ascent
from robust_tf.propagation.crown import crown_bounds
from robust_tf.propagation.crown import crown_margins

_PEER = flags.DEFINE_string("peer", None, "Folder of the peer's `fast_forms.py`.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Turns of each contestant.", lower_bound=1)
_MODEL = flags.DEFINE_string("model", None, "A run folder, for branch and bound.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of TFDS data.")
_DATASET = flags.DEFINE_string("dataset", "mnist", "Name of the data set.")
_EPSILON = flags.DEFINE_float("epsilon", 0.1, "Linf radius, in pixels in [0, 1].")
_COUNT = flags.DEFINE_integer("count", 50, "First test images.", lower_bound=1)
_TIMEOUT = flags.DEFINE_float("timeout", 20.0, "Seconds for each image.")
_OUT = flags.DEFINE_string("out", None, "JSON file for all numbers.")

_BATCH, _ITERATIONS, _RADIUS = 8, 20, 0.1
_NETWORK = "small_mnist"


def alpha_crown(rounds: int, peer: str | None) -> dict:
    """Returns medians of processor seconds, and mean margins, by contestant.

    The small CNN with seeded weights, 8 images, 20 iterations: CROWN, alpha-CROWN with
    fixed intermediate bounds and with all searched jointly; each from the image on.
    """
    by_peer = _peer_step(peer) if peer else None  # It sets threads, so it comes first.
    images, labels = workloads.batch(workloads.NETWORKS[_NETWORK], _BATCH)
    model = tensorflow_side.converted_model(workloads.NETWORKS[_NETWORK])
    graph = BoundGraph.from_model(model)
    rows = rt.margin_specification(tf.constant(labels), workloads.NUM_CLASSES)

    @functools.partial(tf.function, autograph=False)
    def bounds_of(images, mode):
        region = rt.LpBall(images, _RADIUS)
        bounds = crown_bounds(graph, region, (Choices(),))
        if mode == "crown":
            return crown_margins(graph, region, bounds, rows, Choices())
        search = AlphaCrown(mode, Ascent(_ITERATIONS, patience=_ITERATIONS))
        margins, _, _ = search.search(graph, region, bounds, rows)
        return margins

    images = tf.constant(images)
    steps = {
        name: functools.partial(bounds_of, images, name)
        for name in ("crown", "output", "joint")
    }
    if peer:
        steps["peer, output"] = by_peer
    seconds, margins = collections.defaultdict(list), {}
    for name, step in steps.items():
        margins[name] = float(np.mean(step()))  # Builds the graph.
    for _ in range(rounds):
        for name, step in steps.items():
            begun = time.process_time()
            float(np.mean(step()))
            seconds[name].append(time.process_time() - begun)
    return {
        name: {
            "seconds": statistics.median(seconds[name]),
            "mean_margin": margins[name],
        }
        for name in steps
    }


def stages(path: str) -> list[dict]:
    """Returns verdicts, seconds and domains with the whole ladder, and without parts.

    Args:
        path: of a run folder.
    """
    plan = rt.Plan()
    images = datasets.load(_DATASET.value, "test", _DATA_DIR.value)
    points, labels = images.floats()[: _COUNT.value], images.labels[: _COUNT.value]
    region = rt.LpBall(points, _EPSILON.value)
    rows = []
    for left_out in ("", "attack", "crown-ibp", "crown", "alpha-crown", "bab"):
        kept = tuple(stage for stage in plan.stages if stage.name != left_out)
        verifier = rt.Verifier(str(model_file(path)), rt.Plan(stages=kept))
        part = rt.LpBall(points[:4], _EPSILON.value)
        verifier.verify(part, labels[:4], _TIMEOUT.value)  # Builds the graphs.
        begun, cpu = time.monotonic(), time.process_time()
        results = verifier.verify(region, labels, _TIMEOUT.value)
        found = collections.Counter(result.verdict.value for result in results)
        searched = sum(r.stage_seconds.get("bab", 0.0) for r in results)
        domains = sum(result.domains for result in results)
        rows.append(
            {
                "without": left_out,
                "seconds": time.monotonic() - begun,
                "processor_seconds": time.process_time() - cpu,
                **dict(sorted(found.items())),
                "domains": domains,
                "domains_per_second": domains / searched if searched else None,
            }
        )
    return rows


def _peer_step(folder):
    """A step of the peer on its own seeded network; its numbers are not compared."""
    sys.path.insert(0, folder)
    import fast_forms  # noqa: PLC0415  It is there only if the flag says so.

    made = fast_forms.make(
        f"alpha:{_NETWORK}:{_BATCH}:{_ITERATIONS}", "patches", {"eps": _RADIUS}
    )
    return made["step"]


def main(argv):
    """Measures what the flags ask for."""
    del argv
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    found = {}
    if _MODEL.value:
        found["stages"] = stages(_MODEL.value)
        _show(found["stages"])
    else:
        found["alpha_crown"] = alpha_crown(_ROUNDS.value, _PEER.value)
        _show([{"bounds": k, **v} for k, v in found["alpha_crown"].items()])
    if _OUT.value:
        write_json(_OUT.value, found)


def _show(rows):
    names = dict.fromkeys(name for row in rows for name in row)
    shown = table.Table(*names)
    for row in rows:
        shown.add_row(*(_text(row.get(name, 0)) for name in names))
    console.Console().print(shown)


def _text(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    app.run(main)
