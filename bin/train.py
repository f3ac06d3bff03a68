r"""Trains what the gin files describe, and writes a run folder.

robust-tf-train --gin_file=gin_configs/experiments/mnist_eps0.3_crown_ibp.gin \
    --data_dir=DATA --workdir=runs/mnist
robust-tf-train --gin_file=gin_configs/families/mnist_small_eps0.3_crown_ibp.gin \
    --model_subset=0,3-5 --data_dir=DATA --workdir=runs/family

The same command goes on with an interrupted run. Of a family, each member has a run
folder of its own within the working folder, and a seed of its own.
"""

import sys

from absl import flags
from absl import logging

from robust_tf.errors import InputError
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
    if family.is_configured():
        summaries = family.train_members(
            _FLAGS.workdir,
            _FLAGS.gin_file,
            gin_params,
            _FLAGS.model_subset,
            sys.argv,
        )
    elif _FLAGS.model_subset is not None:
        raise InputError(
            "`--model_subset` chooses members of a family. Received: "
            f"{_FLAGS.model_subset!r}, and a configuration of one model. Leave it out, "
            "or give a --gin_file of gin_configs/families."
        )
    else:
        summaries = [launch.train_configured(_FLAGS.workdir, sys.argv)]
    tables.show(summaries)
    logging.info("What was trained is in '%s'.", _FLAGS.workdir)


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
