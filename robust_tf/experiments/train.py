"""One training run, from a configuration to a run folder."""

import json
import math
import pathlib
from collections.abc import Callable

import keras
import numpy as np

from robust_tf import data as datasets
from robust_tf import matlab
from robust_tf import schedules
from robust_tf.errors import InputError
from robust_tf.experiments import fitting
from robust_tf.experiments.run_signature import signature
from robust_tf.experiments.settings import Certification
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Run
from robust_tf.files import write_atomically
from robust_tf.files import write_json
from robust_tf.objectives.terms import WeightedSum
from robust_tf.regions import Threat
from robust_tf.training.averaging import WeightAverage
from robust_tf.training.callbacks import Checkpoints
from robust_tf.training.callbacks import MetricsLog
from robust_tf.training.certification import CertifyExamples
from robust_tf.training.certified_model import CertifiedModel
from robust_tf.training.checkpoints import CheckpointStore
from robust_tf.training.cluster import count_workers
from robust_tf.training.cluster import is_chief
from robust_tf.training.determinism import sum_in_fixed_order
from robust_tf.training.distribution import strategy_for
from robust_tf.training.neurons import NeuronShares
from robust_tf.training.precise_statistics import PopulationStatistics
from robust_tf.training.precise_statistics import PreciseStatistics
from robust_tf.training.reweighting import Reweighting
from robust_tf.training.workers import fit_on_workers
from robust_tf.training.workers import wait_for_all
from robust_tf.verification.accuracy import measure

_EVALUATION_BATCH = 500
_BETWEEN_EPOCHS = ("average_from", "precise_statistics")


def train(
    workdir,
    *,
    data: Data,
    threat: Threat,
    architecture: Callable,
    objective: WeightedSum,
    run: Run,
    initialization: Callable[[keras.Model], None] | None = None,
    test_attack: Callable | None = None,
    certification: Certification | None = None,
    reweighting: Reweighting | None = None,
    on_accepted: Callable[[], None] = lambda: None,
) -> dict:
    """Trains a classifier; the same call after an interruption goes on with it.

    Args:
        workdir: the run folder.
        data: images to train and measure on.
        threat: perturbations at the end of the ramp, and in the measured result.
        architecture: factory, `(input_shape, num_classes)` to a model of
            `robust_tf.layers`; what it makes holds variables, so it is called inside
            the strategy's scope.
        objective: loss of each example.
        run: length, optimizer, schedules, devices.
        initialization: changes the new model's weights, such as
            `initializers.ibp_initialization`; None leaves them.
        test_attack: measures attacked accuracy; None for none.
        certification: of examples by randomized smoothing, in some epochs and at the
            end, each written to `certification/`; for objectives with noise.
        reweighting: of the training images, by their accuracy under noise; for
            objectives with noise.
        on_accepted: called once it is clear that the folder is this run's; what is
            written before would harm another run that is refused.

    Returns:
        The content of `summary.json`.

    Raises:
        InputError: for settings that cannot be met, or a folder with another run.
    """
    workdir, strategy = pathlib.Path(workdir), strategy_for(run.devices)
    _check_parts(data, run, strategy.num_replicas_in_sync)
    _check_workers(run, certification=certification, reweighting=reweighting)
    keras.utils.set_random_seed(run.seed)
    keras.config.disable_traceback_filtering()
    sum_in_fixed_order()
    training, test = data.load("train"), data.load("test")
    validation = data.load("validation") if data.validation_share else None
    steps = datasets.steps_per_epoch(training, data.batch_size)
    with strategy.scope():
        model = _build(
            training, threat, architecture, initialization, objective, run, steps
        )
        store = CheckpointStore(
            workdir / "checkpoints",
            signature(training, data, threat, run, model, reweighting),
        )
        statistics = _statistics(model, training, data, run)
        techniques, weights = _techniques(model, statistics, run), None
        if reweighting is not None:
            weights = fitting.image_weights(model, training, run, reweighting)
            techniques.append(weights)
        checkpoints = Checkpoints(
            store,
            more_variables=[v for one in techniques for v in one.variables],
            **_selection(model, run, validation),
        )
        done = _epochs_done(workdir, checkpoints.resume(model), run)
    records, certifying = [], []
    if is_chief():
        on_accepted()
        log = MetricsLog(workdir / "metrics.jsonl")
        log.cut_back(done)
        certifying = _certifying(model, data, certification, run, workdir)
        records = [
            *_neurons(training, data, run),
            *certifying,
            log,
            _board(workdir),
            checkpoints,
        ]
    callbacks = [*techniques, *records]
    if validation is not None:
        validation = datasets.evaluation_batches(validation, data.batch_size)
    if count_workers() == 1:
        fitting.fit(model, training, validation, data, run, done, callbacks, weights)
    else:
        fit_on_workers(
            model,
            strategy,
            fitting.training_batches(training, data, run, done, run.epochs),
            epochs=run.epochs,
            initial_epoch=done,
            steps_per_epoch=steps,
            validation=validation,
            callbacks=callbacks,
        )
    if not is_chief():  # The first one writes, and the others wait for it.
        wait_for_all(strategy)
        return json.loads((workdir / "summary.json").read_text())
    if run.keep == "best":
        checkpoints.restore_best(model)
    if run.precise_statistics == "end":
        statistics()
    _save(model.classifier, workdir / "model.keras")
    accuracy = measure(
        model.classifier,
        datasets.evaluation_batches(test, _EVALUATION_BATCH),
        threat,
        # A classifier that is to be smoothed is certified by `bin/certify.py`.
        **({"methods": ()} if objective.noise else {"attack": test_attack}),
        seed=run.seed,
        # The other workers wait: replicas of theirs would be missed.
        strategy=strategy if count_workers() == 1 else None,
    )
    summary = _describe(data, threat, architecture, objective, run)
    summary |= {**accuracy.summary(), "train_seconds": checkpoints.notes["seconds"]}
    if weights is not None:
        summary["kept_images"] = weights.kept_images
    for one in certifying:
        summary |= one.certify(run.epochs) | {"certification": vars(certification)}
    write_json(workdir / "summary.json", summary)
    if count_workers() > 1:
        wait_for_all(strategy)
    return summary


