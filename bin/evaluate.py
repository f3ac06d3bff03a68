r"""Clean, PGD, IBP, CROWN-IBP and CROWN accuracy of one or many models.

robust-tf-evaluate --model=runs/digits --epsilon=0.1 --workdir=runs/digits
robust-tf-evaluate --model=a.keras --model=b.keras --dataset=mnist --data_dir=DATA \
    --epsilon=0.3 --workdir=runs/family
"""

import pathlib
import sys

from absl import flags

from robust_tf import files
from robust_tf.errors import InputError
from robust_tf.experiments import command_line
from robust_tf.experiments import configuration
from robust_tf.experiments import evaluate
from robust_tf.report import tables

_FLAGS = flags.FLAGS
_DEFAULT_GIN_FILE = "gin_configs/base/evaluate.gin"


def main(argv):
    """Parses the configuration, measures, and records what was used."""
    del argv
    configuration.parse(
        _FLAGS.gin_file or [_DEFAULT_GIN_FILE],
        [*_FLAGS.gin_param, *command_line.bindings(_FLAGS), *_bindings()],
    )
    workdir = pathlib.Path(_FLAGS.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    environment = command_line.environment(sys.argv)
    files.write_json(workdir / "evaluation_environment.json", environment)
    result = configuration.call(
        evaluate.evaluate, workdir=workdir, models=tuple(_FLAGS.model)
    )
    files.write_atomically(workdir / "evaluation_config.gin", configuration.operative())
    tables.show([*result["models"], *result.get("family", {}).values()])


def _bindings():
    """The flags of this program that were given."""
    dataset = _FLAGS.dataset
    if dataset is None and not _FLAGS.gin_file:
        known = {evaluate.dataset_of(path) for path in _FLAGS.model} - {None}
        if len(known) != 1:
            raise InputError(
                "`--dataset` must name the data set: the models are no run folders of "
                f"one data set. Received: --model={_FLAGS.model}"
            )
        (dataset,) = known
    return command_line.as_bindings(
        {
            "experiments.settings.Data.name": dataset,
            "experiments.settings.Examples.split": _FLAGS.split,
            "experiments.settings.Examples.start": _FLAGS.start,
            "experiments.settings.Examples.count": _FLAGS.count,
        }
    )


def run():
    """Entry point of the console script."""
    command_line.define_common_flags()
    flags.DEFINE_multi_string(
        "model", [], "A `.keras` file or a run folder. Repeat the flag for a family."
    )
    flags.DEFINE_string(
        "dataset", None, "digits, or a TFDS name. Default: the run folder's."
    )
    flags.DEFINE_enum("split", None, ["train", "validation", "test"], "Default: test.")
    flags.DEFINE_integer("start", None, "Index of the first example. Default: 0.")
    flags.DEFINE_integer("count", None, "How many examples. Default: all.")
    command_line.run(main, required=["workdir"])


if __name__ == "__main__":
    run()
