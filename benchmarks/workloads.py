"""What is computed: networks, weights, data and counted operations, in numpy only.

Both sides import this file, so that they compute the same numbers. Layouts are those
of Keras (`[height, width, in, out]` for convolutions, `[in, out]` for dense layers,
images flattened height, width, channels); `to_torch` converts.
"""

import dataclasses
import math

import numpy as np

NUM_CLASSES = 10
LEARNING_RATE = 5e-4
ADAM_EPSILON = 1e-8
BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9  # Share of the old value that a moving average keeps.
NATURAL_SHARE = 0.5  # Of the loss; the rest is the robust cross-entropy.
CROWN_SHARE = 0.5  # Of the margins of a CROWN-IBP step; the rest is IBP.
CERTIFIED_SHARE = 0.5  # Of an MTL-IBP loss; the rest is the adversarial one.
L1_WEIGHT = 1e-6  # Of the kernels' magnitudes in an MTL-IBP loss.
MAX_GRADIENT_NORM = 10.0  # Of an MTL-IBP step's gradient.
SINGLE_STEP_SIZE = 10.0  # Of an attack of one step, in units of the radius.
STEP_SIZE = 0.25  # Of each step of a longer attack.
VERIFIED_STEPS = 3  # Training steps whose losses must agree.
PEAK_CONVOLUTION = (64, 28, 128, 3)  # Batch, height = width, channels in = out, kernel.
PEAK_MATRIX = (2048, 2048)  # Multiplied by itself.


@dataclasses.dataclass(frozen=True)
class Affine:
    """A convolution or a dense layer; BatchNorm and ReLU may follow.

    Attributes:
        input_shape: `(height, width, channels)`, or `(features,)`.
        kernel_shape: `(height, width, in, out)`, or `(in, out)`.
        output_shape: like `input_shape`.
        stride: of a convolution, in both directions.
        has_batch_norm: whether BatchNorm follows.
        has_relu: whether a ReLU comes after that.
    """

    input_shape: tuple
    kernel_shape: tuple
    output_shape: tuple
    stride: int = 1
    has_batch_norm: bool = False
    has_relu: bool = True

    @property
    def is_convolution(self) -> bool:
        """Whether it has a kernel of four axes."""
        return len(self.kernel_shape) == 4

    @property
    def is_same_padding(self) -> bool:
        """Whether one zero on every side is what Keras calls "same".

        False for 3x3 kernels with stride 2 on even sizes: "same" then pads below and
        to the right only, and the Keras form needs `ZeroPadding2D(1)` and "valid".
        """
        padded = (self.output_shape[0] - 1) * self.stride + self.kernel_shape[0]
        return padded - self.input_shape[0] == 2

    @property
    def multiply_adds(self) -> int:
        """Of one application to one example; taps that meet padding count too."""
        if not self.is_convolution:
            return math.prod(self.kernel_shape)
        return math.prod(self.output_shape[:2]) * math.prod(self.kernel_shape)


@dataclasses.dataclass(frozen=True)
class Network:
    """A chain of affine maps.

    Attributes:
        input_shape: `(height, width, channels)` of an image.
        layers: `Affine` in order; the last gives the logits.
    """

    input_shape: tuple
    layers: tuple


@dataclasses.dataclass(frozen=True)
class Workload:
    """One thing to time.

    Attributes:
        kind: "ibp", "crown_ibp" or "mtl_ibp", a training step with its update; or
            "crown", bounds of the margins with all intermediate bounds.
        network: a key of `NETWORKS`.
        batch_size: examples.
        epsilon: radius of the Linf ball in pixels of [0, 1], cut to [0, 1].
        attack_steps: gradient steps of the attack on the batch; None for no attack.
    """

    kind: str
    network: str
    batch_size: int
    epsilon: float
    attack_steps: int | None = None

    @property
    def name(self) -> str:
        """Kind, network, batch size, and steps of the attack if there is one."""
        name = f"{self.kind}_{self.network}_{self.batch_size}"
        return name if self.attack_steps is None else f"{name}_{self.attack_steps}"

    @property
    def step_size(self) -> float:
        """Of the attack's steps, in units of the radius."""
        return SINGLE_STEP_SIZE if self.attack_steps == 1 else STEP_SIZE

    @property
    def is_training(self) -> bool:
        """Whether a step ends with an update of the weights."""
        return self.kind != "crown"


