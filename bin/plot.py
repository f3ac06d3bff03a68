r"""Draws what run folders tell of training, and prints a table of their results.

One picture has the curves of all runs, one for each run the states of its neurons. Of
folders that `verify` has written: verdicts over time, accuracy by stage, and counts. Of
folders that `certify` has written, and of logs of other systems: certified accuracy
against the radius, a table, and how the runs differ on the same images. Of models:
linear regions on the plane through three images, gradients at images, filters, and
distances from images to the ends of their regions and decisions. Also lists all
experiments, with what was published and what run folders hold (default: models).

robust-tf-plot --run=runs/mnist_ibp --run=runs/mnist_crown_ibp --out=pictures
robust-tf-plot --run=runs/mnist_certified --log=Cohen=FILE --published=mnist --out=DIR
robust-tf-plot --model=plain=runs/plain --model=MMR=runs/mmr --kind=regions --out=DIR
robust-tf-plot --experiments
"""

import pathlib

from absl import flags
from absl import logging

from robust_tf import files
from robust_tf.errors import InputError
from robust_tf.experiments import command_line
from robust_tf.experiments import listing
from robust_tf.experiments import region_pictures
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Examples
from robust_tf.interchange import radius_logs
from robust_tf.report import certification_plots
from robust_tf.report import certification_tables
from robust_tf.report import experiment_tables
from robust_tf.report import plots
from robust_tf.report import results
from robust_tf.report import tables
from robust_tf.report import verification_plots

_FLAGS = flags.FLAGS


