r"""Mixed-integer programs, branch and bound, and both, on what nothing cheaper decides.

python -m benchmarks.exact_methods --model=models/mnist_eps0.1_mmr_fc1 --data_dir=DATA \
    --epsilon=0.1 --count=200 --examples=10 --timeout=120

The first test images that attacks and CROWN leave open are given to each contestant by
itself; seconds are wall-clock, of the whole plan for each image.
"""

import collections
import os
import time

import numpy as np
from absl import app
from absl import flags
from rich import console
from rich import table

import robust_tf as rt
from robust_tf import data as datasets
from robust_tf.experiments.model_files import model_file
from robust_tf.files import write_json
from robust_tf.verification import stages
from robust_tf.verification.branch_and_bound import BranchAndBound
from robust_tf.verification.exact import Milp
from robust_tf.verification.result import Verdict

_MODEL = flags.DEFINE_string("model", None, "A run folder.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of TFDS data.")
_DATASET = flags.DEFINE_string("dataset", "mnist", "Name of the data set.")
_EPSILON = flags.DEFINE_float("epsilon", 0.1, "Linf radius, in pixels in [0, 1].")
_COUNT = flags.DEFINE_integer("count", 200, "First test images.", lower_bound=1)
_EXAMPLES = flags.DEFINE_integer("examples", 10, "How many open ones.", lower_bound=1)
_TIMEOUT = flags.DEFINE_float("timeout", 120.0, "Seconds for each image.")
_TIGHTENING = flags.DEFINE_float("tightening", 30.0, "Seconds of bound tightening.")
_OUT = flags.DEFINE_string("out", None, "JSON file for all numbers.")

_ANY = 1_000_000  # Unstable neurons.
_CHEAP = (stages.Clean(), stages.Attack(), stages.Interval(), stages.Crown())


def contestants() -> dict:
    """Returns the stages of each, after the cheap ones."""
    search, programs = BranchAndBound(), Milp(max_unstable=_ANY)
    return {
        "MILP": (programs,),
        "MILP, tightened": (Milp(_ANY, tightening_s=_TIGHTENING.value),),
        "branch and bound": (stages.AlphaCrownStage(), search),
        "branch and bound, MILP": (
            stages.AlphaCrownStage(),
            search,
            Milp(max_unstable=200),
        ),
    }


def open_examples(path: str, images) -> np.ndarray:
    """Returns the first images that attacks and CROWN leave open."""
    verifier = rt.Verifier(path, rt.Plan(stages=_CHEAP))
    region = rt.LpBall(images.floats()[: _COUNT.value], _EPSILON.value)
    results = verifier.verify(region, images.labels[: _COUNT.value], _TIMEOUT.value)
    found = [i for i, one in enumerate(results) if one.verdict is Verdict.UNKNOWN]
    return np.asarray(found[: _EXAMPLES.value])


def main(argv):
    """Measures what the flags ask for."""
    del argv
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    images = datasets.load(_DATASET.value, "test", _DATA_DIR.value)
    path = str(model_file(_MODEL.value))
    chosen = open_examples(path, images)
    points, labels = images.floats()[chosen], images.labels[chosen]
    rows = []
    for name, complete in contestants().items():
        verifier = rt.Verifier(path, rt.Plan(stages=(*_CHEAP, *complete), batch_size=1))
        seconds, verdicts = [], collections.Counter()
        for point, label in zip(points, labels, strict=True):
            begun = time.monotonic()
            (result,) = verifier.verify(
                rt.LpBall(point[None], _EPSILON.value), [label], _TIMEOUT.value
            )
            seconds.append(time.monotonic() - begun)
            verdicts[result.verdict.value] += 1
        decided = verdicts[Verdict.VERIFIED.value] + verdicts[Verdict.FALSIFIED.value]
        rows.append(
            {
                "method": name,
                "seconds": float(np.mean(seconds)),
                "median": float(np.median(seconds)),
                "undecided": 1.0 - decided / len(chosen),
                "verdicts": dict(verdicts),
            }
        )
        print(rows[-1], flush=True)
    shown = table.Table("method", "seconds", "median", "undecided", "verdicts")
    for row in rows:
        shown.add_row(
            row["method"],
            f"{row['seconds']:.1f}",
            f"{row['median']:.1f}",
            f"{100 * row['undecided']:.0f} %",
            ", ".join(f"{n} {v.lower()}" for v, n in row["verdicts"].items()),
        )
    console.Console().print(shown)
    if _OUT.value:
        write_json(_OUT.value, {"examples": chosen.tolist(), "methods": rows})


if __name__ == "__main__":
    app.run(main)
