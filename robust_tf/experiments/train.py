"""One training run, from a configuration to a run folder."""

import json
import pathlib
import sys
from collections.abc import Callable

import keras

from robust_tf import data as datasets
from robust_tf import schedules
from robust_tf.errors import InputError
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Run
from robust_tf.objectives.terms import WeightedSum
from robust_tf.regions import Threat
from robust_tf.report.files import write_atomically
from robust_tf.report.files import write_json
from robust_tf.training.callbacks import Checkpoints
from robust_tf.training.callbacks import MetricsLog
from robust_tf.training.certified_model import CertifiedModel
from robust_tf.training.checkpoints import CheckpointStore
from robust_tf.training.distribution import strategy_for
from robust_tf.verification.accuracy import measure

_EVALUATION_BATCH = 500


def train(
    workdir,
    *,
    data: Data,
    threat: Threat,
    architecture: Callable,
    objective: WeightedSum,
    run: Run,
    test_threat: Threat | None = None,
    test_attack: Callable | None = None,
) -> dict:
    """Trains a classifier; the same call after an interruption goes on with it.

    Args:
        workdir: the run folder.
        data: images to train and measure on.
        threat: perturbations at the end of the ramp.
        architecture: factory, `(input_shape, num_classes)` to a model of
            `robust_tf.layers`; what it makes holds variables, so it is called inside
            the strategy's scope.
        objective: loss of each example.
        run: length, optimizer, schedules, devices.
        test_threat: what the result is measured against; `threat` by default.
        test_attack: measures attacked accuracy; None for none.

    Returns:
        The content of `summary.json`.

    Raises:
        InputError: for settings that cannot be met, or a folder with another run.
    """
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(run.seed)
    keras.config.disable_traceback_filtering()
    training = _load(data, "train")
    validation = _load(data, "validation") if data.validation_share else None
    steps = datasets.steps_per_epoch(training, data.batch_size)
    with strategy_for(run.devices).scope():
        model = _build(training, threat, architecture, objective, run, steps)
        checkpoints = Checkpoints(
            CheckpointStore(
                workdir / "checkpoints", _signature(training, data, threat, run, model)
            ),
            **_selection(model, run, validation),
        )
        done = checkpoints.resume(model)
    log = MetricsLog(workdir / "metrics.jsonl")
    log.cut_back(done)
    _fit(
        model, training, validation, data, run, steps, done, [log, checkpoints], workdir
    )
    if run.keep == "best":
        checkpoints.restore_best(model)
    _save(model.classifier, workdir / "model.keras")
    accuracy = measure(
        model.classifier,
        datasets.evaluation_batches(_load(data, "test"), _EVALUATION_BATCH),
        test_threat or threat,
        attack=test_attack,
        seed=run.seed,
    )
    summary = _describe(data, test_threat or threat, architecture, objective, run)
    summary |= {**accuracy.summary(), "train_seconds": checkpoints.notes["seconds"]}
    write_json(workdir / "summary.json", summary)
    return summary


def _load(data, split):
    return datasets.load(
        data.name, split, data.data_dir, validation_share=data.validation_share
    )


def _build(training, threat, architecture, objective, run, steps):
    classifier = architecture(training.image_shape, training.num_classes)
    rate = run.learning_rate
    if callable(rate):
        rate = schedules.ScheduledRate(schedules.in_epochs(rate, steps))
    model = CertifiedModel(
        classifier,
        objective,
        threat,
        schedules.in_epochs(run.ramp, steps),
        max_gradient_norm=run.max_gradient_norm,
        micro_batches=run.micro_batches,
        seed=run.seed,
    )
    model.compile(run.optimizer(learning_rate=rate), jit_compile=run.jit_compile)
    model.optimizer.build(classifier.trainable_variables)
    return model


def _selection(model, run, validation):
    """How the best epoch is chosen: by validation, once the ramp has ended."""
    if run.keep == "last":
        return {}
    if validation is None:
        raise InputError(
            "`keep = 'best'` needs a validation split: set `validation_share`, as a "
            "choice by the test split would flatter the result."
        )
    certified = model.objective.is_certified
    key = "val_certified_accuracy" if certified else "val_clean_accuracy"
    end = getattr(run.ramp, "start", 0) + getattr(run.ramp, "length", 0)
    return {"monitor": key, "first_epoch": int(end)}


def _fit(model, training, validation, data, run, steps, done, callbacks, workdir):
    batches = datasets.training_batches(
        training,
        data.batch_size,
        run.seed,
        epochs=run.epochs,
        first_epoch=done,
        augmentation=data.augmentation,
    )
    if validation is not None:
        validation = datasets.evaluation_batches(validation, data.batch_size)
    board = keras.callbacks.TensorBoard(
        workdir / "tensorboard", write_graph=False, profile_batch=0
    )
    model.fit(
        batches,
        epochs=run.epochs,
        initial_epoch=done,
        steps_per_epoch=steps,
        shuffle=False,
        validation_data=validation,
        callbacks=[*callbacks[:1], board, *callbacks[1:]],
        verbose=1 if sys.stderr.isatty() else 2,
    )


def _signature(training, data, threat, run, model) -> dict[str, str]:
    """What must agree for one run to go on with another's checkpoint."""
    optimizer = model.optimizer.get_config()
    # Keras numbers the names within a process: a second call must not differ.
    optimizer["name"] = type(model.optimizer).__name__.lower()
    return {
        "data": training.digest,
        "batch_size": str(data.batch_size),
        "augmentation": repr(data.augmentation),
        "threat": repr(threat),
        "objective": repr(model.objective),
        "ramp": repr(model.ramp),
        "optimizer": json.dumps(optimizer, default=str),
        "clipping": repr((run.max_gradient_norm, run.micro_batches)),
        "seed": str(run.seed),
    }


def _describe(data, threat, architecture, objective, run):
    name = getattr(architecture, "__name__", None) or architecture.func.__name__
    return {
        "dataset": data.name,
        "architecture": name,
        "method": objective.method,
        "epsilon": threat.epsilon,
        "norm": str(threat.norm),
        "epochs": run.epochs,
        "seed": run.seed,
    }


def _save(classifier, path):
    """Writes the classifier so that the file is whole or absent."""
    temporary = path.with_name(f".{path.name}.tmp.keras")
    classifier.save(temporary)
    write_atomically(path, temporary.read_bytes())
    temporary.unlink()