def _chain(input_shape, kernel, convolutions, units, has_batch_norm):
    """Convolutions with one zero on every side, two dense layers, ReLUs between."""
    layers, shape = [], input_shape
    for filters, stride in convolutions:
        size = (shape[0] + 2 - kernel) // stride + 1
        output = (size, size, filters)
        kernel_shape = (kernel, kernel, shape[-1], filters)
        layers.append(Affine(shape, kernel_shape, output, stride, has_batch_norm))
        shape = output
    features = math.prod(shape)
    layers.append(Affine((features,), (features, units), (units,), 1, has_batch_norm))
    layers.append(
        Affine((units,), (units, NUM_CLASSES), (NUM_CLASSES,), has_relu=False)
    )
    return Network(input_shape, tuple(layers))


def small_network(size: int, channels: int) -> Network:
    """Two convolutions 4x4 of stride 2 (16, 32), dense 100, dense 10; no BatchNorm."""
    return _chain((size, size, channels), 4, ((16, 2), (32, 2)), 100, False)


def cnn7(size: int, channels: int) -> Network:
    """Convolutions 3x3 of 64, 64, 128 (stride 2), 128, 128, dense 512, dense 10."""
    convolutions = ((64, 1), (64, 1), (128, 2), (128, 1), (128, 1))
    return _chain((size, size, channels), 3, convolutions, 512, True)


NETWORKS = {
    "small_mnist": small_network(28, 1),
    "cnn7_mnist": cnn7(28, 1),
    "cnn7_cifar": cnn7(32, 3),
}
"""Networks by name."""

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("ibp", "small_mnist", 256, 0.1),
        Workload("ibp", "cnn7_mnist", 64, 0.1),
        Workload("ibp", "cnn7_cifar", 64, 2 / 255),
        Workload("crown_ibp", "small_mnist", 128, 0.1),
        Workload("crown", "small_mnist", 16, 0.1),
        Workload("crown", "small_mnist", 64, 0.1),
        Workload("mtl_ibp", "cnn7_mnist", 64, 0.1, 1),
        Workload("mtl_ibp", "cnn7_mnist", 64, 0.1, 8),
        Workload("mtl_ibp", "cnn7_cifar", 64, 2 / 255, 1),
    )
}
"""Workloads by name."""

PEAKS = {
    "peak_convolution": 2
    * math.prod(size**2 for size in PEAK_CONVOLUTION[1:])
    * PEAK_CONVOLUTION[0],
    "peak_matmul": 2 * PEAK_MATRIX[0] ** 3,
}
"""Operations of one large convolution and one large matrix product."""


def parameters(network: Network, seed: int = 0) -> list[dict]:
    """Returns the weights of each layer, float32, drawn from `seed`.

    Keys are `kernel`, `bias` and, where BatchNorm follows, `gamma` and `beta`.
    """
    generator = np.random.default_rng(seed)
    layers = []
    for layer in network.layers:
        scale = 1.0 / math.sqrt(math.prod(layer.kernel_shape[:-1]))
        channels = layer.kernel_shape[-1]
        weights = {
            "kernel": scale * generator.standard_normal(layer.kernel_shape),
            "bias": 0.1 * generator.standard_normal(channels),
        }
        if layer.has_batch_norm:
            weights["gamma"] = generator.uniform(0.8, 1.2, channels)
            weights["beta"] = 0.1 * generator.standard_normal(channels)
        layers.append({key: w.astype(np.float32) for key, w in weights.items()})
    return layers


def batch(network: Network, batch_size: int, seed: int = 1) -> tuple:
    """Returns images, float32 `[batch, height, width, channels]`, and labels, int64."""
    generator = np.random.default_rng(seed)
    images = generator.uniform(size=(batch_size, *network.input_shape))
    labels = generator.integers(0, NUM_CLASSES, batch_size)
    return images.astype(np.float32), labels


def corners(network: Network, workload: Workload, seed: int = 2) -> np.ndarray:
    """Returns random corners of the boxes around `batch`, like its images."""
    images, _ = batch(network, workload.batch_size)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], images.shape)
    moved = images + (workload.epsilon * signs).astype(np.float32)
    return np.clip(moved, 0.0, 1.0)


def other_classes(labels: np.ndarray) -> np.ndarray:
    """Returns all classes but the label, ascending, `[batch, classes - 1]`."""
    slots = np.arange(NUM_CLASSES - 1)
    return slots + (slots >= labels[:, None])


