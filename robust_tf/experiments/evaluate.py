"""Clean, attacked and certified accuracy of one or many models."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import keras
import numpy as np
import rich.console
import rich.progress

from robust_tf import data as datasets
from robust_tf.errors import InputError
from robust_tf.experiments import cascade_decisions
from robust_tf.experiments import cascade_folder
from robust_tf.experiments import robust_error
from robust_tf.experiments.model_files import MATLAB_SUFFIX
from robust_tf.experiments.model_files import MODEL
from robust_tf.experiments.model_files import model_file
from robust_tf.experiments.settings import Bounds
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Exact
from robust_tf.experiments.settings import Examples
from robust_tf.files import write_json
from robust_tf.interchange import matlab_models
from robust_tf.layers.convert import convert
from robust_tf.regions import Threat
from robust_tf.training.distribution import local_strategy_for
from robust_tf.verification.accuracy import measure

RECORD = "family_member.json"  # Beside the model of a family's member.
_ACCURACIES = ("clean_accuracy", "pgd_accuracy", "certified_accuracy")


def evaluate(
    workdir,
    *,
    models: Sequence[str],
    data: Data,
    threat: Threat,
    examples: Examples = Examples(),  # noqa: B008
    bounds: Bounds = Bounds(),  # noqa: B008
    attack: Callable | None = None,
    exact: Exact | None = None,
    seed: int = 0,
    devices: Sequence[str] = (),
) -> dict:
    """Measures models, and writes `evaluation.json` into `workdir`.

    Args:
        workdir: made if it is missing; None writes nothing.
        models: paths of `.keras` or `.mat` files, run folders, or folders of those of a
            family (`members_of`) or of a cascade; plain Keras models are converted.
        data: which images.
        threat: perturbations.
        examples: which of the images.
        bounds: certificates.
        attack: such as `attacks.pgd.PGD`; None for no attack.
        exact: how to bound robust error from both sides (`robust_error.measure`), into
            `workdir/exact` (for several models, `workdir/exact/NUMBER`, from 1), on
            the examples; all else is then measured on the whole split. None: not.
        seed: of the attack.
        devices: such as ("GPU:0", "GPU:1"), which share the batches; empty for all GPUs
            of the machine. Cascades and `exact` take the default one. Results do not
            depend on how many there are.

    Returns:
        `{"models": [one record each], "family": {"min" | "median" | "max": record},
        "cascades": [one record each]}`; the family is there for two models or more,
        cascades where some are given. The family's records hold `models` too: the name
        of the model that each accuracy is of. A median of an even number is the mean of
        the two in the middle, and the model is the one below. Of a cascade's records,
        `verified_as_received` is the published number, and no bound under attack;
        `certified_by_all_stages` is one (`cascade_decisions`). They come by the
        cascade's own method, around radius and norm of `threat`, without an attack.

    Raises:
        InputError: for files that are missing or are no classifiers of these images;
            for cascades that are not trained to the end, and with `exact`; for devices
            that do not exist.
    """
    strategy = local_strategy_for(tuple(devices))
    cascades = [path for path in models if cascade_folder.is_cascade(path)]
    if exact is not None:
        _check_exact(workdir, cascades)
    single = [path for path in models if path not in cascades]
    if single or not cascades:
        images, loaded = load_all(single, data, examples)
    else:
        images, loaded = data.load(examples.split), []
    whole = [(path, *_loaded_cascade(path, images)) for path in cascades]
    measured = examples
    if exact is not None:
        measured = dataclasses.replace(examples, start=0, count=None)
    records = []
    for number, (path, model) in enumerate(loaded, 1):
        record = _record(
            path, model, images, threat, measured, bounds, attack, seed, strategy
        )
        if exact is not None:
            folder = pathlib.Path(workdir) / "exact"
            record["robust_error"] = robust_error.measure(
                folder / str(number) if len(loaded) > 1 else folder,
                path=path,
                model=model,
                images=images,
                data=data,
                threat=threat,
                examples=examples,
                exact=exact,
                seed=seed,
            )
        records.append(record)
    result = {"models": records}
    if len(records) > 1:
        result["family"] = _family(records)
    if whole:
        result["cascades"] = [
            _cascade_record(*one, images, threat, examples, bounds.memory_budget_mb)
            for one in whole
        ]
    if workdir is not None:
        workdir = pathlib.Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "evaluation.json", result)
    return result


def load_all(
    models: Sequence[str], data: Data, examples: Examples
) -> tuple[datasets.LabelledImages, list[tuple[str, keras.Model]]]:
    """Returns the images, and the converted models by path, all before any work.

    Raises:
        InputError: for files that are missing or are no classifiers of these images,
            for cascades, or no models.
    """
    if not models:
        raise InputError("There must be at least one model. Give `--model=PATH`.")
    for path in filter(cascade_folder.is_cascade, models):
        raise InputError(
            f"Models must be single ones here. Received: the cascade '{path}'. Name "
            "its stages with a --model each."
        )
    paths = [member for path in models for member in members_of(path)]
    loaded = [(path, convert(_readable(model_file(path)))) for path in paths]
    images = data.load(examples.split)
    for path, model in loaded:
        _check_fit(path, model, images)
    return images, loaded


def digests(path, images: datasets.LabelledImages) -> dict:
    """Returns what tells the model and the images from others, for records."""
    return {
        "model_digest": hashlib.sha256(model_file(path).read_bytes()).hexdigest(),
        "data_digest": images.digest,
    }


@contextlib.contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows a bar on the standard error; yields what is told of examples done."""
    with rich.progress.Progress(
        *rich.progress.Progress.get_default_columns(),
        rich.progress.MofNCompleteColumn(),
        console=rich.console.Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)


