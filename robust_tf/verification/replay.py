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
        is_inside: the point lies in the region, exactly.
    """

    point: np.ndarray
    executed: float
    exact: float
    is_inside: bool

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
        exact = self._exact(tf.cast(point, tf.float64))
        return Replayed(
            point[0],
            float(_margin(unsafe, executed)),
            float(_margin(unsafe, exact)),
            is_inside(point.astype("float64"), region, self.dtype),
        )

    def _run_exactly(self, points):
        box = IntervalBound.from_center(points, tf.zeros_like(points))
        return self._graph.propagate_interval(box, Choices())[self._graph.output].center


def _margin(unsafe, outputs):
    margin = unsafe.margin(outputs).numpy()[0]
    return -np.inf if np.isnan(margin) else margin  # No answer is no safe one.


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
    return bool((length <= region.radius.numpy()).all())


def _rounded_inward(region, dtype):
    lower, upper = region.box.lower.numpy(), region.box.upper.numpy()
    low, high = lower.astype(dtype), upper.astype(dtype)
    low = np.where(low < lower, np.nextafter(low, dtype.type(np.inf)), low)
    high = np.where(high > upper, np.nextafter(high, dtype.type(-np.inf)), high)
    nearest = ((lower + upper) / 2).astype(dtype)
    is_empty = low > high
    return np.where(is_empty, nearest, low), np.where(is_empty, nearest, high)
