"""How many neurons are active, inactive or unstable while training goes on."""

import keras
import tensorflow as tf

from robust_tf import layers
from robust_tf.graph import Choices
from robust_tf.propagation.interval import interval_bounds

STATES = ("active", "inactive", "unstable")


class NeuronShares(keras.callbacks.Callback):
    """Adds to an epoch's logs what share of each ReLU's neurons is in which state.

    By IBP at the radius that training has come to, with inference statistics: with
    bounds [l, u] of its input, a neuron is inactive where u <= 0, active where l >= 0
    (and u > 0), unstable in between. Shares are over the neurons of all images, and
    add up to 1. Keys are `active/1`, `inactive/1`, `unstable/1` for the first ReLU of
    the graph, and so on. Callbacks that come later in the list see them.

    Args:
        batches: `(images, labels, weights)`, as of `data.evaluation_batches`; the same
            images each time, those of weight 0 left out.
    """

    def __init__(self, batches: tf.data.Dataset):
        super().__init__()
        self._batches = batches

    def set_model(self, model):
        super().set_model(model)
        self._count = tf.function(self._counts)

    def on_epoch_end(self, epoch, logs=None):
        del epoch
        if not self.model.graph.inputs_of(layers.ReLU):
            return
        ramp = self.model.ramp(self.model.step)
        counts = sum(
            self._count(images, weights, ramp).numpy()
            for images, _, weights in self._batches
        )
        for number, layer in enumerate(counts, 1):
            for state, count in zip(STATES, layer, strict=True):
                logs[f"{state}/{number}"] = float(count / layer.sum())

    def _counts(self, images, weights, ramp):
        """Neurons in each state, `[relus, 3]` integers."""
        graph = self.model.graph
        region = self.model.training_region(images, ramp)
        bounds = interval_bounds(graph, region, Choices())
        states = [states_of(bounds[edge]) for edge in graph.inputs_of(layers.ReLU)]
        is_counted = weights > 0.0
        return tf.stack(
            [
                [tf.math.count_nonzero(state[is_counted]) for state in layer]
                for layer in states
            ]
        )


def states_of(bounds) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Whether neurons are active, inactive, unstable; `[batch, *shape]` each.

    Args:
        bounds: `IntervalBound` of what a ReLU reads. One of the three holds, save where
            a bound is NaN.
    """
    lower, upper = bounds.lower, bounds.upper
    is_positive = upper > 0.0
    return is_positive & (lower >= 0.0), upper <= 0.0, is_positive & (lower < 0.0)
