"""Clean, attacked and certified accuracy of one or many models."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
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
from robust_tf.experiments.settings import Bounds
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Exact
from robust_tf.experiments.settings import Examples
from robust_tf.files import write_json
from robust_tf.interchange import matlab_models
from robust_tf.layers.convert import convert
from robust_tf.regions import Threat
from robust_tf.verification.accuracy import measure

MATLAB_SUFFIX = ".mat"
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
        models: paths of `.keras` or `.mat` files or run folders; plain Keras models
            are converted.
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
        the family is there for two models or more.

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
    loaded = [(path, convert(_readable(model_file(path)))) for path in models]
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


def model_file(path) -> pathlib.Path:
    """Returns the `.keras` or `.mat` file that a path names, or that of a run folder.

    Raises:
        InputError: where there is none.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        file = path / "model.keras"
        if not file.is_file():
            raise InputError(
                f"Folder '{path}' holds no finished run: `model.keras` is missing. "
                "Let the training end, or name another folder."
            )
        return file
    if path.suffix not in (".keras", MATLAB_SUFFIX) or not path.is_file():
        raise InputError(
            "`--model` must name a `.keras` file, a `.mat` file or a run folder. "
            f"Received: '{path}'" + ("" if path.exists() else ", which does not exist")
        )
    return path


def dataset_of(path) -> str | None:
    """Returns the name of the data set that a run folder was trained on, if known."""
    summary = pathlib.Path(path) / "summary.json"
    if not summary.is_file():
        return None
    return json.loads(summary.read_text()).get("dataset")


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
    """Least, median and greatest of each accuracy, each over all models."""
    statistics = {"min": np.min, "median": np.median, "max": np.max}
    family = {}
    for name, of in statistics.items():
        row = {"name": name}
        for key in _ACCURACIES:
            if key in records[0]:
                row[key] = round(float(of([record[key] for record in records])), 6)
        row["certified_by"] = {
            method: round(float(of([r["certified_by"][method] for r in records])), 6)
            for method in records[0].get("certified_by", {})
        }
        family[name] = row
    return family
