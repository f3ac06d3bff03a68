r"""Losses of trained models, from adversarial to certified, by coefficient.

robust-tf-losses --model=runs/digits --epsilon=0.1 --workdir=runs/digits
robust-tf-losses --model=runs/mtl --data_dir=DATA --epsilon=2/255 --split=validation \
    --gin_param='settings.Data.validation_share = 0.2' --method=mtl-ibp \
    --coefficient=0.004 --count=100 --workdir=runs/mtl

Averages over examples of the natural, adversarial, IBP and CROWN losses, and of CC-IBP,
MTL-IBP, Exp-IBP and SABR for a list of coefficients. With --method and --coefficient
also tuning statistics: how near that training loss comes to the loss of verified
margins. Exp-IBP takes means over the whole set to a power; training, those of a batch.
"""

import pathlib
import sys

from absl import flags
from absl import logging

from robust_tf import files
from robust_tf.errors import InputError
from robust_tf.experiments import command_line
from robust_tf.experiments import configuration
from robust_tf.experiments import losses
from robust_tf.objectives import survey
from robust_tf.report import loss_plots
from robust_tf.report import loss_tables

_FLAGS = flags.FLAGS
_DEFAULT_GIN_FILE = "gin_configs/base/losses.gin"
_SEED = "experiments.losses.losses.seed"
_PICTURE = "losses.png"


def main(argv):
    """Parses the configuration, measures, draws, and records what was used."""
    del argv
    configuration.parse(
        _FLAGS.gin_file or [_DEFAULT_GIN_FILE],
        [
            *_FLAGS.gin_param,
            *command_line.bindings(_FLAGS, seeds=[_SEED]),
            *command_line.model_bindings(_FLAGS),
            *_bindings(),
        ],
    )
    workdir = pathlib.Path(_FLAGS.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    environment = command_line.environment(sys.argv)
    files.write_json(workdir / "losses_environment.json", environment)
    result = configuration.call(
        losses.losses, workdir=workdir, models=tuple(_FLAGS.model)
    )
    files.write_atomically(workdir / "losses_config.gin", configuration.operative())
    for record in result["models"]:
        loss_tables.show(record)
    loss_plots.losses_against_coefficient(result["models"], workdir / _PICTURE)
    logging.info("Records and a picture are in '%s'.", workdir)


def _bindings():
    """The flags of this program that were given."""
    given = {"objectives.forward.Adversary.radius_factor": _FLAGS.attack_eps_factor}
    if _FLAGS.coefficients is not None:
        values = command_line.parse_numbers("coefficients", _FLAGS.coefficients)
        given["experiments.losses.losses.coefficients"] = tuple(values.values())
    return [*command_line.as_bindings(given), *_selection()]


def _selection():
    """The method that tuning statistics are asked for; without flags the file's."""
    method, coefficient = _FLAGS.method, _FLAGS.coefficient
    if (method is None) != (coefficient is None):
        raise InputError(
            "Tuning statistics need both `--method` and `--coefficient`. Received: "
            f"--method={method}, --coefficient={coefficient}"
        )
    if method is None:
        return []
    module = "experiments.losses"
    given = {"method": method, "coefficient": coefficient}
    return [
        f"robust_tf.{module}.losses.selected = @robust_tf.{module}.Selected()",
        *command_line.as_bindings(
            {f"{module}.Selected.{name}": value for name, value in given.items()}
        ),
    ]


def run():
    """Entry point of the console script."""
    define_flags()
    command_line.run(main, required=["workdir"])


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program."""
    command_line.define_common_flags(flag_values)
    command_line.define_model_flags(flag_values)
    flags.DEFINE_string(
        "coefficients",
        None,
        "Coefficients of all methods, such as 0,0.01,0.1,1: 0 is adversarial training, "
        "1 is IBP. Each costs a pass of bounds for SABR. Default: 13 from 0 to 1.",
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "attack_eps_factor",
        None,
        "Radius of the attack of training losses, and of SABR's ball, over that of the "
        "bounds. Published: 2.1 on CIFAR-10 at 2/255. Default: 1.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "method",
        None,
        list(survey.METHODS),
        "Asks for tuning statistics of a method.",
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "coefficient", None, "Of --method, in [0, 1].", flag_values=flag_values
    )


if __name__ == "__main__":
    run()
