"""Interval and CROWN bounds in plain PyTorch, written by hand, channels first.

Knows nothing of the library. Bounds travel as centre and radius through affine maps and
as ends through ReLUs; BatchNorm is folded into the kernels of the bound passes; the
margins' rows are folded into the last layer.
"""

import math

import torch
from torch.nn import functional

from benchmarks import workloads

_ROWS_PER_CHUNK = 2048  # Of dense rows, times examples: larger ones are slower.


class Chain:
    """A network's weights and affine maps.

    Args:
        network: the shapes.
        is_channels_last: whether convolutions store their channels last.
    """

    def __init__(self, network: workloads.Network, is_channels_last: bool = False):
        self.layers = network.layers
        arrays = workloads.to_torch(network, workloads.parameters(network))
        self.weights = [
            {key: _leaf(array, is_channels_last) for key, array in part.items()}
            for part in arrays
        ]
        self._averages = [
            (torch.zeros_like(part["bias"]), torch.ones_like(part["bias"]))
            for part in self.weights
        ]

    @property
    def parameters(self) -> list:
        """All trainable tensors."""
        return [tensor for part in self.weights for tensor in part.values()]

    def apply(self, index: int, values, kernel, bias) -> torch.Tensor:
        """Applies layer `index` with the kernel and bias given (None for no bias)."""
        layer = self.layers[index]
        if layer.is_convolution:
            return functional.conv2d(values, kernel, bias, layer.stride, 1)
        return functional.linear(values.flatten(1), kernel, bias)

    def forward(self, images: torch.Tensor) -> tuple:
        """Returns logits and, for each layer, BatchNorm's scale and shift, or None."""
        values, folded = images, []
        for index, layer in enumerate(self.layers):
            weights = self.weights[index]
            values = self.apply(index, values, weights["kernel"], weights["bias"])
            folded.append(None)
            if layer.has_batch_norm:
                scale, shift = folded[-1] = self._batch_norm(index, values)
                values = values * _channels(scale, values) + _channels(shift, values)
            if layer.has_relu:
                values = functional.relu(values)
        return values, folded

    @torch.no_grad()
    def folded_weights(self) -> list:
        """Returns each layer's kernel and bias for inference, BatchNorm folded in."""
        weights = []
        for part, (mean, variance) in zip(self.weights, self._averages, strict=True):
            kernel, bias = part["kernel"], part["bias"]
            if "gamma" in part:
                scale = part["gamma"] * _inverse_deviation(variance)
                kernel = _times_outputs(kernel, scale)
                bias = (bias - mean) * scale + part["beta"]
            weights.append((kernel, bias))
        return weights

    def infer(self, images: torch.Tensor, weights: list) -> torch.Tensor:
        """Returns logits by the weights of `folded_weights`."""
        values = images
        for index, layer in enumerate(self.layers):
            values = self.apply(index, values, *weights[index])
            if layer.has_relu:
                values = functional.relu(values, inplace=True)
        return values

    def margin_rows(self, labels: torch.Tensor) -> tuple:
        """Returns the last layer's margins: `[batch, 9, features]`, `[batch, 9]`."""
        others = torch.from_numpy(workloads.other_classes(labels.numpy()))
        kernel, bias = self.weights[-1]["kernel"], self.weights[-1]["bias"]
        rows = kernel[labels][:, None] - kernel[others]
        return rows, bias[labels][:, None] - bias[others]

    def pull_back(self, index: int, rows: torch.Tensor) -> tuple:
        """Returns rows on a layer's inputs, and what its bias adds to each.

        Args:
            index: of the layer.
            rows: on its outputs, `[batch or 1, rows, *shape]`.
        """
        layer, weights = self.layers[index], self.weights[index]
        kernel, bias = weights["kernel"], weights["bias"]
        if not layer.is_convolution:
            rows = rows.flatten(2)
            return rows @ kernel, rows @ bias
        pulled = functional.conv_transpose2d(
            rows.flatten(0, 1),
            kernel,
            stride=layer.stride,
            padding=1,
            # Rows and columns at the far end that no window reaches.
            output_padding=(layer.input_shape[0] + 2 - kernel.shape[-1]) % layer.stride,
        )
        return pulled.view(*rows.shape[:2], *pulled.shape[1:]), rows.sum((3, 4)) @ bias

    def _batch_norm(self, index, values):
        """Scale and shift from the batch's statistics; moves the averages."""
        axes = [axis for axis in range(values.dim()) if axis != 1]
        variance, mean = torch.var_mean(values, axes, correction=0)
        with torch.no_grad():
            share = 1 - workloads.BATCH_NORM_MOMENTUM
            self._averages[index][0].lerp_(mean, share)
            # The moving variance follows the unbiased one.
            count = values.numel() // values.shape[1]
            self._averages[index][1].lerp_(variance * (count / (count - 1)), share)
        weights = self.weights[index]
        scale = weights["gamma"] * _inverse_deviation(variance)
        return scale, weights["beta"] - mean * scale


