r"""Clean, PGD, IBP, CROWN-IBP and CROWN accuracy of one or many models.

Of many, also the least, median and greatest error of each kind, and whose it is; a
folder of run folders, as `train` writes for a family, stands for all of them. With
gin_configs/base/evaluate_max_margin.gin also robust error from below and above. The
folder of a cascade stands for one classifier: clean error, the published verified error
of the image as received (no bound under attack), and the bound by all stages.

robust-tf-evaluate --model=runs/digits --epsilon=0.1 --workdir=runs/digits
robust-tf-evaluate --model=a.keras --model=b.keras --dataset=mnist --data_dir=DATA \
    --epsilon=0.3 --workdir=runs/family
robust-tf-evaluate --model=runs/mnist_small --data_dir=DATA --epsilon=0.3 \
    --workdir=runs/mnist_small
robust-tf-evaluate --model=runs/mnist_mmr --data_dir=DATA --epsilon=0.1 --count=100 \
    --gin_file=gin_configs/base/evaluate_max_margin.gin --workdir=runs/mnist_mmr
"""

import pathlib
import sys

from absl import flags

from robust_tf import files
from robust_tf.experiments import command_line
from robust_tf.experiments import configuration
from robust_tf.experiments import evaluate
from robust_tf.report import cascade_tables
from robust_tf.report import family_tables
from robust_tf.report import tables

_FLAGS = flags.FLAGS
_DEFAULT_GIN_FILE = "gin_configs/base/evaluate.gin"
_SEED = "experiments.evaluate.evaluate.seed"


def main(argv):
    """Parses the configuration, measures, and records what was used."""
    del argv
    configuration.parse(
        _FLAGS.gin_file or [_DEFAULT_GIN_FILE],
        [
            *_FLAGS.gin_param,
            *command_line.bindings(_FLAGS, seeds=[_SEED]),
            *command_line.model_bindings(_FLAGS),
        ],
    )
    workdir = pathlib.Path(_FLAGS.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    environment = command_line.environment(sys.argv)
    files.write_json(workdir / "evaluation_environment.json", environment)
    result = configuration.call(
        evaluate.evaluate, workdir=workdir, models=tuple(_FLAGS.model)
    )
    files.write_atomically(workdir / "evaluation_config.gin", configuration.operative())
    if result["models"]:
        tables.show(result["models"])
    cascade_tables.show(result.get("cascades", []))
    if "family" in result:
        family_tables.show(result["family"])
    tables.show_robust_errors(result["models"])


def run():
    """Entry point of the console script."""
    command_line.define_common_flags()
    command_line.define_model_flags()
    command_line.run(main, required=["workdir"])


if __name__ == "__main__":
    run()
