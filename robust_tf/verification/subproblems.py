"""Bounds of many subproblems at once: searched in float32, decided in float64."""

import numpy as np
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.bounds import LinearForm
from robust_tf.propagation.ascent import Ascent
from robust_tf.propagation.ascent import Parameter
from robust_tf.propagation.backward import minimum
from robust_tf.propagation.crown import crown_margins
from robust_tf.rounding import difference_below
from robust_tf.verification.branching import Branching
from robust_tf.verification.branching import biases_of
from robust_tf.verification.branching import on_activations
from robust_tf.verification.compiled import Compiled
from robust_tf.verification.prover import DECIDING
from robust_tf.verification.prover import SEARCH_TARGET
from robust_tf.verification.prover import SEARCHING
from robust_tf.verification.prover import Prover
from robust_tf.verification.prover import cast


class Subproblems:
    """beta-CROWN (arXiv:2103.06624) with intermediate bounds of the root.

    A subproblem is a row or several, with signs of split neurons, lower slopes and
    multipliers of the splits; all arrays are over all neurons, `[domains, ...]`.

    Args:
        prover: of the classifier.
        ascent: how long slopes and multipliers are searched.
        slope_rate: of the first step.
        multiplier_rate: of the first step.
        branching: which neurons are proposed for the next split.
    """

    def __init__(
        self,
        prover: Prover,
        ascent: Ascent,
        slope_rate: float,
        multiplier_rate: float,
        branching: Branching,
    ):
        self._prover, self._ascent = prover, ascent
        self._rates = slope_rate, multiplier_rate
        self._branching = branching
        self._graph, self._neurons = prover.graph, prover.neurons
        self._search = Compiled(self._refined)
        self._decide = Compiled(self._decided)
        self._quick = Compiled(self._margins_quickly)

    def search(self, root, rows, thresholds, signs, slopes, multipliers, iterations):
        """Returns slopes and multipliers for better bounds.

        Args:
            root: region, intervals and charges of the whole example, float64.
            rows: `[domains, rows, outputs]`.
            thresholds: `[domains, rows]`.
            signs: of split neurons, `[domains, neurons]`.
            slopes: `[domains, rows, neurons]`.
            multipliers: the same shape.
            iterations: of the search.
        """
        arguments = (rows, thresholds, signs, slopes, multipliers)
        iterations = tf.constant(iterations)
        return self._search(root, *_floats(arguments, SEARCHING), iterations)

    def decide(self, root, rows, thresholds, signs, slopes, multipliers):
        """Returns sound margins, and what the search needs next.

        Returns:
            Margins, `[domains, rows]`, float64; where the relaxation is least,
            `[domains, *shape]`; candidates for the next split, and their scores.
        """
        arguments = (rows, thresholds, signs, slopes, multipliers)
        return self._decide(root, *_floats(arguments, DECIDING))

    def quick_margins(self, root, rows, thresholds, signs, slopes):
        """Returns margins by one pass in float32, `[domains, rows]`; no proofs."""
        return self._quick(root, *_floats((rows, thresholds, signs, slopes), SEARCHING))

    def _refined(self, root, rows, thresholds, signs, slopes, multipliers, iterations):
        region, bounds, _ = cast(root, SEARCHING)
        bounds = self._split(bounds, signs)

        def evaluate(values):
            slopes, multipliers = values
            choices = self._neurons.choices(slopes, multipliers * signs[:, None])
            margins = crown_margins(self._graph, region, bounds, rows, choices)
            return margins - thresholds, []

        parameters = [
            Parameter(slopes, self._rates[0], self._neurons.project, by_row=True),
            Parameter(multipliers, self._rates[1], tf.nn.relu, by_row=True),
        ]
        _, values, _ = self._ascent.maximise(
            evaluate, parameters, SEARCH_TARGET, iterations
        )
        return values

    def _decided(self, root, rows, thresholds, signs, slopes, multipliers):
        region, bounds, charges = root
        bounds = self._split(bounds, signs)
        choices = self._neurons.choices(
            self._neurons.project(slopes),
            tf.nn.relu(multipliers) * signs[:, None],
            self._prover.rounding(charges),
        )
        trace = {}
        reached, offset = self._graph.propagate_backward(
            rows, self._graph.output, bounds, choices, trace=trace
        )
        margins = difference_below(minimum(reached, offset, region, bounds), thresholds)
        candidates = self._branching.candidates_of(
            self._neurons,
            on_activations(self._graph, self._neurons, trace),
            self._neurons.interval(bounds),
            biases_of(self._graph, self._neurons, rows.dtype),
            self._is_free(bounds),
        )
        return margins, self._least_points(region, reached[0]), *candidates

    def _margins_quickly(self, root, rows, thresholds, signs, slopes):
        region, bounds, _ = cast(root, SEARCHING)
        bounds = self._split(bounds, signs)
        choices = self._neurons.choices(slopes)
        margins = crown_margins(self._graph, region, bounds, rows, choices)
        return margins - thresholds

    def _split(self, bounds, signs):
        """The root's intervals, with the signs of split neurons."""
        split = dict(bounds)
        for edge, sign in self._neurons.split(signs).items():
            lower, upper = bounds[edge].lower, bounds[edge].upper
            split[edge] = IntervalBound(
                tf.where(sign > 0.0, tf.maximum(lower, 0.0), lower),
                tf.where(sign < 0.0, tf.minimum(upper, 0.0), upper),
            )
        return split

    def _is_free(self, bounds):
        interval = self._neurons.interval(bounds)
        return (interval.lower < 0.0) & (interval.upper > 0.0)

    def _least_points(self, region, coefficients):
        """Where the first row's form is least: the gradient of its minimum."""
        first = coefficients[:, :1]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(first)
            value = region.minimum(LinearForm(first, tf.zeros([], first.dtype)))
        return tape.gradient(value, first)[:, 0]


def _floats(arrays, dtype):
    return tuple(tf.cast(np.asarray(array), dtype) for array in arrays)
