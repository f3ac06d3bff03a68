r"""Draws what run folders tell of training, and prints a table of their results.

One picture has the curves of all runs, one for each run the states of its neurons. Of
folders that `verify` has written: verdicts over time, accuracy by stage, and counts.

robust-tf-plot --run=runs/mnist_ibp --run=runs/mnist_crown_ibp --out=pictures
"""

import pathlib

from absl import flags
from absl import logging

from robust_tf import files
from robust_tf.experiments import command_line
from robust_tf.report import plots
from robust_tf.report import results
from robust_tf.report import tables
from robust_tf.report import verification_plots

_FLAGS = flags.FLAGS


def main(argv):
    """Reads the run folders, and writes a picture and a table of all of them."""
    del argv
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
    if records:
        tables.show(records)
        files.write_atomically(out / "results.txt", tables.render(records))
        logging.info("The table is in '%s'.", out / "results.txt")
    elif any(map(_has_more, folders.values())):
        logging.warning("No run has results yet, so there is no table.")


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
    flags.DEFINE_multi_string(
        "run", None, "A run folder. Repeat the flag to compare several."
    )
    flags.DEFINE_string("out", None, "The folder to write the pictures and table to.")
    command_line.run(main, required=["run", "out"])


if __name__ == "__main__":
    run()
