r"""Natural against certified accuracy, over the values of one parameter.

robust-tf-pareto --gin_file=gin_configs/experiments/mnist_eps0.1_mtl_ibp_width8.gin \
    --parameter=expressive.MtlIbp.coefficient --values=0.01,0.1,0.5 \
    --data_dir=DATA --workdir=runs/front

Trains one run for each value, in WORKDIR/VALUE, measures it on the validation split (a
fifth of the training split, if the experiment holds none out), and draws the front with
published results behind it. The same command goes on where it was interrupted.
"""

import pathlib
import sys

from absl import flags
from absl import logging

from robust_tf.errors import InputError
from robust_tf.experiments import command_line
from robust_tf.experiments import pareto
from robust_tf.report import pareto_plots
from robust_tf.report import tables
from robust_tf.report.published import published

_FLAGS = flags.FLAGS
_SEEDS = ("experiments.settings.Run.seed", "experiments.evaluate.evaluate.seed")
_PICTURE = "pareto.png"


def main(argv):
    """Trains, measures and draws; the picture grows with each point."""
    del argv
    if not _FLAGS.gin_file:
        raise InputError(
            "`--gin_file` must name an experiment, such as "
            "gin_configs/experiments/mnist_eps0.1_mtl_ibp_width8.gin."
        )
    sweep = pareto.Sweep(
        tuple(_FLAGS.gin_file),
        (*_FLAGS.gin_param, *command_line.bindings(_FLAGS, _SEEDS), *_bindings()),
        _FLAGS.parameter,
        command_line.parse_numbers("values", _FLAGS.values),
    )
    workdir = pathlib.Path(_FLAGS.workdir)

    def report(result):
        _draw(result, workdir / _PICTURE)

    result = pareto.pareto(workdir, sweep, sys.argv, report)
    _show(result)
    logging.info("The record and the picture are in '%s'.", workdir)


def _bindings():
    """The flags of this program that were given."""
    share = _FLAGS.validation_share
    if share is not None and not 0.0 < share < 1.0:
        raise InputError(
            f"`--validation_share` must lie between 0 and 1. Received: {share}"
        )
    return command_line.as_bindings(
        {
            "experiments.settings.Data.validation_share": share,
            "experiments.settings.Examples.count": _FLAGS.count,
        }
    )


def _draw(result, path):
    methods = ", ".join(result["points"][0]["certified_by"]).upper()
    pareto_plots.pareto_front(
        result["points"],
        published(result["dataset"], result["epsilon"], result["norm"]),
        path,
        f"{result['method']} on {result['dataset']}, norm {result['norm']}, eps "
        f"{result['epsilon']:g}, by {result['parameter']}",
        f"measured: validation split, best of {methods}",
    )


def _show(result):
    setting = {key: result[key] for key in ("dataset", "method", "epsilon", "norm")}
    records = [
        setting | point | {"name": f"{point['name']}{' *' * point['is_efficient']}"}
        for point in result["points"]
    ]
    tables.show(records, f"{result['parameter']} (*: efficient), validation split")


def run():
    """Entry point of the console script."""
    define_flags()
    command_line.run(main, required=["workdir", "parameter", "values"])


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program."""
    command_line.define_common_flags(flag_values)
    flags.DEFINE_string(
        "parameter",
        None,
        "What varies, such as expressive.MtlIbp.coefficient.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "values", None, "Its values, such as 0.01,0.1,0.5.", flag_values=flag_values
    )
    flags.DEFINE_float(
        "validation_share",
        None,
        "Share of the training split to measure on. Default: the experiment's, or 0.2.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "count",
        None,
        "How many examples of it are measured. Default: all.",
        flag_values=flag_values,
    )


if __name__ == "__main__":
    run()
