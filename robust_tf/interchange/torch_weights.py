"""Weights from files of PyTorch: arrays by name, and no code in a file is run."""

import importlib
import os
import pathlib
import pickle
import zipfile
from collections.abc import Mapping

import numpy as np

from robust_tf.errors import InputError

# Under which checkpoints keep the weights, beside epochs, optimizers and errors.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the arrays of a state dict, by name, in the order of the file.

    A checkpoint that holds a state dict as `state_dict`, `model_state_dict` or `model`
    stands for it. Files of PyTorch are read as weights only: a file that asks for other
    objects is refused, and nothing of it is run. `numpy.savez(path, **arrays)` makes a
    file that needs no PyTorch.

    Args:
        path: of a file by `torch.save`, or of an `.npz` file.

    Raises:
        InputError: for a file that is missing, damaged or holds other objects, for
            values that are no arrays, and without PyTorch where it is needed.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"There is no file of weights. Received: '{path}'")
    content = _read_arrays(path) if path.suffix == ".npz" else _read_torch(path)
    return _arrays(path, _unwrapped(path, content))


def _read_arrays(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error


def _read_torch(path):
    torch = _torch()
    try:
        # Errors are kept beside weights as numbers of NumPy.
        with torch.serialization.safe_globals(_numbers()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"'{path}' holds more than weights, or is damaged, and is not opened: "
            f"objects of a file can run code. Received: {_first_line(error)}. Save "
            "`model.state_dict()` alone, where the file comes from."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error


def _torch():
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise InputError(
            f"Files of PyTorch need the package `torch`. Received: {error}. Install "
            'it: pip install "robust_tf[torch]"; or save the arrays elsewhere, by '
            "`numpy.savez`, and give the `.npz` file."
        ) from error


def _numbers() -> list:
    """What NumPy's numbers are made from, under its old and its new name."""
    make_number = np.float64(0.0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    types = {type(np.dtype(code)) for code in ("f8", "f4", "i8", "i4", "?")}
    return [*((make_number, name) for name in names), np.dtype, *types]


def _unwrapped(path, content) -> Mapping:
    """The state dict within a checkpoint, or the content itself."""
    if not isinstance(content, Mapping):
        raise InputError(
            f"'{path}' must hold a state dict, arrays by name. Received: "
            f"{type(content).__name__}"
        )
    inner = [key for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
    if len(inner) > 1:
        raise InputError(
            f"'{path}' must hold one state dict. Received: several, under {inner}. "
            "Save the one that is meant."
        )
    return content[inner[0]] if inner else content


def _arrays(path, state) -> dict[str, np.ndarray]:
    arrays = {str(name): _array(value) for name, value in state.items()}
    wrong = sorted(name for name, value in arrays.items() if value is None)
    if wrong or not arrays:
        raise InputError(
            f"'{path}' must hold arrays by name, and nothing else, or a checkpoint "
            f"with them under one of {_WRAPPERS}. Received: "
            + (f"other values under {wrong}" if wrong else "nothing")
        )
    return arrays


def _array(value) -> np.ndarray | None:
    """A tensor or an array as an array; None for anything else."""
    if isinstance(value, np.ndarray):
        return value
    if not hasattr(value, "detach"):
        return None
    value = value.detach()
    # NumPy knows no bfloat16, and every type below float32 is exact in it.
    is_half = value.is_floating_point() and value.element_size() < 4
    return (value.float() if is_half else value).numpy()


def _unreadable(path, error) -> InputError:
    return InputError(
        f"'{path}' could not be read as weights. Received: {_first_line(error)}. Copy "
        "or download it again."
    )


def _first_line(error) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
