r"""Counts how a classifier votes under noise on each training image: soft targets.

python -m bin.soft_targets --model=runs/mnist_sigma0.25_gaussian --data_dir=DATA \
    --workdir=runs/mnist_soft_targets

CAT-RS trains with them: settings.Data.soft_targets = '.../soft_targets.npz'. The same
command goes on where it was interrupted.
"""

import pathlib
import sys

from absl import flags
from absl import logging

from robust_tf import files
from robust_tf.errors import InputError
from robust_tf.experiments import certification_warnings
from robust_tf.experiments import command_line
from robust_tf.experiments import configuration
from robust_tf.experiments import evaluate
from robust_tf.experiments import soft_targets

_FLAGS = flags.FLAGS
_DEFAULT_GIN_FILE = "gin_configs/base/soft_targets.gin"
_COMPUTE = "experiments.soft_targets.compute_soft_targets"
# What else a run folder or a gin file tells.
_SIGMA, _DATA_NAME = f"{_COMPUTE}.sigma", "experiments.settings.Data.name"


def main(argv):
    """Counts what the flags ask for, and records what was used."""
    del argv
    if not _FLAGS.model:
        raise InputError(
            "`--model` must name a `.keras` file, run folder or `.onnx` file. "
            "Received: none"
        )
    _refuse_radius()
    _configure()
    workdir = pathlib.Path(_FLAGS.workdir)
    environment = command_line.environment(sys.argv)

    def record():
        files.write_json(workdir / "soft_targets_environment.json", environment)
        files.write_atomically(
            workdir / "soft_targets_config.gin", configuration.operative()
        )

    summary = configuration.call(
        soft_targets.compute_soft_targets,
        workdir=workdir,
        model=_FLAGS.model,
        on_accepted=record,
    )
    logging.info(
        "The most frequent class is the label of %.2f %% of %d images.",
        100.0 * summary["accuracy"],
        summary["examples"],
    )
    logging.info("The targets are in '%s'.", workdir / soft_targets.TARGETS)


def _configure():
    """Makes gin files, flags and what the run folder tells the configuration."""
    given = {
        _SIGMA: _FLAGS.sigma,
        f"{_COMPUTE}.n": _FLAGS.n,
        f"{_COMPUTE}.batch_size": _FLAGS.batch_size,
        _DATA_NAME: _FLAGS.dataset,
    }
    _parse(given)
    found = dict(given)
    for name, known, flag, meaning in (
        (_SIGMA, certification_warnings.training_sigma, "sigma", "the noise"),
        (_DATA_NAME, evaluate.dataset_of, "dataset", "the data set"),
    ):
        if not configuration.is_bound(f"robust_tf.{name}"):
            found[name] = known(_FLAGS.model)
            if found[name] is None:
                raise InputError(
                    f"`--{flag}` must give {meaning}: neither a gin file nor the model "
                    f"does. Received: --model={_FLAGS.model}"
                )
    if found != given:
        _parse(found)


def _parse(given):
    configuration.parse(
        _FLAGS.gin_file or [_DEFAULT_GIN_FILE],
        [
            *_FLAGS.gin_param,
            *command_line.bindings(_FLAGS, seeds=[f"{_COMPUTE}.seed"]),
            *command_line.as_bindings(given),
        ],
    )


def _refuse_radius():
    for name in ("epsilon", "norm"):
        value = getattr(_FLAGS, name)
        if value is not None:
            raise InputError(
                f"`--{name}` means nothing here, as nothing is attacked. Received: "
                f"--{name}={value}. Leave it out, and choose the noise by --sigma."
            )


def run():
    """Entry point of the console script."""
    define_flags()
    command_line.run(main, required=["workdir"])


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program."""
    command_line.define_common_flags(flag_values)
    texts = {
        "model": "A `.keras` file, a run folder or an `.onnx` file.",
        "dataset": "digits, or a TFDS name. Default: the run folder's.",
    }
    for name, meaning in texts.items():
        flags.DEFINE_string(name, None, meaning, flag_values=flag_values)
    flags.DEFINE_float(
        "sigma",
        None,
        "Standard deviation of the noise, in pixels in [0, 1]. Default: what the run "
        "folder was trained with.",
        flag_values=flag_values,
    )
    counts = {
        "n": "Samples for each image. Default: 10000.",
        "batch_size": "Noisy copies at a time. Default: 1000.",
    }
    for name, meaning in counts.items():
        flags.DEFINE_integer(name, None, meaning, flag_values=flag_values)


if __name__ == "__main__":
    run()
