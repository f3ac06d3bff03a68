r"""Trains what the gin files describe, and writes a run folder.

robust-tf-train --gin_file=gin_configs/experiments/mnist_eps0.3_crown_ibp.gin \
    --data_dir=DATA --workdir=runs/mnist

The same command goes on with an interrupted run.
"""

import sys

from absl import flags
from absl import logging

from robust_tf.errors import InputError
from robust_tf.experiments import command_line
from robust_tf.experiments import configuration
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
    configuration.parse(
        _FLAGS.gin_file, [*_FLAGS.gin_param, *command_line.bindings(_FLAGS)]
    )
    summary = launch.train_configured(_FLAGS.workdir, sys.argv)
    tables.show([summary])
    logging.info("The run folder is '%s'.", _FLAGS.workdir)


def run():
    """Entry point of the console script."""
    command_line.define_common_flags()
    command_line.run(main, required=["workdir"])


if __name__ == "__main__":
    run()
