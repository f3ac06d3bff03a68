"""Which classifier of a cascade decides an image, and what is certified of that.

A cascade (arXiv:1805.12514, section 3.3) is a list of classifiers, its stages. The
first one that certifies its own prediction on an image decides; the last one takes what
none certifies.

Such a certificate holds around the image *as received*. An attack moves the image
before the cascade sees it, and at the moved image another stage may decide, and say
something else (arXiv:2206.00278). So the published "verified error" of a cascade is no
bound on its error under attack, and is kept apart here from what is one: the images on
which all stages certify the label. Whichever of them decides at a perturbed image, it
says the label.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from robust_tf.regions import Threat
from robust_tf.verification.accuracy import measure

NO_CLASS = -1
# Stands in every record of a cascade.
NOTE = (
    "verified_as_received: the stage that decides the image as received certifies the "
    "label; no bound on the error under attack, as another stage may decide a "
    "perturbed image. certified_by_all_stages: a bound, whichever stage decides."
)


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """What one classifier says of each image.

    Attributes:
        labels: `[n]` int32, the class of the greatest logit; `NO_CLASS` where two are
            the greatest, or one is NaN.
        certified: `[n]` bool, whether that class is proved for the whole region
            (float32, by more than `verification.accuracy.LEAST_MARGIN`).
    """

    labels: np.ndarray
    certified: np.ndarray


def predict(
    model: keras.Model,
    batches: Iterable,
    threat: Threat,
    *,
    method: str,
    relaxation: str = "adaptive",
    memory_budget_mb: float | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Predictions:
    """Predicts images, and certifies the predictions, whatever the true labels.

    Args:
        model: from `robust_tf.convert`.
        batches: of (images, labels, weights); weight 0 marks padding.
        threat: radius, norm and valid range.
        method: of `compute_bounds`.
        relaxation: of `compute_bounds`.
        memory_budget_mb: of `compute_bounds`.
        progress: called with the number of examples done after each batch.
    """
    labels = []

    @tf.function(autograph=False, reduce_retracing=True)
    def classify(images):
        return tf.argmax(model(images, training=False), -1, output_type=tf.int32)

    def guessed():
        for images, _, weights in batches:
            found = classify(images)
            labels.append(found.numpy()[np.asarray(weights) > 0])
            yield images, found, weights

    accuracy = measure(
        model,
        guessed(),
        threat,
        methods=(method,),
        relaxation=relaxation,
        memory_budget_mb=memory_budget_mb,
        progress=progress,
    )
    labels = np.where(accuracy.clean, np.concatenate(labels), np.int32(NO_CLASS))
    return Predictions(labels, accuracy.certified[method])


def deciding_stages(stages: Sequence[Predictions]) -> np.ndarray:
    """Returns which stage decides each image, `[n]`, from 0."""
    certified = np.stack([stage.certified for stage in stages])
    return np.where(certified.any(0), certified.argmax(0), len(stages) - 1)


def summary(stages: Sequence[Predictions], labels: np.ndarray) -> dict:
    """Returns what is known of a cascade on some images.

    Args:
        stages: predictions of all classifiers, in order.
        labels: true ones, `[n]`.

    Returns:
        Shares of the images: `clean_accuracy`; `verified_as_received`, the published
        sense: the class of the deciding stage is certified by it, and right (no bound
        under attack); `certified_by_all_stages`: all stages certify the label (a bound
        under attack). And `stages`, one record each: numbers of images `decided`,
        `right`, `certified` and `certified_right` of those decided.
    """
    labels = np.asarray(labels)
    deciding = deciding_stages(stages)
    records = []
    for number, stage in enumerate(stages):
        is_decided = deciding == number
        is_right = is_decided & (stage.labels == labels)
        masks = {
            "decided": is_decided,
            "right": is_right,
            "certified": is_decided & stage.certified,
            "certified_right": is_right & stage.certified,
        }
        records.append({name: int(mask.sum()) for name, mask in masks.items()})
    by_all = [stage.certified & (stage.labels == labels) for stage in stages]
    shares = {
        "clean_accuracy": sum(one["right"] for one in records) / len(labels),
        "verified_as_received": sum(one["certified_right"] for one in records)
        / len(labels),
        "certified_by_all_stages": np.logical_and.reduce(by_all).mean(),
    }
    return {
        "examples": len(labels),
        **{name: round(float(share), 6) for name, share in shares.items()},
        "stages": records,
    }
