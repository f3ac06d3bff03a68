r"""Verifies the examples of a data set, or a network against a VNN-LIB property.

robust-tf-verify --model=runs/mnist --data_dir=DATA --epsilon=0.1 --count=100 \
    --timeout=60 --workdir=runs/mnist_verified
robust-tf-verify --model=NET.onnx --property=SPEC.vnnlib --timeout=60 --witness=FILE

Each example is VERIFIED (proved robust), FALSIFIED (with a counterexample), or without
an answer. The same command goes on where it was interrupted. A property is `sat` (there
is a counterexample), `unsat` (proved), `unknown` or `timeout`: the last line printed.

Several machines share the work by --shard=1/8 to --shard=8/8, each with a --workdir of
its own; --merge=DIR for each of these folders joins their records in --workdir.
"""

import pathlib
import sys

from absl import flags
from absl import logging

from robust_tf import files
from robust_tf.errors import InputError
from robust_tf.experiments import command_line
from robust_tf.experiments import configuration
from robust_tf.experiments import evaluate
from robust_tf.experiments import verification
from robust_tf.experiments import verification_merge
from robust_tf.experiments import verification_property
from robust_tf.interchange import witness
from robust_tf.report import tables
from robust_tf.verification.result import ContradictionError

_FLAGS = flags.FLAGS
_DEFAULT_GIN_FILE = "gin_configs/base/verify.gin"
_DATASET = "experiments.verification.verify_dataset"
_PROPERTY = "experiments.verification_property.verify_property"
_DATA_NAME = "experiments.settings.Data.name"
_EPSILON = "regions.Threat.epsilon"
# Flags that say nothing in the other modes.
_OF_DATASETS = ("dataset", "split", "start", "count", "epsilon", "norm", "data_dir")
_OF_RUNS = ("shard", "retry")


def main(argv):
    """Does what the flags ask for; a contradiction ends with status 1."""
    del argv
    try:
        if _FLAGS.merge:
            _merge()
        elif _FLAGS.property is not None:
            _verify_property()
        else:
            _verify_dataset()
    except ContradictionError as error:
        logging.error("%s", error)
        return command_line.EXIT_FAILED
    return None


def _verify_dataset():
    _refuse_given(["witness"], "without --property")
    _refuse_given(["allow_missing"], "without --merge")
    model, workdir = _model(), _workdir()
    shard = None if _FLAGS.shard is None else verification.parse_shard(_FLAGS.shard)
    _parse(_DATASET, command_line.example_bindings(_FLAGS, _FLAGS.dataset))
    if not configuration.is_bound(f"robust_tf.{_EPSILON}"):
        raise InputError(
            "`--epsilon` must give the radius of the perturbations, such as 0.1 or "
            "8/255. Received: none, and none in a gin file"
        )
    if not configuration.is_bound(f"robust_tf.{_DATA_NAME}"):
        dataset = _dataset_of(model)
        _parse(_DATASET, command_line.example_bindings(_FLAGS, dataset))
    summary = configuration.call(
        verification.verify_dataset,
        workdir=workdir,
        model=model,
        retry=tuple(filter(None, (_FLAGS.retry or "").split(","))),
        shard=shard,
    )
    _record(workdir)
    tables.show_verification([{"name": model} | summary])
    logging.info("The records are in '%s'.", workdir)


def _verify_property():
    _refuse_given([*_OF_DATASETS, *_OF_RUNS, "allow_missing"], "with --property")
    model = _model()
    if _FLAGS.witness is not None:
        _check_folder(_FLAGS.witness)
    _parse(_PROPERTY, [])
    answer = configuration.call(
        verification_property.verify_property,
        model=model,
        property_file=_FLAGS.property,
    )
    if _FLAGS.workdir is not None:
        workdir = _workdir()
        workdir.mkdir(parents=True, exist_ok=True)
        record = {"model": model, "property": _FLAGS.property, "result": answer.result}
        record |= {"seconds": round(answer.seconds, 3), "parts": answer.parts}
        files.write_json(workdir / "property.json", record)
        _record(workdir)
    _write_witness(answer)
    print(answer.result, flush=True)


