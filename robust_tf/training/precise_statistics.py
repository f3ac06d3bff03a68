"""Statistics of BatchNormalization over many batches, of weights that stand still."""

import keras
import numpy as np
import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.graph import Node
from robust_tf.training.callbacks import AfterSteps


class PopulationStatistics:
    """Sets the moving statistics of a classifier to those of a set of images.

    Moving averages lag behind the weights, and averaged weights have none of their own
    (arXiv:2105.07576, "precise BN"). Batches are normalised by themselves, as in
    training; of their means and variances, the moving mean becomes the mean of means,
    the moving variance the mean of variances plus the variance of means, unbiased over
    all that was seen. Sums over batches are in float64. Nothing else changes: dropout
    draws as in training, and leaves its state alone. Frozen layers keep theirs.

    Args:
        graph: the classifier.
        batches: of images, `[batch, *shape]` float32, all of one size, clean and as the
            classifier will meet them: without augmentation, and in no order of class.

    Raises:
        InputError: for batches whose size is not fixed.
    """

    def __init__(self, graph: BoundGraph, batches: tf.data.Dataset):
        self._graph = graph
        self._strategy = tf.distribute.get_strategy()
        self._batches = self._strategy.experimental_distribute_dataset(batches)
        (self._batch_size, *_) = batches.element_spec.shape
        if self._batch_size is None:
            raise InputError(
                "Statistics are over batches of one size. Received: "
                f"{batches.element_spec}. Batch with `drop_remainder=True`."
            )
        self._measure = tf.function(self._moments)

    def __call__(self) -> None:
        """Measures the statistics with the present weights, and sets them."""
        nodes = [node for node in self._graph.nodes if _is_normalized(node)]
        if not nodes:
            return
        batches = [self._measure(images) for images in self._batches]
        for node in nodes:
            moments = [batch[node.layer.name] for batch in batches]
            means, variances = (
                np.array([np.asarray(pair[part], "float64") for pair in moments])
                for part in (0, 1)
            )
            count = len(moments) * self._neurons(node)
            variance = variances.mean(0) + means.var(0)
            node.layer.moving_mean.assign(means.mean(0))
            node.layer.moving_variance.assign(variance * count / max(count - 1, 1))

    def _neurons(self, node) -> int:
        """How many values of one channel a batch has, over all replicas."""
        shape = self._graph.shapes[node.inputs[0]]
        return self._batch_size * int(np.prod(shape[:-1]))

    def _moments(self, images):
        """Mean and biased variance of the whole batch by layer name."""
        results = self._strategy.run(self._replica_moments, (images,))
        return tf.nest.map_structure(self._first, results)

    def _replica_moments(self, images):
        with keras.StatelessScope():
            _, moments = self._graph.forward(images, training=True)
        return {name: (one.mean, one.variance) for name, one in moments.items()}

    def _first(self, result):
        """That of the first replica: they were reduced, and all have the same."""
        return self._strategy.experimental_local_results(result)[0]


class PreciseStatistics(AfterSteps):
    """Re-estimates statistics after the steps of an epoch, before its validation.

    Args:
        statistics: sets them.
        first_epoch: before it, nothing is done.
    """

    def __init__(self, statistics: PopulationStatistics, first_epoch: int = 0):
        super().__init__()
        self._statistics, self._first_epoch = statistics, first_epoch

    def after_steps(self, epoch):
        if epoch >= self._first_epoch:
            self._statistics()


def _is_normalized(node: Node) -> bool:
    return node.layer.has_moments and node.layer.trainable
