"""Bounds by windows equal those by rows over whole images."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.layers.windows import Window
from robust_tf.layers.windows import WindowView
from robust_tf.propagation import backward
from robust_tf.propagation.interval import interval_bounds
from robust_tf.propagation.window_plan import WindowPlan
from tests.propagation import networks

KINDS = (layers.ReLU, layers.Sigmoid, layers.Softplus, layers.Tanh, layers.ELU)
REGIONS = [(norm, clip) for norm in ("inf", 2, 1) for clip in (True, False)]


class Stack:
    """A random stack of layers that all have a patch form."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)

    def pick(self, *options):
        return options[self.random.integers(len(options))]

    def activate(self, tensor):
        if self.random.random() < 0.3:
            tensor = layers.BatchNormalization(dtype="float64")(tensor)
        if self.random.random() < 0.3:
            return layers.LeakyReLU(0.2, dtype="float64")(tensor)
        return self.pick(*KINDS)(dtype="float64")(tensor)

    def convolve(self, tensor, strides=1, filters=4, padding=None):
        kernel = self.pick(1, 2, 3, (3, 2))
        padding = padding or self.pick("same", "valid")
        is_even = tensor.shape[-1] % 2 == 0 and filters % 2 == 0
        groups = 2 if is_even and self.random.random() < 0.3 else 1
        dilation = self.pick(1, 1, 2) if strides == 1 else 1
        return layers.Conv2D(
            filters,
            kernel,
            strides,
            padding,
            dilation_rate=dilation,
            groups=groups,
            dtype="float64",
        )(tensor)

    def block(self, tensor):
        kind = self.pick("convolution", "depthwise", "padding", "residual", "concat")
        if kind == "convolution":
            return self.convolve(tensor, self.pick(1, 2))
        if kind == "depthwise":
            return layers.DepthwiseConv2D(2, self.pick(1, 2), "same", dtype="float64")(
                tensor
            )
        if kind == "padding":
            padding = ((1, 0), (0, 2))
            padded = layers.ZeroPadding2D(padding, dtype="float64")(tensor)
            return layers.Conv2D(3, 2, dtype="float64")(padded)
        strides = self.pick(1, 2) if kind == "residual" else 1
        filters = tensor.shape[-1]
        main = self.convolve(tensor, strides, padding="same")
        main = self.activate(main)
        main = self.convolve(main, 1, filters, "same")
        if kind == "concat":
            return layers.Concatenate(dtype="float64")([tensor, main])
        side = layers.Conv2D(filters, 1, strides, dtype="float64")(tensor)
        merge = self.pick(layers.Add, layers.Subtract, layers.Average)
        return merge(dtype="float64")([main, side])

    def model(self, blocks=2):
        inputs = tensor = keras.Input((9, 8, 2), dtype="float64")
        for _ in range(blocks):
            tensor = self.activate(self.block(tensor))
        tensor = self.convolve(tensor, filters=2, padding="same")
        model = keras.Model(inputs, tensor)
        return networks.randomize(model, self.random.integers(1000))


def region_for(model, norm, is_clipped):
    center = networks.centers(model, 2, dtype="float64")
    radius = {"inf": 0.05, 2: 0.5, 1: 2.0}[norm]
    valid_range = (0.0, 1.0) if is_clipped else None
    return rt.LpBall(center, [radius, 1.5 * radius], norm, valid_range)


def check(graph, region, monkeypatch, relaxation="adaptive"):
    """Compares the bounds of every edge; returns how many had windows."""
    choices = Choices(relaxation)
    bounds = interval_bounds(graph, region, choices)
    count = 0
    for edge in range(1, graph.output + 1):
        if WindowPlan.of(graph, edge) is None:
            continue
        count += 1
        results = []
        for is_chosen in (True, False):
            monkeypatch.setattr(WindowPlan, "is_less_work", is_chosen)
            results.append(
                backward.backward_interval(graph, edge, region, bounds, choices)
            )
        windows, dense = results
        size = 1.0 + float(tf.reduce_max(tf.abs(dense.upper)))
        for one, other in ((windows.lower, dense.lower), (windows.upper, dense.upper)):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-10 * size)
    return count


@pytest.mark.parametrize("seed", range(12))
def test_random_stacks(seed, monkeypatch):
    model = Stack(seed).model()
    graph = BoundGraph.from_model(model)
    # Every norm meets every kind of range over the seeds.
    norm, is_clipped = REGIONS[seed % len(REGIONS)]
    assert check(graph, region_for(model, norm, is_clipped), monkeypatch) >= 5