def members_of(path) -> list:
    """Returns the run folders of the family in a folder, or the path alone.

    A family's folder is none of a run, and holds some: those of its members, in the
    order of their indices where these are known. That of a cascade stands for one
    classifier.

    Raises:
        InputError: where some of the runs have not ended.
    """
    folder = pathlib.Path(path)
    runs = [one.parent for one in folder.glob(f"*/{MODEL}")]
    is_one = (folder / MODEL).exists() or cascade_folder.is_cascade(folder)
    if is_one or not runs:
        return [path]
    begun = {one.parent for one in folder.glob("*/checkpoints")} - set(runs)
    if begun:
        raise InputError(
            f"Folder '{path}' holds members of a family that are not trained to the "
            f"end: {', '.join(sorted(one.name for one in begun))}. Go on with the "
            "training, or name those that are with a --model each."
        )
    return [str(run) for run in sorted(runs, key=_place)]


def dataset_of(path) -> str | None:
    """Returns the name of the data set that a run folder was trained on, if known.

    For a family's folder, that of all members where they agree; of a cascade, that of
    all its stages.
    """
    if cascade_folder.is_cascade(path):
        return cascade_folder.read(path)["dataset"]
    names = set()
    for member in members_of(path):
        summary = pathlib.Path(member) / "summary.json"
        is_there = summary.is_file()
        names.add(json.loads(summary.read_text()).get("dataset") if is_there else None)
    return names.pop() if len(names) == 1 else None


def _place(run) -> tuple[int, str]:
    """By the index of a member, then by name."""
    record = run / RECORD
    index = json.loads(record.read_text())["index"] if record.is_file() else sys.maxsize
    return index, run.name


def _readable(file):
    """What `convert` takes: the model itself where Keras cannot read the file."""
    return matlab_models.read_model(file) if file.suffix == MATLAB_SUFFIX else file


def _check_exact(workdir, cascades):
    if workdir is None:
        raise InputError("`exact` keeps records, and needs a `workdir`.")
    if cascades:
        raise InputError(
            "`exact` bounds the robust error of single models. Received: the cascade "
            f"'{cascades[0]}'. Name its stages with a --model each, or leave it out."
        )


def _check_fit(path, model, images):
    shape, classes = model.input_shape[1:], model.output_shape[-1]
    if shape != images.image_shape or classes != images.num_classes:
        raise InputError(
            f"Model '{path}' takes inputs of shape {shape} and knows {classes} "
            f"classes. Received: '{images.name}', of shape {images.image_shape} and "
            f"{images.num_classes} classes. Give another --dataset or --model."
        )


