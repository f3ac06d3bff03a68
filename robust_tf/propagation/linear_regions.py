"""Linear regions of ReLU classifiers: how far away their ends and decisions are.

Around an input such a classifier is an affine map, up to where the first neuron
changes sign (arXiv:1810.07481, section 2). Distances are to the hyperplanes on which
neurons, or differences of logits, of that map are 0; the range of pixels does not cut
them.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.bounds import flatten_from
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.graph import Node
from robust_tf.layers.affine import Dense
from robust_tf.layers.base import ElementwiseLayer
from robust_tf.layers.base import KernelLayer
from robust_tf.layers.base import Relaxation
from robust_tf.layers.base import weight
from robust_tf.propagation.window_plan import WindowPlan
from robust_tf.regions import dual_norm

NUMERICS = ("exact", "reference")
# Added to entries below it where the published system is followed to the letter.
_GUARD = 1e-5
# Entries of a composed kernel up to which it is used.
_LARGEST_KERNEL = 2**24


class Gate(ElementwiseLayer):
    """An activation on one linear region: it multiplies by the slope of each neuron.

    Args:
        name: of the activation.
        slope: `[batch, *shape]`.
    """

    is_affine = True

    def __init__(self, name: str, slope: tf.Tensor):
        super().__init__()
        self.name, self.slope = name, slope

    def relax(self, inputs):
        del inputs  # The slope is the same wherever they lie in the region.
        return Relaxation(self.slope, None)


@dataclasses.dataclass(frozen=True)
class LinearRegions:
    """The affine maps that a classifier is around its inputs.

    Slopes of activations are constants: gradients flow through values and weights.

    Attributes:
        graph: of affine layers alone, with a `Gate` for each activation.
        values: on each edge, `[batch, *shape]`, by number.
        boundaries: edges whose zeros end the region, ascending.
        shared: edges that are one affine map of all inputs.
        choices: statistics of BatchNormalization.
        numerics: "exact", or "reference" for the numbers of the published system
            (arXiv:1810.07481): where the first layer is a convolution, norms of whole
            kernels at the border too, and 1e-5 more for entries below 1e-5 in later
            layers; the latter in decisions of all classifiers.
    """

    graph: BoundGraph
    values: dict[int, tf.Tensor]
    boundaries: tuple[int, ...]
    shared: frozenset[int]
    choices: Choices
    numerics: str = "exact"

    @classmethod
    def around(
        cls,
        graph: BoundGraph,
        inputs: tf.Tensor,
        choices: Choices | None = None,
        numerics: str = "exact",
    ) -> "LinearRegions":
        """Returns the regions that hold the inputs; a neuron at 0 is inactive.

        Args:
            graph: a classifier of affine layers and (leaky) ReLUs.
            inputs: `[batch, *shape]`.
            choices: whose moments BatchNormalization uses; None for the moving ones.
            numerics: see the class.

        Raises:
            InputError: for classifiers with other activations or with MaxPooling.
        """
        if numerics not in NUMERICS:
            raise InputError(
                f"`numerics` must be one of {NUMERICS}. Received: {numerics!r}"
            )
        choices = Choices() if choices is None else choices
        values = _values(graph, inputs, choices)
        nodes, boundaries = [], set()
        for node in graph.nodes:
            layer = node.layer
            if layer.has_lower_slope:
                (edge,) = node.inputs
                boundaries.add(edge)
                active = tf.cast(values[edge] > 0.0, inputs.dtype)
                slope = active + layer.least_slope * (1.0 - active)
                layer = Gate(layer.name, tf.stop_gradient(slope))
            elif not layer.is_affine:
                raise InputError(
                    "Linear regions are those of affine layers and (leaky) ReLUs. "
                    f"Received: layer '{layer.name}' ({type(layer).__name__}). Replace "
                    "it, strided convolutions for a MaxPooling, say."
                )
            nodes.append(Node(layer, node.inputs, node.output))
        if not boundaries:
            raise InputError(
                "The classifier has no ReLU, so its only region is the whole space."
            )
        return cls(
            dataclasses.replace(graph, nodes=tuple(nodes)),
            values,
            tuple(sorted(boundaries)),
            graph.affine_edges(),
            choices,
            numerics,
        )

    def boundary_distances(self, norms: Sequence[float]) -> list[tf.Tensor]:
        """Returns how far away each neuron changes its sign, `[batch, neurons]`.

        `|z| / ||V||_q`, of all neurons before activations in the order of the graph,
        and infinite for a neuron that is constant on the region.

        Args:
            norms: the p of each result, at least 1.
        """
        parts = []
        for edge in self.boundaries:
            reach = tf.abs(flatten_from(self.values[edge], 1))
            lengths = self._boundary_lengths(edge, norms)
            parts.append([_over(reach, length) for length in lengths])
        return [tf.concat(part, -1) for part in zip(*parts, strict=True)]

    def decision_distances(
        self, rows: tf.Tensor, norms: Sequence[float]
    ) -> list[tf.Tensor]:
        """Returns how far away differences of logits are 0, `[batch, rows]`.

        Signed: below 0 where the difference is. Infinite for one that is constant.

        Args:
            rows: over the logits, such as those of `margin_specification`,
                `[batch or 1, rows, classes]`.
            norms: the p of each result, at least 1.
        """
        margins = tf.linalg.matvec(rows, self.values[self.graph.output])
        coefficients = self._pull_back(rows, self.graph.output)
        if self.numerics == "reference":
            magnitudes = tf.abs(coefficients)
            coefficients = magnitudes + _GUARD * _is_small(magnitudes)
        return [_over(margins, dual_norm(coefficients, norm)) for norm in norms]

    def _boundary_lengths(self, edge, norms):
        """`||V||_q` of an edge's neurons, `[batch or 1, neurons]` for each norm."""
        starts_with_images = len(self.graph.shapes[self.boundaries[0]]) == 3
        is_reference = self.numerics == "reference" and starts_with_images
        is_first = edge == self.boundaries[0]
        plan = WindowPlan.of(self.graph, edge)
        if is_reference and not is_first:
            coefficients = self._unit_coefficients(edge)
            coefficients += _GUARD * _is_small(tf.abs(coefficients))
            return [dual_norm(coefficients, norm) for norm in norms]
        if plan is None or not plan.is_less_work:
            coefficients = self._unit_coefficients(edge)
            return [dual_norm(coefficients, norm) for norm in norms]
        kernel = _CompositeKernel.of(self.graph, edge, self.shared)
        if kernel is not None and not is_reference:
            coefficients = kernel.coefficients(self._points, self.choices)
        else:
            coefficients = self._window_coefficients(plan, not is_reference)
        return self._by_position(plan, coefficients, norms)

    def _unit_coefficients(self, edge):
        """Each neuron as a function of the inputs, `[batch or 1, neurons, size]`."""
        producer, dtype = self.graph.producer(edge), self.values[0].dtype
        if isinstance(producer.layer, Dense) and len(self.graph.shapes[edge]) == 1:
            # What rows of an identity become; there is no need to multiply by one.
            rows = tf.transpose(weight(producer.layer.kernel, dtype))[None]
            return self._pull_back(rows, *producer.inputs)
        shape = self.graph.shapes[edge]
        units = tf.eye(math.prod(shape), dtype=dtype)
        return self._pull_back(tf.reshape(units, [1, -1, *shape]), edge)

    def _window_coefficients(self, plan, is_cleared):
        """Each neuron on its window, `[batch * positions or 1, channels, ...]`."""
        channels = self.graph.shapes[plan.edge][-1]
        is_shared = plan.edge in self.shared
        batch = 1 if is_shared else tf.shape(self.values[0])[0]
        units = tf.eye(channels, dtype=self.values[0].dtype)
        units = tf.reshape(units, [1, channels, 1, 1, channels])
        form, is_clear = plan.pull_back(units, self._points, self.choices, batch)
        coefficients = form.coefficients
        if is_cleared and not is_clear:
            coefficients = plan.view(0, batch).clear(coefficients)
        return coefficients

    def _by_position(self, plan, coefficients, norms):
        """Norms of the rows of all positions, `[batch or 1, neurons]` each."""
        *positions, channels = self.graph.shapes[plan.edge]
        count = math.prod(positions)
        lengths = []
        for norm in norms:
            length = dual_norm(flatten_from(coefficients, 2), norm)
            if length.shape[0] == 1:  # One for all positions.
                length = tf.tile(length, [count, 1])
            lengths.append(tf.reshape(length, [-1, count * channels]))
        return lengths

    def _pull_back(self, rows, edge):
        """Rows over an edge as rows over the inputs, `[batch or 1, rows, size]`."""
        reached, _ = self.graph.propagate_backward(
            rows, edge, self._points, self.choices
        )
        return flatten_from(reached[0], 2)

    @property
    def _points(self):
        """The values as intervals, which rules of affine layers take shapes from."""
        return {
            edge: IntervalBound(value, value) for edge, value in self.values.items()
        }