def main(argv):
    """Reads the run folders, and writes a picture and a table of all of them."""
    del argv
    if _FLAGS.experiments:
        _list_experiments()
        return
    _check_flags()
    logs = _logs()
    folders = results.run_folders(_FLAGS.run)
    metrics = {
        name: files.read_json_lines(folder / results.METRICS)
        for name, folder in folders.items()
        if (folder / results.METRICS).exists()
    }
    records = [
        record
        for name, folder in folders.items()
        for record in results.read_results(folder, name)
    ]
    out = pathlib.Path(_FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    if any(metrics.values()):
        plots.training_curves(metrics, out / "training_curves.png")
        logging.info("The training curves are in '%s'.", out / "training_curves.png")
        _draw_neurons(metrics, out)
    elif any(map(_has_more, folders.values())):
        logging.warning("No run has records of epochs, so there are no curves.")
    _show_verification(folders, out)
    _show_certification(folders, logs, out)
    if _FLAGS.model:
        _draw_regions(out)
    if records:
        tables.show(records)
        files.write_atomically(out / "results.txt", tables.render(records))
        logging.info("The table is in '%s'.", out / "results.txt")
    elif any(map(_has_more, folders.values())):
        logging.warning("No run has results yet, so there is no table.")


def _list_experiments():
    """Prints the table of all experiments, and writes it where `--out` says so."""
    if _FLAGS.model or _FLAGS.log:
        raise InputError(
            "`--experiments` lists results of run folders, and draws nothing. "
            "Received: `--model` or `--log` beside it. Leave them out."
        )
    runs = listing.runs_by_experiment(_FLAGS.run)
    found = experiment_tables.rows(listing.names(), runs)
    experiment_tables.show(found)
    if _FLAGS.out is not None:
        path = pathlib.Path(_FLAGS.out) / "experiments.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, experiment_tables.render(found))
        logging.info("The table is in '%s'.", path)


def _check_flags():
    if _FLAGS.out is None:
        raise InputError(
            "`--out` must name a folder for pictures and tables. Received: none"
        )
    if _FLAGS.kind and not _FLAGS.model:
        raise InputError(
            "`--kind` chooses pictures of models. Received: no model. Give --model=PATH"
        )
    if not (_FLAGS.run or _FLAGS.log or _FLAGS.model):
        raise InputError(
            "`--run` must name a run folder, `--log` a log of radii, or `--model` a "
            "model. Received: none"
        )


def _has_more(folder) -> bool:
    """Whether a folder holds something else than what `verify` writes."""
    known = (results.METRICS, *results.RESULTS)
    return any((folder / name).exists() for name in known)


def _show_verification(folders, out):
    """Pictures and a table of the folders that `verify` has written."""
    found = {name: results.read_verification(one) for name, one in folders.items()}
    found = {name: both for name, both in found.items() if both is not None}
    if not found:
        return
    summaries = {name: summary for name, (_, summary) in found.items()}
    records = {name: lines for name, (lines, _) in found.items()}
    verification_plots.decided_over_time(records, out / "decided_over_time.png")
    verification_plots.accuracy_by_stage(summaries, out / "accuracy_by_stage.png")
    verification_plots.verdict_counts(summaries, out / "verdicts.png")
    rows = [{"name": name} | summary for name, summary in summaries.items()]
    tables.show_verification(rows)
    files.write_atomically(out / "verification.txt", tables.render_verification(rows))
    logging.info("Pictures and table of verification are in '%s'.", out)


def _logs():
    """The logs by name, each read."""
    if _FLAGS.sigma is not None and not _FLAGS.sigma > 0.0:
        raise InputError(f"`--sigma` must be above 0. Received: {_FLAGS.sigma:g}")
    return {name: radius_logs.read_log(path) for name, path in _named("log").items()}


def _named(flag):
    """The paths of a flag by name, each PATH or NAME=PATH."""
    found = {}
    for given in _FLAGS[flag].value:
        name, _, path = given.partition("=")
        if not path or pathlib.Path(given).exists():
            name, path = given, given
        if name in found:
            raise InputError(
                f"`--{flag}` must give each {flag} a name of its own, as NAME=FILE. "
                f"Received: {name!r} twice"
            )
        found[name] = path
    return found


def _draw_regions(out):
    """Pictures of what models do around images."""
    models, points, epsilon = _named("model"), _FLAGS.points, _FLAGS.epsilon
    if points is not None:
        points = tuple(command_line.parse_numbers("points", points).values())
    dataset = _FLAGS.dataset or region_pictures.dataset_of(models.values())
    examples = {"start": _FLAGS.start, "count": _FLAGS.count, "split": _FLAGS.split}
    paths = region_pictures.draw(
        out,
        models=models,
        data=Data(dataset, data_dir=_FLAGS.data_dir),
        kinds=_FLAGS.kind or region_pictures.KINDS,
        examples=Examples(**{k: v for k, v in examples.items() if v is not None}),
        points=points,
        norm=_FLAGS.norm or "inf",
        epsilon=None if epsilon is None else command_line.parse_epsilon(epsilon),
    )
    for path in paths:
        logging.info("A picture of the models is in '%s'.", path)


def _show_certification(folders, logs, out):
    """A picture and a table of the folders that `certify` has written, and of logs."""
    rows, runs, curves = _certified(folders, logs)
    if not rows:
        return
    known = [row["sigma"] for row in rows if row["sigma"] is not None]
    sigmas = known if _FLAGS.sigma is None else [_FLAGS.sigma]
    picture = out / "certified_accuracy.png"
    norm = certification_tables.common_norm(rows)
    sigma = max(sigmas, default=None)
    certification_plots.certified_accuracy(curves, picture, sigma, norm)
    references = []
    if _FLAGS.published is not None:
        references = certification_tables.published(_FLAGS.published, sigmas)
    parts = (rows, references, certification_tables.differences(runs))
    certification_tables.show(*parts)
    text = certification_tables.render(*parts)
    files.write_atomically(out / "certification.txt", text)
    logging.info("Picture and table of certified radii are in '%s'.", out)


def _certified(folders, logs):
    """Rows of the table, runs that tell of each example, and curves by name."""
    rows, runs, curves = [], [], {}
    for name, folder in folders.items():
        found = results.read_certification(folder)
        if found is not None:
            runs.append(certification_tables.run_of(name, *found))
            rows.append(certification_tables.row_of(name, found[1]))
    for name, log in logs.items():
        if isinstance(log, radius_logs.AccuracyCurve):
            curves[name] = (log.radii, log.accuracy)
            rows.append(certification_tables.row_of_curve(name, *curves[name]))
            continue
        parts = (log.radius, log.is_correct, log.indices)
        runs.append(certification_tables.Certified(name, *parts))
        rows.append(runs[-1].row())
    return rows, runs, {run.name: run.curve() for run in runs} | curves


def _draw_neurons(metrics, out):
    """One picture for each run that has counted the states of neurons."""
    for name, epochs in metrics.items():
        if any(map(plots.has_neuron_shares, epochs)):
            # Names are paths where the folders' own names agree.
            path = out / f"neuron_shares_{name.strip('/').replace('/', '_')}.png"
            plots.neuron_shares(epochs, path, name)
            logging.info("The states of its neurons are in '%s'.", path)


def run():
    """Entry point of the console script."""
    define_flags()
    command_line.run(main)


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program."""
    lists = {
        "run": "A run folder. Repeat the flag to compare several.",
        "log": "A log of certified radii, FILE or NAME=FILE: a table of Cohen et al., a"
        " file of radii and accuracies (`_acc`), or a `.mat` file of MACER. Repeat the "
        "flag to compare several.",
        "model": "A classifier of ReLUs, PATH or NAME=PATH: a `.keras` or `.mat` file "
        "or a run folder. Repeat the flag to draw several side by side.",
    }
    for name, meaning in lists.items():
        flags.DEFINE_multi_string(name, [], meaning, flag_values=flag_values)
    flags.DEFINE_float(
        "sigma",
        None,
        "Of the noise, for logs, which do not say it: the axis of radii ends at four "
        "times that. Default: the greatest of the run folders.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "published",
        None,
        ["cifar10", "mnist"],
        "Adds what others published of this data set to the table of certified radii.",
        flag_values=flag_values,
    )
    _define_model_flags(flag_values)
    flags.DEFINE_boolean(
        "experiments",
        False,
        "Lists all experiments, published and measured; `--run` folders are those that "
        "are named after an experiment. Default of these: models.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "out",
        None,
        "The folder to write the pictures and table to.",
        flag_values=flag_values,
    )


def _define_model_flags(flag_values):
    """Flags of pictures of models."""
    flags.DEFINE_multi_enum(
        "kind",
        [],
        region_pictures.KINDS,
        "Which pictures of models. Repeat the flag for several. Default: all.",
        flag_values=flag_values,
    )
    command_line.define_example_flags(flag_values)
    strings = {
        "points": "Indices of the three images that the plane of linear regions goes "
        "through, such as 0,1,2. Default: the first chosen ones of three classes.",
        "data_dir": "The folder of TensorFlow Datasets to read from.",
        "norm": "Of distances: inf, or a number of at least 1. Default: inf.",
        "epsilon": "Where histograms of distances have a line, in pixel values in [0, "
        "1]: a number or a fraction, such as 0.1 or 8/255. Default: none.",
    }
    for name, meaning in strings.items():
        flags.DEFINE_string(name, None, meaning, flag_values=flag_values)


if __name__ == "__main__":
    run()
