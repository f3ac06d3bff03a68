"""What the file names of published `.mat` models say.

Three conventions: that of maximum margin regularization (arXiv:1810.07481),
`2019-02-17 01:54:16 dataset=mnist nn_type=fc1 p_norm=inf ... epoch=100.mat`; that of
its models of convex adversarial polytopes (arXiv:1711.00851),
`p_norm=inf dataset=mnist_model=fc1_method=robust_eps=0.1_checkpoint.mat`; and that of
the universal regularizer (arXiv:1905.11213),
`mmr_univ_mnist_gammas_1.0_0.175_lambdas_3.0_12.0.mat`, in one file `lmabdas`.
"""

import dataclasses
import datetime
import math
import os
import pathlib
import re
from collections.abc import Mapping

from robust_tf.errors import InputError

MAX_MARGIN, POLYTOPE, UNIVERSAL = "max-margin", "polytope", "universal"

_TIMESTAMP = "%Y-%m-%d %H:%M:%S"
_POLYTOPE = re.compile(
    r"p_norm=(?P<norm>\S+) dataset=(?P<dataset>.+?)_model=(?P<architecture>.+)"
    r"_method=(?P<method>.+)_eps=(?P<epsilon>[^_]+)_checkpoint"
)
_UNIVERSAL = re.compile(
    r"mmr_univ_(?P<dataset>.+)_gammas_(?P<gamma_l1>[^_]+)_(?P<gamma_linf>[^_]+)"
    r"_(?:lambdas|lmabdas)_(?P<weight_l1>[^_]+)_(?P<weight_linf>[^_]+)"
)
# Keys of the files, and what they are called here.
_TEXTS = {"dataset": "dataset", "nn_type": "architecture", "p_norm": "norm"}
_NUMBERS = {
    "lmbd": "weight",
    "gamma_rb": "gamma_region",
    "gamma_db": "gamma_decision",
    "ae_frac": "adversarial_share",
    "lr": "learning_rate",
}
_COUNTS = {"epoch": "epoch", "n_epochs": "epochs"}


@dataclasses.dataclass(frozen=True)
class ModelName:
    """What a file name says; None for what it does not.

    Attributes:
        convention: "max-margin", "polytope" or "universal".
        dataset: as the name has it: "mnist", "fmnist", "gts", "cifar10".
        architecture: "fc1", "cnn_lenet_small", ...
        norm: of the perturbations, "inf" or "2"; "univ" in the universal convention.
        timestamp: when training began, without a time zone.
        weight: lambda of the regularizer.
        gamma_region: least distance to region boundaries, in `gamma_unit`.
        gamma_decision: least distance to decision boundaries, in `gamma_unit`.
        gamma_l1: least l1 distance of the universal regularizer, of pixels in [0, 1].
        gamma_linf: its least l-inf distance, in `gamma_unit`.
        gamma_unit: 1 or 1/255, of pixels in [0, 1]: published training divides l-inf
            gammas by 255 where the second one is at least 1, and names keep the
            undivided ones. Nothing is divided here.
        weight_l1: lambda of the l1 distances.
        weight_linf: lambda of the l-inf distances.
        adversarial_share: of each training batch, from 0 to 1.
        learning_rate: the first one.
        epoch: after which the model was saved.
        epochs: of the whole training.
        method: such as "robust".
        epsilon: radius in training, of pixels in [0, 1].
        others: further keys and their values, as text.
    """

    convention: str
    dataset: str | None = None
    architecture: str | None = None
    norm: str | None = None
    timestamp: datetime.datetime | None = None
    weight: float | None = None
    gamma_region: float | None = None
    gamma_decision: float | None = None
    gamma_l1: float | None = None
    gamma_linf: float | None = None
    gamma_unit: float | None = None
    weight_l1: float | None = None
    weight_linf: float | None = None
    adversarial_share: float | None = None
    learning_rate: float | None = None
    epoch: int | None = None
    epochs: int | None = None
    method: str | None = None
    epsilon: float | None = None
    others: Mapping[str, str] = dataclasses.field(default_factory=dict)


def parse_name(path: str | os.PathLike) -> ModelName:
    """Returns what the name of a published `.mat` model says; the file is not read.

    Raises:
        InputError: for a name of no known convention, a key that stands there twice,
            or a number that is none.
    """
    name = pathlib.Path(path).name
    stem = name.removesuffix(".mat")
    if name == stem:
        raise _not_known(path)
    if match := _UNIVERSAL.fullmatch(stem):
        return _universal(path, match.groupdict())
    if match := _POLYTOPE.fullmatch(stem):
        found = match.groupdict()
        epsilon = _number(path, "eps", found.pop("epsilon"))
        return ModelName(POLYTOPE, epsilon=epsilon, **found)
    return _max_margin(path, stem.split())


def _universal(path, found) -> ModelName:
    dataset = found.pop("dataset")
    numbers = {key: _number(path, key, text) for key, text in found.items()}
    return ModelName(
        UNIVERSAL,
        dataset,
        norm="univ",
        gamma_unit=_unit("inf", numbers["gamma_linf"]),
        **numbers,
    )


def _max_margin(path, words) -> ModelName:
    """Of a timestamp of two words, then `key=value`."""
    try:
        timestamp = datetime.datetime.strptime(" ".join(words[:2]), _TIMESTAMP)
    except ValueError:
        raise _not_known(path) from None
    values = {}
    for word in words[2:]:
        key, equals, text = word.partition("=")
        if not (key and equals and text) or key in values:
            raise InputError(
                "After the timestamp, names of models have `key=value`, each key once. "
                f"Received: {word!r} in '{path}'"
            )
        values[key] = text
    known = {of: values.pop(key) for key, of in _TEXTS.items() if key in values}
    for key, of in (_NUMBERS | _COUNTS).items():
        if key in values:
            known[of] = _number(path, key, values.pop(key), key in _COUNTS)
    unit = _unit(known.get("norm"), known.get("gamma_decision"))
    return ModelName(
        MAX_MARGIN, timestamp=timestamp, gamma_unit=unit, others=values, **known
    )


def _unit(norm, gamma) -> float | None:
    """The unit of gammas, of which the last decides; None where it is not known."""
    if gamma is None or norm is None:
        return None
    return 1.0 / 255.0 if norm == "inf" and gamma >= 1.0 else 1.0


def _number(path, key, text, is_count=False):
    try:
        number = int(text) if is_count else float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        kind = "a whole number" if is_count else "a number"
        raise InputError(
            f"`{key}` in the name of a model must be {kind}. Received: {text!r} in "
            f"'{path}'"
        )
    return number


def _not_known(path) -> InputError:
    return InputError(
        "The name of a published model is `YYYY-MM-DD HH:MM:SS key=value ....mat`, "
        "`p_norm=P dataset=D_model=M_method=M_eps=E_checkpoint.mat` or "
        "`mmr_univ_D_gammas_G_G_lambdas_L_L.mat`. Received: "
        f"'{pathlib.Path(path).name}'"
    )
