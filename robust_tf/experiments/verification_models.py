"""Classifiers that programs of verification read: as they are deployed, unconverted."""

import dataclasses
import hashlib
import json
import os
import pathlib

import keras
import numpy as np

from robust_tf import data as datasets
from robust_tf.errors import InputError
from robust_tf.experiments import model_files
from robust_tf.interchange import matlab_models
from robust_tf.interchange import onnx_reader


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A classifier, and what tells it from others.

    Attributes:
        name: the path that was given.
        model: as it is deployed; `robust_tf.convert` takes it.
        digest: SHA-256, in hex, of a `.keras` model's layers and weights, or of the
            bytes of an `.onnx` or `.mat` file.
        network: what an `.onnx` file says of its inputs; None for other models.
    """

    name: str
    model: keras.Model
    digest: str
    network: onnx_reader.OnnxNetwork | None = None

    def inputs(self, images: datasets.LabelledImages, indices) -> np.ndarray:
        """Returns images as inputs of the model, float64, `[n, *shape]`.

        Args:
            images: that `check_fit` has accepted.
            indices: of the images.
        """
        pixels = images.floats(np.asarray(indices)).astype("float64")
        return pixels.reshape(len(pixels), *self.model.inputs[0].shape[1:])

    def check_fit(self, images: datasets.LabelledImages) -> None:
        """Checks that images can be inputs, and labels classes.

        Grey images may be flat inputs. Colour images may not: the order of their
        channels would be a guess.

        Raises:
            InputError: naming both shapes and both numbers of classes.
        """
        shape = tuple(self.model.inputs[0].shape[1:])
        classes = self.model.outputs[0].shape[-1]
        held = images.image_shape
        is_grey = held[-1] == 1 and int(np.prod(shape)) == int(np.prod(held))
        if (shape != held and not is_grey) or classes != images.num_classes:
            raise InputError(
                f"Model '{self.name}' takes inputs of shape {shape} and knows "
                f"{classes} classes. Received: '{images.name}', of shape {held} and "
                f"{images.num_classes} classes. Give another --dataset or --model."
            )


def load_classifier(path: str | os.PathLike, box=(0.0, 1.0)) -> Classifier:
    """Reads a `.keras` or `.mat` file, a run folder or an `.onnx` file (`.onnx.gz`).

    Args:
        path: of it.
        box: where an `.onnx` network is compared with ONNX Runtime, see `read_onnx`.

    Raises:
        InputError: for files that are missing or cannot be read.
    """
    path = pathlib.Path(path)
    if path.name.endswith((".onnx", ".onnx.gz")):
        network = onnx_reader.read_onnx(path, box)
        return Classifier(str(path), network.model, _bytes_digest(path), network)
    file = model_files.model_file(path)
    if file.suffix == model_files.MATLAB_SUFFIX:
        model = matlab_models.read_model(file)
        return Classifier(str(path), model, _bytes_digest(file))
    try:
        model = keras.models.load_model(file, compile=False)
    except (ValueError, TypeError, OSError) as error:
        raise InputError(
            f"'{file}' could not be read as a Keras model. Received: {error}. Save it "
            "by `model.save('name.keras')`."
        ) from error
    return Classifier(str(path), model, model_digest(model))


def _bytes_digest(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def model_digest(model: keras.Model) -> str:
    """Returns the SHA-256, in hex, of a model's layers and weights.

    The same for copies of one file; compiling a model does not change it.
    """
    architecture = json.loads(model.to_json())
    architecture.pop("compile_config", None)
    digest = hashlib.sha256(json.dumps(architecture, sort_keys=True).encode())
    for weight in model.get_weights():
        digest.update(f"{weight.dtype}{weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()
