"""The computation graph of a classifier, as bound passes walk it."""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping

import keras
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.errors import InputError
from robust_tf.layers.base import BoundLayer
from robust_tf.layers.base import KernelLayer
from robust_tf.layers.normalization import Moments
from robust_tf.rounding import Rounding


@dataclasses.dataclass(frozen=True)
class Node:
    """One layer call: the edges it reads and the edge it writes."""

    layer: BoundLayer
    inputs: tuple[int, ...]
    output: int


@dataclasses.dataclass(frozen=True)
class Choices:
    """What a pass leaves open, handed to the rules that ask for it.

    Attributes:
        relaxation: lower slope of unstable neurons, one of `layers.activations.
            RELAXATIONS`.
        lower_slopes: slopes of single layers by name, instead of `relaxation`:
            `[batch, *shape]`, or `[batch, rows, *shape]` with slopes of their own for
            each row.
        shares: lines of single smooth activations by name, instead of their own: two
            of the same shapes, see `layers.activations.Smooth`.
        moments: statistics of the clean batch by layer name; where a
            BatchNormalization is missing, its moving statistics are used.
        multipliers: of constraints `s * z >= 0` on the values of an edge, by its
            number: `s` times a number of at least 0, `[batch or 1, rows or 1, *shape]`.
            Backward passes then bound rows over the part of the region where they hold
            (beta-CROWN, arXiv:2103.06624, section 3.1); windows leave them out.
        rounding: ledger of a pass that accounts for its own rounding errors.
    """

    relaxation: str = "adaptive"
    lower_slopes: Mapping[str, tf.Tensor] = dataclasses.field(default_factory=dict)
    shares: Mapping[str, tuple[tf.Tensor, tf.Tensor]] = dataclasses.field(
        default_factory=dict
    )
    moments: Mapping[str, Moments] = dataclasses.field(default_factory=dict)
    multipliers: Mapping[int, tf.Tensor] = dataclasses.field(default_factory=dict)
    rounding: Rounding | None = None

    def for_interval(self, layer: BoundLayer) -> dict:
        """Keyword arguments for `propagate_interval`."""
        if layer.has_moments and layer.name in self.moments:
            return {"moments": self.moments[layer.name]}
        return {}

    def for_backward(self, layer: BoundLayer) -> dict:
        """Keyword arguments for the backward rules."""
        if layer.name in self.shares:
            return {"shares": self.shares[layer.name]}
        if not layer.has_lower_slope:
            return self.for_interval(layer)
        if layer.name in self.lower_slopes:
            return {"lower_slope": self.lower_slopes[layer.name]}
        return {"relaxation": self.relaxation}


