"""What readers of certified accuracies should know of a model and a data set."""

import json
import math
import pathlib
from collections.abc import Mapping

import keras

from robust_tf import data as datasets
from robust_tf import layers
from robust_tf.experiments.verification_models import Classifier

# Published recipes of smoothing begin with `(x - mean) / deviation` on these sets
# (arXiv:1902.02918; arXiv:2001.02378 goes without).
_NORMALISED = ("cifar10", "imagenet2012", "imagenet_resized")
_NORMALISING = (
    keras.layers.Normalization,
    keras.layers.Rescaling,
    layers.ElementwiseAffine,
)
_RUN_MODEL = "model.keras"


def of(
    classifier: Classifier, images: datasets.LabelledImages, values: Mapping
) -> list[str]:
    """Returns warnings, none where all is as published.

    Args:
        classifier: that is smoothed.
        images: that are certified.
        values: that decide about certificates, of them `sigma`, `noise` and, where they
            were asked for, `radii`.
    """
    found, sigma = [], values["sigma"]
    trained = training_sigma(classifier.name)
    if trained is not None and not math.isclose(trained, sigma, rel_tol=1e-6):
        found.append(
            f"The model was trained with noise of sigma {trained:g}, and is certified "
            f"with {sigma:g}: it may do worse than with its own."
        )
    if trained is not None and "gaussian" not in values["noise"]:
        found.append(
            "The model was trained with Gaussian noise, and is certified with "
            f"{values['noise']} noise: it may do worse than with its own."
        )
    if "radii" in values:
        found.append(
            f"Only the radii {values['radii']} were asked for: each radius on record "
            "is the greatest of them that is certified, and the ACR a lower bound."
        )
    name = images.name.partition(":")[0].partition("/")[0]
    if name in _NORMALISED and not _normalises(classifier.model):
        found.append(
            f"The model has no layer that normalises its inputs, which published "
            f"recipes for '{name}' have: if it was trained on normalised images, it "
            "gets others here."
        )
    return found


def training_sigma(path: str) -> float | None:
    """Returns the sigma that a run folder was trained with; None where none is known.

    Args:
        path: of a run folder, or of its `model.keras`.
    """
    path = pathlib.Path(path)
    folder = path.parent if path.name == _RUN_MODEL else path
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    sigma = summary.get("sigma") if isinstance(summary, dict) else None
    return float(sigma) if isinstance(sigma, int | float) else None


def _normalises(model) -> bool:
    """Whether a model, or one within it, has such a layer."""
    return any(
        isinstance(layer, _NORMALISING)
        or (isinstance(layer, keras.Model) and _normalises(layer))
        for layer in model.layers
    )
