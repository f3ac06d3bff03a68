"""One parameter, many runs: natural against certified accuracy.

Each value has a run folder of its own, trained and measured as the programs `train` and
`evaluate` would; measured is the validation split, never the test split.
"""

import dataclasses
import gc
import hashlib
import json
import pathlib
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

import gin
import keras
from absl import logging

from robust_tf import files
from robust_tf.errors import InputError
from robust_tf.experiments import command_line
from robust_tf.experiments import configuration
from robust_tf.experiments import evaluate
from robust_tf.experiments import launch
from robust_tf.experiments import train
from robust_tf.experiments.settings import Examples

RECORD = "pareto.json"
VALIDATION_SHARE = 0.2
_DEFAULTS = "gin_configs/base/pareto.gin"
_SHARE = "robust_tf.experiments.settings.Data.validation_share"
_ENVIRONMENT = "pareto_environment.json"
_POINT = "pareto_point.json"
_MEASURED = (
    *("clean_accuracy", "pgd_accuracy", "certified_accuracy", "certified_by"),
    *("examples", "seconds"),
)
_SETTING = ("dataset", "architecture", "method", "epsilon", "norm")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is trained, and over what.

    Attributes:
        gin_files: of the experiment.
        gin_params: bindings that win over the files.
        parameter: what varies, as in a binding: `expressive.MtlIbp.coefficient`.
        values: by name; the name is also the run's folder within the working folder.
    """

    gin_files: Sequence[str]
    gin_params: Sequence[str]
    parameter: str
    values: Mapping[str, float]

    def __post_init__(self):
        if not self.values:
            raise InputError("`--values` must name at least one value. Received: none")
        if not self.parameter.rpartition(".")[0] and not self.parameter.isidentifier():
            raise InputError(
                "`--parameter` must name what varies, such as "
                f"expressive.MtlIbp.coefficient. Received: {self.parameter!r}"
            )

    def parse(self, name: str) -> str:
        """Makes the run of one value the configuration, and returns its digest.

        Where the experiment holds no validation split out, `VALIDATION_SHARE` of the
        training split is.

        Raises:
            InputError: as `configuration.parse` does.
        """
        self._parse(name, ())
        if not _bound_share():
            self._parse(name, [f"{_SHARE} = {VALIDATION_SHARE}"])
        return hashlib.sha256(gin.config_str().encode()).hexdigest()

    def _parse(self, name, more):
        binding = f"{self.parameter} = {self.values[name]!r}"
        try:
            configuration.parse(
                [_DEFAULTS, *self.gin_files], [*self.gin_params, binding, *more]
            )
        except InputError as error:
            flag = f"--gin_param={binding!r}"
            shown = f"--parameter={self.parameter}"
            raise InputError(str(error).replace(flag, shown)) from error


def pareto(
    workdir, sweep: Sweep, arguments: Sequence[str], report: Callable = lambda _: None
) -> dict:
    """Trains and measures all points one after the other, and writes `pareto.json`.

    All values are tried out before the first is trained. Points that are done are not
    done again, and one that was interrupted goes on.

    Args:
        workdir: holds a run folder for each value, and the record of all.
        sweep: the experiment, and what varies.
        arguments: the command line, for the records.
        report: called with the result so far after each point.

    Returns:
        The content of `pareto.json`; accuracies are fractions.

    Raises:
        InputError: for configurations that cannot be run, a parameter that they do not
            use, or folders of other runs.
    """
    workdir = pathlib.Path(workdir)
    known = {name: _known(workdir / name, sweep.parse(name)) for name in sweep.values}
    for name, point in known.items():
        if point is None:
            _rehearse(workdir / name, sweep, name)
    files.write_json(workdir / _ENVIRONMENT, command_line.environment(arguments))
    for number, (name, point) in enumerate(known.items()):
        title = f"Point {number + 1} of {len(known)}, {sweep.parameter} = {name}"
        if point is None:
            logging.info("%s.", title)
            known[name] = _point(workdir / name, sweep, name, arguments)
        else:
            logging.info("%s: done before.", title)
        result = _result(sweep, known)
        files.write_json(workdir / RECORD, result)
        report(result)
    return result


def mark_efficient(points: Sequence[dict]) -> list[dict]:
    """Returns the points with `is_efficient`: no other is as good, and better in one.

    Args:
        points: with `clean_accuracy` and `certified_accuracy`.
    """
    keys = ("clean_accuracy", "certified_accuracy")
    pairs = [tuple(point[key] for key in keys) for point in points]

    def is_dominated(pair):
        return any(
            other != pair and all(a >= b for a, b in zip(other, pair, strict=True))
            for other in pairs
        )

    return [
        point | {"is_efficient": not is_dominated(pair)}
        for point, pair in zip(points, pairs, strict=True)
    ]


class _Accepted(Exception):  # noqa: N818
    """Ends a rehearsal: all that the run needs could be made."""


def _rehearse(folder, sweep, name):
    """Makes all that a run needs, but trains nothing.

    Raises:
        InputError: where the run would be refused, or does not use the parameter.
    """

    def stop():
        raise _Accepted

    sweep.parse(name)
    try:
        _check_split(configuration.call(Examples))
        configuration.call(train.train, workdir=folder, on_accepted=stop)
    except _Accepted:
        pass
    except InputError as error:
        raise InputError(f"{sweep.parameter} = {name}: {error}") from error
    finally:
        used = _used(configuration.operative())
        _forget()
    if not any(_is_meant(sweep.parameter, one) for one in used):
        raise InputError(
            f"`--parameter` must name what the training uses. Received: "
            f"{sweep.parameter}, of which the run takes no notice. It uses: "
            f"{', '.join(used)}"
        )


def _point(folder, sweep, name, arguments) -> dict:
    """Trains and measures one value; the record of it is written at the end."""
    digest = sweep.parse(name)
    summary = launch.train_configured(folder, arguments)
    share = _bound_share()
    sweep.parse(name)  # The record of the measurement is of that alone.
    evaluation = configuration.call(
        evaluate.evaluate, workdir=folder, models=(str(folder),)
    )
    files.write_atomically(folder / "evaluation_config.gin", configuration.operative())
    (measured,) = evaluation["models"]
    _check_split(Examples(measured["split"]))
    point = {
        "name": name,
        "value": sweep.values[name],
        **{key: measured[key] for key in _MEASURED if key in measured},
        "train_seconds": summary["train_seconds"],
        "epochs": summary["epochs"],
        "seed": summary["seed"],
    }
    setting = {key: summary[key] for key in _SETTING}
    setting |= {"split": measured["split"], "validation_share": share}
    record = {"configuration": digest, "setting": setting, "point": point}
    files.write_json(folder / _POINT, record)
    _forget()
    return record


def _known(folder, digest) -> dict | None:
    """What an earlier call has found for the same configuration."""
    try:
        record = json.loads((folder / _POINT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    is_same = record["configuration"] == digest and (folder / "model.keras").is_file()
    return record if is_same else None


def _result(sweep, known) -> dict:
    """The record of all points that are done."""
    done = [record for record in known.values() if record is not None]
    setting = done[0]["setting"] if done else {}
    return {
        "parameter": sweep.parameter,
        **setting,
        "points": mark_efficient([record["point"] for record in done]),
    }


def _check_split(examples):
    if examples.split != "validation":
        raise InputError(
            "Points are measured on the validation split: a choice by the test split "
            "would flatter it. Received: settings.Examples.split = "
            f"{examples.split!r}. Leave it out."
        )


def _bound_share():
    """The share of the training split that the configuration holds out."""
    try:
        return gin.query_parameter(_SHARE)
    except ValueError:
        return None


def _used(operative: str) -> list[str]:
    """The names that an operative configuration binds."""
    lines = operative.splitlines()
    is_binding = [" =" in line and line[:1] not in ("#", " ", "") for line in lines]
    return [
        line.partition(" =")[0]
        for line, is_it in zip(lines, is_binding, strict=True)
        if is_it
    ]


def _is_meant(given: str, used: str) -> bool:
    """Whether a name, cut short from the left or not, means that parameter.

    A name without a scope is for all scopes, one without dots is a macro's.
    """
    scope, _, name = given.rpartition("/")
    used_scope, _, used_name = used.rpartition("/")
    if scope not in ("", used_scope):
        return False
    short, long = sorted((name, used_name), key=len)
    return short == long or ("." in short and long.endswith(f".{short}"))


def _forget():
    """Frees what Keras keeps of a run, so that many fit into one process."""
    keras.utils.clear_session()
    gc.collect()