@dataclasses.dataclass(frozen=True)
class _CompositeKernel:
    """Neurons of a convolution behind one gate, as one product with a composed kernel.

    On the window of the input that a neuron of the second convolution sees, its
    coefficients are linear in the gate's slopes on the window between. That map is the
    same at every position: the slopes, times one matrix for all.

    Attributes:
        plan: of the second convolution's edge.
        gate: the edge that the gate writes.
    """

    plan: WindowPlan
    gate: int

    @classmethod
    def of(cls, graph, edge, shared) -> "_CompositeKernel | None":
        """Returns the form for an edge, None where layers or sizes are others."""
        second = graph.producer(edge)
        if not isinstance(second.layer, KernelLayer):
            return None
        (gate,) = second.inputs
        middle = graph.producer(gate)
        if middle is None or not isinstance(middle.layer, Gate):
            return None
        first = graph.producer(middle.inputs[0])
        # Between two convolutions without a gate padding would have to be cleared.
        if first is None or not isinstance(first.layer, KernelLayer):
            return None
        if first.inputs != (0,) or first.output not in shared:
            return None
        plan = WindowPlan.of(graph, edge)
        inner, outer = (
            math.prod(plan.windows[number].size) * graph.shapes[number][-1]
            for number in (gate, 0)
        )
        if inner * outer * graph.shapes[edge][-1] > _LARGEST_KERNEL:
            return None
        return cls(plan, gate)

    def coefficients(self, points, choices) -> tf.Tensor:
        """Returns `[batch * positions, channels, *size, input channels]`."""
        graph, plan = self.plan.graph, self.plan
        slope, dtype = graph.producer(self.gate).layer.slope, points[0].dtype
        batch = tf.shape(slope)[0]
        channels, width = graph.shapes[plan.edge][-1], graph.shapes[self.gate][-1]
        inner = (*plan.windows[self.gate].size, width)
        outer = (*plan.windows[0].size, graph.shapes[0][-1])
        units = tf.reshape(tf.eye(channels, dtype=dtype), [1, channels, 1, 1, channels])
        second = self._pull(units, plan.edge, points, choices)
        units = tf.eye(math.prod(inner), dtype=dtype)
        units = tf.reshape(units, [1, -1, *inner])
        first = self._pull(units, graph.producer(self.gate).inputs[0], points, choices)
        composed = tf.einsum(
            "oi,iw->iow",
            tf.reshape(second, [channels, -1]),
            tf.reshape(first, [math.prod(inner), -1]),
        )
        # 0 in the padding, so what lies outside of the map between adds nothing.
        slopes = plan.view(self.gate, batch).gather(slope)
        flat = tf.matmul(
            tf.reshape(slopes, [-1, math.prod(inner)]),
            tf.reshape(composed, [math.prod(inner), -1]),
        )
        pulled = tf.reshape(flat, [-1, channels, *outer])
        return plan.view(0, batch).clear(pulled)

    def _pull(self, rows, edge, points, choices):
        """Pulls rows on a window of an edge through the layer that wrote it."""
        node = self.plan.graph.producer(edge)
        view = self.plan.view(edge, 1)
        (source,) = node.inputs
        (pulled,), _ = node.layer.propagate_window_backward(
            rows, view, points[source], **choices.for_backward(node.layer)
        )
        return pulled


