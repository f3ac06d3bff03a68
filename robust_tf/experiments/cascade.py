"""Cascades: classifiers that are trained one after the other, each on what is left.

Published in arXiv:1805.12514, section 3.3. Stage m + 1 is trained on those training
examples whose *predicted* label none of the stages 1 to m certifies, with the same
configuration and a seed of its own. Who decides an image, and what a certificate of a
cascade means and does not mean, stands in `cascade_decisions`.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import gin
import numpy as np
from absl import logging

from robust_tf import data as datasets
from robust_tf import files
from robust_tf.data import subset as subsets
from robust_tf.errors import InputError
from robust_tf.experiments import cascade_decisions
from robust_tf.experiments import cascade_folder
from robust_tf.experiments import configuration
from robust_tf.experiments import evaluate
from robust_tf.experiments import family
from robust_tf.experiments import launch
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Run
from robust_tf.experiments.settings import is_whole
from robust_tf.layers.activations import RELAXATIONS
from robust_tf.propagation.compute import METHODS
from robust_tf.regions import Threat
from robust_tf.training.cluster import count_workers

_PREFIX = "robust_tf.experiments"
_SEED = f"{_PREFIX}.settings.Run.seed"
_SUBSET = f"{_PREFIX}.settings.Data.subset"
_OBJECTIVE = f"{_PREFIX}.train.train.objective"
# What may differ from call to call: how many stages are wanted, and what changes no
# result.
_FREE = (
    ".Cascade.batch_size",
    ".Cascade.memory_budget_mb",
    ".Cascade.stages",
    ".Data.data_dir",
    ".Run.devices",
)


@dataclasses.dataclass(frozen=True)
class Cascade:
    """How a cascade is made.

    Attributes:
        stages: the most classifiers there may be. There are fewer where those before
            certify so many training examples that no batch is left.
        method: of `compute_bounds`, by which predictions are certified.
        relaxation: of `compute_bounds`.
        memory_budget_mb: of `compute_bounds`.
        batch_size: training examples certified at a time; which ones are left does not
            depend on it.
    """

    stages: int = 5
    method: str = "convex-adversarial"
    relaxation: str = "adaptive"
    memory_budget_mb: float | None = None
    batch_size: int = 200

    def __post_init__(self):
        relaxations = (*RELAXATIONS, "best")
        budget = self.memory_budget_mb
        whole = "a whole number of at least 1"
        rules = {
            "stages": (is_whole(self.stages, 1), whole),
            "batch_size": (is_whole(self.batch_size, 1), whole),
            "method": (self.method in METHODS, f"one of {METHODS}"),
            "relaxation": (self.relaxation in relaxations, f"one of {relaxations}"),
            "memory_budget_mb": (budget is None or budget > 0.0, "above 0, or None"),
        }
        for name, (is_met, rule) in rules.items():
            if not is_met:
                raise InputError(
                    f"`{name}` of a cascade must be {rule}. Received: "
                    f"{getattr(self, name)!r}"
                )


def is_configured() -> bool:
    """Whether the configuration is a cascade's."""
    names = (field.name for field in dataclasses.fields(Cascade))
    bound = (f"{_PREFIX}.cascade.Cascade.{name}" for name in names)
    return any(map(configuration.is_bound, bound))


def train_stages(
    workdir,
    gin_files: Sequence[str],
    gin_params: Sequence[str],
    arguments: Sequence[str],
) -> list[dict]:
    """Trains the stages of a cascade, each into `workdir/stage_NUMBER`.

    The same call goes on with what was interrupted. Stages that are done are not
    trained again. Which examples a stage is trained on is written before it is trained,
    and `cascade.json` before the first stage and after each.

    Args:
        workdir: holds the run folders.
        gin_files: the configuration, which has been parsed.
        gin_params: bindings that win over the files.
        arguments: the command line, for the records.

    Returns:
        The summary of each stage, with its `name`.

    Raises:
        InputError: for settings that no cascade can have, a folder with other runs, and
            as `train.train` does.
    """
    workdir = pathlib.Path(workdir)
    cascade, data, threat = _configured()
    record = cascade_folder.accepted(workdir, _record(cascade, data, threat))
    workdir.mkdir(parents=True, exist_ok=True)
    _write(workdir, record)  # A first stage that is interrupted is known by it.
    while len(record["trained"]) < cascade.stages and record["left"] is None:
        number = len(record["trained"]) + 1
        count = _choose(workdir, cascade, data, threat, record["trained"])
        if count < data.batch_size and number > 1:
            record["left"] = count
            logging.info(
                "The cascade ends after %d stages: they certify all training examples "
                "but %d, which fill no batch of %d.",
                number - 1,
                count,
                data.batch_size,
            )
            break
        title = f"Stage {number} of at most {cascade.stages}"
        logging.info("%s, on %d examples.", title, count)
        folder = workdir / _name(number)
        stage = _bindings(folder, record["seed"], number)
        configuration.parse(gin_files, [*gin_params, *stage])
        record["trained"].append(_trained(folder, count, arguments))
        _write(workdir, record)
    _write(workdir, record)
    return [_summary(workdir / stage["name"]) for stage in record["trained"]]


