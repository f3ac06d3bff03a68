"""The workloads through auto_LiRPA, where the torch environment has it.

python -m benchmarks.auto_lirpa_side
"""

import numpy as np
import torch
from auto_LiRPA import BoundedModule
from auto_LiRPA import BoundedTensor
from auto_LiRPA import PerturbationLpNorm

from benchmarks import torch_forms
from benchmarks import workloads
from benchmarks.protocol import Contestant
from benchmarks.protocol import serve
from benchmarks.torch_side import training


def prepare(name: str, threads: int) -> Contestant:
    """Returns the contestant of one workload, a key of `workloads.WORKLOADS`."""
    torch.set_num_threads(threads)
    versions = {"torch": torch.__version__}
    workload = workloads.WORKLOADS[name]
    network = workloads.NETWORKS[workload.network]
    images, labels = workloads.batch(network, workload.batch_size)
    images = torch.from_numpy(images.transpose(0, 3, 1, 2)).contiguous()
    labels = torch.from_numpy(labels)
    lower, upper = torch_forms.box_around(images, workload.epsilon)
    # Traced in inference mode, as its BatchNorm is asked to be.
    model = BoundedModule(plain_model(network).eval(), images)
    perturbation = PerturbationLpNorm(norm=np.inf, x_L=lower, x_U=upper)
    query = {
        "x": (BoundedTensor(images, perturbation),),
        "C": _rows(labels),
        "bound_upper": False,
    }
    if workload.is_training:
        model.train()
        bounds = _training_bounds(model, workload.kind, query)
        step, verify = training(list(model.parameters()), bounds, labels)
        return Contestant(step, verify, versions)

    @torch.no_grad()
    def step():
        return model.compute_bounds(**query, method="backward")[0]

    return Contestant(step, lambda: {"margins": step().tolist()}, versions)


def plain_model(network: workloads.Network) -> torch.nn.Module:
    """Returns the network in PyTorch's own modules, with its seeded weights."""
    modules = []
    weights = workloads.to_torch(network, workloads.parameters(network))
    is_flat = False
    for layer, part in zip(network.layers, weights, strict=True):
        inputs, units = layer.kernel_shape[-2:]
        if layer.is_convolution:
            size = layer.kernel_shape[0]
            modules.append(torch.nn.Conv2d(inputs, units, size, layer.stride, 1))
        else:
            if not is_flat:
                modules.append(torch.nn.Flatten())
                is_flat = True
            modules.append(torch.nn.Linear(inputs, units))
        _load(modules[-1], part["kernel"], part["bias"])
        if layer.has_batch_norm:
            kind = (
                torch.nn.BatchNorm2d if layer.is_convolution else torch.nn.BatchNorm1d
            )
            share = 1 - workloads.BATCH_NORM_MOMENTUM
            modules.append(kind(units, workloads.BATCH_NORM_EPSILON, share))
            _load(modules[-1], part["gamma"], part["beta"])
        if layer.has_relu:
            modules.append(torch.nn.ReLU())
    return torch.nn.Sequential(*modules)


def _training_bounds(model, kind, query):
    """Logits and margins of a training step, as a function."""

    def bounds():
        logits = model(*query["x"])
        margins = model.compute_bounds(**query, method="IBP")[0]
        if kind == "crown_ibp":
            crown = model.compute_bounds(**query, method="CROWN-IBP")[0]
            share = workloads.CROWN_SHARE
            margins = share * crown + (1 - share) * margins
        return logits, margins

    return bounds


def _load(module, weight, bias):
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(weight))
        module.bias.copy_(torch.from_numpy(bias))


def _rows(labels):
    """Label minus each other class, `[batch, 9, classes]`."""
    identity = torch.eye(workloads.NUM_CLASSES)
    others = torch.from_numpy(workloads.other_classes(labels.numpy()))
    return identity[labels][:, None] - identity[others]


if __name__ == "__main__":
    serve(prepare)
