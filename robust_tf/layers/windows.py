"""Windows: which part of a feature map a neuron of a later layer sees.

A neuron of a convolution depends on a window of its input, so coefficients that bound
it are kept on that window, `[batch * positions, rows, height, width, channels]`,
instead of on the whole map (the patches of arXiv:2011.13824, section C).
"""

import dataclasses

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Window:
    """Position `p` sees the rows `p * stride + start` and `size - 1` more.

    All fields are (height, width); `start` is negative where padding is seen.
    """

    size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    start: tuple[int, int] = (0, 0)

    def before(self, kernel, strides, pad_before) -> "Window":
        """Returns the window that this one sees through a convolution."""
        axes = range(2)
        return Window(
            tuple((self.size[i] - 1) * strides[i] + kernel[i] for i in axes),
            tuple(self.stride[i] * strides[i] for i in axes),
            tuple(self.start[i] * strides[i] - pad_before[i] for i in axes),
        )

    def union(self, other: "Window") -> "Window":
        """Returns the smallest window that holds both; their strides are equal."""
        start = tuple(map(min, self.start, other.start))
        ends = [
            max(self.start[i] + self.size[i], other.start[i] + other.size[i])
            for i in range(2)
        ]
        return Window(tuple(ends[i] - start[i] for i in range(2)), self.stride, start)

    def embed(self, coefficients: tf.Tensor, target: "Window") -> tf.Tensor:
        """Returns coefficients on this window as coefficients on a larger one."""
        if self == target:
            return coefficients
        before = [self.start[i] - target.start[i] for i in range(2)]
        after = [target.size[i] - self.size[i] - before[i] for i in range(2)]
        spatial = [[before[0], after[0]], [before[1], after[1]]]
        return tf.pad(coefficients, [[0, 0], [0, 0], *spatial, [0, 0]])

    def is_inside(self, positions, image) -> bool:
        """Whether no position's window leaves an image of (height, width)."""
        return all(
            self.start[i] >= 0
            and (positions[i] - 1) * self.stride[i] + self.start[i] + self.size[i]
            <= image[i]
            for i in range(2)
        )


@dataclasses.dataclass(frozen=True)
class WindowView:
    """The windows that all positions see of one image.

    Attributes:
        window: how they lie.
        positions: (height, width) of the map whose neurons hold the windows.
        image: (height, width) of the image that is seen.
        batch: number of examples.
    """

    window: Window
    positions: tuple[int, int]
    image: tuple[int, int]
    batch: int | tf.Tensor

    @property
    def is_inside(self) -> bool:
        """Whether no window leaves the image."""
        return self.window.is_inside(self.positions, self.image)

    def gather(self, values: tf.Tensor) -> tf.Tensor:
        """Returns `[batch * positions, *size, channels]`, 0 outside the image.

        Args:
            values: `[batch or 1, height, width, channels]`.
        """
        height, width, channels = values.shape[1:]
        index, _ = self._index()
        flat = tf.reshape(values, [-1, height * width, channels])
        if not self.is_inside:  # The last row stands for the padding.
            flat = tf.pad(flat, [[0, 0], [0, 1], [0, 0]])
        taken = tf.gather(flat, index.reshape(-1), axis=1)
        taken = tf.reshape(taken, [-1, *self.window.size, channels])
        if values.shape[0] == 1:  # Shared by all examples.
            return tf.tile(taken, [self.batch, 1, 1, 1])
        return taken

    def inside(self) -> np.ndarray:
        """Returns `[positions, *size, 1]`: whether an entry lies in the image."""
        _, is_in = self._index()
        return is_in.reshape(-1, *self.window.size, 1)

    def clear(self, coefficients: tf.Tensor) -> tf.Tensor:
        """Sets `[batch * positions or 1, rows, *size, channels]` to 0 outside."""
        if self.is_inside:
            return coefficients
        mask = tf.constant(self.inside()[:, None], coefficients.dtype)
        return coefficients * tf.tile(mask, [self.batch, 1, 1, 1, 1])

    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        """Flat indices into an image, and which are real, `[positions, entries]`."""
        coordinates = []
        for i in range(2):
            origin = np.arange(self.positions[i]) * self.window.stride[i]
            origin += self.window.start[i]
            coordinates.append(origin[:, None] + np.arange(self.window.size[i]))
        rows, columns = coordinates
        rows, columns = rows[:, None, :, None], columns[None, :, None, :]
        height, width = self.image
        is_in = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        index = np.where(is_in, rows * width + columns, height * width)
        shape = (np.prod(self.positions), np.prod(self.window.size))
        return index.astype(np.int32).reshape(shape), is_in.reshape(shape)
