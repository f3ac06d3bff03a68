"""MATLAB files (`.mat`, version 5): arrays by name, in and out."""

import io
import os
import pathlib
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
import scipy.io

from robust_tf import files
from robust_tf.errors import InputError

# The format keeps this many bytes for text. SciPy writes the time there, and two files
# of one content would differ.
_TEXT_BYTES = 116
_TEXT = b"MATLAB 5.0 MAT-file, written by robust_tf"
_KINDS = "biufc"  # Booleans and numbers, in NumPy's letters.


def read_arrays(
    path: str | os.PathLike, names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Returns the arrays of a `.mat` file by name, of two or more axes as they stand.

    Args:
        path: of the file.
        names: of the variables to read, where they are there; None for all.

    Raises:
        InputError: for a file that is missing, no `.mat` file, or of version 7.3,
            which is another format (HDF5), and for sparse matrices.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"There is no file '{path}' to read arrays from.")
    try:
        content = scipy.io.loadmat(path, appendmat=False, variable_names=names)
    except NotImplementedError as error:
        raise InputError(
            f"'{path}' is a MATLAB file of version 7.3. Received: {error}. Save it by "
            "`save -v7`."
        ) from error
    # SciPy raises what its parsers happen to meet in broken files.
    except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
        raise InputError(_not_readable(path, error)) from error
    except (scipy.io.matlab.MatReadError, MemoryError, OverflowError) as error:
        raise InputError(_not_readable(path, error)) from error
    arrays = {key: value for key, value in content.items() if not key.startswith("__")}
    for name, value in arrays.items():
        if not isinstance(value, np.ndarray):
            raise InputError(
                f"Variable '{name}' of '{path}' must be a full array. Received: "
                f"{type(value).__name__}. Save `full({name})`."
            )
    return arrays


def write_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as a `.mat` file, atomically; vectors become rows.

    The same arrays give the same bytes.

    Args:
        path: of the file; its folder must exist.
        arrays: booleans or numbers, by name.

    Raises:
        InputError: for what is no array of numbers, or no name of a MATLAB variable.
    """
    for name, value in arrays.items():
        kind = np.asarray(value).dtype.kind
        is_name = name.isascii() and name.isidentifier() and not name.startswith("_")
        if kind not in _KINDS or not is_name:
            raise InputError(
                "MATLAB variables are arrays of numbers, by names of letters and "
                f"digits. Received: {name!r} of type {np.asarray(value).dtype}"
            )
    content = io.BytesIO()
    scipy.io.savemat(content, dict(arrays), appendmat=False, oned_as="row")
    header = _TEXT.ljust(_TEXT_BYTES)
    files.write_atomically(path, header + content.getvalue()[_TEXT_BYTES:])


def _not_readable(path, error) -> str:
    return (
        f"'{path}' cannot be read as a MATLAB file. Received: "
        f"{type(error).__name__}: {error}. Save it by `save -v7`."
    )
