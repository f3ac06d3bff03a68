"""Rows over the logits that must be proved positive."""

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt


def test_rows_are_own_class_less_each_other_ascending():
    rows = rt.margin_specification([1, 0, 2], 3)
    wanted = [
        [[-1, 1, 0], [0, 1, -1]],
        [[1, -1, 0], [1, 0, -1]],
        [[-1, 0, 1], [0, -1, 1]],
    ]
    np.testing.assert_array_equal(rows, wanted)
    assert rows.dtype == tf.float32


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_types_of_labels_and_rows(dtype):
    labels = np.asarray([3, 0], dtype)
    rows = rt.margin_specification(labels, 4, dtype=tf.float64)
    assert rows.dtype == tf.float64
    logits = np.asarray([1.0, 2.0, 4.0, 8.0])
    np.testing.assert_array_equal(
        rows @ logits[:, None], [[[7], [6], [4]], [[-1], [-3], [-7]]]
    )


def test_two_classes():
    rows = rt.margin_specification([0, 1], 2)
    np.testing.assert_array_equal(rows, [[[1, -1]], [[-1, 1]]])


def test_no_examples():
    assert rt.margin_specification(np.zeros(0, "int32"), 3).shape == (0, 2, 3)


def test_in_a_graph_with_a_dynamic_batch():
    signature = [tf.TensorSpec([None], tf.int64)]
    compiled = tf.function(
        lambda labels: rt.margin_specification(labels, 5), input_signature=signature
    )
    for labels in ([0], [4, 2, 1]):
        actual = compiled(tf.constant(labels, tf.int64))
        np.testing.assert_array_equal(actual, rt.margin_specification(labels, 5))
    assert compiled(tf.constant([7], tf.int64)).shape == (1, 4, 5)  # Values: unseen.


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([0, 3], 3, r"lie in 0..2 for 3 classes. Received: 3"),
        ([-1, 0], 3, "Received: -1"),
        ([2**32 + 1], 3, "Received: 4294967297"),
        ([0.0, 1.0], 3, "integer class indices.*float32"),
        ([True, False], 3, "integer class indices.*bool"),
        ([[0], [1]], 3, r"shape \[batch\].*\(2, 1\).*argmax"),
        (1, 3, r"shape \[batch\].*shape \(\)"),
        (None, 3, "`labels` must be a tensor"),
        (["cat"], 3, "integer class indices.*string"),
        ([0], 1, "at least 2 classes. Received: 1"),
    ],
    ids=str,
)
def test_refusals(labels, classes, message):
    with pytest.raises(rt.InputError, match=message):
        rt.margin_specification(labels, classes)


def test_static_refusals_in_a_graph():
    compiled = tf.function(lambda labels: rt.margin_specification(labels, 3))
    with pytest.raises(rt.InputError, match="integer class indices"):
        compiled(tf.constant([0.0]))
