"""Initialisations of whole models: what is drawn, how wide, and what is left alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf.architectures import initializers
from robust_tf.architectures.cnn import mlp
from robust_tf.architectures.cnn7 import cnn7
from robust_tf.architectures.residual import resnext
from robust_tf.architectures.residual import wide_resnet
from robust_tf.layers.base import KernelLayer
from robust_tf.training.distribution import strategy_for

kl = keras.layers
IBP = initializers.ibp_initialization
KAIMING = initializers.kaiming_initialization
ORTHOGONAL = initializers.orthogonal_initialization
ALL = (IBP, KAIMING, ORTHOGONAL)
SMALL = {"stem": 4, "linear_size": 16}
FAMILIES = {
    "cnn7": lambda: cnn7((8, 8, 3), 4, width=4, linear_size=16),
    "wide_resnet": lambda: wide_resnet((8, 8, 3), 4, channels=(4, 8), **SMALL),
    "resnext": lambda: resnext((8, 8, 3), 4, base_width=2, **SMALL),
}
each_family = pytest.mark.parametrize("family", FAMILIES)
each_initialization = pytest.mark.parametrize("initialization", ALL)


def kernel_layers(model):
    return [layer for layer in model.layers if isinstance(layer, KernelLayer)]


def kernels(model):
    return [np.asarray(layer.kernel) for layer in kernel_layers(model)]


def fan_in(layer):
    """How many entries of its input one output of a layer depends on."""
    area = int(np.prod(getattr(layer, "kernel_size", ())))
    if isinstance(layer, layers.DepthwiseConv2D):
        return area
    return area * layer.input.shape[-1] // getattr(layer, "groups", 1)


def factors(model):
    """Of each kernel after `ibp_initialization`: its deviation over the formula's."""
    IBP(model, seed=5)
    wanted = [initializers.ibp_deviation(fan_in(x)) for x in kernel_layers(model)]
    drawn = [np.sqrt((kernel**2).mean()) for kernel in kernels(model)]
    return np.array(drawn) / wanted


def listed(model):
    return list(zip(kernels(model), kernel_layers(model), strict=True))


# Deviations of convolutions on 3, 1, 64, 128 channels, and of dense layers.
@pytest.mark.parametrize(
    ("shape", "layer", "fan_in", "deviation"),
    [
        ((5, 5, 3), ("conv", 256), 27, 0.092838),
        ((5, 5, 1), ("conv", 512), 9, 0.278514),
        ((5, 5, 64), ("conv", 16), 576, 0.00435179),
        ((5, 5, 128), ("conv", 16), 1152, 0.00217589),
        ((16, 16, 128), ("dense", 4), 32768, 7.64962e-5),
        ((14, 14, 128), ("dense", 4), 25088, 9.99134e-5),
    ],
)
def test_published_deviations(shape, layer, fan_in, deviation):
    kind, units = layer
    inputs = keras.Input(shape)
    if kind == "conv":
        tensor = layers.Flatten()(layers.Conv2D(units, 3)(inputs))
    else:
        tensor = layers.Dense(units)(layers.Flatten()(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.ReLU()(tensor)))
    assert initializers.ibp_deviation(fan_in) == pytest.approx(deviation, rel=1e-5)
    IBP(model, seed=0)
    drawn = kernels(model)[0]
    # Five standard errors of the estimates.
    error = 5.0 / np.sqrt(2.0 * drawn.size)
    assert drawn.std() == pytest.approx(deviation, rel=error)
    assert abs(drawn.mean()) < 5.0 * deviation / np.sqrt(drawn.size)
    mean = np.abs(drawn).mean()
    assert mean == pytest.approx(2.0 / fan_in, rel=error)


def test_kaiming_deviations():
    model = cnn7((8, 8, 3), 200, width=16, linear_size=128)
    KAIMING(model, seed=0)
    fans = [9 * 3, 9 * 16, 9 * 16, 9 * 32, 9 * 32, 4 * 4 * 32, 128]
    for kernel, fan_in in zip(kernels(model), fans, strict=True):
        error = 5.0 / np.sqrt(2.0 * kernel.size)
        assert kernel.std() == pytest.approx(np.sqrt(2.0 / fan_in), rel=error)


@pytest.mark.parametrize("name", ["grouped", "depthwise", "sequence"])
def test_fan_in_counts_the_channels_of_a_group(name):
    inputs = keras.Input((6, 6, 32))
    if name == "grouped":
        tensor, fan_in = layers.Conv2D(512, 2, groups=8)(inputs), 2 * 2 * 4
    elif name == "depthwise":
        tensor = layers.DepthwiseConv2D(3, depth_multiplier=64)(inputs)
        fan_in = 3 * 3
    else:
        rows = layers.Reshape((36, 32))(inputs)
        tensor, fan_in = layers.Conv1D(512, 2)(rows), 2 * 32
    tensor = layers.Flatten()(tensor)
    model = keras.Model(inputs, layers.Dense(2)(tensor))
    IBP(model, seed=0)
    wanted = np.sqrt(2.0 * np.pi) / fan_in
    assert kernels(model)[0].std() == pytest.approx(wanted, rel=0.05)


