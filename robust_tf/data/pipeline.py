"""Batches for training and evaluation, each a function of (seed, epoch, position)."""

import operator

import numpy as np
import tensorflow as tf

from robust_tf.data.augmentation import Augmentation
from robust_tf.data.dataset import LabelledImages
from robust_tf.data.memory import host_tensor
from robust_tf.errors import InputError

# Independent streams of random numbers from one seed.
_ORDER, _AUGMENTATION = 0, 1


def training_batches(
    dataset: LabelledImages,
    batch_size: int,
    seed: int,
    *,
    epochs: int,
    first_epoch: int = 0,
    augmentation: Augmentation | None = None,
    drop_remainder: bool = True,
    weights: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Returns the shuffled batches of epochs `first_epoch` to `epochs - 1`, in a row.

    The order of an epoch is a function of (seed, epoch), the augmentation of a batch
    one of (seed, epoch, number of the batch): a run resumed at `first_epoch` sees the
    very batches that an uninterrupted run sees from there on. Whole batches are read
    by index.

    Args:
        dataset: the training split.
        batch_size: examples per step, over all replicas.
        seed: at least 0.
        epochs: the epoch to stop before, counted from the beginning of the run.
        first_epoch: the epoch to start with, at most `epochs`.
        augmentation: `(images, seed [2]) -> images`, float32 in [0, 1], of one shape
            and type; built of stateless operations (`RandomFlipAndCrop`). What needs
            autograph must be a `tf.function`.
        drop_remainder: whether examples that fill no batch are left out of an epoch
            (a different few each time); otherwise the last batch is smaller.
        weights: of the examples, `[len(dataset)]`, at least 0: each epoch is drawn with
            replacement, as many examples as the set has and in proportion to these; its
            order is a function of them, too. None: each example once.

    Returns:
        `(images [batch, height, width, channels] float32, labels [batch] int32)`; of a
        set with targets, the labels are `{"label": labels, "target": [batch, classes]
        float32}`.

    Raises:
        InputError: for numbers out of range, a batch larger than the set, or an
            augmentation that changes shape or type.
    """
    ends = None if weights is None else _ends(weights, len(dataset))
    steps = steps_per_epoch(dataset, batch_size, drop_remainder)
    seed, epochs = _whole(seed, "seed", 0), _whole(epochs, "epochs", 0)
    first_epoch = _whole(first_epoch, "first_epoch", 0)
    if first_epoch > epochs:
        raise InputError(
            "`first_epoch` must be at most `epochs`, which counts from the beginning "
            f"of the run. Received: first_epoch {first_epoch}, epochs {epochs}"
        )
    size = batch_size if drop_remainder else None
    order = _epoch_order(len(dataset), batch_size, steps, seed, ends)
    gather = _training_gather(dataset, seed, augmentation, size)
    batches = tf.data.Dataset.range(first_epoch, epochs).flat_map(order)
    batches = batches.apply(
        tf.data.experimental.assert_cardinality(steps * (epochs - first_epoch))
    )
    return _in_parallel(batches, gather)


def steps_per_epoch(
    dataset: LabelledImages, batch_size: int, drop_remainder: bool = True
) -> int:
    """Returns how many batches `training_batches` makes of one epoch.

    Raises:
        InputError: where `batch_size` is below 1, or no batch can be filled.
    """
    batch_size = _whole(batch_size, "batch_size", 1)
    if drop_remainder and batch_size > len(dataset):
        raise InputError(
            f"Data set '{dataset.name}' ({dataset.split}) has {len(dataset)} examples, "
            f"which fill no batch. Received: batch_size {batch_size}. Lower it, or "
            "keep the remainder: drop_remainder=False."
        )
    return (
        len(dataset) // batch_size if drop_remainder else -(-len(dataset) // batch_size)
    )


def evaluation_batches(
    dataset: LabelledImages, batch_size: int, start: int = 0, count: int | None = None
) -> tf.data.Dataset:
    """Returns `count` examples from `start` on, in order, in batches of one shape.

    Args:
        dataset: the split to evaluate.
        batch_size: examples per batch; the last batch repeats the last example.
        start: position of the first example.
        count: how many; None for all from `start` on.

    Returns:
        `(images [batch, height, width, channels] float32, labels [batch] int32,
        weights [batch] float32)`, weight 1 for examples and 0 for what fills up.

    Raises:
        InputError: for numbers out of range, or more examples than there are.
    """
    batch_size = _whole(batch_size, "batch_size", 1)
    chosen = evaluation_positions(dataset, start, count)
    start, count = chosen.start, len(chosen)
    read = dataset.reader()

    def gather(step):
        positions = step * batch_size + tf.range(batch_size, dtype=tf.int64)
        indices = start + tf.minimum(positions, count - 1)
        weights = tf.cast(positions < count, tf.float32)
        return *read(indices), weights

    return _in_parallel(tf.data.Dataset.range(-(-count // batch_size)), gather)


def evaluation_positions(
    dataset: LabelledImages, start: int = 0, count: int | None = None
) -> range:
    """Returns the positions of `count` examples from `start` on, at least one.

    Args:
        dataset: the split to evaluate.
        start: position of the first example.
        count: how many; None for all from `start` on.

    Raises:
        InputError: for numbers out of range, or more examples than there are.
    """
    start = _whole(start, "start", 0)
    available = len(dataset) - start
    count = available if count is None else _whole(count, "count", 0)
    if not 0 < count <= available:
        raise InputError(
            f"Data set '{dataset.name}' ({dataset.split}) has {len(dataset)} examples. "
            f"Received: start {start}, count {count}. Lower `start` or `count`."
        )
    return range(start, start + count)


def _epoch_order(num_examples, batch_size, steps, seed, ends):
    """A function from an epoch to its batches: (epoch, step, indices of examples)."""

    def epoch_order(epoch):
        key = _fold(seed, _ORDER, epoch)
        if ends is None:
            order = tf.random.experimental.stateless_shuffle(
                tf.range(num_examples), key, alg="philox"
            )
        else:
            order = _drawn(ends, num_examples, key)

        def batch_order(step):
            return epoch, step, order[step * batch_size : (step + 1) * batch_size]

        return tf.data.Dataset.range(steps).map(batch_order)

    return epoch_order


def _ends(weights, num_examples) -> tf.Tensor:
    """Where the share of each example in [0, 1) ends."""
    weights = np.asarray(weights, np.float64)
    if weights.shape != (num_examples,):
        raise InputError(
            f"`weights` must be one number for each of the {num_examples} examples. "
            f"Received: shape {weights.shape}"
        )
    total = weights.sum()
    if not (weights.min() >= 0.0 and 0.0 < total < np.inf):  # False for NaN, too.
        raise InputError(
            "`weights` must be finite and at least 0, and some above 0. Received: "
            f"values from {weights.min():g} to {weights.max():g}"
        )
    ends = np.cumsum(weights)
    return tf.constant(ends / ends[-1])  # The last is 1, exactly: no draw passes it.


def _drawn(ends, num_examples, key):
    """Indices of an epoch that is drawn with replacement."""
    places = tf.random.stateless_uniform(
        [num_examples], key, dtype=tf.float64, alg="philox"
    )
    return tf.searchsorted(ends, places, side="right")


def _training_gather(dataset, seed, augmentation, size):
    """A function from (epoch, step, indices) to images and labels."""
    read = dataset.reader(augmentation)
    targets = None if dataset.targets is None else host_tensor(dataset.targets)

    # Unconverted, errors arrive as they were raised.
    @tf.autograph.experimental.do_not_convert
    def gather(epoch, step, indices):
        indices = tf.ensure_shape(indices, [size])
        images, labels = read(indices, _fold(seed, _AUGMENTATION, epoch, step))
        if targets is not None:
            labels = {"label": labels, "target": tf.gather(targets, indices)}
        return images, labels

    return gather


def _in_parallel(batches, gather):
    """Gathers on all cores, in order, ahead of the step that consumes them."""
    options = tf.data.Options()
    options.deterministic = True
    # They write the graph anew, with a copy of all images in it.
    options.experimental_optimization.apply_default_optimizations = False
    batches = batches.map(gather, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def _fold(seed, *numbers):
    """A seed, `[2]`, that is a function of all numbers and their order."""
    folded = tf.constant([seed, 0], tf.int64)
    for number in numbers:
        number = tf.cast(number, tf.int64)
        folded = tf.random.fold_in(folded, number, alg="philox")
    return folded


def _whole(value, name, low):
    """Returns a whole number of at least `low` as a Python integer."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not low <= number < 2**63:
        raise InputError(
            f"`{name}` must be a whole number of at least {low}. Received: {value!r}"
        )
    return number
