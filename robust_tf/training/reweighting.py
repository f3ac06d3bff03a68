"""Images that training leaves out, and how often it draws the others.

A part of the method of arXiv:2410.06895, whose authors use it to show that the average
certified radius is a poor measure: it can be raised by favouring images that are easy
under noise, at the cost of all others. Certified accuracy at all radii, from 0 on,
belongs next to it.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from robust_tf.data.dataset import LabelledImages
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.smoothing import radius
from robust_tf.smoothing.noises import Gaussian

_COPIES = 1000  # Noisy images of one call; it chooses the noise, too.
# Streams of noise of one epoch, which share no sample.
_DISCARDING, _WEIGHING = range(2)


@dataclasses.dataclass(frozen=True)
class Reweighting:
    """When images are left out and weighed, and by what (arXiv:2410.06895).

    Before epoch `first_epoch` (from 0) images of too low noisy accuracy are dropped,
    once. Then, and again every few epochs, each other image gets the weight
    `Phi^-1(p)`, p the Clopper-Pearson bound on its noisy accuracy, so its certified
    radius over sigma. From then on each epoch is drawn with replacement, in proportion
    to the weights and as long as the training split. Images are taken as stored,
    without augmentation.

    Attributes:
        first_epoch: epochs before; E_t in the paper.
        least_accuracy: of images that are kept, in [0, 1]; p_t in the paper.
        samples: noisy copies that tell it.
        every: epochs from one weighing to the next.
        weight_samples: noisy copies that tell the weight.
        least_count: lower counts of copies that are right are taken for this one.
        alpha: level of the bound.

    Raises:
        InputError: for values out of range, and a least count whose weight is not above
            0.
    """

    first_epoch: int
    least_accuracy: float
    samples: int = 100
    every: int = 10
    weight_samples: int = 16
    least_count: int = 12
    alpha: float = 0.1

    def __post_init__(self):
        for name, least in {
            "first_epoch": 0,
            "samples": 1,
            "every": 1,
            "weight_samples": 1,
            "least_count": 0,
        }.items():
            value = getattr(self, name)
            if not radius.is_whole(value) or value < least:
                raise InputError(
                    f"`{name}` must be a whole number of at least {least}. Received: "
                    f"{value!r}"
                )
        if not 0.0 <= self.least_accuracy <= 1.0:
            raise InputError(
                f"`least_accuracy` must lie in [0, 1]. Received: {self.least_accuracy}"
            )
        least = radius.smallest_count(self.weight_samples, self.alpha)
        is_within = least <= self.least_count <= self.weight_samples
        if not (is_within and self.weights(self.least_count) > 0.0):
            raise InputError(
                f"`least_count` must lie from {least}, so that all weights are above "
                f"0, to {self.weight_samples}, the `weight_samples`. Received: "
                f"{self.least_count}"
            )

    def weights(self, counts) -> np.ndarray:
        """Returns `Phi^-1` of the bound, for counts of copies that are right."""
        counts, n = np.maximum(counts, self.least_count), self.weight_samples
        return radius.gaussian_radius(
            radius.clopper_pearson_lower(counts, n, self.alpha), 1.0
        )

    def is_due(self, epoch: int) -> bool:
        """Whether images are weighed before that epoch."""
        passed = epoch - self.first_epoch
        return passed >= 0 and passed % self.every == 0

    def stretches(self, first: int, end: int) -> list[tuple[int, int]]:
        """Cuts epochs `first` to `end - 1` where images are weighed."""
        borders = [epoch for epoch in range(first + 1, end) if self.is_due(epoch)]
        return list(itertools.pairwise([first, *borders, end]))


class ImageWeights(keras.callbacks.Callback):
    """The weights of training images, which change between stretches of epochs.

    They are a function of the classifier's weights at that time, the seed and the
    epoch. To the logs of epochs it adds `kept_images`, how many are not left out;
    callbacks that write logs come after it.

    Args:
        settings: when and how.
        graph: the classifier that is trained.
        sigma: of the noise.
        images: the training split.
        seed: of the noise.
    """

    def __init__(
        self,
        settings: Reweighting,
        graph: BoundGraph,
        sigma: float,
        images: LabelledImages,
        seed: int,
    ):
        super().__init__()
        self._settings, self._images, self._seed = settings, images, seed
        self._graph, self._noise = graph, Gaussian(sigma)
        self._count = tf.function(self._hits, autograph=False)
        # Of images that are left out, 0.
        self._weights = keras.Variable(
            np.ones(len(images)), dtype="float64", trainable=False, name="image_weights"
        )

    @property
    def variables(self) -> list[keras.Variable]:
        """What a checkpoint must hold for training to go on."""
        return [self._weights]

    @property
    def kept_images(self) -> int:
        """How many images are not left out."""
        return int(np.count_nonzero(np.asarray(self._weights)))

    def stretches(self, first: int, end: int) -> list[tuple[int, int]]:
        """Cuts epochs `first` to `end - 1` where the weights change."""
        return self._settings.stretches(first, end)

    def before(self, epoch: int) -> np.ndarray | None:
        """Returns the weights from an epoch on, new ones where that is due.

        None: each image once in an epoch.

        Raises:
            InputError: where no image is kept.
        """
        if epoch < self._settings.first_epoch:
            return None
        if self._settings.is_due(epoch):
            self._renew(epoch)
        return np.asarray(self._weights)

    def on_epoch_end(self, epoch, logs=None):
        del epoch
        if logs is not None:
            logs["kept_images"] = self.kept_images

    def _renew(self, epoch):
        settings = self._settings
        if epoch == settings.first_epoch:
            kept = self._good_enough(epoch)
        else:
            (kept,) = np.nonzero(np.asarray(self._weights))
        counts = self.counts(kept, settings.weight_samples, epoch, _WEIGHING)
        weights = np.zeros(len(self._images))
        weights[kept] = settings.weights(counts)
        self._weights.assign(weights)

    def _good_enough(self, epoch):
        """Positions of the images that are not dropped."""
        samples, least = self._settings.samples, self._settings.least_accuracy
        everything = range(len(self._images))
        shares = self.counts(everything, samples, epoch, _DISCARDING) / samples
        (kept,) = np.nonzero(shares >= least)
        if not len(kept):
            raise InputError(
                f"Of the {len(shares)} training images none is kept: their noisy "
                f"accuracy at epoch {epoch} is at most {shares.max():g}. Received: "
                f"`least_accuracy` {least}. Lower it, or raise `first_epoch`."
            )
        return kept

    def counts(
        self, positions: Sequence[int], samples: int, epoch: int, stream: int
    ) -> np.ndarray:
        """Returns how many noisy copies of each image are predicted right, now.

        Args:
            positions: of the images in the training split.
            samples: copies of each.
            epoch: with the seed and the stream, what chooses the noise.
            stream: 0 or 1.
        """
        size, found = max(1, _COPIES // samples), []
        padding = -len(positions) % size
        positions = np.pad(np.asarray(positions), (0, padding), "edge")
        for number, part in enumerate(np.split(positions, len(positions) // size)):
            key = [self._seed, (epoch << 32) | (stream << 31) | number]
            found.append(
                self._count(
                    self._images.floats(part),
                    self._images.labels[part],
                    tf.constant(key, tf.int64),
                    samples,
                )
            )
        return np.concatenate(found)[: len(positions) - padding]

    def _hits(self, images, labels, key, samples):
        """Copies that are predicted right, `[batch]` integers."""
        shape = (images.shape[0], samples, *images.shape[1:])
        copies = images[:, None] + self._noise.sample(shape, key)
        logits = self._graph.inference()(tf.reshape(copies, [-1, *shape[2:]]))
        predictions = tf.argmax(logits, -1, tf.int32)
        is_right = tf.reshape(predictions, shape[:2]) == labels[:, None]
        return tf.math.count_nonzero(is_right, -1)
