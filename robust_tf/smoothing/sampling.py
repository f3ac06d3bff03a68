"""Votes of a base classifier on noisy copies, block by block.

A block is a fixed number of noisy copies of one image. Its noise is a function of the
seed, the image's index in its data set, the stage and the block's number; the
classifier is always run on one whole block. So a vote is the same, bit for bit, however
many blocks one call works through, in which order, and on which replica.
"""

import collections
import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from robust_tf.errors import InputError
from robust_tf.replicas import run_on_replicas
from robust_tf.smoothing.base import BaseClassifier
from robust_tf.smoothing.noises import Noise

# Streams of noise of one image, which share no sample.
SELECTION, ESTIMATION, PREDICTION = range(3)
# An index takes 31 bits of a key, the stage 2 and the block's number 30.
MAX_INDEX, MAX_BLOCKS = 2**31, 2**30


def key_of(seed: int, index: int, stage: int, block: int) -> tuple[int, int]:
    """Returns the key of a block's noise, two 64-bit integers; no two agree."""
    return seed, (index << 32) | (stage << 30) | block


@dataclasses.dataclass
class Tally:
    """What the samples of one image in one stage have come to so far.

    Attributes:
        place: of the image in the batch.
        index: of the image in its data set.
        stage: which stream of noise.
        size: samples at most.
        is_done: of the tally, asked after each block.
        counts: votes, int64 `[classes]`.
        totals: sums of softmax outputs, float64 `[classes]`; zeros if not asked for.
        squares: sums of their squares.
        drawn: samples so far.
        dealt: blocks that have been handed out.
    """

    place: int
    index: int
    stage: int
    size: int
    is_done: Callable[["Tally"], bool]
    counts: np.ndarray
    totals: np.ndarray
    squares: np.ndarray
    drawn: int = 0
    dealt: int = 0
    is_closed: bool = False

    def add(self, size, counts, totals, squares) -> bool:
        """Adds a block; returns whether that was the last one."""
        self.drawn += size
        self.counts += counts
        self.totals += totals
        self.squares += squares
        self.is_closed = self.drawn >= self.size or self.is_done(self)
        return self.is_closed