def to_torch(network: Network, layers: list[dict]) -> list[dict]:
    """Returns the same weights for images `[batch, channels, height, width]`."""
    converted = []
    shape = network.input_shape
    for layer, weights in zip(network.layers, layers, strict=True):
        kernel = weights["kernel"]
        if layer.is_convolution:
            kernel = kernel.transpose(3, 2, 0, 1)
        else:
            if len(shape) == 3:  # The layer after the flattening.
                kernel = kernel.reshape(*shape, -1).transpose(2, 0, 1, 3)
            kernel = kernel.reshape(-1, layer.kernel_shape[-1]).T
        converted.append({**weights, "kernel": np.ascontiguousarray(kernel)})
        shape = layer.output_shape
    return converted


def operations(workload: Workload) -> int:
    """Returns the operations that one step needs: two for each multiply-add.

    Affine maps only; README.md says what is counted for each kind.
    """
    count = {"ibp": _ibp_step, "crown_ibp": _crown_ibp_step, "crown": _crown}
    network = NETWORKS[workload.network]
    if workload.kind == "mtl_ibp":
        multiply_adds = _mtl_ibp_step(network, workload.attack_steps)
    else:
        multiply_adds = count[workload.kind](network)
    return 2 * workload.batch_size * multiply_adds


def patch_operations(workload: Workload) -> int:
    """Returns the operations of a CROWN step in the patch form that we execute.

    As `operations`, but rows on windows are multiplied by the dense matrix from window
    to window, zeros included.
    """
    network = NETWORKS[workload.network]
    return 2 * workload.batch_size * _crown(network, _window_matrix)


def forward_multiply_adds(network: Network) -> int:
    """Returns the multiply-adds of one pass over one example."""
    return sum(layer.multiply_adds for layer in network.layers)


def _ibp_step(network):
    """Clean, centre and radius: forward, weight gradients, input gradients."""
    forward = forward_multiply_adds(network)
    return 3 * (3 * forward - network.layers[0].multiply_adds)


def _mtl_ibp_step(network, attack_steps):
    """A clean pass, the attack, and an IBP step whose clean pass is the attacked one.

    Each step of the attack is a pass and its gradient for the image, that of the first
    layer included. The best of several iterates takes one more pass.
    """
    forward = forward_multiply_adds(network)
    last_iterate = forward if attack_steps > 1 else 0
    return forward + 2 * attack_steps * forward + last_iterate + _ibp_step(network)


def _crown_ibp_step(network):
    """An IBP step and a backward pass of 9 rows with its own two gradients."""
    forward = forward_multiply_adds(network)
    rows = NUM_CLASSES - 1
    # The rows of the specification are constants and need no gradient.
    backward = rows * (3 * forward - network.layers[-1].multiply_adds)
    return _ibp_step(network) + backward


def _crown(network, pull_back=None):
    """Bounds of every layer from rows pulled back to the image, then the margins."""
    first, *hidden, last = network.layers
    total = 2 * first.multiply_adds  # Interval bounds, exact here.
    for index, layer in enumerate(hidden, start=1):
        before = network.layers[:index]
        if layer.is_convolution:
            total += _patch_rows(layer, before, pull_back or _window_adjoint)
        else:  # Lower and upper rows of each unit.
            total += 2 * layer.output_shape[0] * _total(before)
    return total + (NUM_CLASSES - 1) * (
        _total(network.layers[:-1]) + last.multiply_adds
    )


def _patch_rows(layer, before, pull_back):
    """Lower and upper rows of every output neuron, each on the window it depends on."""
    window, count = layer.kernel_shape[0], 0
    for other in reversed(before):
        count += pull_back(window, other)
        window = _window_before(window, other)
    return 2 * math.prod(layer.output_shape) * count


def _window_before(window, layer):
    return (window - 1) * layer.stride + layer.kernel_shape[0]


def _window_adjoint(window, layer):
    """Multiply-adds of the transposed convolution on one window."""
    return window**2 * math.prod(layer.kernel_shape)


def _window_matrix(window, layer):
    """Multiply-adds of the dense matrix from one window to the one before it."""
    *_, channels_in, channels_out = layer.kernel_shape
    entries = window**2 * channels_out
    return entries * _window_before(window, layer) ** 2 * channels_in


def _total(layers):
    return sum(layer.multiply_adds for layer in layers)
