"""scikit-learn's handwritten digits: a set that needs no download and no folder."""

import numpy as np
from sklearn import datasets as sklearn_datasets

from robust_tf.errors import InputError

_SPLIT_SEED = 0
_TEST_STRIDE = 5


class DigitsSource:
    """1,797 images, 8x8x1, in 10 classes; 1,437 to train and 360 to test.

    The values 0 to 16 are divided by 16. The authors of the set name no split, so this
    one is fixed here: the examples are permuted (legacy NumPy generator, seed 0),
    sorted by class (stable), and every fifth goes to the test split, from the first
    on. Both splits keep the order of the original.
    """

    splits = ("train", "test")
    num_classes = 10

    def labels(self, split: str) -> np.ndarray:
        """Returns the labels of a split, `[n]`."""
        return self.read(split)[1]

    def read(
        self, split: str, indices: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns images `[m, 8, 8, 1]`, float32 in [0, 1], and labels `[m]`.

        Args:
            split: "train" or "test".
            indices: positions in the split, `[m]`; None for all.
        """
        if split not in self.splits:
            raise InputError(
                f"Data set 'digits' has the splits {self.splits}. Received: {split!r}"
            )
        bunch = sklearn_datasets.load_digits()
        images = (bunch.images / 16.0).astype(np.float32)[..., np.newaxis]
        # The legacy generator's stream is frozen; `default_rng` promises no such thing.
        order = np.random.RandomState(_SPLIT_SEED).permutation(len(images))
        order = order[np.argsort(bunch.target[order], kind="stable")]
        is_test = np.zeros(len(images), bool)
        is_test[order[::_TEST_STRIDE]] = True
        chosen = np.flatnonzero(is_test if split == "test" else ~is_test)
        if indices is not None:
            chosen = chosen[indices]
        return images[chosen], bunch.target[chosen].astype(np.int32)