def _configured() -> tuple[Cascade, Data, Threat]:
    """The parts of the configuration, where a cascade can be made of them."""
    if family.is_configured():
        raise InputError(
            "A cascade has one architecture, and a family has many. Received: bindings "
            "of `family.Family` and of `cascade.Cascade`. Leave one of them out."
        )
    if count_workers() > 1:
        raise InputError(
            f"A cascade is trained by one worker. Received: {count_workers()} in "
            "TF_CONFIG. Train on the devices of one machine."
        )
    cascade, data = configuration.call(Cascade), configuration.call(Data)
    given = [name for name in ("soft_targets", "subset") if getattr(data, name)]
    if given:
        raise InputError(
            "A cascade chooses the training examples of its stages itself, out of the "
            f"whole training split. Received: `settings.Data.{given[0]}`. Leave it out."
        )
    if configuration.call(Run).keep == "best":
        raise InputError(
            "The stages of a cascade keep the last weights: the validation split holds "
            "images of all stages, and chooses none by its own. Received: keep = "
            "'best'. Set `settings.Run.keep = 'last'`."
        )
    _refuse_smoothing()
    return cascade, data, configuration.call(Threat)


def _refuse_smoothing():
    try:
        objective = gin.query_parameter(_OBJECTIVE).scoped_configurable_fn()
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return  # Nothing that could train; the training of stage 1 says what is amiss.
    if objective.noise is not None:
        raise InputError(
            "A cascade certifies by bounds, and a classifier that is to be smoothed "
            f"has none. Received: the objective {objective.method!r}, with noise. "
            "Choose another method of gin_configs/methods."
        )


def _record(cascade, data, threat) -> dict:
    """What is kept of this call, with nothing trained."""
    return {
        "stages": cascade.stages,
        "method": cascade.method,
        "relaxation": cascade.relaxation,
        "dataset": data.name,
        "epsilon": threat.epsilon,
        "norm": str(threat.norm),
        "seed": configuration.call(Run).seed,
        "is_done": False,
        "left": None,
        "trained": [],
        "configuration": _lines(),
    }


def _lines() -> list[str]:
    """The bindings that all calls for one cascade share, one in a line."""
    bindings = []
    for line in gin.config_str().splitlines():
        if line.startswith(" "):  # A long value goes on.
            bindings[-1] = f"{bindings[-1].removesuffix(chr(92))} {line.strip()}"
        elif " = " in line:
            bindings.append(line)
    return [line for line in bindings if not line.split(" = ")[0].endswith(_FREE)]


def _write(workdir, record):
    is_whole = len(record["trained"]) == record["stages"]
    record["is_done"] = is_whole or record["left"] is not None
    cascade_folder.write(workdir, record)


def _name(number) -> str:
    return f"stage_{number}"


def _bindings(folder, seed, number) -> list[str]:
    """What a stage has of its own."""
    bindings = [f"{_SEED} = {family.seed_of(seed, _name(number))}"]
    if number > 1:
        file = (folder / cascade_folder.EXAMPLES).resolve()
        bindings.append(f"{_SUBSET} = {str(file)!r}")
    return bindings


def _choose(workdir, cascade, data, threat, trained) -> int:
    """Returns how many examples the next stage is trained on, and writes which.

    Those that no stage before certifies; of the first stage, all, and no file. None
    where they fill no batch.
    """
    images = data.load("train")
    if not trained:
        return len(images)
    file = workdir / _name(len(trained) + 1) / cascade_folder.EXAMPLES
    digests = tuple(stage["digest"] for stage in trained)
    if file.is_file():
        return len(_checked(file, images, digests).positions)
    before = workdir / trained[-1]["name"]
    candidates = np.arange(len(images), dtype=np.int64)
    if len(trained) > 1:
        chosen = _checked(before / cascade_folder.EXAMPLES, images, digests[:-1])
        candidates = chosen.positions
    model = cascade_folder.load_stage(before, digests[-1])
    found = _predictions(before, model, images.select(candidates), cascade, threat)
    left = candidates[~found.certified]
    if len(left) >= data.batch_size:
        file.parent.mkdir(exist_ok=True)
        files.write_atomically(file, subsets.packed(images, left, digests))
    return len(left)


def _checked(file, images, digests) -> subsets.Subset:
    """What a file holds, where it is of this cascade."""
    chosen = subsets.read(file)
    if (chosen.models, chosen.digest) != (digests, images.digest):
        raise InputError(
            f"The examples in '{file}' were chosen by other stages, or from other "
            "images, than those of this cascade. Remove the folder of the stage and of "
            "those after it, or give another --workdir."
        )
    return chosen


def _predictions(folder, model, images, cascade, threat):
    batches = datasets.evaluation_batches(images, cascade.batch_size)
    label = f"Certifying what {folder.name} predicts"
    with evaluate.progress_bar(label, len(images)) as progress:
        return cascade_decisions.predict(
            model,
            batches,
            threat,
            method=cascade.method,
            relaxation=cascade.relaxation,
            memory_budget_mb=cascade.memory_budget_mb,
            progress=progress,
        )


def _trained(folder, examples, arguments) -> dict:
    """Trains the configured stage, and returns its record."""
    summary = launch.train_one_of_many(folder, arguments)
    digest = cascade_folder.weights_digest(cascade_folder.load_stage(folder))
    return {
        "name": folder.name,
        "examples": examples,
        "seed": summary["seed"],
        "digest": digest,
    }


def _summary(folder) -> dict:
    """What the training of a stage has measured."""
    file = folder / "summary.json"
    if not file.is_file():
        raise InputError(
            f"Stage '{folder.name}' is recorded as trained, and its `summary.json` is "
            "missing. Restore it, or train into another --workdir."
        )
    return {"name": folder.name} | json.loads(file.read_text(encoding="utf-8"))
