"""What the programs share: flags, exit status, and the record of where they ran."""

import importlib.metadata
import math
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

from robust_tf.data.damage import input_error_within
from robust_tf.errors import InputError
from robust_tf.experiments import evaluate
from robust_tf.training.workers import WorkerLostError

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # What shells report for a process that Ctrl-C has ended.

_REPEATED = {
    "gin_file": (
        "A gin file with the configuration, such as gin_configs/experiments/NAME.gin. "
        "Repeat the flag for more; later files win."
    ),
    "gin_param": (
        "One binding, NAME=value, that wins over the files. Repeat the flag for more; "
        "later ones win."
    ),
}
_STRINGS = {
    "workdir": "The folder that holds all that the run writes.",
    "data_dir": "The folder of TensorFlow Datasets to read from.",
    "epsilon": (
        "Radius of the perturbations, in pixel values in [0, 1]: a number or a "
        "fraction, such as 0.1 or 8/255. Default: the configuration's."
    ),
    "norm": (
        "Norm of the perturbations: inf, or a number of at least 1. Default: the "
        "configuration's."
    ),
}

_SEED_OF_TRAINING = "experiments.settings.Run.seed"

# `--help` shows the flags below as those of the program that asks for them.
flags.disclaim_key_flags()


def define_common_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags that all programs understand alike."""
    for name, meaning in _REPEATED.items():
        flags.DEFINE_multi_string(name, [], meaning, flag_values=flag_values)
    for name, meaning in _STRINGS.items():
        flags.DEFINE_string(name, None, meaning, flag_values=flag_values)
    flags.DEFINE_integer(
        "seed",
        None,
        "Seed of all that is random. Default: the configuration's.",
        flag_values=flag_values,
    )


def parse_epsilon(text: str) -> float:
    """Returns the radius that `--epsilon` gives: "0.1" or "8/255".

    Raises:
        InputError: for anything but a finite number of at least 0, or a fraction.
    """
    try:
        numerator, denominator = map(float, f"{text}/1".split("/")[:2])
        value = numerator / denominator
        is_valid = all(map(math.isfinite, (numerator, denominator, value)))
        is_valid = is_valid and str(text).count("/") <= 1
    except (ValueError, ZeroDivisionError):
        is_valid = False
    if not is_valid or value < 0.0:
        raise InputError(
            "`--epsilon` must be a number of at least 0, or a fraction of two, in "
            f"pixel values in [0, 1]. Received: {text!r}. Write, for example, 0.1 or "
            "8/255."
        )
    return value


def parse_numbers(flag: str, text: str) -> dict[str, int | float]:
    """Returns the numbers of a list such as "0,0.1,1", by how each is written.

    Args:
        flag: that holds the list, for messages.
        text: numbers with commas in between.

    Raises:
        InputError: for an empty list, what is no finite number, or a number given
            twice.
    """
    numbers = {}
    for entry in text.split(","):
        written = entry.strip()
        try:
            value = float(written)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(
                f"`--{flag}` must be numbers with commas in between, such as "
                f"0.01,0.1,0.5. Received: {written!r} in {text!r}"
            )
        if value in numbers.values():
            raise InputError(
                f"`--{flag}` must name each number once. Received: {written} twice, "
                f"in {text!r}"
            )
        numbers[written] = int(written) if written.isdecimal() else value
    return numbers


def bindings(
    flag_values: flags.FlagValues, seeds: Sequence[str] = (_SEED_OF_TRAINING,)
) -> list[str]:
    """Returns the common flags that were given, as bindings that win over files.

    Args:
        flag_values: parsed.
        seeds: what `--seed` is the seed of, by names within robust_tf.
    """
    given = {
        "regions.Threat.epsilon": _given_epsilon(flag_values.epsilon),
        "regions.Threat.norm": flag_values.norm,
        "experiments.settings.Data.data_dir": flag_values.data_dir,
    }
    return as_bindings(given | dict.fromkeys(seeds, flag_values.seed))


def define_model_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of programs that measure trained models."""
    flags.DEFINE_multi_string(
        "model",
        [],
        "A `.keras` or `.mat` file, a run folder, or a folder of a family or of a "
        "cascade. Repeat the flag for several.",
        flag_values=flag_values,
    )
    define_example_flags(flag_values)