@dataclasses.dataclass(frozen=True)
class BoundGraph:
    """Nodes in topological order over numbered edges; edge 0 is the input.

    Attributes:
        nodes: node i writes edge i + 1.
        shapes: shape of each edge, without the batch axis.
        output: the edge of the logits.
    """

    nodes: tuple[Node, ...]
    shapes: tuple[tuple[int, ...], ...]
    output: int

    @classmethod
    def from_model(cls, model: keras.Model) -> "BoundGraph":
        """Reads the graph of a converted classifier.

        Raises:
            InputError: for models that `robust_tf.convert` did not make.
        """
        if not isinstance(model, keras.Model):
            raise InputError(
                "Bounds need a model from `robust_tf.convert`. Received: "
                f"{type(model).__name__}"
            )
        # Bounds need all bits of float32; accelerators drop half of them by default.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        if not hasattr(model, "operations"):  # Opens a Sequential.
            model = keras.Model(model.inputs, model.outputs)
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise InputError(
                "A classifier has one input and one output. Received: model "
                f"'{model.name}' with {len(model.inputs)} and {len(model.outputs)}"
            )
        edges, nodes = {id(model.inputs[0]): 0}, []
        shapes = [tuple(model.inputs[0].shape[1:])]
        for layer in model.operations:
            if isinstance(layer, keras.layers.InputLayer):
                continue
            sources = _sources(layer)
            if not edges.keys() >= set(sources):
                raise InputError(_ambiguous(layer))
            nodes.append(Node(layer, tuple(edges[s] for s in sources), len(shapes)))
            edges[id(layer.output)] = len(shapes)
            shapes.append(tuple(layer.output.shape[1:]))
        if id(model.outputs[0]) not in edges:  # Layers know their first call alone.
            raise InputError(
                f"The last layer of model '{model.name}' is called more than once, so "
                "its place in the graph is ambiguous. Create one layer for each call."
            )
        return cls(tuple(nodes), tuple(shapes), edges[id(model.outputs[0])])

    def producer(self, edge: int) -> Node | None:
        """The node that writes `edge`; None for the input."""
        return self.nodes[edge - 1] if edge else None

    def consumers(self, edge: int) -> list[Node]:
        """The nodes that read `edge`."""
        return [node for node in self.nodes if edge in node.inputs]

    def inputs_of(self, kind: type[BoundLayer]) -> list[int]:
        """The edges that layers of one kind read, in the order of the graph."""
        return [
            edge
            for node in self.nodes
            if isinstance(node.layer, kind)
            for edge in node.inputs
        ]

    def affine_edges(self) -> frozenset[int]:
        """Edges that are affine functions of the input."""
        edges = {0}
        for node in self.nodes:
            if node.layer.is_affine and edges.issuperset(node.inputs):
                edges.add(node.output)
        return frozenset(edges)

    def forward(self, inputs: tf.Tensor, training: bool = False):
        """Runs the classifier, and reports the statistics that it normalised by.

        Args:
            inputs: `[batch, *shape]`.
            training: normalise by the batch, and move the moving statistics.

        Returns:
            The logits, `[batch, classes]`, and `Moments` by layer name (none unless
            `training`).
        """
        values, moments = {0: inputs}, {}
        for node in self.nodes:
            tensors = [values[edge] for edge in node.inputs]
            layer = node.layer
            if layer.has_moments and training and layer.trainable:
                (tensor,) = tensors
                values[node.output], batch = layer.normalize_batch(tensor)
                layer.update_moving(batch, tensor)
                moments[layer.name] = batch
            else:
                arguments = tensors if len(tensors) > 1 else tensors[0]
                values[node.output] = _call(layer, arguments, training)
        return values[self.output], moments

    def inference(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns the classifier at inference, from inputs to logits, for many calls.

        BatchNormalization after a convolution becomes part of its kernel, once for all
        calls: they see the weights and the moving statistics of now.
        """
        folded = {}
        for node in self.nodes:
            before = self._convolution_before(node)
            if before is not None:
                dtype = tf.as_dtype(before.layer.compute_dtype)
                weights = before.layer.folded(*node.layer.scale_and_shift(dtype))
                folded[before.output] = weights

        def logits(inputs):
            values = {0: inputs}
            for node in self.nodes:
                tensors = [values[edge] for edge in node.inputs]
                if node.output in folded:
                    kernel, bias = folded[node.output]
                    tensor = tf.cast(tensors[0], kernel.dtype)
                    values[node.output] = node.layer.apply_with(tensor, kernel, bias)
                elif node.layer.has_moments and node.inputs[0] in folded:
                    (values[node.output],) = tensors
                else:
                    arguments = tensors if len(tensors) > 1 else tensors[0]
                    values[node.output] = _call(node.layer, arguments, False)
            return values[self.output]

        return logits

    def _convolution_before(self, node) -> Node | None:
        """Before a BatchNormalization, where nothing else reads the convolution."""
        before = self.producer(node.inputs[0])
        if not node.layer.has_moments or before is None:
            return None
        if not isinstance(before.layer, KernelLayer) or not before.layer.is_shared:
            return None
        is_read_once = len(self.consumers(before.output)) == 1
        return before if is_read_once and before.output != self.output else None

    def is_cut(self, edge: int) -> bool:
        """Whether all paths from the input to the logits lead through `edge`."""
        return all(min(node.inputs) >= edge for node in self.nodes[edge:])

    def forward_from(self, edge: int, values: tf.Tensor, choices: Choices) -> tf.Tensor:
        """Runs the rest of the classifier at points, as the bounds see it.

        Normalised by `choices.moments`, or moving statistics without them, as the
        interval rules do; so the logits lie in the bounds over every box that holds
        the points. Moves no statistics.

        Args:
            edge: a cut (`is_cut`).
            values: on that edge, `[batch, *shape]`.
            choices: what the interval rules ask for.

        Returns:
            The logits, `[batch, classes]`.

        Raises:
            InputError: for edges that are no cut.
        """
        if not self.is_cut(edge):
            cuts = [number for number in range(len(self.shapes)) if self.is_cut(number)]
            raise InputError(
                f"Edge {edge} does not divide the classifier: paths lead past it. "
                f"Edges that do: {cuts}"
            )
        return self._values_after(edge, values, choices)[self.output]

    def values(self, inputs: tf.Tensor, choices: Choices) -> dict[int, tf.Tensor]:
        """Returns the value on every edge, `[batch, *shape]`, keyed by edge number.

        As the bounds see the classifier, see `forward_from`.

        Args:
            inputs: `[batch, *shape]`.
            choices: what the interval rules ask for.
        """
        return self._values_after(0, inputs, choices)

    def _values_after(self, edge, values, choices):
        reached = {edge: values}
        for node in self.nodes[edge:]:
            tensors = [reached[source] for source in node.inputs]
            layer = node.layer
            if layer.has_moments:
                moments = choices.moments.get(layer.name)
                reached[node.output] = layer.normalize(*tensors, moments)
            else:
                arguments = tensors if len(tensors) > 1 else tensors[0]
                reached[node.output] = _call(layer, arguments, False)
        return reached

    def propagate_interval(
        self, box: IntervalBound, choices: Choices, known=None
    ) -> dict[int, IntervalBound]:
        """Returns the bound on every edge, keyed by edge number.

        Args:
            box: bounds on the input, `[batch, *shape]`.
            choices: what the rules ask for.
            known: bounds of edges that are used instead of the rule's.
        """
        bounds, known = {0: box}, known or {}
        is_folded = not tf.executing_eagerly() and choices.rounding is None
        for node in self.nodes:
            before = self._convolution_before(node)
            if node.output in known:
                bounds[node.output] = known[node.output]
            elif before is None or before.output in known or not is_folded:
                bounds[node.output] = self.interval_after(node, bounds, choices)
            else:  # What nothing reads of the convolution's own bound, a graph drops.
                (source,) = before.inputs
                arguments = choices.for_interval(node.layer)
                weights = node.layer.scale_and_shift(box.dtype, **arguments)
                weights = before.layer.folded(*weights)
                bounds[node.output] = before.layer.bound_with(bounds[source], *weights)
        return bounds

    def interval_after(self, node, bounds, choices) -> IntervalBound:
        """Applies one node's interval rule."""
        inputs = [bounds[edge] for edge in node.inputs]
        interval = node.layer.propagate_interval(
            *inputs, **choices.for_interval(node.layer)
        )
        if choices.rounding is None:
            return interval
        return choices.rounding.widen(node.layer, node.output, inputs, interval)

    def propagate_backward(
        self, coefficients, edge, bounds, choices, until=(0,), trace=None
    ):
        """Pulls `[batch or 1, rows, *shape]` on an edge back to earlier edges.

        Args:
            coefficients: rows over edge number `edge`, to be bounded from below.
            edge: where they begin.
            bounds: intervals of the edges before it, by number.
            choices: what the rules ask for.
            until: edges at which to stop; all paths must end there.
            trace: filled with the coefficients on each edge, by number.

        Returns:
            Coefficients by edge of `until`, and the constant of each row, so that
            their sum is a lower bound of the rows.
        """
        offset = tf.zeros([1, 1], coefficients.dtype)
        pending, reached = {edge: coefficients}, {}
        for number in range(edge, -1, -1):
            if number not in pending:
                continue  # Feeds nothing that is being bounded.
            rows = pending.pop(number)
            if number in choices.multipliers:
                rows -= choices.multipliers[number]
            if choices.rounding is not None:
                offset -= choices.rounding.cost(number, rows)
            if trace is not None:
                trace[number] = rows
            if number in until:
                reached[number] = rows
                continue
            node = self.producer(number)
            inputs = (bounds[source] for source in node.inputs)
            pulled, constant = node.layer.propagate_linear_backward(
                rows, *inputs, **choices.for_backward(node.layer)
            )
            offset += constant
            for source, part in zip(node.inputs, pulled, strict=True):
                # Where branches fork, their coefficients add up.
                pending[source] = pending[source] + part if source in pending else part
        return reached, offset


def _sources(layer) -> list[int]:
    """Identities of the tensors that a layer reads."""
    if not isinstance(layer, BoundLayer):
        raise InputError(
            f"Layer '{layer.name}' ({type(layer).__name__}) has no bound rules. "
            "Convert the model: `robust_tf.convert(model)`."
        )
    return [id(tensor) for tensor in keras.tree.flatten(layer.input)]


def _ambiguous(layer) -> str:
    return (
        f"Layer '{layer.name}' ({type(layer).__name__}) is called more than once, so "
        "its place in the graph is ambiguous. Create one layer for each call."
    )


def _call(layer, arguments, training):
    if isinstance(layer, keras.layers.Dropout):
        return layer(arguments, training=training)
    return layer(arguments)
