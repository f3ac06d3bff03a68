r"""Exports a smoothed classifier as a SavedModel, which needs TensorFlow alone.

robust-tf-export --model=runs/mnist_gaussian --n=10000 --out=exported/mnist

Its signatures: `certify`, from images in [0, 1] and a seed to `prediction` (-1
abstains), `radius` (L2, in pixels in [0, 1]) and `counts`; `predict`, the same without
a radius; `logits`, of the base classifier. Each certificate holds with probability 1 -
alpha. The noise of an image depends on the seed and its place in the batch.
"""

import pathlib
import sys

from absl import flags
from absl import logging

from robust_tf import files
from robust_tf.errors import InputError
from robust_tf.experiments import certification_warnings
from robust_tf.experiments import command_line
from robust_tf.experiments import verification_models
from robust_tf.interchange import smoothed_model
from robust_tf.smoothing import SmoothedClassifier

_FLAGS = flags.FLAGS
_RECORD = "robust_tf_export.json"


def main(argv):
    """Exports what the flags ask for, with a record of it in the folder."""
    del argv
    for name, meaning in {
        "model": "a `.keras` file, run folder or `.onnx` file",
        "out": "the folder to make",
    }.items():
        if not _FLAGS[name].value:
            raise InputError(f"`--{name}` must name {meaning}. Received: none")
    classifier = verification_models.load_classifier(_FLAGS.model)
    sigma = _FLAGS.sigma
    if sigma is None:
        sigma = certification_warnings.training_sigma(_FLAGS.model)
    if sigma is None:
        raise InputError(
            "`--sigma` must give the standard deviation of the noise, in pixels in "
            "[0, 1], such as 0.25. Received: none, and the run folder has none"
        )
    options = {name: _FLAGS[name].value for name in ("n0", "n", "alpha")}
    smoothed = SmoothedClassifier(classifier.model, sigma)
    out = pathlib.Path(_FLAGS.out)
    smoothed_model.export_smoothed(out, smoothed, **options)
    record = {"model": _FLAGS.model, "model_digest": classifier.digest, "sigma": sigma}
    record |= {**options, "environment": command_line.environment(sys.argv)}
    files.write_json(out / _RECORD, record)
    logging.info("The SavedModel is in '%s'.", out)


def run():
    """Entry point of the console script."""
    define_flags()
    command_line.run(main)


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program."""
    flags.DEFINE_string(
        "model",
        None,
        "A `.keras` file, a run folder or an `.onnx` file.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "out", None, "The folder of the SavedModel; made here.", flag_values=flag_values
    )
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