def _record(path, model, images, threat, examples, bounds, attack, seed, strategy):
    begun = time.perf_counter()
    batches = datasets.evaluation_batches(
        images, examples.batch_size, examples.start, examples.count
    )
    with progress_bar(str(path), len(examples.indices_in(images))) as progress:
        accuracy = measure(
            model,
            batches,
            threat,
            methods=bounds.methods,
            attack=attack,
            relaxation=bounds.relaxation,
            memory_budget_mb=bounds.memory_budget_mb,
            seed=seed,
            strategy=strategy,
            progress=progress,
        )
    return {
        "name": str(path),
        "dataset": images.name,
        "split": examples.split,
        "start": examples.start,
        "architecture": model.name,
        "epsilon": threat.epsilon,
        "norm": str(threat.norm),
        **accuracy.summary(),
        "relaxation": bounds.relaxation,
        "seed": seed,
        "seconds": round(time.perf_counter() - begun, 3),
        **digests(path, images),
    }


def _loaded_cascade(path, images):
    """The record of a cascade, and its stages, where they know these images."""
    record, stages = cascade_folder.load(path)
    for folder, model in stages:
        _check_fit(folder, model, images)
    return record, stages


def _cascade_record(path, kept, stages, images, threat, examples, memory_budget_mb):
    """What one row tells of a cascade; `kept` is what its training has recorded."""
    begun = time.perf_counter()
    indices, predictions = examples.indices_in(images), []
    for folder, model in stages:
        batches = datasets.evaluation_batches(
            images, examples.batch_size, examples.start, examples.count
        )
        with progress_bar(str(folder), len(indices)) as progress:
            predictions.append(
                cascade_decisions.predict(
                    model,
                    batches,
                    threat,
                    method=kept["method"],
                    relaxation=kept["relaxation"],
                    memory_budget_mb=memory_budget_mb,
                    progress=progress,
                )
            )
    found = cascade_decisions.summary(predictions, images.labels[list(indices)])
    found["stages"] = [
        {"name": trained["name"], "trained_on": trained["examples"]} | stage
        for trained, stage in zip(kept["trained"], found["stages"], strict=True)
    ]
    return {
        "name": str(path),
        "dataset": images.name,
        "split": examples.split,
        "start": examples.start,
        "architecture": stages[0][1].name,
        "method": kept["method"],
        "relaxation": kept["relaxation"],
        "epsilon": threat.epsilon,
        "norm": str(threat.norm),
        "trained_epsilon": kept["epsilon"],
        "trained_norm": kept["norm"],
        **found,
        "note": cascade_decisions.NOTE,
        "seconds": round(time.perf_counter() - begun, 3),
        "weights_digests": [trained["digest"] for trained in kept["trained"]],
        "data_digest": images.digest,
    }


def _family(records):
    """Least, median and greatest of each accuracy, and which model's it is."""
    values = {
        name: [record[name] for record in records]
        for name in _ACCURACIES
        if name in records[0]
    }
    by_method = {
        method: [record["certified_by"][method] for record in records]
        for method in records[0].get("certified_by", {})
    }
    names = [record["name"] for record in records]
    family = {}
    for name, place in _PLACES.items():
        row, models = {"name": name}, {}
        for key, found in values.items():
            row[key], models[key] = place(found, names)
        found = {key: place(found, names) for key, found in by_method.items()}
        row["certified_by"] = {key: value for key, (value, _) in found.items()}
        models["certified_by"] = {key: model for key, (_, model) in found.items()}
        family[name] = row | {"models": models}
    return family


def _order(values) -> list[int]:
    """Indices from the least value to the greatest; of equal ones, the first first."""
    return sorted(range(len(values)), key=values.__getitem__)


def _least(values, names):
    index = _order(values)[0]
    return values[index], names[index]


def _median(values, names):
    index = _order(values)[(len(values) - 1) // 2]
    return round(float(np.median(values)), 6), names[index]


def _greatest(values, names):
    index = max(range(len(values)), key=values.__getitem__)
    return values[index], names[index]


_PLACES = {"min": _least, "median": _median, "max": _greatest}