def hull_radius(l1_radius, linf_radius, norm) -> np.ndarray:
    """Returns the Lp radius that an L1 and an Linf radius imply (arXiv:1905.11213).

    Of a classifier that is affine on the convex hull of both balls: theorem 3.1,
    `r_1 / (r_1 / r_inf - alpha + alpha^q)^(1/q)` with alpha the fraction of
    `r_1 / r_inf` and `1/p + 1/q = 1`. Where the Linf ball holds the other, it is the
    hull.

    Args:
        l1_radius: at least 0, of any shape, in the unit of the input.
        linf_radius: the same shape and unit.
        norm: p, at least 1.
    """
    first, last = np.asarray(l1_radius, "float64"), np.asarray(linf_radius, "float64")
    if norm == 1.0:
        return np.maximum(first, last)
    if np.isinf(norm):
        return last.copy()
    dual = 1.0 / (1.0 - 1.0 / norm)
    is_wider = first > last  # Else the L1 ball lies in the other.
    ratio = np.where(is_wider, first / np.where(last > 0.0, last, 1.0), 1.0)
    fraction = ratio - np.floor(ratio)
    radius = first / (ratio - fraction + fraction**dual) ** (1.0 / dual)
    return np.where(is_wider & (last > 0.0), radius, last)


def _values(graph, inputs, choices):
    """The value on every edge, in the type of the inputs."""
    types = {node.layer.compute_dtype for node in graph.nodes}
    if types == {inputs.dtype.name}:
        return graph.values(inputs, choices)
    # Layers compute in their own type, their interval rules in that of the bounds.
    points = graph.propagate_interval(IntervalBound(inputs, inputs), choices)
    return {edge: point.center for edge, point in points.items()}


def _over(reach, length):
    """`reach / length`, infinite and without gradient where the length is 0."""
    is_flat = length <= 0.0
    ratio = reach / tf.where(is_flat, tf.ones_like(length), length)
    infinite = tf.constant(np.inf, reach.dtype)
    return tf.where(is_flat, tf.where(reach < 0.0, -infinite, infinite), ratio)


def _is_small(magnitudes):
    return tf.cast(magnitudes < _GUARD, magnitudes.dtype)