def define_example_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags that choose examples of a data set."""
    flags.DEFINE_string(
        "dataset",
        None,
        "digits, or a TFDS name. Default: the run folder's.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "split",
        None,
        ["train", "validation", "test"],
        "Which images. Default: test. For a validation split cut from the training "
        "split, bind settings.Data.validation_share as in training.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "start",
        None,
        "Index of the first example. Default: 0.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "count", None, "How many examples. Default: all.", flag_values=flag_values
    )


def model_bindings(flag_values: flags.FlagValues) -> list[str]:
    """Returns the flags of `define_model_flags` that were given, as bindings.

    Raises:
        InputError: where neither a flag, a gin file nor the models name the data set.
    """
    dataset = flag_values.dataset
    if dataset is None and not flag_values.gin_file:
        known = {evaluate.dataset_of(path) for path in flag_values.model} - {None}
        if len(known) != 1:
            raise InputError(
                "`--dataset` must name the data set: the models are no run folders of "
                f"one data set. Received: --model={flag_values.model}"
            )
        (dataset,) = known
    return example_bindings(flag_values, dataset)


def example_bindings(flag_values: flags.FlagValues, dataset: str | None) -> list[str]:
    """Returns the flags of `define_example_flags` that were given, as bindings.

    Args:
        flag_values: parsed.
        dataset: name of the data set; None leaves it to the configuration.
    """
    return as_bindings(
        {
            "experiments.settings.Data.name": dataset,
            "experiments.settings.Examples.split": flag_values.split,
            "experiments.settings.Examples.start": flag_values.start,
            "experiments.settings.Examples.count": flag_values.count,
        }
    )


def as_bindings(given: Mapping[str, object]) -> list[str]:
    """Returns values by their names within robust_tf as bindings; None is no value."""
    return [
        f"robust_tf.{name} = {value!r}"
        for name, value in given.items()
        if value is not None
    ]


def _given_epsilon(text):
    return None if text is None else parse_epsilon(text)


def run(main: Callable[[list[str]], int | None], required: Sequence[str] = ()) -> None:
    """Parses the flags, calls `main(argv)`, and ends the process.

    The exit status is 0 for a run that is done, 1 for one that failed (its traceback
    is shown), 2 for bad input (one message), 130 for one interrupted by Ctrl-C.

    Args:
        main: the program. What it returns is the exit status; None means 0.
        required: names of flags that must be given.
    """
    flags.mark_flags_as_required(list(required))
    _describe_installed(main.__module__)
    app.run(lambda argv: guarded(main, argv), flags_parser=parse_flags)


def _describe_installed(module: str) -> None:
    """Lets `--help` of a console script say what the program's own file says.

    Absl describes the script that was started, which only imports the program.
    """
    if module == "__main__":
        return
    sys.modules["__main__"].__doc__ = sys.modules[module].__doc__
    for flag in flags.FLAGS.get_key_flags_for_module(module):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def parse_flags(
    argv: list[str], flag_values: flags.FlagValues = flags.FLAGS
) -> list[str]:
    """Returns the arguments that are no flags, the program's name first.

    Flags that are unknown, missing or of a wrong value end the process with status 2.
    """
    try:
        return flag_values(argv)
    except flags.Error as error:
        sys.exit(_refuse(f"{error} See --help."))
    except SystemExit as request:  # Absl ends `--help` with status 1.
        raise SystemExit(0) from request


def guarded(main: Callable[[list[str]], int | None], argv: list[str]) -> int | None:
    """Returns the exit status of `main(argv)`; failures of the run pass through."""
    if len(argv) > 1:
        return _refuse(
            f"Unexpected arguments: {' '.join(argv[1:])}. Values are given by flags, "
            "`--name=value`. See --help."
        )
    try:
        return main(argv)
    except (InputError, app.UsageError) as error:
        return _refuse(str(error))
    except tf.errors.InvalidArgumentError as error:
        found = input_error_within(error)
        if found is None:
            raise
        return _refuse(str(found))
    except WorkerLostError as error:
        print(f"{_program()}: {error}", file=sys.stderr, flush=True)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print(f"{_program()}: Interrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED


def environment(command_line: Sequence[str]) -> dict:
    """Returns what `environment.json` records: versions, commit, command, devices."""
    return {
        "command_line": list(command_line),
        "commit": _commit(),
        "versions": {
            "robust_tf": _version("robust_tf"),
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
        "platform": platform.platform(),
        "devices": [_device(device) for device in tf.config.list_physical_devices()],
    }


def _refuse(message: str) -> int:
    print(f"{_program()}: {message}", file=sys.stderr)
    return EXIT_BAD_INPUT


def _program() -> str:
    return os.path.basename(sys.argv[0])


def _version(distribution: str) -> str | None:
    """The installed version; None in a checkout that is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout, `-dirty` where files differ; None outside of one."""
    root = pathlib.Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def _device(device) -> dict:
    """The device's name in TensorFlow, and its model where one is known."""
    details = tf.config.experimental.get_device_details(device)
    return {"name": device.name, "model": details.get("device_name")}