def box_around(images: torch.Tensor, epsilon: float) -> tuple:
    """Returns both ends of the Linf ball, cut to [0, 1]."""
    return (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)


def interval_margins(chain: Chain, box, folded, labels) -> tuple:
    """Returns lower bounds of the margins, and both bounds before each ReLU.

    Args:
        chain: the network.
        box: both ends of the inputs.
        folded: BatchNorm's scales and shifts from `Chain.forward`.
        labels: `[batch]`.
    """
    center, radius = _center_radius(*box)
    before_relu = []
    for index in range(len(chain.layers) - 1):
        kernel, bias = chain.weights[index]["kernel"], chain.weights[index]["bias"]
        if folded[index] is not None:
            scale, shift = folded[index]
            kernel = _times_outputs(kernel, scale)
            bias = bias * scale + shift
        center = chain.apply(index, center, kernel, bias)
        radius = chain.apply(index, radius, kernel.abs(), None)
        before_relu.append((center - radius, center + radius))
        center, radius = _center_radius(*(functional.relu(e) for e in before_relu[-1]))
    rows, offsets = chain.margin_rows(labels)
    return offsets + dot(rows, center) - dot(rows.abs(), radius), before_relu


@torch.enable_grad()
def attack(chain: Chain, box, labels, workload, start=None) -> torch.Tensor:
    """Returns images of greater cross-entropy by signed gradients, at inference.

    One step goes where it goes; of several steps' points the worst is kept.

    Args:
        chain: the network.
        box: both ends of the inputs.
        labels: `[batch]`.
        workload: says the number and the size of the steps.
        start: where to begin; None for random points of the box.
    """
    lower, upper = box
    weights = chain.folded_weights()
    points = start
    if start is None:
        points = lower + torch.rand_like(lower) * (upper - lower)
    size = workload.step_size * workload.epsilon
    best, greatest = points, torch.full(labels.shape, -math.inf)
    for _ in range(workload.attack_steps):
        leaf = points.detach().requires_grad_()
        losses = _cross_entropies(chain.infer(leaf, weights), labels)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        if workload.attack_steps > 1:
            best, greatest = _worse(points, losses.detach(), best, greatest)
        points = torch.clamp(points + size * gradient.sign(), lower, upper)
    if workload.attack_steps == 1:
        return points
    with torch.no_grad():
        losses = _cross_entropies(chain.infer(points, weights), labels)
    return _worse(points, losses, best, greatest)[0]


def crown_margins(chain: Chain, box, before_relu, labels) -> torch.Tensor:
    """Returns lower bounds of the margins by one backward pass, `[batch, 9]`.

    Args:
        chain: the network, without BatchNorm.
        box: both ends of the inputs.
        before_relu: both bounds before each ReLU.
        labels: `[batch]`.
    """
    rows, offsets = chain.margin_rows(labels)
    for index in reversed(range(len(chain.layers) - 1)):
        lower_slope, upper_slope, intercept = relax(*before_relu[index])
        rows = rows.view(*rows.shape[:2], *intercept.shape[1:])
        positive, negative = functional.relu(rows), rows.clamp(max=0)
        rows = positive * lower_slope[:, None] + negative * upper_slope[:, None]
        pulled, constant = chain.pull_back(index, rows)
        offsets = offsets + dot(negative, intercept) + constant
        rows = pulled
    center, radius = _center_radius(*box)
    return offsets + dot(rows, center) - dot(rows.abs(), radius)


