"""Strategies by devices' names, and clipping over replicas."""

import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.training.distribution import strategy_for
from robust_tf.training.gradients import clip_across_replicas

PAIR = ("CPU:0", "CPU:1")


def test_no_device_is_the_default_strategy():
    assert strategy_for() is tf.distribute.get_strategy()


def test_one_device_is_used_even_if_it_is_not_the_first():
    with strategy_for(("CPU:1",)).scope():
        variable = tf.Variable(1.0)
    assert variable.device.endswith("CPU:1")


def test_one_strategy_for_the_same_devices():
    strategy = strategy_for(PAIR)
    assert strategy.num_replicas_in_sync == 2
    assert strategy_for(PAIR) is strategy


@pytest.mark.parametrize("devices", [("GPU:7",), ("CPU:0", "TPU:0"), ("cpu:0",)])
def test_unknown_devices(devices):
    with pytest.raises(rt.InputError, match=r"no device .*This machine has \['CPU:0'"):
        strategy_for(devices)


def test_a_device_twice():
    with pytest.raises(rt.InputError, match="must differ"):
        strategy_for(("CPU:0", "CPU:0"))


def test_one_replica_is_clipped():
    (clipped,) = clip_across_replicas([tf.constant([3.0, 4.0])], 1.0)
    np.testing.assert_allclose(clipped, [0.6, 0.8], rtol=1e-6)


def test_shares_of_two_replicas_sum_to_the_clipped_gradient():
    """3 + 0 and 0 + 4 make a gradient of norm 5; each share alone would be longer."""
    strategy = strategy_for(PAIR)
    shares = tf.constant([[3.0, 0.0], [0.0, 4.0]])

    @tf.function
    def step():
        def part():
            index = tf.distribute.get_replica_context().replica_id_in_sync_group
            gradients = [None, shares[index]]  # A variable may have no gradient.
            unknown, clipped = clip_across_replicas(gradients, 1.0)
            assert unknown is None
            return clipped

        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(part), None)

    np.testing.assert_allclose(step(), [0.6, 0.8], rtol=1e-6)