def _epochs_done(workdir, done, run) -> int:
    if done > run.epochs:
        raise InputError(
            f"The run in '{workdir}' has trained for {done} epochs already. Received: "
            f"epochs = {run.epochs}. Raise it, or give another --workdir."
        )
    return done


def _check_workers(run, **between_epochs):
    """Several workers do what one step does, and nothing between epochs."""
    if count_workers() == 1:
        return
    asked = {name: getattr(run, name) for name in _BETWEEN_EPOCHS} | between_epochs
    given = [name for name, value in asked.items() if value is not None]
    if given:
        raise InputError(
            "Several workers train without what changes or measures weights between "
            f"epochs. Received: {', '.join(given)}. Leave it out, or train on one."
        )


def _check_parts(data, run, replicas):
    parts = replicas * run.micro_batches
    if data.batch_size % parts:
        raise InputError(
            f"`batch_size` must be a multiple of {parts}, {run.micro_batches} "
            f"micro-batches on each of {replicas} replicas. Received: "
            f"{data.batch_size}"
        )


def _build(training, threat, architecture, initialization, objective, run, steps):
    classifier = architecture(training.image_shape, training.num_classes)
    if initialization is not None:
        initialization(classifier)
    model = CertifiedModel(
        classifier,
        objective,
        threat,
        schedules.in_epochs(run.ramp, steps),
        radius_factor=run.radius_factor,
        min_radius=run.min_radius,
        max_gradient_norm=run.max_gradient_norm,
        micro_batches=run.micro_batches,
        gradient_rule=run.gradient_rule,
        steps_per_epoch=steps,
        seed=run.seed,
    )
    rate = run.learning_rate
    if callable(rate):  # It follows the optimizer's own count.
        updates = steps * model.updates_per_step
        rate = schedules.ScheduledRate(schedules.in_epochs(rate, updates))
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
    objective = model.objective
    kind = "noisy" if objective.noise else "clean"
    kind = "certified" if objective.is_certified else kind
    end = getattr(run.ramp, "start", 0) + getattr(run.ramp, "length", 0)
    if end > run.epochs - 1:
        raise InputError(
            "`keep = 'best'` needs an epoch after the ramp of the radius, which ends "
            f"after {end} epochs. Received: epochs = {run.epochs}"
        )
    return {"monitor": f"val_{kind}_accuracy", "first_epoch": math.ceil(end)}


