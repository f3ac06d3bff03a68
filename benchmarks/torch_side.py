"""The workloads in plain PyTorch, behind the driver's lines.

python -m benchmarks.torch_side [patches]
"""

import sys

import torch
from torch.nn import functional

from benchmarks import torch_forms
from benchmarks import workloads
from benchmarks.protocol import Contestant
from benchmarks.protocol import serve
from benchmarks.torch_patches import bound_layer_on_windows

_CHANNELS_LAST = ("cnn7_mnist", "cnn7_cifar")  # Faster there, slower on small ones.


def prepare(name: str, threads: int, bound_layer) -> Contestant:
    """Returns the contestant of one workload.

    Args:
        name: a key of `workloads.WORKLOADS` or `workloads.PEAKS`.
        threads: for PyTorch.
        bound_layer: how `torch_forms.crown` bounds a layer.
    """
    torch.set_num_threads(threads)
    versions = {"torch": torch.__version__}
    if name in workloads.PEAKS:
        return Contestant(_peak(name), dict, versions)
    workload = workloads.WORKLOADS[name]
    network = workloads.NETWORKS[workload.network]
    images, labels = workloads.batch(network, workload.batch_size)
    labels = torch.from_numpy(labels)
    images = torch.from_numpy(images.transpose(0, 3, 1, 2)).contiguous()
    is_channels_last = workload.network in _CHANNELS_LAST
    if is_channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    chain = torch_forms.Chain(network, is_channels_last)
    box = torch_forms.box_around(images, workload.epsilon)
    if workload.is_training:
        if workload.kind == "mtl_ibp":
            step, verify = _mtl_ibp_training(chain, workload, images, labels, box)
        else:
            bounds = _training_bounds(workload.kind, chain, images, labels, box)
            step, verify = training(chain.parameters, bounds, labels)
    else:
        step, verify = _bounds(chain, labels, box, bound_layer)
    return Contestant(step, verify, versions)


def training(parameters, bounds, labels) -> tuple:
    """Returns a training step, update included, and what has to agree.

    Args:
        parameters: tensors to train.
        bounds: a function without arguments that returns logits and lower bounds of
            the margins.
        labels: `[batch]`.
    """
    optimizer = _adam(parameters)

    def step():
        logits, margins = bounds()
        natural = functional.cross_entropy(logits, labels)
        share = workloads.NATURAL_SHARE
        loss = share * natural + (1 - share) * _robust(margins)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, lambda: _verified(bounds, step)


def _mtl_ibp_training(chain, workload, images, labels, box):
    """A training step of MTL-IBP and what has to agree."""
    parameters = chain.parameters
    kernels = [part["kernel"] for part in chain.weights]

    def clean_logits():
        with torch.no_grad():
            return chain.forward(images)[0]

    def attacked(start=None):
        return torch_forms.attack(chain, box, labels, workload, start)

    def forward(points):
        logits, folded = chain.forward(points)
        margins, _ = torch_forms.interval_margins(chain, box, folded, labels)
        return logits, margins

    def update(optimizer, find_points):
        clean_logits()
        logits, margins = forward(find_points())
        share = workloads.CERTIFIED_SHARE
        loss = share * _robust(margins)
        loss = loss + (1 - share) * functional.cross_entropy(logits, labels)
        penalty = sum(kernel.abs().sum() for kernel in kernels)
        loss = loss + workloads.L1_WEIGHT * penalty
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, workloads.MAX_GRADIENT_NORM)
        optimizer.step()
        return loss.item()

    optimizer = _adam(parameters)

    def verify():
        clean_logits()
        # No random start: the frameworks draw different points.
        found = attacked(images).permute(0, 2, 3, 1).flatten().tolist()
        # Given points from here on: a slope near 0 can turn by rounding.
        points = workloads.corners(workloads.NETWORKS[workload.network], workload)
        points = torch.from_numpy(points).permute(0, 3, 1, 2)
        other = _adam(parameters)
        return {
            "attacked": found,
            **_verified(
                lambda: (clean_logits(), forward(points)[1]),
                lambda: update(other, lambda: points),
            ),
        }

    return lambda: update(optimizer, attacked), verify


def _adam(parameters):
    return torch.optim.Adam(
        parameters, lr=workloads.LEARNING_RATE, eps=workloads.ADAM_EPSILON, fused=True
    )


def _robust(margins):
    """The mean cross-entropy of lower bounds of the margins."""
    # The label's own margin is 0; its place among the others does not matter.
    return torch.logsumexp(functional.pad(-margins, (1, 0)), 1).mean()


def _verified(bounds, step):
    """Logits and margins, then the losses of some steps."""
    with torch.no_grad():
        logits, margins = bounds()
    return {
        "logits": logits.tolist(),
        "margins": margins.tolist(),
        "losses": [step() for _ in range(workloads.VERIFIED_STEPS)],
    }


def _training_bounds(kind, chain, images, labels, box):
    """Logits and margins of a training step, as a function."""

    def bounds():
        logits, folded = chain.forward(images)
        margins, before_relu = torch_forms.interval_margins(chain, box, folded, labels)
        if kind == "crown_ibp":
            crown = torch_forms.crown_margins(chain, box, before_relu, labels)
            share = workloads.CROWN_SHARE
            margins = share * crown + (1 - share) * margins
        return logits, margins

    return bounds


def _bounds(chain, labels, box, bound_layer):
    """CROWN's margins and what has to agree."""

    @torch.inference_mode()
    def step():
        return torch_forms.crown(chain, box, labels, bound_layer)

    return step, lambda: {"margins": step().tolist()}


def _peak(name):
    """One large operation."""
    if name == "peak_matmul":
        matrix = torch.rand(workloads.PEAK_MATRIX)
        return torch.inference_mode()(lambda: matrix @ matrix)
    batch, size, channels, kernel = workloads.PEAK_CONVOLUTION
    images = torch.rand(batch, channels, size, size)
    kernel = torch.rand(channels, channels, kernel, kernel)
    return torch.inference_mode()(
        lambda: functional.conv2d(images, kernel, padding="same")
    )


def main():
    """Serves the dense form of CROWN, or with `patches` the one on windows."""
    forms = {
        (): torch_forms.bound_layer_densely,
        ("patches",): bound_layer_on_windows,
    }
    bound_layer = forms[tuple(sys.argv[1:])]
    serve(lambda name, threads: prepare(name, threads, bound_layer))


if __name__ == "__main__":
    main()