def crown(chain: Chain, box, labels, bound_layer) -> torch.Tensor:
    """Returns CROWN's lower bounds of the margins, `[batch, 9]`.

    Args:
        chain: the network, without BatchNorm.
        box: both ends of the inputs.
        labels: `[batch]`.
        bound_layer: a function of chain, index, bounds before the ReLUs so far and box
            that bounds the outputs of a layer.
    """
    center, radius = _center_radius(*box)
    kernel = chain.weights[0]["kernel"]
    center = chain.apply(0, center, kernel, chain.weights[0]["bias"])
    radius = chain.apply(0, radius, kernel.abs(), None)
    before_relu = [(center - radius, center + radius)]
    for index in range(1, len(chain.layers) - 1):
        before_relu.append(bound_layer(chain, index, before_relu, box))
    return crown_margins(chain, box, before_relu, labels)


def bound_layer_densely(chain: Chain, index: int, before_relu, box) -> tuple:
    """Returns both bounds of a layer's outputs, by rows of the identity in chunks."""
    shape = chain.layers[index].output_shape
    shape = shape[-1:] + shape[:-1]
    identity = torch.eye(math.prod(shape)).view(1, -1, *shape)
    chunk = max(1, _ROWS_PER_CHUNK // len(box[0]))
    chunks = []
    for rows in identity.split(chunk, 1):
        pulled, constant = chain.pull_back(index, rows)
        lower, upper = (pulled, constant), (pulled, constant)
        for other in reversed(range(index)):
            lower_slope, upper_slope, intercept = relax(*before_relu[other])
            upper = _through(
                chain, other, upper, upper_slope, lower_slope, intercept, 1
            )
            lower = _through(
                chain, other, lower, lower_slope, upper_slope, intercept, -1
            )
        center, radius = _center_radius(*box)
        chunks.append(
            (
                lower[1] + dot(lower[0], center) - dot(lower[0].abs(), radius),
                upper[1] + dot(upper[0], center) + dot(upper[0].abs(), radius),
            )
        )
    return tuple(
        torch.cat(side, 1).view(-1, *shape) for side in zip(*chunks, strict=True)
    )


def relax(lower, upper) -> tuple:
    """Returns a ReLU's lower slope (0 or 1), upper slope, and upper intercept."""
    low, high = lower.clamp(max=0), upper.clamp(min=0)
    upper_slope = high / (high - low).clamp(min=1e-12)
    return (high > -low).to(low.dtype), upper_slope, -low * upper_slope


def dot(rows: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Returns `sum(rows * values)` of each row, `[batch, rows]`.

    Args:
        rows: `[batch or 1, rows, *shape]`.
        values: `[batch, *shape]`.
    """
    if rows.shape[0] == 1:
        return values.flatten(1) @ rows[0].flatten(1).T
    return torch.bmm(rows.flatten(2), values.flatten(1)[:, :, None])[:, :, 0]


def _through(chain, index, form, slope, other_slope, intercept, sign):
    """One side's rows through a ReLU and the affine map before it.

    `slope` multiplies positive coefficients, `other_slope` negative ones; those of
    sign `sign` meet the upper relaxation and its intercept.
    """
    rows, offsets = form
    rows = rows.view(*rows.shape[:2], *intercept.shape[1:])
    positive, negative = functional.relu(rows), rows.clamp(max=0)
    offsets = offsets + dot(positive if sign > 0 else negative, intercept)
    rows = positive * slope[:, None] + negative * other_slope[:, None]
    pulled, constant = chain.pull_back(index, rows)
    return pulled, offsets + constant


def _cross_entropies(logits, labels):
    return functional.cross_entropy(logits, labels, reduction="none")


def _worse(points, losses, best, greatest):
    """Of two points, the one of greater loss, by example."""
    is_worse = losses > greatest
    mask = is_worse.view(-1, *[1] * (points.dim() - 1))
    return torch.where(mask, points, best), torch.where(is_worse, losses, greatest)


def _inverse_deviation(variance):
    return torch.rsqrt(variance + workloads.BATCH_NORM_EPSILON)


def _times_outputs(kernel, scale):
    """Multiplies each output's kernel."""
    return kernel * scale.view(-1, *[1] * (kernel.dim() - 1))


def _center_radius(lower, upper):
    center = (lower + upper) * 0.5
    return center, upper - center


def _channels(values, like):
    """Gives `[channels]` the rank of `like`, channels second."""
    return values.view(-1, *[1] * (like.dim() - 2))


def _leaf(array, is_channels_last):
    """A trainable tensor from a numpy array."""
    tensor = torch.from_numpy(array).clone()
    if is_channels_last and tensor.dim() == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return tensor.requires_grad_()
