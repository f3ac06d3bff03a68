"""A first look: trains a small certified classifier, measures it, and draws it."""

import dataclasses
import pathlib
import sys

import keras
import numpy as np
import rich.console
import rich.progress

from robust_tf import data
from robust_tf import files
from robust_tf.attacks.pgd import PGD
from robust_tf.experiments import configuration
from robust_tf.experiments import launch
from robust_tf.regions import Threat
from robust_tf.report import plots
from robust_tf.report import tables
from robust_tf.verification.accuracy import measure_radii
from robust_tf.verification.radii import attacked_radii
from robust_tf.verification.radii import certified_radii
from robust_tf.verification.radii import check_radii

CONFIGURATION = "gin_configs/experiments/digits_eps0.1_crown_ibp.gin"
RADII = tuple(round(0.02 * step, 2) for step in range(11))
METHODS = ("ibp", "crown-ibp", "crown")
# How to verify a model of one's own; a test runs it.
SNIPPET = """\
import robust_tf as rt
model = rt.convert(keras_model)                # Or the path of a .keras file.
region = rt.LpBall(images, radius=0.1)         # Images in [0, 1], as floats.
rows = rt.margin_specification(labels, num_classes=10)
bounds = rt.compute_bounds(model, region, method="crown", specification=rows)
is_robust = (bounds.lower.numpy() > 0.0).all(-1)   # [batch]"""

_NORM = "inf"
_CURVES = "accuracy_against_radius.png"
_TRAINING = "training_curves.png"
_IMAGES = "radii_of_images.png"


@dataclasses.dataclass(frozen=True)
class Size:
    """How much the demonstration does.

    Attributes:
        gin_params: bindings that win over the configuration.
        radii: at which accuracies are measured, in pixels in [0, 1].
        examples: test images measured; None for all.
        images: test images drawn, evenly spaced over the split.
        attack_steps: of PGD.
        radius_steps: radii tried for each image that is drawn.
    """

    gin_params: tuple[str, ...] = ()
    radii: tuple[float, ...] = RADII
    examples: int | None = None
    images: int = 16
    attack_steps: int = 40
    radius_steps: int = 10


def demo(workdir, size: Size | None = None) -> list[dict]:
    """Trains on `digits`, measures over many radii, and draws three pictures.

    The training is a run folder of its own in `workdir`; a second call finds it there
    and does not train again.

    Args:
        workdir: the folder to write to.
        size: how much to do; by default what takes a minute or two on two cores.

    Returns:
        One record for each radius, as in `results.json`.

    Raises:
        InputError: where the folder holds a run of another configuration.
    """
    size = size or Size()
    workdir = pathlib.Path(workdir)
    console = rich.console.Console(highlight=False)
    console.print("[bold]1. Training a small network on 8x8 images of digits.[/bold]")
    model, summary = _trained(workdir / "run", size, console)
    test = data.load("digits", "test")
    count = size.examples or len(test)
    console.print(
        f"\n[bold]2. Attacking and proving {count} test images at "
        f"{len(size.radii)} radii.[/bold]"
    )
    records = _measured(model, test, count, size, summary["method"])
    files.write_json(workdir / "results.json", records)
    tables.show(records)
    console.print("[bold]3. Drawing.[/bold]\n")
    _draw(workdir, model, test, records, size)
    _explain(console, workdir, records, summary)
    return records


def _trained(folder, size, console):
    """The trained classifier, and the summary of its run."""
    if (folder / "summary.json").exists():
        console.print(f"Found one in {folder}. Remove that folder to train anew.")
    configuration.parse([CONFIGURATION], size.gin_params)
    summary = launch.train_configured(folder, sys.argv)
    return keras.models.load_model(folder / "model.keras"), summary


def _measured(model, test, count, size, method) -> list[dict]:
    """One record for each radius."""
    columns = (
        rich.progress.TextColumn("{task.completed}/{task.total} images x radii"),
        rich.progress.BarColumn(),
        rich.progress.TimeElapsedColumn(),
    )
    with rich.progress.Progress(*columns) as progress:
        task = progress.add_task("", total=count * len(size.radii))
        results = measure_radii(
            model,
            data.evaluation_batches(test, min(count, 180), count=count),
            Threat(0.0, _NORM),
            size.radii,
            methods=METHODS,
            attack=PGD(steps=size.attack_steps),
            progress=lambda done: progress.advance(task, done),
        )
    about = {"dataset": test.name, "method": method, "norm": _NORM}
    return [
        about | {"epsilon": radius} | result.summary()
        for radius, result in zip(size.radii, results, strict=True)
    ]


def _draw(workdir, model, test, records, size):
    curves = {
        "clean": [(one["epsilon"], one["clean_accuracy"]) for one in records],
        "pgd": [(one["epsilon"], one["pgd_accuracy"]) for one in records],
    }
    for method in METHODS:
        curves[method] = [
            (one["epsilon"], one["certified_by"][method]) for one in records
        ]
    plots.accuracy_against_radius(
        curves,
        workdir / _CURVES,
        f"Digits: {records[0]['examples']} test images in Linf balls",
    )
    metrics = files.read_json_lines(workdir / "run" / "metrics.jsonl")
    plots.training_curves({"Training on digits": metrics}, workdir / _TRAINING)
    _draw_images(workdir / _IMAGES, model, test, size)


def _draw_images(path, model, test, size):
    """Images evenly spaced over the split, with their radii."""
    indices = np.linspace(0, len(test) - 1, size.images).astype(int)
    images, labels = test.floats(indices), test.labels[indices]
    options = {"norm": _NORM, "upper": 0.5, "steps": size.radius_steps}
    proved = certified_radii(model, images, labels, method="crown", **options).numpy()
    attack = PGD(steps=size.attack_steps, multi_targeted=True)
    attacked = attacked_radii(model, images, labels, attack=attack, **options).numpy()
    check_radii(proved, attacked)
    title = "How far each image may be changed, pixel by pixel"
    plots.radii_grid(images, labels, proved, attacked, path, title)


def _explain(console, workdir, records, summary):
    """What was found, where it lies, and what to do next."""
    target = summary["epsilon"]
    near = min(records, key=lambda one: abs(one["epsilon"] - target))
    percent = {
        name: f"{100 * near[f'{name}_accuracy']:.1f} %"
        for name in ("clean", "pgd", "certified")
    }
    console.print(
        f"The network reads {percent['clean']} of the images correctly. If every pixel "
        f"may change by {near['epsilon']:g} (pixels lie in [0, 1]), an attack leaves "
        f"{percent['pgd']} correct, and for {percent['certified']} it is [bold]proved"
        "[/bold] that no change of that size does harm.\n"
    )
    shown = {
        _CURVES: "what share withstands attacks and is proved, radius by radius",
        _TRAINING: "losses, accuracies and the growing radius, epoch by epoch",
        _IMAGES: "images with the largest radius proved and the smallest attacked",
        "results.json": "the numbers of the table above",
        "run/": "the run folder: model.keras, configuration, metrics, checkpoints",
    }
    console.print(f"All of it lies in [bold]{workdir}[/bold]:")
    for name, meaning in shown.items():
        console.print(f"  {name:<{max(map(len, shown))}}  {meaning}", soft_wrap=True)
    console.print("\nTo verify a Keras model of your own:\n")
    for line in SNIPPET.split("\n"):
        console.print(f"    {line}", markup=False, soft_wrap=True)
    console.print("\nTo train one: robust-tf-train --help", soft_wrap=True)