def _merge():
    others = ("property", "witness", *_OF_DATASETS, *_OF_RUNS, "timeout")
    _refuse_given([*others, "model"], "with --merge")
    workdir = _workdir()
    summary = verification_merge.merge(workdir, _FLAGS.merge, _FLAGS.allow_missing)
    environment = command_line.environment(sys.argv)
    files.write_json(workdir / "verify_environment.json", environment)
    tables.show_verification([{"name": str(workdir)} | summary])


def _parse(function, bindings):
    """Makes gin files, flags and bindings the configuration."""
    if _FLAGS.timeout is not None and not _FLAGS.timeout > 0.0:
        raise InputError(
            "`--timeout` must be a number of seconds above 0. Received: "
            f"{_FLAGS.timeout:g}"
        )
    given = {f"{function}.timeout_s": _FLAGS.timeout}
    configuration.parse(
        _FLAGS.gin_file or [_DEFAULT_GIN_FILE],
        [
            *_FLAGS.gin_param,
            *command_line.bindings(_FLAGS, seeds=[f"{function}.seed"]),
            *command_line.as_bindings(given),
            *bindings,
        ],
    )


def _record(workdir):
    environment = command_line.environment(sys.argv)
    files.write_json(workdir / "verify_environment.json", environment)
    files.write_atomically(workdir / "verify_config.gin", configuration.operative())


def _write_witness(answer):
    """For "sat" the counterexample; an older one must not outlive its answer."""
    if _FLAGS.witness is None:
        return
    if answer.result == "sat" or pathlib.Path(_FLAGS.witness).exists():
        witness.write_result(
            _FLAGS.witness, answer.result, answer.inputs, answer.outputs
        )


def _model() -> str:
    if len(_FLAGS.model) != 1:
        raise InputError(
            "`--model` must name one `.keras`, `.onnx` or `.mat` file, or run folder. "
            f"Received: {', '.join(_FLAGS.model) or 'none'}"
        )
    return _FLAGS.model[0]


def _workdir() -> pathlib.Path:
    if _FLAGS.workdir is None:
        raise InputError(
            "`--workdir` must name the folder that holds all that is written. "
            "Received: none"
        )
    return pathlib.Path(_FLAGS.workdir)


def _dataset_of(model) -> str:
    dataset = evaluate.dataset_of(model)
    if dataset is None:
        raise InputError(
            "`--dataset` must name the data set, such as mnist: neither a gin file nor "
            f"the model does. Received: --model={model}. For a property, give "
            "--property."
        )
    return dataset


def _check_folder(path):
    folder = pathlib.Path(path).resolve().parent
    if not folder.is_dir():
        raise InputError(
            f"`--witness` must name a file in a folder that exists. Received: '{path}'."
            " Make the folder first."
        )


def _refuse_given(names, clause):
    for name in names:
        value = _FLAGS[name].value
        if value not in (None, False, []):
            raise InputError(
                f"`--{name}` means nothing {clause}. Received: --{name}={value}. Leave "
                "it out."
            )


def run():
    """Entry point of the console script."""
    define_flags()
    command_line.run(main)


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program."""
    command_line.define_common_flags(flag_values)
    command_line.define_example_flags(flag_values)
    flags.DEFINE_multi_string(
        "model",
        [],
        "A `.keras`, `.onnx` or `.mat` file, or a run folder.",
        flag_values=flag_values,
    )
    flags.DEFINE_multi_string(
        "merge",
        [],
        "The --workdir of a shard. Repeat the flag for all of them.",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "allow_missing",
        False,
        "Lets --merge join shards that have not tried all examples.",
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "timeout",
        None,
        "Seconds for each example, or for the whole property. Default: 60.",
        flag_values=flag_values,
    )
    texts = {
        "retry": "Verdicts to try again with more --timeout, such as timeout,unknown.",
        "shard": "Which part of the examples, such as 2/8: the second of eight.",
        "property": "A VNN-LIB file that the model is decided against.",
        "witness": "The file for the counterexample of a property that is `sat`.",
    }
    for name, meaning in texts.items():
        flags.DEFINE_string(name, None, meaning, flag_values=flag_values)


if __name__ == "__main__":
    run()
