"""Batches for training and evaluation, each a function of (seed, epoch, position)."""

import operator
from collections.abc import Callable

import tensorflow as tf

from robust_tf.data.dataset import ImageDataset
from robust_tf.data.memory import host_tensor
from robust_tf.errors import InputError

Augmentation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

# Independent streams of random numbers from one seed.
_ORDER, _AUGMENTATION = 0, 1


def training_batches(
    dataset: ImageDataset,
    batch_size: int,
    seed: int,
    *,
    epochs: int,
    first_epoch: int = 0,
    augmentation: Augmentation | None = None,
    drop_remainder: bool = True,
) -> tf.data.Dataset:
    """Returns the shuffled batches of epochs `first_epoch` to `epochs - 1`, in a row.

    The order of an epoch is a function of (seed, epoch), the augmentation of a batch
    one of (seed, epoch, number of the batch): a run resumed at `first_epoch` sees the
    very batches that an uninterrupted run sees from there on. Pixels stay in the type
    of the set, whole batches are gathered by index and only then made floats.

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

    Returns:
        `(images [batch, height, width, channels] float32, labels [batch] int32)`; of a
        set with targets, the labels are `{"label": labels, "target": [batch, classes]
        float32}`.

    Raises:
        InputError: for numbers out of range, a batch larger than the set, or an
            augmentation that changes shape or type.
    """
    steps = steps_per_epoch(dataset, batch_size, drop_remainder)
    seed, epochs = _whole(seed, "seed", 0), _whole(epochs, "epochs", 0)
    first_epoch = _whole(first_epoch, "first_epoch", 0)
    if first_epoch > epochs:
        raise InputError(
            "`first_epoch` must be at most `epochs`, which counts from the beginning "
            f"of the run. Received: first_epoch {first_epoch}, epochs {epochs}"
        )
    size = batch_size if drop_remainder else None
    order = _epoch_order(len(dataset), batch_size, steps, seed)
    gather = _training_gather(dataset, seed, augmentation, size)
    batches = tf.data.Dataset.range(first_epoch, epochs).flat_map(order)
    batches = batches.apply(
        tf.data.experimental.assert_cardinality(steps * (epochs - first_epoch))
    )
    return _in_parallel(batches, gather)


def steps_per_epoch(
    dataset: ImageDataset, batch_size: int, drop_remainder: bool = True
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
    dataset: ImageDataset, batch_size: int, start: int = 0, count: int | None = None
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
    images, labels = host_tensor(dataset.images), host_tensor(dataset.labels)

    def gather(step):
        positions = step * batch_size + tf.range(batch_size, dtype=tf.int64)
        indices = start + tf.minimum(positions, count - 1)
        weights = tf.cast(positions < count, tf.float32)
        return _floats(tf.gather(images, indices)), tf.gather(labels, indices), weights

    return _in_parallel(tf.data.Dataset.range(-(-count // batch_size)), gather)


def evaluation_positions(
    dataset: ImageDataset, start: int = 0, count: int | None = None
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


def _epoch_order(num_examples, batch_size, steps, seed):
    """A function from an epoch to its batches: (epoch, step, indices of examples)."""

    def epoch_order(epoch):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(num_examples), _fold(seed, _ORDER, epoch), alg="philox"
        )

        def batch_order(step):
            return epoch, step, order[step * batch_size : (step + 1) * batch_size]

        return tf.data.Dataset.range(steps).map(batch_order)

    return epoch_order


def _training_gather(dataset, seed, augmentation, size):
    """A function from (epoch, step, indices) to images and labels."""
    images, labels = host_tensor(dataset.images), host_tensor(dataset.labels)
    if dataset.targets is not None:
        labels = {"label": labels, "target": host_tensor(dataset.targets)}

    # Unconverted, errors arrive as they were raised.
    @tf.autograph.experimental.do_not_convert
    def gather(epoch, step, indices):
        indices = tf.ensure_shape(indices, [size])
        batch = _floats(tf.gather(images, indices))
        if augmentation is not None:
            changed = augmentation(batch, _fold(seed, _AUGMENTATION, epoch, step))
            batch = _as_before(changed, batch)
        return batch, tf.nest.map_structure(
            lambda values: tf.gather(values, indices), labels
        )

    return gather


def _as_before(changed, images):
    """Checks what an augmentation returned, and sets the static shape anew."""
    changed = tf.convert_to_tensor(changed)
    is_same = changed.dtype == images.dtype
    if not is_same or not changed.shape.is_compatible_with(images.shape):
        raise InputError(
            "An augmentation must return images of the shape and type it was given, "
            f"{images.shape} {images.dtype.name}. Received: {changed.shape} "
            f"{changed.dtype.name}"
        )
    return tf.ensure_shape(changed, images.shape)


def _in_parallel(batches, gather):
    """Gathers on all cores, in order, ahead of the step that consumes them."""
    options = tf.data.Options()
    options.deterministic = True
    # They write the graph anew, with a copy of all images in it.
    options.experimental_optimization.apply_default_optimizations = False
    batches = batches.map(gather, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def _floats(images):
    if images.dtype == tf.uint8:
        return tf.cast(images, tf.float32) / 255.0
    return images


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
