"""Robust error from below and from above, as arXiv:1810.07481 evaluates.

Attacks and complete verification decide what they can of each example; what is left
open counts as robust in the lower bound, and not in the upper one. Beside it stand
certificates that need no search: the distance of the convex adversarial polytope, and
that of MMR's own linear region.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from robust_tf import data as datasets
from robust_tf import files
from robust_tf import matlab
from robust_tf.errors import InputError
from robust_tf.experiments import verification
from robust_tf.experiments import verification_records
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Exact
from robust_tf.experiments.settings import Examples
from robust_tf.experiments.verification_summary import Outcome
from robust_tf.graph import BoundGraph
from robust_tf.propagation.linear_regions import LinearRegions
from robust_tf.regions import Threat
from robust_tf.verification.radii import certified_radii
from robust_tf.verification.region_radii import region_radii
from robust_tf.verification.result import ContradictionError

RESULT = "robust_error.json"
POINTS = "robust_error.mat"
_DISTANCES = "distances.jsonl"
_BLOCK = 50
# Stages of published attacks; what others falsify counts for the lower bound alone.
_BY_ATTACK = ("clean", "attack")


@dataclasses.dataclass(frozen=True)
class Points:
    """What is known of each example; arrays `[examples]`.

    Attributes:
        index: in the split.
        is_clean: the prediction is right.
        is_attacked: misclassified as it is, or by the first attack.
        is_broken: misclassified as it is, or with a counterexample by any method.
        is_robust: proved, also within a solver's tolerance.
        has_tolerance: proved within a solver's tolerance alone.
        convex_distance: certified by the convex adversarial polytope, float64; 0 for
            what is misclassified as it is. NaN where none was computed.
        region_distance: certified by the linear region; as before.
        seconds: of verification.
    """

    index: np.ndarray
    is_clean: np.ndarray
    is_attacked: np.ndarray
    is_broken: np.ndarray
    is_robust: np.ndarray
    has_tolerance: np.ndarray
    convex_distance: np.ndarray
    region_distance: np.ndarray
    seconds: np.ndarray

    def check(self, epsilon: float) -> None:
        """Checks that no example is both broken and proved.

        Raises:
            ContradictionError: naming the examples.
        """
        proofs = {
            "complete verification": self.is_robust,
            "the convex adversarial polytope": self.convex_distance > epsilon,
            "its linear region": self.region_distance > epsilon,
        }
        for name, is_proved in proofs.items():
            wrong = self.index[is_proved & self.is_broken]
            if wrong.size:
                raise ContradictionError(
                    f"Examples {wrong[:10].tolist()} have counterexamples, and are "
                    f"proved robust by {name}: one of the two is wrong."
                )

    def summary(self, epsilon: float) -> dict:
        """Errors as fractions of the examples."""
        is_convex = self.convex_distance > epsilon
        is_decided = self.is_broken | self.is_robust
        result = {
            "examples": len(self.index),
            "clean_error": np.mean(~self.is_clean),
            "pgd_error": np.mean(self.is_attacked),
            "lower_bound": np.mean(self.is_broken),
            "upper_bound": 1.0 - np.mean(self.is_robust),
            "upper_bound_without_tolerance": 1.0
            - np.mean(self.is_robust & ~self.has_tolerance),
            "undecided": np.mean(~is_decided),
            "seconds_per_example": np.mean(self.seconds),
        }
        if not np.isnan(self.convex_distance).any():
            result["convex_upper_bound"] = 1.0 - np.mean(is_convex)
            result["mean_convex_distance"] = np.mean(self.convex_distance)
        if not np.isnan(self.region_distance).any():
            is_certified = self.region_distance > epsilon
            result["region_upper_bound"] = 1.0 - np.mean(is_certified)
            result["mean_region_distance"] = np.mean(self.region_distance)
        return {
            name: value if isinstance(value, int) else round(float(value), 6)
            for name, value in result.items()
        }


def measure(
    workdir,
    *,
    path: str,
    model: keras.Model,
    images: datasets.LabelledImages,
    data: Data,
    threat: Threat,
    examples: Examples,
    exact: Exact,
    seed: int = 0,
) -> dict:
    """Bounds the robust error; the same call goes on where it was interrupted.

    Writes the records of `verify_dataset`, distances in `distances.jsonl`, the result
    as `robust_error.json`, and what is known of each example as `robust_error.mat`.

    Args:
        workdir: made if it is missing.
        path: of the model.
        model: it, converted.
        images: the split that `examples` names.
        data: which data set.
        threat: perturbations.
        examples: which of the images.
        exact: how.
        seed: of attacks.

    Returns:
        The content of `robust_error.json`; errors are fractions.

    Raises:
        InputError: as `verify_dataset`.
        ContradictionError: where a counterexample and a proof contradict each other.
    """
    workdir = pathlib.Path(workdir)
    verification.verify_dataset(
        workdir,
        model=path,
        data=data,
        threat=threat,
        examples=examples,
        plan=exact.plan,
        timeout_s=exact.timeout_s,
        seed=seed,
    )
    where = f"'{workdir / verification_records.RECORDS}'"
    records = verification_records.newest(
        verification_records.read_records(workdir), where
    )
    records = {index: records[index] for index in examples.indices_in(images)}
    distances = _distances(workdir, model, images, threat, exact, records)
    points = _points(records, distances)
    points.check(threat.epsilon)
    result = {
        "epsilon": threat.epsilon,
        "norm": str(threat.norm),
        "timeout_s": exact.timeout_s,
        **points.summary(threat.epsilon),
    }
    arrays = {
        name: np.asarray(value) for name, value in dataclasses.asdict(points).items()
    }
    matlab.write_arrays(workdir / POINTS, arrays)
    files.write_json(workdir / RESULT, result)
    return result


def _distances(workdir, model, images, threat, exact, records) -> dict[int, dict]:
    """By index, what certificates without a search reach; kept block by block."""
    file = workdir / _DISTANCES
    one = next(iter(records.values()))
    setting = {
        "model_digest": one["model_digest"],
        "data_digest": one["data_digest"],
        "norm": str(threat.norm),
        "limit": exact.distance_limit,
        "steps": exact.distance_steps,
        "regions": exact.has_regions,
    }
    known = {}
    for line in files.read_json_lines(file) if file.is_file() else []:
        if {key: line.get(key) for key in setting} != setting:
            raise InputError(
                f"'{file}' holds distances of another model or setting. Received: "
                f"{setting}. Give another --workdir."
            )
        known[line["index"]] = line
    missing = [index for index in records if index not in known]
    if missing:
        exact = _as_possible(exact, model)
    for start in range(0, len(missing), _BLOCK):
        block = missing[start : start + _BLOCK]
        found = _block_distances(model, images, threat, exact, np.asarray(block))
        for place, index in enumerate(block):
            line = {"index": index, **setting}
            line |= {name: values[place] for name, values in found.items()}
            files.append_json_line(file, line)
            known[index] = line
    return known


def _as_possible(exact: Exact, model: keras.Model) -> Exact:
    """Without linear regions where the classifier has none."""
    if not exact.has_regions:
        return exact
    graph = BoundGraph.from_model(model)
    try:
        LinearRegions.around(graph, tf.zeros([1, *graph.shapes[0]], tf.float64))
    except InputError as error:
        logging.info("No distances by linear regions are measured. %s", error)
        return dataclasses.replace(exact, has_regions=False)
    return exact


def _block_distances(model, images, threat, exact, block) -> dict[str, list]:
    """None in place of numbers that were not asked for, or do not exist."""
    inputs = tf.constant(images.floats(block).astype("float64"))
    labels = tf.constant(images.labels[block].astype("int32"))
    none = [None] * len(block)
    found = {"convex": none, "region": none}
    if exact.distance_limit is not None:
        radii = certified_radii(
            model,
            inputs,
            labels,
            threat.norm,
            "convex-adversarial",
            exact.distance_limit,
            exact.distance_steps,
            valid_range=None,
        )
        found["convex"] = radii.numpy().tolist()
    if exact.has_regions:
        radii = region_radii(model, inputs, labels, threat.norm).lower
        # Infinite where the classifier is constant, which JSON does not hold.
        found["region"] = [float(one) if np.isfinite(one) else None for one in radii]
    return found


def _points(records: Mapping[int, Mapping], distances: Mapping[int, Mapping]) -> Points:
    rows = list(records.values())

    def known(name):
        values = [distances[index][name] for index in records]
        return np.array([np.nan if one is None else one for one in values], "float64")

    outcomes = [Outcome.of(row) for row in rows]
    is_clean = np.array([one.is_clean for one in outcomes])
    is_falsified = np.array([one.is_falsified for one in outcomes])
    by_attack = np.array([row["method"] in _BY_ATTACK for row in rows])
    return Points(
        index=np.array(list(records)),
        is_clean=is_clean,
        is_attacked=~is_clean | (is_falsified & by_attack),
        is_broken=~is_clean | is_falsified,
        is_robust=np.array([one.is_verified for one in outcomes]),
        has_tolerance=np.array([one.has_tolerance for one in outcomes]),
        convex_distance=known("convex"),
        region_distance=known("region"),
        seconds=np.array([row["seconds"] for row in rows], "float64"),
    )
