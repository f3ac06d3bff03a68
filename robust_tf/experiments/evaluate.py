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
) -> dict:
    """Measures models, and writes `evaluation.json` into `workdir`.

    Args:
        workdir: made if it is missing; None writes nothing.
        models: paths of `.keras` or `.mat` files, run folders, or folders of those of a
            family (`members_of`); plain Keras models are converted.
        data: which images.
        threat: perturbations.
        examples: which of the images.
        bounds: certificates.
        attack: such as `attacks.pgd.PGD`; None for no attack.
        exact: how to bound robust error from both sides (`robust_error.measure`), into
            `workdir/exact` (for several models, `workdir/exact/NUMBER`, from 1), on
            the examples; all else is then measured on the whole split. None: not.
        seed: of the attack.

    Returns:
        `{"models": [one record each], "family": {"min" | "median" | "max": record}}`;
        the family is there for two models or more. Its records hold `models` too: the
        name of the model that each accuracy is of. A median of an even number is the
        mean of the two in the middle, and the model is the one below.

    Raises:
        InputError: for files that are missing or are no classifiers of these images.
    """
    images, loaded = load_all(models, data, examples)
    if exact is not None and workdir is None:
        raise InputError("`exact` keeps records, and needs a `workdir`.")
    measured = examples
    if exact is not None:
        measured = dataclasses.replace(examples, start=0, count=None)
    records = []
    for number, (path, model) in enumerate(loaded, 1):
        record = _record(path, model, images, threat, measured, bounds, attack, seed)
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
    if workdir is not None:
        workdir = pathlib.Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "evaluation.json", result)
    return result


def load_all(
    models: Sequence[str], data: Data, examples: Examples
) -> tuple[datasets.ImageDataset, list[tuple[str, keras.Model]]]:
    """Returns the images, and the converted models by path, all before any work.

    Raises:
        InputError: for files that are missing or are no classifiers of these images,
            or no models.
    """
    if not models:
        raise InputError("There must be at least one model. Give `--model=PATH`.")
    paths = [member for path in models for member in members_of(path)]
    loaded = [(path, convert(_readable(model_file(path)))) for path in paths]
    images = data.load(examples.split)
    for path, model in loaded:
        _check_fit(path, model, images)
    return images, loaded


def digests(path, images: datasets.ImageDataset) -> dict:
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


def count_of(examples: Examples, images: datasets.ImageDataset) -> int:
    """Returns how many of the images are measured."""
    if examples.count is None:
        return len(images) - examples.start
    return examples.count


def members_of(path) -> list:
    """Returns the run folders of the family in a folder, or the path alone.

    A family's folder is none of a run, and holds some: those of its members, in the
    order of their indices where these are known.

    Raises:
        InputError: where some of the runs have not ended.
    """
    folder = pathlib.Path(path)
    runs = [one.parent for one in folder.glob(f"*/{MODEL}")]
    if (folder / MODEL).exists() or not runs:
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

    For a family's folder, that of all members where they agree.
    """
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


def _check_fit(path, model, images):
    shape, classes = model.input_shape[1:], model.output_shape[-1]
    if shape != images.image_shape or classes != images.num_classes:
        raise InputError(
            f"Model '{path}' takes inputs of shape {shape} and knows {classes} "
            f"classes. Received: '{images.name}', of shape {images.image_shape} and "
            f"{images.num_classes} classes. Give another --dataset or --model."
        )


def _record(path, model, images, threat, examples, bounds, attack, seed):
    begun = time.perf_counter()
    batches = datasets.evaluation_batches(
        images, examples.batch_size, examples.start, examples.count
    )
    with progress_bar(str(path), count_of(examples, images)) as progress:
        accuracy = measure(
            model,
            batches,
            threat,
            methods=bounds.methods,
            attack=attack,
            relaxation=bounds.relaxation,
            memory_budget_mb=bounds.memory_budget_mb,
            seed=seed,
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
