r"""Trains what the gin files describe, and writes a run folder.

robust-tf-train --gin_file=gin_configs/experiments/mnist_eps0.3_crown_ibp.gin \
    --data_dir=DATA --workdir=runs/mnist
robust-tf-train --gin_file=gin_configs/families/mnist_small_eps0.3_crown_ibp.gin \
    --model_subset=0,3-5 --data_dir=DATA --workdir=runs/family

The same command goes on with an interrupted run. Of a family, each member has a run
folder of its own within the working folder, and a seed of its own; so has each stage of
a cascade (gin_configs/experiments/*_cascade_*.gin).
"""

import sys

from absl import flags
from absl import logging

from robust_tf.errors import InputError
from robust_tf.experiments import cascade
from robust_tf.experiments import cascade_folder
from robust_tf.experiments import command_line
from robust_tf.experiments import configuration
from robust_tf.experiments import family
from robust_tf.experiments import launch
from robust_tf.report import tables

_FLAGS = flags.FLAGS


def main(argv):
    """Parses the configuration, runs it, and records what was used."""
    del argv
    if not _FLAGS.gin_file:
        raise InputError(
            "`--gin_file` must name a configuration, such as "
            "gin_configs/experiments/digits_eps0.1_crown_ibp.gin."
        )
    gin_params = [*_FLAGS.gin_param, *command_line.bindings(_FLAGS)]
    configuration.parse(_FLAGS.gin_file, gin_params)
    summaries = _trained(gin_params)
    tables.show(summaries)
    logging.info("What was trained is in '%s'.", _FLAGS.workdir)


def _trained(gin_params):
    """The summary of each model that the configuration is of, all of them trained."""
    workdir, subset = _FLAGS.workdir, _FLAGS.model_subset
    is_cascade, is_family = cascade.is_configured(), family.is_configured()
    if subset is not None and (is_cascade or not is_family):
        raise InputError(
            "`--model_subset` chooses members of a family. Received: "
            f"{subset!r}, and a configuration of one "
            f"{'cascade' if is_cascade else 'model'}. Leave it out, or give a "
            "--gin_file of gin_configs/families."
        )
    if is_cascade:
        return cascade.train_stages(workdir, _FLAGS.gin_file, gin_params, sys.argv)
    if cascade_folder.is_cascade(workdir):
        raise InputError(
            f"Folder '{workdir}' holds a cascade, and the configuration is of none. "
            "Give another --workdir."
        )
    if is_family:
        return family.train_members(
            workdir, _FLAGS.gin_file, gin_params, subset, sys.argv
        )
    return [launch.train_configured(workdir, sys.argv)]


def run():
    """Entry point of the console script."""
    define_flags()
    command_line.run(main, required=["workdir"])


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program."""
    command_line.define_common_flags(flag_values)
    flags.DEFINE_string(
        "model_subset",
        None,
        "Members of a family that are trained: indices from 0, ranges and names, such "
        "as 0,3-5. Default: all.",
        flag_values=flag_values,
    )


if __name__ == "__main__":
    run()