def test_orthogonal_kernels():
    inputs = keras.Input((6, 6, 4))
    tensor = layers.Conv2D(6, 3)(inputs)  # More inputs than neurons.
    tensor = layers.DepthwiseConv2D(2, depth_multiplier=3)(layers.ReLU()(tensor))
    tensor = layers.Conv2D(10, 1, groups=2)(layers.ReLU()(tensor))
    tensor = layers.Dense(400)(layers.Flatten()(tensor))
    model = keras.Model(inputs, layers.Dense(2)(layers.ReLU()(tensor)))
    ORTHOGONAL(model, seed=0)
    for kernel, layer in listed(model)[:-1]:
        matrix = kernel.reshape(fan_in(layer), -1)
        rows, columns = matrix.shape
        gram = matrix @ matrix.T if rows < columns else matrix.T @ matrix
        np.testing.assert_allclose(gram, np.eye(min(rows, columns)), atol=1e-5)


@each_family
@each_initialization
def test_only_kernels_change(family, initialization):
    model = FAMILIES[family]()
    for variable in model.weights:  # No value that an initialisation could draw.
        variable.assign(keras.ops.full(variable.shape, 7.0))
    assert initialization(model) is None
    *hidden, last = kernel_layers(model)
    drawn = {id(layer.kernel) for layer in hidden}
    if initialization is KAIMING:
        drawn.add(id(last.kernel))
    for variable in model.weights:
        values = np.asarray(variable)
        assert (id(variable) in drawn) == bool((values != 7.0).all()), variable.path
        assert (id(variable) in drawn) == bool((values != 7.0).any()), variable.path


@each_initialization
def test_a_seed_repeats_the_draws(initialization):
    def run(seed=None, everywhere=None):
        model = mlp((6,), 3, hidden=(6, 6, 6))
        if everywhere is not None:
            keras.utils.set_random_seed(everywhere)
        initialization(model, seed=seed)
        return kernels(model)[:3]

    for given in ({"seed": 1}, {"everywhere": 1}):
        first, second = run(**given), run(**given)
        np.testing.assert_array_equal(first, second)
        other = run(**{key: 2 for key in given})
        assert not np.isclose(first, other).any()
        # No two layers of one shape get the same weights.
        assert not np.isclose(first[0], first[1]).any()
        assert not np.isclose(first[1], first[2]).any()


class TestResidualCorrection:
    """Kernels are halved that read the activation of an elementwise sum."""

    # Stem, then of each block its convolutions and shortcut, then two dense layers.
    # Strided convolutions stand behind their padding; the dense layer behind a Flatten.
    @pytest.mark.parametrize("batch_normalization", [True, False])
    @pytest.mark.parametrize(
        ("build", "sizes", "halved"),
        [
            (
                lambda **more: wide_resnet((8, 8, 3), 4, channels=(12, 16, 20), **more),
                "3 331 331 331",
                [4, 6, 7, 9],
            ),
            (
                lambda **more: resnext((8, 8, 3), 4, base_width=4, **more),
                "3 1311 1311 1311",
                [5, 8, 9, 12],
            ),
            (  # Where the shape stays, the shortcut has no kernel.
                lambda **more: resnext(
                    (8, 8, 3), 4, base_width=4, blocks_per_stage=2, **more
                ),
                "3 1311 131 1311 131 1311 131",
                [5, 8, 11, 12, 15, 18, 19],
            ),
        ],
        ids=["wide_resnet", "resnext", "resnext_of_two_blocks"],
    )
    def test_published_networks(self, build, sizes, halved, batch_normalization):
        model = build(stem=8, linear_size=16, batch_normalization=batch_normalization)
        found = [getattr(x, "kernel_size", "  ")[0] for x in kernel_layers(model)]
        assert "".join(map(str, found)).split() == [sizes.replace(" ", "")]
        *hidden, _ = factors(model)
        assert [i for i, factor in enumerate(hidden) if factor < 0.7] == halved
        # The smallest kernel has 64 entries.
        wanted = np.where(np.isin(range(len(hidden)), halved), 0.5, 1.0)
        np.testing.assert_allclose(hidden, wanted, rtol=0.3)

    @pytest.mark.parametrize(
        ("path", "is_halved"),
        [
            ((kl.Add, kl.ReLU), True),
            ((kl.Add, kl.LeakyReLU), True),
            ((kl.Add, lambda: kl.Activation("sigmoid")), True),
            ((kl.Add, lambda: kl.ReLU(name="add")), True),
            ((kl.Add,), False),
            ((kl.Subtract, kl.ReLU), False),
            ((kl.Average, kl.ReLU), False),
            ((kl.Concatenate, kl.ReLU), False),
            ((kl.Add, kl.BatchNormalization, kl.ReLU), False),
            ((kl.Add, lambda: kl.Rescaling(2.0)), False),
            ((kl.Add, kl.ReLU, kl.Flatten), False),
            ((kl.Add, kl.ReLU, lambda: kl.Dropout(0.1)), False),
        ],
    )
    def test_converted_paths(self, path, is_halved):
        """By the graph, whatever the layers of a converted model are called."""
        inputs = keras.Input((30,))
        tensor = [kl.Dense(30)(inputs), kl.Dense(30)(inputs)]
        for make in path:
            tensor = make()(tensor)
        outputs = kl.Dense(4)(kl.Dense(30)(tensor))
        *hidden, _ = factors(rt.convert(keras.Model(inputs, outputs)))
        np.testing.assert_allclose(hidden[:-1], 1.0, rtol=0.15)
        assert hidden[-1] == pytest.approx(0.5 if is_halved else 1.0, rel=0.15)

    def test_all_readers_of_a_sum(self):
        inputs = keras.Input((30,))
        branches = [kl.Dense(30)(inputs), kl.Dense(30)(inputs)]
        total = kl.ReLU()(kl.Add()(branches))
        readers = kl.Add()([kl.Dense(30)(total), kl.Dense(30)(total), total])
        outputs = kl.Dense(4)(kl.ReLU()(readers))
        model = rt.convert(keras.Model(inputs, outputs))
        last = kernels(model)[-1]
        np.testing.assert_allclose(factors(model)[:4], [1, 1, 0.5, 0.5], rtol=0.15)
        # The classification layer reads a sum, and is left alone all the same.
        np.testing.assert_array_equal(kernels(model)[-1], last)


