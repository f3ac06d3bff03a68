r"""Exports a classifier for programs without this library, or reads published weights.

robust-tf-export --model=runs/mnist --method=crown-ibp --out=exported/mnist/1
robust-tf-export --model=runs/mnist_gaussian --n=10000 --out=exported/smoothed/1
robust-tf-export --model=runs/mnist --out=mnist.onnx
robust-tf-export --state_dict=WEIGHTS.pth --input_shape=32,32,3 \
    --gin_file=gin_configs/experiments/cifar10_eps8_255_fast_ibp.gin --out=cnn7.keras

`--kind` says what is written. `certified`: a SavedModel that needs TensorFlow alone,
with the signatures `predict`, from images in [0, 1] to `logits`; `certify`, from images
and an Linf radius in pixels in [0, 1] to `prediction`, `lower_bounds` of its margins
and `certified`; `certified_radius`, from images to `prediction` and `radius`.

`smoothed`: another, with `certify`, from images and a seed to `prediction` (-1
abstains), `radius` (L2, in pixels in [0, 1]) and `counts`; `predict`, the same without
a radius; `logits`, of the base classifier. Each certificate holds with probability 1 -
alpha. The noise of an image depends on the seed and its place in the batch.

`onnx`: an ONNX file of the plain classifier, compared with ONNX Runtime. `keras`: a
`.keras` file, which every program of this library takes.

Without `--kind` the ending of `--out` decides, .onnx or .keras; else there is noise,
by `--sigma` or of the run folder, and the kind is `smoothed`; else it is `certified`.
A record of the export lies in the folder, or beside the file as `OUT.json`.
"""

import hashlib
import pathlib
import sys

import gin
from absl import flags
from absl import logging

from robust_tf import files
from robust_tf.errors import InputError
from robust_tf.experiments import certification_warnings
from robust_tf.experiments import command_line
from robust_tf.experiments import configuration
from robust_tf.experiments import verification_models
from robust_tf.interchange import certified_classifier
from robust_tf.interchange import onnx_writer
from robust_tf.interchange import smoothed_model
from robust_tf.interchange import state_dicts
from robust_tf.interchange import torch_weights
from robust_tf.smoothing import SmoothedClassifier

_FLAGS = flags.FLAGS
_RECORD = "robust_tf_export.json"
_ARCHITECTURE = "robust_tf.experiments.train.train.architecture"
_SUFFIXES = {"onnx": ".onnx", "keras": ".keras"}  # Of the kinds that are files.
# Flags that say something of one kind only.
_OF_KINDS = {
    "certified": ("method", "norm", "largest_radius", "radius_steps"),
    "smoothed": ("sigma", "n0", "n", "alpha"),
    "onnx": (),
    "keras": (),
}
_OF_STATE_DICTS = ("gin_file", "gin_param", "input_shape")


def main(argv):
    """Exports what the flags ask for, with a record of it."""
    del argv
    _check_sources()
    out, sigma = pathlib.Path(_FLAGS.out), _sigma()
    kind = _kind(out, sigma)
    _check_flags(kind, out)
    if kind == "smoothed" and sigma is None:
        raise InputError(
            "`--sigma` must give the standard deviation of the noise, in pixels in "
            "[0, 1], such as 0.25. Received: none, and the run folder has none"
        )
    classifier = _classifier()
    if kind == "certified":
        record = _export_certified(out, classifier.model)
    elif kind == "smoothed":
        record = _export_smoothed(out, classifier.model, sigma)
    else:
        record = _export_file(kind, out, classifier.model)
    source = {"model": classifier.name, "model_digest": classifier.digest}
    record = {**source, "kind": kind, **record}
    record["environment"] = command_line.environment(sys.argv)
    is_file = kind in _SUFFIXES
    place = out.with_name(f"{out.name}.json") if is_file else out / _RECORD
    files.write_json(place, record)
    logging.info("The %s export is in '%s'.", kind, out)


def _check_sources():
    if bool(_FLAGS.model) == bool(_FLAGS.state_dict):
        raise InputError(
            "`--model` must name a `.keras` or `.mat` file, a run folder or an `.onnx` "
            "file; or `--state_dict` a file of PyTorch weights. Received: "
            + ("both" if _FLAGS.model else "none")
        )
    if not _FLAGS.out:
        raise InputError(
            "`--out` must name the folder to make, or the file. Received: none"
        )
    if _FLAGS.model:
        _refuse_given(_OF_STATE_DICTS, "they belong to `--state_dict`")


def _kind(out, sigma) -> str:
    """What to write: as told, or by what there is."""
    if _FLAGS.kind:
        return _FLAGS.kind
    by_suffix = {suffix: kind for kind, suffix in _SUFFIXES.items()}
    return by_suffix.get(out.suffix) or ("certified" if sigma is None else "smoothed")


def _sigma() -> float | None:
    """The standard deviation of the noise, by the flag or of the run folder."""
    if _FLAGS.sigma is not None or not _FLAGS.model:
        return _FLAGS.sigma
    return certification_warnings.training_sigma(_FLAGS.model)


def _check_flags(kind, out):
    """Refuses flags that contradict the kind."""
    told = "as told" if _FLAGS.kind else "as no --kind is given"
    for other in _OF_KINDS.keys() - {kind}:
        reason = f"they belong to `--kind={other}`, and the kind, {told}, is {kind!r}"
        _refuse_given(_OF_KINDS[other], reason)
    if kind == "certified" and _FLAGS.norm != "inf":
        raise InputError(
            f"`--norm` must be inf: certificates are for Linf balls. Received: "
            f"{_FLAGS.norm!r}"
        )
    suffix = _SUFFIXES.get(kind, "")
    if suffix != (out.suffix if out.suffix in _SUFFIXES.values() else ""):
        wanted = f"a file that ends in {suffix}" if suffix else "a folder"
        raise InputError(
            f"`--out` of the kind {kind!r} must name {wanted}. Received: '{out}'"
        )


