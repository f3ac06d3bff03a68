"""A small classifier of digits, and quick certification of it."""

import keras

from robust_tf import data as datasets
from robust_tf import files
from robust_tf.experiments.certification import certify_dataset
from robust_tf.experiments.certification_settings import Sampling
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Examples

DIGITS = Data("digits")
START, SKIP, COUNT = 27, 3, 14
INDICES = list(range(START, START + SKIP * COUNT, SKIP))
SIGMA, N0, N, ALPHA = 0.3, 30, 250, 0.01
TABLE, COUNTS = "certification.tsv", "certification_counts.jsonl"
PASSING = ("seconds", "code_version", "code_versions")


def save(path, seed=0, epochs=3, first=()):
    """Trains a classifier that is neither always right nor always sure."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            *first,
            keras.layers.Flatten(),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    train = datasets.load("digits", "train")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(train.floats(), train.labels, epochs=epochs, verbose=0)
    model.save(path)
    return str(path)


def certify(folder, path, count=COUNT, **more):
    """Certifies; `sampling` holds what differs from its defaults."""
    sampling = {"max_examples": count} | more.pop("sampling", {})
    arguments = {
        "data": DIGITS,
        "sigma": SIGMA,
        "examples": Examples(start=START),
        "skip": SKIP,
        "n0": N0,
        "n": N,
        "alpha": ALPHA,
    }
    return certify_dataset(
        folder, model=path, sampling=Sampling(**sampling), **(arguments | more)
    )


def rows(folder):
    """The cells of the table but its times; the header first."""
    text = (folder / TABLE).read_text()
    assert text.endswith("\n")
    return [line.split("\t")[:5] for line in text.split("\n")[:-1]]


def lines(folder):
    return files.read_json_lines(folder / COUNTS)


def timeless(value):
    """A summary or records without what differs from run to run."""
    if isinstance(value, list):
        return [timeless(one) for one in value]
    return {key: entry for key, entry in value.items() if key not in PASSING}


def truncate(file, count, rest=b""):
    """Leaves so many whole lines, and a part of the next."""
    kept = file.read_bytes().split(b"\n")[:count]
    file.write_bytes(b"".join(line + b"\n" for line in kept) + rest)


def copy(source, target):
    """Copies the records of a run."""
    for name in (TABLE, COUNTS):
        (target / name).write_bytes((source / name).read_bytes())
