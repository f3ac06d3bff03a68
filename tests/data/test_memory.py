import gc

import numpy as np
import psutil
import pytest
import tensorflow as tf

from robust_tf.data import memory
from robust_tf.data import pipeline
from robust_tf.data.dataset import ImageDataset
from robust_tf.errors import InputError


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_shares_the_memory_of_a_data_set(dtype):
    array = memory.empty_images("toy", (5, 3, 2, 1), dtype)
    assert array.shape == (5, 3, 2, 1)
    assert array.dtype == dtype
    array[:] = 1
    dataset = ImageDataset("toy", array, np.zeros(5, int), 1, "train")
    tensor = memory.host_tensor(dataset.images)
    assert not dataset.images.flags.writeable
    assert "CPU:0" in tensor.device
    array[2, 1] = 0  # Seen by both.
    np.testing.assert_array_equal(tensor, array)
    del array, dataset
    gc.collect()
    assert tf.reduce_sum(tensor).numpy() == 28  # The tensor keeps what it shares.


@pytest.mark.parametrize("kind", ["unaligned", "sliced", "read_only"])
def test_copies_what_cannot_be_shared(kind):
    array = memory.empty_images("toy", (130, 2, 2, 3), np.uint8)
    array[:] = np.arange(130)[:, None, None, None]
    if kind == "unaligned":
        array = array[1:]
    elif kind == "sliced":
        array = array[:, ::2]
    else:
        array = np.frombuffer(bytes(range(24)), np.uint8).reshape(1, 2, 4, 3)
    before = array.copy()
    tensor = memory.host_tensor(array)
    np.testing.assert_array_equal(tensor, before)
    if kind != "read_only":
        array[:] = 0
        np.testing.assert_array_equal(tensor, before)


def test_refuses_what_does_not_fit():
    with pytest.raises(InputError, match="1,000,000,000,000 images of 'toy' take 12"):
        memory.empty_images("toy", (10**12, 64, 64, 3), np.uint8)


@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_batches_hold_no_second_copy(kind):
    images = memory.empty_images("toy", (20_000, 64, 64, 3), np.uint8)
    images[:] = 7
    dataset = ImageDataset("toy", images, np.zeros(20_000, int), 1, "train")
    process = psutil.Process()
    before = process.memory_info().rss
    if kind == "training":
        batches = pipeline.training_batches(dataset, 8, 0, epochs=1)
    else:
        batches = pipeline.evaluation_batches(dataset, 8)
    iterator = iter(batches)
    for _ in range(3):
        next(iterator)
    assert process.memory_info().rss - before < images.nbytes / 2
