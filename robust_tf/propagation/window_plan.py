"""Backward passes from the neurons of a feature map, window by window."""

import dataclasses
import math
from collections.abc import Mapping

import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.bounds import LinearForm
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.graph import Node
from robust_tf.layers.base import ElementwiseLayer
from robust_tf.layers.windows import Window
from robust_tf.layers.windows import WindowView


@dataclasses.dataclass(frozen=True)
class WindowPlan:
    """Which window of each earlier edge the neurons of a feature map see.

    Attributes:
        graph: the classifier.
        edge: number of the feature map's edge.
        windows: by edge, from `edge` back to the input.
    """

    graph: BoundGraph
    edge: int
    windows: Mapping[int, Window]

    @classmethod
    def of(cls, graph: BoundGraph, edge: int) -> "WindowPlan | None":
        """Returns the plan for an edge.

        None where a layer on the way has no patch form, or where windows of branches
        do not fit on one another.
        """
        if len(graph.shapes[edge]) != 3:
            return None
        windows = {edge: Window()}
        for number in range(edge, 0, -1):
            if number not in windows:
                continue
            node = graph.producer(number)
            shapes = [graph.shapes[source] for source in node.inputs]
            if any(len(shape) != 3 for shape in shapes):
                return None
            befores = node.layer.window_before(windows[number], *shapes)
            if befores is None:
                return None
            for source, window in zip(node.inputs, befores, strict=True):
                other = windows.get(source, window)
                if other.stride != window.stride:
                    return None
                windows[source] = window.union(other)
        return cls(graph, edge, windows)

    @property
    def is_less_work(self) -> bool:
        """Whether windows hold fewer entries than whole images."""
        by_image = sum(math.prod(self.graph.shapes[edge]) for edge in self.windows)
        return sum(self._sizes()) < by_image

    @property
    def entries(self) -> int:
        """Coefficients that one row of all positions holds at most."""
        return max(self._sizes()) * math.prod(self.graph.shapes[self.edge][:2])

    def view(self, edge: int, batch: int | tf.Tensor) -> WindowView:
        """Returns what all positions see of an edge, for so many examples."""
        positions = self.graph.shapes[self.edge][:2]
        image = self.graph.shapes[edge][:2]
        return WindowView(self.windows[edge], positions, image, batch)

    def pull_back(
        self,
        rows: tf.Tensor,
        bounds: Mapping[int, IntervalBound],
        choices: Choices,
        batch: int | tf.Tensor,
    ) -> tuple[LinearForm, bool]:
        """Pulls rows over the channels at every position back to the input.

        Args:
            rows: `[1, rows, 1, 1, channels]`, to be bounded from below.
            bounds: intervals of the edges before, by number.
            choices: what the rules ask for.
            batch: number of examples.

        Returns:
            Their form on the windows of the input, `[batch * positions or 1, rows,
            *size, channels]`, and whether its coefficients are 0 outside the image.
        """
        offset = tf.zeros([1, 1], rows.dtype)
        # Coefficients by edge, and whether they are 0 in the padding.
        pending = {self.edge: (rows, True)}
        for number in range(self.edge, 0, -1):
            if number not in pending:
                continue
            coefficients, is_clear = pending.pop(number)
            node, view = self.graph.producer(number), self.view(number, batch)
            clears = isinstance(node.layer, ElementwiseLayer)
            if not is_clear and not clears:
                coefficients = view.clear(coefficients)
            if choices.rounding is not None:
                offset -= choices.rounding.cost(number, coefficients, view.gather)
            pulled, constant = node.layer.propagate_window_backward(
                coefficients,
                view,
                *(bounds[source] for source in node.inputs),
                **choices.for_backward(node.layer),
            )
            offset += constant
            befores = self._windows_before(node, view.window)
            for source, part, window in zip(node.inputs, pulled, befores, strict=True):
                target = self.view(source, batch)
                part = window.embed(part, target.window)
                is_clear = clears or target.is_inside
                if source in pending:
                    other, other_is_clear = pending[source]
                    part, is_clear = part + other, is_clear and other_is_clear
                pending[source] = part, is_clear
        coefficients, is_clear = pending[0]
        if choices.rounding is not None:
            gather = self.view(0, batch).gather
            offset -= choices.rounding.cost(0, coefficients, gather)
        return LinearForm(coefficients, offset), is_clear

    def _windows_before(self, node: Node, window: Window):
        shapes = (self.graph.shapes[source] for source in node.inputs)
        return node.layer.window_before(window, *shapes)

    def _sizes(self) -> list[int]:
        """Entries of one position's window, edge by edge."""
        return [
            math.prod(window.size) * self.graph.shapes[edge][-1]
            for edge, window in self.windows.items()
        ]
