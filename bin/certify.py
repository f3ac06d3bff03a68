r"""Certifies the examples of a data set by randomized smoothing.

robust-tf-certify --model=runs/mnist_gaussian --data_dir=DATA --sigma=0.25 --skip=20 \
    --workdir=runs/mnist_gaussian_certified

The classifier that is certified is the smoothed one: the class that the model answers
most often under noise. Each radius, in the L2 norm unless --norm says otherwise, holds
with probability 1 - alpha. The same command goes on where it was interrupted. --workdir
gets certification.tsv (the format of Cohen et al.), certification_counts.jsonl,
certification.mat and certification_summary.json.

Examples are those of --split from --start on: --count consecutive ones, of these every
--skip-th, and of these the first --max.
"""

import pathlib
import sys

from absl import flags
from absl import logging

from robust_tf import files
from robust_tf.errors import InputError
from robust_tf.experiments import certification
from robust_tf.experiments import certification_warnings
from robust_tf.experiments import command_line
from robust_tf.experiments import configuration
from robust_tf.experiments import evaluate
from robust_tf.experiments.certification_settings import NORMS
from robust_tf.report import certification_tables

_FLAGS = flags.FLAGS
_DEFAULT_GIN_FILE = "gin_configs/base/certify.gin"
_CERTIFY = "experiments.certification.certify_dataset"
_SAMPLING = "experiments.certification_settings.Sampling"
_DATA_NAME = "experiments.settings.Data.name"
# Flags of this program, and what they bind.
_BOUND = {
    "sigma": f"{_CERTIFY}.sigma",
    "n0": f"{_CERTIFY}.n0",
    "n": f"{_CERTIFY}.n",
    "alpha": f"{_CERTIFY}.alpha",
    "skip": f"{_CERTIFY}.skip",
    "max": f"{_SAMPLING}.max_examples",
    "batch_size": f"{_SAMPLING}.batch_size",
    "full": f"{_SAMPLING}.full",
}


def main(argv):
    """Certifies what the flags ask for, and records what was used."""
    del argv
    _refuse_radius()
    norm = _norm()
    if _FLAGS.workdir is None:
        raise InputError(
            "`--workdir` must name the folder that holds all that is written. "
            "Received: none"
        )
    if not _FLAGS.model:
        raise InputError(
            "`--model` must name a `.keras` file, run folder or `.onnx` file. "
            "Received: none"
        )
    workdir = pathlib.Path(_FLAGS.workdir)
    _configure(norm)
    summary = configuration.call(
        certification.certify_dataset, workdir=workdir, model=_FLAGS.model
    )
    environment = command_line.environment(sys.argv)
    files.write_json(workdir / "certify_environment.json", environment)
    files.write_atomically(workdir / "certify_config.gin", configuration.operative())
    certification_tables.show([certification_tables.row_of(_FLAGS.model, summary)])
    logging.info("The records are in '%s'.", workdir)


def _configure(norm):
    """Makes gin files, flags and what the run folder tells the configuration."""
    given = {name: getattr(_FLAGS, flag) for flag, name in _BOUND.items()}
    given[f"{_SAMPLING}.norm"] = norm
    _parse(given, _FLAGS.dataset)
    found, dataset = dict(given), _FLAGS.dataset
    if not configuration.is_bound(f"robust_tf.{_BOUND['sigma']}"):
        found[_BOUND["sigma"]] = _sigma()
    if not configuration.is_bound(f"robust_tf.{_DATA_NAME}"):
        dataset = _dataset()
    if (found, dataset) != (given, _FLAGS.dataset):
        _parse(found, dataset)


def _parse(given, dataset):
    configuration.parse(
        _FLAGS.gin_file or [_DEFAULT_GIN_FILE],
        [
            *_FLAGS.gin_param,
            *command_line.bindings(_FLAGS, seeds=[f"{_CERTIFY}.seed"]),
            *command_line.as_bindings(given),
            *command_line.example_bindings(_FLAGS, dataset),
        ],
    )


def _sigma() -> float:
    sigma = certification_warnings.training_sigma(_FLAGS.model)
    if sigma is None:
        raise InputError(
            "`--sigma` must give the standard deviation of the noise, in pixels in "
            "[0, 1], such as 0.25. Received: none, and neither a gin file nor the run "
            "folder has one"
        )
    return sigma


def _dataset() -> str:
    dataset = evaluate.dataset_of(_FLAGS.model)
    if dataset is None:
        raise InputError(
            "`--dataset` must name the data set, such as mnist: neither a gin file nor "
            f"the model does. Received: --model={_FLAGS.model}"
        )
    return dataset


def _refuse_radius():
    if _FLAGS.epsilon is not None:
        raise InputError(
            "`--epsilon` means nothing here: radii are what comes out. Received: "
            f"--epsilon={_FLAGS.epsilon}. Leave it out; choose the noise by --sigma."
        )


def _norm() -> int | str | None:
    """The norm of the radii, as `Sampling` takes it."""
    norms = {str(norm): norm for norm in NORMS}
    if _FLAGS.norm is not None and _FLAGS.norm not in norms:
        raise InputError(
            f"`--norm` must be one of {', '.join(norms)}. Received: {_FLAGS.norm}"
        )
    return norms.get(_FLAGS.norm)


def run():
    """Entry point of the console script."""
    define_flags()
    command_line.run(main)


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program."""
    command_line.define_common_flags(flag_values)
    command_line.define_example_flags(flag_values)
    flags.DEFINE_string(
        "model",
        None,
        "A `.keras` file, a run folder or an `.onnx` file.",
        flag_values=flag_values,
    )
    numbers = {
        "sigma": "Standard deviation of the noise, in pixels in [0, 1]. Default: what "
        "the run folder was trained with.",
        "alpha": "Probability of a wrong certificate of an example. Default: 0.001.",
    }
    for name, meaning in numbers.items():
        flags.DEFINE_float(name, None, meaning, flag_values=flag_values)
    counts = {
        "n0": "Samples that select the class of an example. Default: 100.",
        "n": "Samples that estimate its probability. Default: 100000.",
        "skip": "Takes every so many of the examples. Default: 1.",
        "max": "How many examples are certified, at most. Default: all.",
        "batch_size": "Noisy copies at a time. Default: 1000.",
    }
    for name, meaning in counts.items():
        flags.DEFINE_integer(name, None, meaning, flag_values=flag_values)
    flags.DEFINE_boolean(
        "full",
        None,
        "Also estimates examples whose selected class is not their label; they add "
        "nothing to any number of the summary. Default: no.",
        flag_values=flag_values,
    )


if __name__ == "__main__":
    run()
