"""Soft targets of a training split: votes of a classifier under noise, for CAT-RS."""

import dataclasses
import json
import pathlib
from collections.abc import Callable

import numpy as np
from absl import logging

from robust_tf import files
from robust_tf.data import soft_targets as format_
from robust_tf.errors import InputError
from robust_tf.experiments.settings import Data
from robust_tf.experiments.verification_models import load_classifier
from robust_tf.smoothing import SmoothedClassifier
from robust_tf.smoothing import radius

TARGETS = "soft_targets.npz"
_SETTING, _COUNTS = "soft_targets.json", "soft_targets_counts.jsonl"
# Images that are counted and recorded together.
_CHUNK = 50
# Of a prediction, which is not used.
_ALPHA = 0.05


def compute_soft_targets(
    workdir,
    *,
    model: str,
    data: Data,
    sigma: float,
    n: int = 10_000,
    seed: int = 0,
    batch_size: int = 1000,
    on_accepted: Callable[[], None] = lambda: None,
) -> dict:
    """Counts how often each training image gets each class under noise.

    After every few images their counts are added to `soft_targets_counts.jsonl`, and
    the same call goes on after the last of them. At the end `soft_targets.npz` is
    written, for `settings.Data.soft_targets`. Published counts (arXiv:2212.09000) are
    of one random crop of each image; these are of the image as it is stored.

    Args:
        workdir: made if it is missing; holds all that is written.
        model: path of a `.keras` file, a run folder or an `.onnx` file.
        data: which images.
        sigma: standard deviation of the noise, in pixels in [0, 1].
        n: samples for each image.
        seed: of the noise.
        batch_size: noisy copies at a time; counts do not depend on it.
        on_accepted: called once it is clear that the folder is this call's.

    Returns:
        What is counted, and the share of images whose most frequent class is the label.

    Raises:
        InputError: for files that are missing or do not fit, values out of range, and
            a folder with counts of something else.
    """
    _check(n, seed, batch_size)
    images = dataclasses.replace(data, soft_targets=None).load("train")
    classifier = load_classifier(model)
    classifier.check_fit(images)
    smoothed = SmoothedClassifier(classifier.model, sigma=sigma)
    setting = {
        "model": classifier.digest,
        "data": images.digest,
        "sigma": sigma,
        "n": n,
        "seed": seed,
    }
    workdir = pathlib.Path(workdir)
    counts = _resumed(workdir, setting, images.num_classes)
    on_accepted()
    for start in range(len(counts), len(images), _CHUNK):
        indices = np.arange(start, min(start + _CHUNK, len(images)))
        inputs = classifier.inputs(images, indices).astype("float32")
        found = smoothed.predict(
            inputs, n, _ALPHA, batch_size=batch_size, seed=seed, indices=indices
        )
        files.append_json_line(workdir / _COUNTS, {"counts": found.counts})
        counts = np.concatenate([counts, found.counts])
        logging.info("%d of %d images are counted.", len(counts), len(images))
    files.write_atomically(workdir / TARGETS, format_.packed(images, counts))
    is_right = counts.argmax(-1) == images.labels
    return setting | {"examples": len(images), "accuracy": float(is_right.mean())}


def _check(n, seed, batch_size):
    for name, value in {"n": n, "batch_size": batch_size, "seed": seed}.items():
        least = 0 if name == "seed" else 1
        if not (radius.is_whole(value) and value >= least):
            raise InputError(
                f"`--{name}` must be a whole number of at least {least}. Received: "
                f"{value!r}"
            )
    radius.check_can_decide(n, _ALPHA)


def _resumed(workdir, setting, num_classes) -> np.ndarray:
    """Counts of earlier calls, `[done, classes]`; makes the folder this call's."""
    path = workdir / _SETTING
    if not path.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        files.write_json(path, setting)
    there = json.loads(path.read_text(encoding="utf-8"))
    differences = [
        f"{name}: {there.get(name)!r} there, {value!r} here"
        for name, value in setting.items()
        if there.get(name) != value
    ]
    if differences:
        raise InputError(
            f"The folder '{workdir}' holds soft targets of something else:\n  "
            + "\n  ".join(differences)
            + "\nGive another --workdir."
        )
    nothing = np.zeros([0, num_classes], np.int64)
    if not (workdir / _COUNTS).exists():
        return nothing
    records = files.read_json_lines(workdir / _COUNTS)
    return np.concatenate([nothing, *(np.array(one["counts"]) for one in records)])
