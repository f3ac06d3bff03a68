"""The classifier that is smoothed, at inference."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.layers.convert import convert
from robust_tf.smoothing.radius import is_whole


@dataclasses.dataclass(frozen=True)
class BaseClassifier:
    """Any function to logits; smoothing asks for no bound rules.

    Each row's logits must be a function of that row alone, and the same at each call.

    Attributes:
        logits: from `[batch, *input_shape]` to `[batch, classes]`.
        input_shape: of one input.
        num_classes: at least 2.
        dtype: of the inputs and the noise, "float32" or "float64".

    Raises:
        InputError: for shapes and numbers that are none.
    """

    logits: Callable[[tf.Tensor], tf.Tensor]
    input_shape: tuple[int, ...]
    num_classes: int
    dtype: str = "float32"

    def __post_init__(self):
        if not callable(self.logits):
            raise InputError(
                "`logits` must be a function from inputs to logits. Received: "
                f"{type(self.logits).__name__}"
            )
        if not all(is_whole(size) and size > 0 for size in self.input_shape):
            raise InputError(
                "Smoothing needs inputs of one known shape. Received: "
                f"{self.input_shape}. Give each axis of `keras.Input` its size."
            )
        if not (is_whole(self.num_classes) and self.num_classes >= 2):
            raise InputError(
                f"There must be at least 2 classes. Received: {self.num_classes!r}"
            )

    @classmethod
    def from_model(cls, model) -> "BaseClassifier":
        """Copies a Keras classifier, or the one in a `.keras` file.

        Weights and moving statistics are those of now, and BatchNormalization is a part
        of the convolution before it: a row sees nothing of its batch.

        Raises:
            InputError: for what `robust_tf.convert` refuses; give a `BaseClassifier`
                then.
        """
        converted = convert(model)
        graph = BoundGraph.from_model(converted)
        output = graph.shapes[graph.output]
        if len(output) != 1:
            raise InputError(
                "A classifier's output is [batch, classes]. Received: a model whose "
                f"output has shape {output}, without its batch axis"
            )
        is_double = converted.inputs[0].dtype == "float64"
        dtype = "float64" if is_double else "float32"
        return cls(graph.inference(), graph.shapes[0], output[0], dtype)
