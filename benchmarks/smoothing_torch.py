"""The sampling loop of randomized smoothing in plain PyTorch, for the driver.

python -m benchmarks.smoothing_torch

As published (arXiv:1902.02918): one image repeated, noise added, one forward pass in
inference mode, a histogram on the host.
"""

import numpy as np
import torch
from torch import nn

from benchmarks.protocol import Contestant
from benchmarks.protocol import serve

SIGMA = 0.25


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, before, filters, stride):
        super().__init__()
        self.branch = nn.Sequential(
            *_convolution(before, filters, 3, stride),
            nn.ReLU(),
            *_convolution(filters, filters, 3, 1),
        )
        is_same = stride == 1 and before == filters
        self.shortcut = nn.Sequential(
            *([] if is_same else _convolution(before, filters, 1, stride))
        )

    def forward(self, x):
        return torch.relu(self.branch(x) + self.shortcut(x))


def resnet_20() -> nn.Module:
    """For images of 32x32x3."""
    layers, before = [*_convolution(3, 16, 3, 1), nn.ReLU()], 16
    for filters in (16, 32, 64):
        for number in range(3):
            stride = 2 if filters > 16 and number == 0 else 1
            layers.append(Block(before, filters, stride))
            before = filters
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(64, 10))


def lenet() -> nn.Module:
    """For images of 28x28x1."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )


_NETWORKS = {"resnet_20": (resnet_20, (3, 32, 32)), "lenet": (lenet, (1, 28, 28))}


def prepare(name: str, threads: int) -> Contestant:
    """Returns the contestant for "NETWORK:BATCH" on so many threads."""
    torch.set_num_threads(threads)
    network, batch_size = name.split(":")
    make, shape = _NETWORKS[network]
    model, image = make().eval(), torch.rand(shape)
    counts = np.zeros(10, np.int64)

    @torch.inference_mode()
    def step():
        batch = image.repeat((int(batch_size), 1, 1, 1))
        noise = torch.randn_like(batch) * SIGMA
        votes = model(batch + noise).argmax(1)
        counts[:] += np.bincount(votes.numpy(), minlength=10)

    return Contestant(step, dict, {"torch": torch.__version__})


def _convolution(before, filters, size, stride):
    convolution = nn.Conv2d(before, filters, size, stride, size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(filters)]


if __name__ == "__main__":
    serve(prepare)
