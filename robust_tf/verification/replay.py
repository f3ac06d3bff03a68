"""Whether a point that a search found is a counterexample: it is run again."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.regions import Region
from robust_tf.specifications import UnsafeSet

# A ball's points are drawn to its centre by this much, so that rounding them to the
# type of the model leaves them inside.
_SHRINK = 1e-6


@dataclasses.dataclass(frozen=True)
class Replayed:
    """A point of the region, and what it gives.

    Attributes:
        point: in the type of the model, `[*shape]`.
        executed: the least margin of a clause by the model itself.
        exact: the same by float64 arithmetic.
        exact_margins: of each clause, by that arithmetic, `[clauses]`.
        is_inside: the point lies in the region, exactly, but for entries whose interval
            holds no number of the type: there it has the one that is next to it.
        is_strict: the point lies in the region without that exception, so what is
            proved of the region holds for it.
    """

    point: np.ndarray
    executed: float
    exact: float
    exact_margins: np.ndarray
    is_inside: bool
    is_strict: bool

    @property
    def is_counterexample(self) -> bool:
        """Whether the model itself gives an unsafe output inside the region."""
        return self.is_inside and not self.executed > 0.0


class Replay:
    """Runs points through the original model, and through the graph in float64.

    Args:
        model: maps `[batch, *shape]` in its own type to outputs.
        graph: the same classifier.
        dtype: the type of the model.
    """

    def __init__(self, model: Callable, graph: BoundGraph, dtype=np.float32):
        self._model, self._graph, self.dtype = model, graph, np.dtype(dtype)
        self._exact = tf.function(self._run_exactly, autograph=False)

    def outputs(self, points) -> np.ndarray:
        """Returns the model's own outputs, `[batch, outputs]`."""
        return np.asarray(self._model(np.asarray(points, self.dtype)))

    def check(self, point, region: Region, unsafe: UnsafeSet) -> Replayed:
        """Brings one point into a region of one example, and runs it.

        Args:
            point: `[1, *shape]`, near the region.
            region: of one example, float64.
            unsafe: of one example, float64.
        """
        point = representable(np.asarray(point, "float64"), region, self.dtype)
        executed = tf.cast(self.outputs(point), tf.float64)
        exact = _margins(unsafe, self._exact(tf.cast(point, tf.float64)))
        inside = is_inside(point.astype("float64"), region, self.dtype)
        return Replayed(
            point[0],
            float(_margins(unsafe, executed).min()),
            float(exact.min()),
            exact,
            inside,
            inside and is_inside(point.astype("float64"), region, np.dtype("float64")),
        )

    def _run_exactly(self, points):
        box = IntervalBound.from_center(points, tf.zeros_like(points))
        return self._graph.propagate_interval(box, Choices())[self._graph.output].center


def _margins(unsafe, outputs):
    margins = unsafe.clause_margins(unsafe.row_margins(outputs)).numpy()[0]
    return np.where(np.isnan(margins), -np.inf, margins)  # No answer is no safe one.


def representable(points: np.ndarray, region: Region, dtype) -> np.ndarray:
    """Returns points of a type, inside the region wherever that has such points.

    Args:
        points: `[batch, *shape]`, float64.
        region: float64.
        dtype: of the result.
    """
    if not region.is_box:
        center, radius = region.x.numpy(), region.radius.numpy()
        offset = (points - center).reshape(len(points), -1)
        length = np.linalg.norm(offset, region.norm, -1)
        share = np.minimum(1.0, (1.0 - _SHRINK) * radius / np.maximum(length, 1e-300))
        points = center + (offset * share[:, None]).reshape(points.shape)
    low, high = _rounded_inward(region, dtype)
    return np.clip(points.astype(dtype), low, high)


def is_inside(points: np.ndarray, region: Region, dtype) -> bool:
    """Returns whether points lie in the region, exactly.

    Where an entry's interval holds no number of the type, the number that is next to it
    counts as inside: no other can be given to the model.
    """
    low, high = (end.astype("float64") for end in _rounded_inward(region, dtype))
    if not ((points >= low) & (points <= high)).all():
        return False
    if region.is_box:
        return True
    offset = (points - region.x.numpy()).reshape(len(points), -1)
    length = np.linalg.norm(offset, region.norm, -1)
    # The length is rounded too.
    least = 1.0 - 4.0 * offset.shape[1] * np.finfo("float64").eps
    return bool((length <= least * region.radius.numpy()).all())


def _rounded_inward(region, dtype):
    lower, upper = region.box.lower.numpy(), region.box.upper.numpy()
    low, high = lower.astype(dtype), upper.astype(dtype)
    low = np.where(low < lower, np.nextafter(low, dtype.type(np.inf)), low)
    high = np.where(high > upper, np.nextafter(high, dtype.type(-np.inf)), high)
    nearest = ((lower + upper) / 2).astype(dtype)
    is_empty = low > high
    return np.where(is_empty, nearest, low), np.where(is_empty, nearest, high)
