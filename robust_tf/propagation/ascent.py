"""Projected ascent on the free parameters of bounds, by Adam on plain tensors."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from robust_tf.bounds import leading_sizes
from robust_tf.errors import InputError

_FIRST_MOMENT, _SECOND_MOMENT, _GUARD = 0.9, 0.999, 1e-8


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A tensor over which bounds are maximised; any value in its range is valid.

    Attributes:
        start: `[batch, ...]`, or `[batch, rows, ...]` with `by_row`.
        rate: of the first step.
        project: brings a value back into its range.
        by_row: whether each row has its own; else all rows of an example share it.
    """

    start: tf.Tensor
    rate: float
    project: Callable[[tf.Tensor], tf.Tensor]
    by_row: bool = False


@dataclasses.dataclass(frozen=True)
class Ascent:
    """How long and how fast parameters are searched.

    Adam (arXiv:1412.6980) with steps that shrink. The defaults are those that
    alpha-CROWN (arXiv:2011.13824) uses.

    Attributes:
        iterations: evaluations; 1 evaluates the start alone.
        decay: factor on the steps from one iteration to the next.
        patience: iterations without any improvement after which the search ends.

    Raises:
        InputError: for values out of range.
    """

    iterations: int = 20
    decay: float = 0.98
    patience: int = 10

    def __post_init__(self):
        if self.iterations < 1 or self.patience < 1 or not 0.0 < self.decay <= 1.0:
            raise InputError(
                "`iterations` and `patience` must be at least 1, `decay` in (0, 1]. "
                f"Received: {self}"
            )

    def maximise(
        self,
        evaluate: Callable,
        parameters: list[Parameter],
        target: float | None = None,
        iterations: tf.Tensor | None = None,
    ):
        """Maximises the sum of all rows; each row counts until it passes `target`.

        Args:
            evaluate: maps values of the parameters to bounds, `[batch, rows]`, and a
                list of further valid lower bounds of any shapes.
            parameters: what is searched.
            target: what a row must exceed, if more is of no use.
            iterations: scalar integer, instead of the attribute.

        Returns:
            The best bounds, `[batch, rows]`; the values that gave them; and the best
            of the further bounds. All are element-wise best over all iterations, but
            for values that rows share: those of the greatest sum over the rows.
        """
        count = self.iterations if iterations is None else iterations
        start = [parameter.start for parameter in parameters]
        bounds, others = tf.nest.map_structure(_lowest, evaluate(start))
        state = _State(bounds, others, start, tf.reduce_sum(bounds, -1))
        moments = [tf.zeros_like(value) for value in start]

        def goes_on(index, stalled, state, *_):
            is_open = tf.constant(True)
            if target is not None:
                is_open = tf.reduce_any(~(state.bounds > target))
            return (index < count) & is_open & (stalled < self.patience)

        def step(index, stalled, state, at, first, second):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(at)
                found, others = evaluate(at)
                counted = found
                if target is not None:
                    counted = tf.where(state.bounds > target, 0.0, found)
            gradients = tape.gradient(counted, at, unconnected_gradients="zero")
            new, is_better = state.improved(parameters, found, others, at)
            moved = [
                self._moved(index, parameter, *parts)
                for parameter, *parts in zip(
                    parameters, at, gradients, first, second, strict=True
                )
            ]
            stalled = tf.where(is_better, 0, stalled + 1)
            return index + 1, stalled, new, *(list(x) for x in zip(*moved, strict=True))

        loop = (tf.constant(1), tf.constant(0), state, start, moments, moments)
        *_, state, at, _, _ = tf.while_loop(goes_on, step, loop, parallel_iterations=1)
        state, _ = state.improved(parameters, *evaluate(at), at)
        return state.bounds, state.values, state.others

    def _moved(self, index, parameter, at, gradient, first, second):
        """The next value, and the moments behind it."""
        time = tf.cast(index, at.dtype)  # From 1.
        first = _FIRST_MOMENT * first + (1.0 - _FIRST_MOMENT) * gradient
        second = _SECOND_MOMENT * second + (1.0 - _SECOND_MOMENT) * gradient * gradient
        rate = parameter.rate * self.decay ** (time - 1.0)
        rate *= tf.sqrt(1.0 - _SECOND_MOMENT**time) / (1.0 - _FIRST_MOMENT**time)
        at = parameter.project(at + rate * first / (tf.sqrt(second) + _GUARD))
        return at, first, second


@dataclasses.dataclass(frozen=True)
class _State:
    """The best so far."""

    bounds: tf.Tensor
    others: list
    values: list
    total: tf.Tensor

    def improved(self, parameters, found, others, at):
        """The best with new bounds, and whether there is an improvement."""
        total = tf.reduce_sum(found, -1)
        is_better, is_greater = found > self.bounds, total > self.total
        values = [
            _chosen(is_better if parameter.by_row else is_greater, new, old)
            for parameter, new, old in zip(parameters, at, self.values, strict=True)
        ]
        state = _State(
            tf.where(is_better, found, self.bounds),
            [
                tf.where(new > old, new, old)
                for new, old in zip(others, self.others, strict=True)
            ],
            values,
            tf.where(is_greater, total, self.total),
        )
        return state, tf.reduce_any(is_better)

    def __tf_flatten__(self):  # Lets tf.while_loop carry it.
        return (), (self.bounds, self.others, self.values, self.total)

    @classmethod
    def __tf_unflatten__(cls, metadata, components):
        return cls(*components)


def _lowest(tensor):
    return tf.fill(
        leading_sizes(tensor, tensor.shape.rank),
        tf.constant(-float("inf"), tensor.dtype),
    )


def _chosen(mask, new, old):
    """`new` where the mask over the leading axes holds."""
    ones = [1] * (new.shape.rank - mask.shape.rank)
    sizes = leading_sizes(mask, mask.shape.rank)
    return tf.where(tf.reshape(mask, [*sizes, *ones]), new, old)