class Sampler:
    """Counts votes; its graph is compiled once for each batch size.

    Args:
        base: the classifier.
        noise: which noise.
        block_size: samples of a block.
        strategy: deals the blocks out over its replicas; None for the current one,
            which is one device outside of any scope.
        temperature: of the softmax outputs to sum: logits are multiplied by it; None
            for votes alone.
        jit_compile: whether XLA compiles the graph; slower on CPUs.
    """

    def __init__(
        self,
        base: BaseClassifier,
        noise: Noise,
        block_size: int,
        strategy=None,
        temperature: float | None = None,
        jit_compile: bool = False,
    ):
        self._base, self._noise = base, noise
        self._block_size, self._temperature = block_size, temperature
        self._strategy = strategy or tf.distribute.get_strategy()
        self._replicas = self._strategy.num_replicas_in_sync
        self._run = tf.function(self._votes, autograph=False, jit_compile=jit_compile)

    def tally(
        self, index: int, place: int, stage: int, size: int, is_done=lambda _: False
    ) -> Tally:
        """Returns a tally that has no samples yet."""
        classes = self._base.num_classes
        counts, sums = np.zeros(classes, np.int64), np.zeros((2, classes))
        return Tally(place, index, stage, size, is_done, counts, *sums)

    def fill(
        self,
        images: np.ndarray,
        tallies: Sequence[Tally],
        seed: int,
        batch_size: int,
        on_closed: Callable[[Tally], None] = lambda _: None,
    ) -> None:
        """Draws samples until every tally is done, in their order.

        Args:
            images: `[batch, *input_shape]`.
            tallies: filled.
            seed: of the noise.
            batch_size: samples of one call, rounded down to whole blocks for each
                replica, of at least one.
            on_closed: called with each tally that is done.

        Raises:
            InputError: for logits that are NaN.
        """
        share = max(1, batch_size // (self._block_size * self._replicas))
        queue = collections.deque(tallies)
        while dealt := self._deal(queue, share * self._replicas):
            keys = [key_of(seed, t.index, t.stage, block) for t, block, _ in dealt]
            sizes = [size for *_, size in dealt]
            places = [tally.place for tally, *_ in dealt]
            found = self._count(images[places], keys, sizes, share)
            for (tally, _, size), *votes in zip(dealt, *found, strict=True):
                if not tally.is_closed:  # Else the block was one too many.
                    _check_votes(tally, size, votes[0])
                    if tally.add(size, *votes):
                        on_closed(tally)

    def votes(self, images, seed, stage: int, size: int) -> tf.Tensor:
        """Counts votes within a graph, for what is exported.

        Args:
            images: `[batch, *input_shape]`; places in the batch are indices.
            seed: of the noise, an int64 scalar.
            stage: which stream of noise.
            size: samples of each image.

        Returns:
            As `fill` counts them, int64 `[batch, classes]`. A copy with logits that are
            NaN votes for nothing.
        """
        blocks = -(-size // self._block_size)

        def of_image(pair):
            image, index = pair

            def add(block, counts):
                number = tf.bitwise.bitwise_or(
                    tf.bitwise.left_shift(index, tf.constant(32, tf.int64)),
                    block + (stage << 30),
                )
                drawn = size - tf.cast(block, tf.int32) * self._block_size
                found, *_ = self._votes_of(image, tf.stack([seed, number]), drawn)
                return block + 1, counts + found

            start = tf.zeros([], tf.int64), tf.zeros([self._base.num_classes], tf.int64)
            return tf.while_loop(lambda block, _: block < blocks, add, start)[1]

        indices = tf.range(tf.shape(images, tf.int64)[0])
        return tf.map_fn(of_image, (images, indices), fn_output_signature=tf.int64)

    def _deal(self, queue, count) -> list[tuple[Tally, int, int]]:
        """The next blocks, at most `count`: tally, number, and samples that count."""
        dealt = []
        while queue and len(dealt) < count:
            tally = queue[0]
            begun = tally.dealt * self._block_size
            if tally.is_closed or begun >= tally.size:
                queue.popleft()
                continue
            size = min(self._block_size, tally.size - begun)
            dealt.append((tally, tally.dealt, size))
            tally.dealt += 1
        return dealt

    def _count(self, images, keys, sizes, share):
        """Counts, totals and squares, each `[blocks, classes]`."""
        blocks, missing = len(sizes), share * self._replicas - len(sizes)
        images = np.concatenate([images, np.zeros_like(images[:1]).repeat(missing, 0)])
        keys = np.array([*keys, *[(0, 0)] * missing], np.int64)
        sizes = np.array([*sizes, *[0] * missing], np.int32)
        places = range(0, len(sizes), share)
        shares = [
            tuple(part[place : place + share] for part in (images, keys, sizes))
            for place in places
        ]
        found = run_on_replicas(self._strategy, self._run, shares)
        joined = zip(*found, strict=True)
        return [np.concatenate(list(map(np.asarray, part)))[:blocks] for part in joined]

    def _votes(self, images, keys, sizes):
        """Of each block; blocks of size 0 are padding, and cost nothing."""
        classes = self._base.num_classes
        nothing = [tf.zeros([classes], dtype) for dtype in _TYPES]

        def of_block(block):
            image, key, size = block
            return tf.cond(
                size > 0, lambda: self._votes_of(image, key, size), lambda: nothing
            )

        blocks = (images, keys, sizes)
        return tf.map_fn(
            of_block, blocks, fn_output_signature=_TYPES, parallel_iterations=1
        )

    def _votes_of(self, image, key, size):
        shape = (self._block_size, *self._base.input_shape)
        noise = self._noise.sample(shape, key, self._base.dtype)
        logits = self._base.logits(self._noise.add(image[None], noise))
        logits = tf.ensure_shape(logits, [self._block_size, self._base.num_classes])
        classes = tf.range(self._base.num_classes)
        # The lowest of the greatest; for NaN no class, on every device.
        is_greatest = logits >= tf.reduce_max(logits, -1, keepdims=True)
        is_number = ~tf.reduce_any(tf.math.is_nan(logits), -1, keepdims=True)
        places = tf.where(is_greatest & is_number, classes, classes.shape[0])
        winner = tf.reduce_min(places, -1, keepdims=True)
        is_counted = (tf.range(self._block_size) < size)[:, None]
        is_vote = is_counted & (winner == classes)
        counts = tf.reduce_sum(tf.cast(is_vote, tf.int64), 0)
        if self._temperature is None:
            nothing = tf.zeros_like(counts, tf.float64)
            return [counts, nothing, nothing]
        outputs = tf.nn.softmax(self._temperature * tf.cast(logits, tf.float64))
        outputs = tf.where(is_counted, outputs, 0.0)
        squares = tf.reduce_sum(outputs**2, 0)
        return [counts, tf.reduce_sum(outputs, 0), squares]


_TYPES = [tf.int64, tf.float64, tf.float64]


def _check_votes(tally, size, counts):
    if counts.sum() != size:
        raise InputError(
            f"Logits must be numbers. Received: NaN for {size - counts.sum()} of "
            f"{size} noisy copies of the image with index {tally.index}. Load a sound "
            "checkpoint."
        )