class TestRadii:
    """Through how many layers the radii of interval bounds last."""

    def gain(self, model, radius):
        """Growth of the mean radius from one ReLU to the next, on average."""
        size = model.input_shape[1:]
        images = np.random.default_rng(0).uniform(size=(4, *size)).astype("float32")
        region = rt.LpBall(images, radius, valid_range=None)
        _, bounds = rt.compute_bounds(model, region, "ibp", intermediate=True)
        means = [
            float(tf.reduce_mean(bounds[layer.name].radius))
            for layer in model.layers
            if isinstance(layer, layers.ReLU)
        ]
        return (means[-1] / means[0]) ** (1.0 / (len(means) - 1))

    @pytest.mark.parametrize("radius", [1e-3, 0.1])
    def test_gain_one_in_a_deep_network(self, radius):
        keras.utils.set_random_seed(0)
        width = 200
        model = mlp((width,), 10, hidden=(width,) * 20)
        # E|w| of U(-a, a) is a / 2.
        assert self.gain(model, radius) == pytest.approx(np.sqrt(width) / 4, rel=0.1)
        IBP(model)
        assert self.gain(model, radius) == pytest.approx(1.0, rel=0.05)
        KAIMING(model)
        growth = np.sqrt(width / np.pi)
        assert self.gain(model, radius) == pytest.approx(growth, rel=0.1)

    def test_gain_one_in_a_deep_residual_network(self):
        """Twice as much for each block without the correction."""
        keras.utils.set_random_seed(0)
        inputs = keras.Input((100,))
        tensor = layers.ReLU()(layers.Dense(100)(inputs))
        for _ in range(10):
            branch = layers.ReLU()(layers.Dense(100)(tensor))
            branch = layers.Dense(100)(branch)
            shortcut = layers.Dense(100)(tensor)
            tensor = layers.ReLU()(layers.Add()([branch, shortcut]))
        model = keras.Model(inputs, layers.Dense(10)(tensor))
        IBP(model)
        # The first block follows no sum, so it may double the radii.
        assert self.gain(model, 0.1) ** 20 == pytest.approx(2.0, rel=0.5)


@each_initialization
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (keras.Sequential([kl.Input((4,)), kl.Dense(3)]), r"'dense.*convert\(model\)"),
        (keras.Sequential([kl.Input((4,)), layers.ReLU()]), "no kernels to draw"),
        ("model.keras", "Received: str"),
    ],
    ids=["plain", "weightless", "path"],
)
def test_refusals(initialization, model, message):
    with pytest.raises(rt.InputError, match=message):
        initialization(model)


def test_a_sequential_model():
    model = keras.Sequential([kl.Input((50,)), layers.Dense(50), layers.Dense(3)])
    before = kernels(model)
    IBP(model, seed=0)
    after = kernels(model)
    assert after[0].std() == pytest.approx(initializers.ibp_deviation(50), rel=0.1)
    np.testing.assert_array_equal(after[1], before[1])


def test_two_replicas():
    """Under a strategy the copies of a kernel get the same draws."""
    strategy = strategy_for(("CPU:0", "CPU:1"))
    with strategy.scope():
        model = mlp((6,), 3, hidden=(6,))
        IBP(model, seed=1)
        copies = strategy.experimental_local_results(model.layers[1].kernel.value)
    for copy in copies:
        np.testing.assert_array_equal(copy, copies[0])
