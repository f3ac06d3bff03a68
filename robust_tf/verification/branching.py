"""Which neuron to split: scores that a backward pass gives away for free.

All are functions of the coefficients on activations in a domain's own pass, and of the
lines that relax them.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation.slopes import Neurons

_HEURISTICS = ("babsr", "fsb", "kfsb", "upb", "supc", "intercept")
_REDUCTIONS = {"min": tf.minimum, "max": tf.maximum}


@dataclasses.dataclass(frozen=True)
class Branching:
    """How a neuron is chosen.

    Attributes:
        heuristic: "babsr" (arXiv:1909.06588; OVAL calls it SR): the estimated gain of a
            split. "intercept": what the neuron's upper line adds. "upb": the same, as
            OVAL names it (arXiv:2104.06718); "supc": the multiplier of the upper line
            times the area of the triangle. "fsb" (arXiv:2104.06718): of the
            best by babsr and by intercept in each layer, that whose halves have the
            best bounds. "kfsb": the same, of the `candidates` best of all layers.
        candidates: how many are kept for each score.
        reduce: of the estimates for both halves, "min" or "max".

    Raises:
        InputError: for unknown names, or no candidates.
    """

    heuristic: str = "kfsb"
    candidates: int = 3
    reduce: str = "min"

    def __post_init__(self):
        is_known = self.heuristic in _HEURISTICS and self.reduce in _REDUCTIONS
        if not is_known or self.candidates < 1:
            raise InputError(
                f"`heuristic` must be one of {_HEURISTICS}, `reduce` one of "
                f"{tuple(_REDUCTIONS)}, `candidates` at least 1. Received: {self}"
            )

    @property
    def is_filtered(self) -> bool:
        """Whether candidates are compared by bounds of their halves."""
        return self.heuristic in ("fsb", "kfsb")

    def candidates_of(
        self,
        neurons: Neurons,
        coefficients: tf.Tensor,
        interval: IntervalBound,
        biases: tf.Tensor,
        is_free: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns candidates, best first, and their scores.

        Args:
            neurons: of the classifier.
            coefficients: on activations, `[domains, rows, neurons]`.
            interval: before them, `[domains, neurons]`.
            biases: what is added just before activations, `[neurons]`.
            is_free: neurons that can be split, `[domains, neurons]`.

        Returns:
            Numbers of neurons, `[domains, candidates]`, and scores; a score of at most
            0 marks what is no candidate.
        """
        gain, intercept, area = self._scores(coefficients, interval, biases)
        # Where no score tells neurons apart, the most unstable one is split.
        width = tf.where(is_free, tf.minimum(interval.upper, -interval.lower), 0.0)
        least = 1e-9 * width / (1.0 + tf.reduce_max(width, -1, keepdims=True))
        gain, intercept, area = (
            tf.where(is_free, tf.maximum(score, least), -1.0)
            for score in (gain, intercept, area)
        )
        if self.heuristic == "fsb":
            return _best_of_layers(neurons, (gain, intercept))
        scores = {
            "babsr": [gain],
            "intercept": [intercept],
            "upb": [intercept],
            "supc": [area],
            "kfsb": [gain, intercept],
        }[self.heuristic]
        count = min(self.candidates, neurons.total)
        found = [tf.math.top_k(score, count) for score in scores]
        index = tf.concat([one.indices for one in found], -1)
        return index, tf.concat([one.values for one in found], -1)

    def _scores(self, coefficients, interval, biases):
        low = tf.minimum(interval.lower, 0.0)
        high = tf.maximum(interval.upper, 0.0)
        width = tf.where(high > low, high - low, 1.0)
        slope = (high / width)[:, None]
        line = tf.minimum(coefficients, 0.0) * (-slope * low[:, None])
        first = biases * coefficients * (slope - 1.0)
        second = biases * coefficients * slope
        gain = tf.abs(_REDUCTIONS[self.reduce](first, second) + line)
        # The multiplier of the upper line is minus the coefficient, where that is
        # negative.
        multiplier = tf.maximum(-coefficients, 0.0)
        area = multiplier * (-low * high / 2.0)[:, None]
        return tuple(tf.reduce_mean(score, 1) for score in (gain, -line, area))


def biases_of(graph: BoundGraph, neurons: Neurons, dtype) -> tf.Tensor:
    """Returns what is added just before each activation, `[neurons]`."""
    zeros = {
        edge: IntervalBound.from_center(
            tf.zeros([1, *graph.shapes[edge]], dtype),
            tf.zeros([1, *graph.shapes[edge]], dtype),
        )
        for edge in range(len(graph.shapes))
    }
    known = {
        node.output: zeros[node.output]
        for node in graph.nodes
        if not node.layer.is_affine
    }
    values = graph.propagate_interval(zeros[0], Choices(), known)
    return neurons.join({edge: values[edge].center for edge in neurons.edges})[0]


def on_activations(graph: BoundGraph, neurons: Neurons, trace) -> tf.Tensor:
    """Returns coefficients on activations, over all neurons, `[batch, rows, neurons]`.

    Args:
        graph: the classifier.
        neurons: of the classifier.
        trace: of a backward pass, as `BoundGraph.propagate_backward` fills it.
    """
    found = {}
    for node in graph.nodes:
        if node.layer.has_lower_slope:
            edge, rows = node.inputs[0], trace[node.output]
            found[edge] = found[edge] + rows if edge in found else rows
    return neurons.join(found, axis=2)


def _best_of_layers(neurons, scores):
    """The best neuron of each layer by each score."""
    starts = np.cumsum([0, *neurons.sizes[:-1]])
    index, values = [], []
    for score in scores:
        parts = tf.split(score, neurons.sizes, -1)
        for start, part in zip(starts, parts, strict=True):
            index.append(tf.argmax(part, -1, tf.int32) + int(start))
            values.append(tf.reduce_max(part, -1))
    return tf.stack(index, -1), tf.stack(values, -1)
