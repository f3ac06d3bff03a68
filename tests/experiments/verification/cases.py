"""A small classifier, a quick plan, and verifiers that say what was written."""

import keras
import numpy as np
import tensorflow as tf

from robust_tf import data as datasets
from robust_tf import files
from robust_tf.attacks.pgd import PGD
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Examples
from robust_tf.experiments.verification import verify_dataset
from robust_tf.regions import Threat
from robust_tf.verification import stages
from robust_tf.verification.plan import Plan
from robust_tf.verification.result import Claim
from robust_tf.verification.result import Verdict
from robust_tf.verification.result import VerificationResult

DIGITS = Data("digits")
START, COUNT, BLOCK = 3, 15, 4  # The first block and the last are not full.
INDICES = list(range(START, START + COUNT))
PLAN = Plan(
    (
        stages.Clean(),
        stages.Attack(PGD(steps=5, restarts=1)),
        stages.Interval(),
        stages.CrownIbp(),
    ),
    batch_size=BLOCK,
)
PASSING = ("seconds", "stage_seconds", "code_version", "code_versions")


def save(path, seed=0, epochs=8):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(12, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    train = datasets.load("digits", "train")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(train.floats(), train.labels, epochs=epochs, verbose=0)
    model.save(path)
    return str(path)


def verify(folder, path, **more):
    arguments = {
        "data": DIGITS,
        "threat": Threat(0.06),
        "examples": Examples(start=START, count=COUNT),
        "plan": PLAN,
        "timeout_s": 60.0,
    }
    return verify_dataset(folder, model=path, **(arguments | more))


def lines(folder):
    """The records by index; in the file they stand in the order of decisions."""
    found = files.read_json_lines(folder / "verification.jsonl")
    return sorted(found, key=lambda record: record["index"])


def timeless(value):
    """A summary or records without what differs from run to run."""
    if isinstance(value, list):
        return [timeless(one) for one in value]
    return {key: entry for key, entry in value.items() if key not in PASSING}


def truncate(folder, count, rest=b""):
    """Leaves so many whole records, and a part of the next."""
    file = folder / "verification.jsonl"
    kept = file.read_bytes().split(b"\n")[:count]
    file.write_bytes(b"".join(line + b"\n" for line in kept) + rest)


class Scripted:
    """A verifier whose results are written down, by index."""

    def __init__(self, script):
        self.script, self.calls = script, []
        self.images = datasets.load("digits", "test").floats()

    def __call__(self, _model, _plan):
        return self

    def verify(self, region, labels, timeout_s, seed, on_result):
        points = tf.cast(region.x, tf.float32).numpy()
        indices = [
            int(np.flatnonzero((self.images == point).all((1, 2, 3)))[0])
            for point in points
        ]
        self.calls.append((indices, timeout_s, seed))
        for place, (index, label, point) in enumerate(
            zip(indices, labels, points, strict=True)
        ):
            on_result(place, self.script(index, int(label), point, timeout_s))


def result(verdict, label, point, **more):
    found = {
        Verdict.VERIFIED: {"method": "ibp", "claim": Claim.SOUND, "lower_bound": 1.0},
        Verdict.FALSIFIED: {"method": "attack", "counterexample": point},
    }.get(verdict, {"reason": "as written"})
    return VerificationResult(verdict, prediction=label, **(found | more))