def _refuse_given(names, reason):
    given = [f"--{name}" for name in names if _FLAGS[name].present]
    if given:
        raise InputError(
            f"Received: {', '.join(given)}; {reason}. Leave out one or the other."
        )


def _classifier() -> verification_models.Classifier:
    """The classifier of `--model`, or with the weights of `--state_dict`."""
    if _FLAGS.model:
        return verification_models.load_classifier(_FLAGS.model)
    state = torch_weights.read_state_dict(_FLAGS.state_dict)
    model = _architecture()(_input_shape(), state_dicts.num_classes(state))
    state_dicts.load_state_dict(model, state)
    content = pathlib.Path(_FLAGS.state_dict).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return verification_models.Classifier(_FLAGS.state_dict, model, digest)


def _architecture():
    """The architecture that the gin files choose: a function to models."""
    configuration.parse(_FLAGS.gin_file, _FLAGS.gin_param)
    if not configuration.is_bound(_ARCHITECTURE):
        raise InputError(
            "`--gin_file` must choose the architecture of `--state_dict`, such as "
            "gin_configs/architectures/cnn7.gin, or an experiment, which normalises "
            f"pixels as published. Received: {_FLAGS.gin_file or 'none'}"
        )
    return gin.query_parameter(_ARCHITECTURE).scoped_configurable_fn


def _input_shape() -> tuple[int, ...]:
    sizes = _FLAGS.input_shape or []
    if len(sizes) != 3 or not all(size.isdecimal() and int(size) for size in sizes):
        raise InputError(
            "`--input_shape` must be the height, width and channels of an image, such "
            f"as 28,28,1. Received: {','.join(sizes) or 'none'}"
        )
    return tuple(map(int, sizes))


def _export_certified(out, model) -> dict:
    options = {
        "method": _FLAGS.method,
        "upper": command_line.parse_epsilon(_FLAGS.largest_radius),
        "steps": _FLAGS.radius_steps,
    }
    certified_classifier.export_certified(out, model, **options)
    return {"norm": "inf", **options}


def _export_smoothed(out, model, sigma) -> dict:
    options = {name: _FLAGS[name].value for name in ("n0", "n", "alpha")}
    smoothed = SmoothedClassifier(model, sigma)
    smoothed_model.export_smoothed(out, smoothed, **options)
    return {"sigma": sigma, **options}


def _export_file(kind, out, model) -> dict:
    if out.exists():
        raise InputError(f"'{out}' exists already. Give the name of a new file.")
    if not out.parent.is_dir():
        raise InputError(f"There is no folder '{out.parent}' for `--out`. Create it.")
    if kind == "onnx":
        onnx_writer.write_onnx(model, out, free_batch=True)
    else:
        temporary = out.with_name(f".{out.name}.tmp.keras")
        model.save(temporary)
        files.write_atomically(out, temporary.read_bytes())
        temporary.unlink()
    content = out.read_bytes()
    return {"out_digest": hashlib.sha256(content).hexdigest()}


def run():
    """Entry point of the console script."""
    define_flags()
    command_line.run(main)


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program."""
    _define_sources(flag_values)
    flags.DEFINE_string(
        "out",
        None,
        "The folder of the SavedModel, made here, or the .onnx or .keras file.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "kind",
        None,
        list(_OF_KINDS),
        "What is written. Default: by the ending of --out, else `smoothed` where there "
        "is noise, else `certified`.",
        flag_values=flag_values,
    )
    _define_certified(flag_values)
    _define_smoothed(flag_values)


def _define_sources(flag_values):
    strings = {
        "model": "A `.keras` or `.mat` file, a run folder or an `.onnx` file.",
        "state_dict": "Weights of a PyTorch network: a file by `torch.save`, read as "
        "weights only, or an `.npz` file. Needs --gin_file and --input_shape.",
    }
    for name, meaning in strings.items():
        flags.DEFINE_string(name, None, meaning, flag_values=flag_values)
    lists = {
        "gin_file": "A gin file that chooses the architecture of --state_dict. Repeat "
        "the flag for more; later files win.",
        "gin_param": "One binding, NAME=value, that wins over the files.",
    }
    for name, meaning in lists.items():
        flags.DEFINE_multi_string(name, [], meaning, flag_values=flag_values)
    flags.DEFINE_list(
        "input_shape",
        None,
        "Height, width and channels of the images of --state_dict, such as 28,28,1.",
        flag_values=flag_values,
    )


def _define_certified(flag_values):
    flags.DEFINE_enum(
        "method",
        "crown-ibp",
        list(certified_classifier.METHODS),
        "How margins are bounded.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "norm", "inf", "Norm of the balls: inf alone.", flag_values=flag_values
    )
    flags.DEFINE_string(
        "largest_radius",
        "1",
        "Where the search of `certified_radius` begins, in pixels in [0, 1]: a number "
        "or a fraction, such as 0.5 or 64/255.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "radius_steps",
        16,
        "How many radii that search tries; each halves what it is off by.",
        flag_values=flag_values,
    )


def _define_smoothed(flag_values):
    flags.DEFINE_float(
        "sigma",
        None,
        "Standard deviation of the noise, in pixels in [0, 1]. Default: that of the "
        "run folder.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "n0", 100, "Samples that choose the class.", flag_values=flag_values
    )
    flags.DEFINE_integer(
        "n", 10_000, "Samples that bound its probability.", flag_values=flag_values
    )
    flags.DEFINE_float(
        "alpha", 0.001, "Failure probability of each.", flag_values=flag_values
    )


if __name__ == "__main__":
    run()