@pytest.mark.parametrize(("norm", "is_clipped"), REGIONS)
def test_every_region(norm, is_clipped, monkeypatch):
    """A strided residual block, with a sigmoid before zeros are padded."""
    inputs = keras.Input((7, 6, 1), dtype="float64")
    tensor = layers.Conv2D(2, 3, padding="same", dtype="float64")(inputs)
    tensor = layers.Sigmoid(dtype="float64")(tensor)  # 0.5 at 0, unlike the padding.
    main = layers.Conv2D(2, 3, 2, "same", dtype="float64")(tensor)
    main = layers.BatchNormalization(dtype="float64")(main)
    main = layers.ReLU(dtype="float64")(main)
    main = layers.Conv2D(2, 3, padding="same", dtype="float64")(main)
    side = layers.Conv2D(2, 1, 2, dtype="float64")(tensor)
    model = keras.Model(inputs, layers.Add(dtype="float64")([main, side]))
    networks.randomize(model, 0)
    graph = BoundGraph.from_model(model)
    assert check(graph, region_for(model, norm, is_clipped), monkeypatch) == 8


def test_boxes(monkeypatch):
    model = Stack(3).model()
    lower = networks.centers(model, 2, dtype="float64")
    width = 0.2 * np.random.default_rng(0).random(lower.shape)
    region = rt.Box(lower, lower + width)
    assert check(BoundGraph.from_model(model), region, monkeypatch, "same-slope") >= 5


def test_windows_are_chosen_where_they_are_less_work():
    inputs = keras.Input((12, 12, 1))
    near = layers.Conv2D(2, 3)(inputs)
    far = layers.Conv2D(2, 3)(layers.ReLU()(near))
    for _ in range(12):
        far = layers.Conv2D(2, 3, padding="same")(layers.ReLU()(far))
    graph = BoundGraph.from_model(keras.Model(inputs, far))
    chosen = [WindowPlan.of(graph, edge).is_less_work for edge in (1, 3, graph.output)]
    assert chosen == [True, True, False]


def test_no_windows_through_other_layers():
    inputs = keras.Input((6, 6, 2))
    pooled = layers.AveragePooling2D(2)(layers.Conv2D(2, 3, padding="same")(inputs))
    last = layers.Conv2D(2, 2)(pooled)
    graph = BoundGraph.from_model(keras.Model(inputs, last))
    assert WindowPlan.of(graph, 1) is not None
    assert WindowPlan.of(graph, 3) is None
    # Strides that differ between branches.
    left = layers.Conv2D(2, 2, 2)(inputs)
    right = layers.Conv2D(2, 4)(layers.ZeroPadding2D(0)(inputs))
    right = layers.Reshape((3, 3, 2))(right)
    graph = BoundGraph.from_model(keras.Model(inputs, layers.Add()([left, right])))
    assert WindowPlan.of(graph, graph.output) is None


class TestWindow:
    def test_through_a_convolution(self):
        # Two neighbours of a 3 by 3 convolution of stride 2 see 5 rows.
        window = Window((2, 1), (1, 1), (0, 0)).before((3, 3), (2, 2), (1, 0))
        assert window == Window((5, 3), (2, 2), (-1, 0))

    def test_union(self):
        one, other = Window((3, 3), (2, 2), (-1, 0)), Window((1, 1), (2, 2), (0, 3))
        union = one.union(other)
        assert union == Window((3, 4), (2, 2), (-1, 0))
        rows = tf.ones([1, 1, 1, 1, 1])
        embedded = other.embed(rows, union)[0, 0, :, :, 0].numpy()
        np.testing.assert_array_equal(np.argwhere(embedded), [[1, 3]])

    def test_gather(self):
        """Entry by entry, against loops."""
        view = WindowView(Window((3, 2), (2, 1), (-1, 0)), (2, 3), (4, 3), 2)
        values = np.random.default_rng(0).random((2, 4, 3, 2))
        taken = view.gather(tf.constant(values)).numpy().reshape(2, 2, 3, 3, 2, 2)
        inside = view.inside().reshape(2, 3, 3, 2)
        for row, column, i, j in np.ndindex(2, 3, 3, 2):
            y, x = 2 * row - 1 + i, column + j
            is_in = 0 <= y < 4 and 0 <= x < 3
            assert inside[row, column, i, j] == is_in
            wanted = values[:, y, x] if is_in else np.zeros((2, 2))
            np.testing.assert_array_equal(taken[:, row, column, i, j], wanted)
        shared = view.gather(tf.constant(values[:1])).numpy()
        np.testing.assert_array_equal(shared[:6], shared[6:])
