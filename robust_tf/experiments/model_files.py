"""Which file of a classifier a path names."""

import pathlib

from robust_tf.errors import InputError

MODEL = "model.keras"  # In a run folder.
MATLAB_SUFFIX = ".mat"


def model_file(path) -> pathlib.Path:
    """Returns the `.keras` or `.mat` file that a path names, or that of a run folder.

    Raises:
        InputError: where there is none.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        file = path / MODEL
        if not file.is_file():
            raise InputError(
                f"Folder '{path}' holds no finished run: `model.keras` is missing. "
                "Let the training end, or name another folder."
            )
        return file
    if path.suffix not in (".keras", MATLAB_SUFFIX) or not path.is_file():
        raise InputError(
            "`--model` must name a `.keras` file, a `.mat` file or a run folder. "
            f"Received: '{path}'" + ("" if path.exists() else ", which does not exist")
        )
    return path