def _statistics(model, training, data, run) -> PopulationStatistics:
    """Over clean batches of the training split, the same ones each time."""
    batches = datasets.training_batches(training, data.batch_size, run.seed, epochs=1)
    batches = batches.map(lambda images, _: images)
    if run.statistics_batches is not None:
        batches = batches.take(run.statistics_batches)
    return PopulationStatistics(model.graph, batches)


def _techniques(model, statistics, run) -> list[keras.callbacks.Callback]:
    """What changes the classifier after the steps of an epoch, in order."""
    callbacks = []
    if run.average_from is not None:
        callbacks = [
            WeightAverage(model.classifier, run.average_from),
            PreciseStatistics(statistics, run.average_from),
        ]
    if run.precise_statistics == "epoch":
        callbacks = [*callbacks[:1], PreciseStatistics(statistics)]
    return callbacks


def _neurons(training, data, run) -> list[NeuronShares]:
    count = min(run.neuron_examples, len(training))
    if count == 0:
        return []
    size = min(count, data.batch_size)
    return [NeuronShares(datasets.evaluation_batches(training, size, count=count))]


def _certifying(model, data, certification, run, workdir) -> list[CertifyExamples]:
    """Certificates of randomized smoothing in some epochs, where they are wanted."""
    if certification is None:
        return []
    noise = model.objective.noise
    if noise is None:
        raise InputError(
            "`certification` is by randomized smoothing, and needs an objective with "
            f"`noise`. Received: the objective {model.objective.method!r}. Leave "
            "`certification` out."
        )
    examples = data.load(certification.split)
    start, count = certification.start, certification.count
    indices = datasets.evaluation_positions(examples, start, count)

    def record(epochs, radii):
        folder = workdir / "certification"
        folder.mkdir(exist_ok=True)
        matlab.write_arrays(folder / f"{epochs}.mat", {"hard": radii})

    return [
        CertifyExamples(
            model.graph,
            noise.sigma,
            examples.floats(np.asarray(indices)),
            examples.labels[np.asarray(indices)],
            every=certification.every,
            first_epoch=certification.first_epoch,
            record=record,
            indices=indices,
            n0=certification.n0,
            n=certification.n,
            alpha=certification.alpha,
            batch_size=certification.batch_size,
            seed=run.seed,
        )
    ]


def _board(workdir):
    return keras.callbacks.TensorBoard(
        workdir / "tensorboard", write_graph=False, profile_batch=0
    )


def _describe(data, threat, architecture, objective, run):
    function = getattr(architecture, "func", architecture)  # Of a partial one.
    noise = objective.noise
    return {
        "dataset": data.name,
        "architecture": getattr(function, "__name__", type(function).__name__),
        "method": objective.method,
        "epsilon": threat.epsilon,
        "norm": str(threat.norm),
        "epochs": run.epochs,
        "seed": run.seed,
        **({} if noise is None else {"sigma": noise.sigma}),
    }


def _save(classifier, path):
    """Writes the classifier so that the file is whole or absent."""
    temporary = path.with_name(f".{path.name}.tmp.keras")
    classifier.save(temporary)
    write_atomically(path, temporary.read_bytes())
    temporary.unlink()
