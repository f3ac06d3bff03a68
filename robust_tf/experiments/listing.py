"""Which experiments there are, and which run folders are of them."""

import pathlib
from collections.abc import Sequence

from robust_tf.errors import InputError
from robust_tf.experiments import configuration
from robust_tf.experiments.evaluate import members_of


def names() -> list[str]:
    """Returns the names of all experiments and families in `gin_configs`."""
    root = configuration.config_root()
    files = (root / folder for folder in ("experiments", "families"))
    return sorted(path.stem for folder in files for path in folder.glob("*.gin"))


def runs_by_experiment(paths: Sequence[str]) -> dict[str, list[pathlib.Path]]:
    """Returns run folders by the experiment that they, or their family, are named for.

    Args:
        paths: run folders, and folders of those of a family; none: `models` beside
            `gin_configs`.

    Raises:
        InputError: for what is no folder, and families that are not trained to the end.
    """
    folders = list(map(pathlib.Path, paths))
    if not folders:
        shipped = configuration.config_root().parent / "models"
        folders = sorted(path for path in shipped.glob("*") if path.is_dir())
    found = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(
                "`--run` must name a folder that a run has written. Received: "
                f"'{folder}', which is no folder."
            )
        runs = [pathlib.Path(one) for one in members_of(folder)]
        found.setdefault(folder.resolve().name, []).extend(runs)
    return found
