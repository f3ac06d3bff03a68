r"""Times the library against other implementations of the same steps, in turn.

python -m benchmarks.run --torch_python=.venv-benchmark/bin/python --out=results.json

Exit status: 0 done; 1 a contestant failed or they disagree; 2 bad input.
"""

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time

import numpy as np
from absl import app
from absl import flags
from absl import logging
from rich import console
from rich import table

from benchmarks import workloads
from benchmarks.protocol import ContestantError
from benchmarks.protocol import Side

_TORCH_PYTHON = flags.DEFINE_string(
    "torch_python",
    ".venv-benchmark/bin/python",
    "Interpreter of an environment with torch and numpy.",
)
_WORKLOADS = flags.DEFINE_list(
    "workloads", list(workloads.WORKLOADS), "What to time, by name."
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 7, "Turns of each contestant; medians are reported.", lower_bound=1
)
_TURN_SECONDS = flags.DEFINE_float(
    "turn_seconds", 1.0, "Length of a turn: as many steps as fit in.", lower_bound=0.0
)
_THREADS = flags.DEFINE_integer(
    "threads",
    len(os.sched_getaffinity(0)),
    "Threads of each contestant.",
    lower_bound=1,
)
_OUT = flags.DEFINE_string("out", None, "JSON file for all numbers; none if not given.")

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OURS, _TORCH, _PATCHES = "robust_tf", "PyTorch", "PyTorch, patches"
_AUTO_LIRPA = "auto_LiRPA"
_NOT_INSTALLED = "not installed"
# Of the largest magnitude; float32 rounding, and what three updates make of it.
_TOLERANCES = {"logits": 1e-4, "margins": 1e-4, "losses": 1e-3}
# Of attacked pixels, in all: a slope near 0 turns by rounding, and others follow.
_MAX_SHARE_APART = 0.03
_LEAST_APART = 1e-4  # In units of a pixel in [0, 1].
_PEAK_TURNS = 5
_TABLE_WIDTH = 125


class DisagreementError(RuntimeError):
    """Two contestants computed different numbers."""


def measure(name: str, sides: dict) -> dict:
    """Times one workload and returns a dictionary by contestant.

    Args:
        name: of the workload.
        sides: arguments of `Side` by contestant's name; the first is ours.

    Raises:
        DisagreementError: where a contestant's numbers are not those of the first.
    """
    with contextlib.ExitStack() as stack:
        running = {
            contestant: stack.enter_context(Side(*arguments, _ROOT))
            for contestant, arguments in sides.items()
        }
        results, reference = {}, None
        for contestant, side in running.items():
            answer = side.ask("start", workload=name, threads=_THREADS.value)
            values = side.ask("verify")
            reference = reference or values
            differences = compare(name, contestant, reference, values)
            results[contestant] = {**answer, "differences": differences, "turns": []}
        steps = {contestant: _warm_up(side) for contestant, side in running.items()}
        for _ in range(_ROUNDS.value):
            for contestant, side in running.items():
                turn = side.ask("measure", steps=steps[contestant])
                results[contestant]["turns"].append(turn)
    return {
        key: {**value, **_summary(value["turns"])} for key, value in results.items()
    }


def compare(name: str, contestant: str, expected: dict, actual: dict) -> dict:
    """Returns the largest difference of each quantity, over the largest magnitude.

    Of attacked images, the share of pixels that differ.

    Raises:
        DisagreementError: where one exceeds the tolerance, or is NaN.
    """
    differences = {}
    for key, tolerance in _TOLERANCES.items():
        if key not in expected:
            continue
        ours, theirs = np.array(expected[key]), np.array(actual[key])
        if ours.shape != theirs.shape:
            raise DisagreementError(
                f"{name}: {key} of {contestant} must have the shape {ours.shape}. "
                f"Received: {theirs.shape}"
            )
        difference = float(np.abs(ours - theirs).max() / np.abs(ours).max())
        if not difference <= tolerance:
            raise DisagreementError(
                f"{name}: {key} of {_OURS} and {contestant} must agree to "
                f"{tolerance:g} of the largest magnitude. Received: {difference:g}. "
                "Nothing is timed before they do."
            )
        differences[key] = difference
    if "attacked" in expected:
        ours, theirs = np.array(expected["attacked"]), np.array(actual["attacked"])
        share = float(np.mean(~(np.abs(ours - theirs) <= _LEAST_APART)))
        if share > _MAX_SHARE_APART:
            raise DisagreementError(
                f"{name}: attacks of {_OURS} and {contestant} must agree in all "
                f"but {_MAX_SHARE_APART:.0%} of their pixels. Received: {share:.1%}. "
                "Nothing is timed before they do."
            )
        differences["attacked"] = share
    return differences


def peak_rates(sides: dict) -> dict:
    """Returns the best rates in GFLOP per processor second, by contestant and peak."""
    rates = {}
    for contestant, arguments in sides.items():
        rates[contestant] = {}
        for name, operations in workloads.PEAKS.items():
            with Side(*arguments, _ROOT) as side:
                side.ask("start", workload=name, threads=_THREADS.value)
                side.ask("measure", steps=2)
                turns = [side.ask("measure", steps=3) for _ in range(_PEAK_TURNS)]
            best = min(turn["cpu_seconds"] / turn["steps"] for turn in turns)
            rates[contestant][name] = operations / best / 1e9
    return rates


def contestants(workload: workloads.Workload, has_auto_lirpa: bool) -> dict:
    """Returns interpreter and module of each contestant, ours first."""
    sides = _plain_sides()
    if workload.kind == "crown":
        module = ("benchmarks.torch_side", "patches")
        sides[_PATCHES] = (_TORCH_PYTHON.value, module)
    if has_auto_lirpa:
        sides[_AUTO_LIRPA] = (_TORCH_PYTHON.value, ("benchmarks.auto_lirpa_side",))
    return sides


def render(report: dict) -> table.Table:
    """Returns the report as a table; ratios are our time over theirs."""
    columns = ("CPU ms", "wall ms", "ours / theirs", "share", "patches", "peak MiB")
    result = table.Table()
    for column in ("workload", "contestant"):
        result.add_column(column, no_wrap=True)
    for column in columns:
        result.add_column(column, justify="right", no_wrap=True)
    for name, entry in report["workloads"].items():
        ours = entry["contestants"][_OURS]["cpu_ms"]
        for contestant, values in entry["contestants"].items():
            result.add_row(
                name,
                contestant,
                f"{values['cpu_ms']:.1f}",
                f"{values['wall_ms']:.1f}",
                f"{ours / values['cpu_ms']:.2f}",
                f"{values['share_of_peak']:.0%}",
                _percent(values.get("share_of_peak_as_patches")),
                f"{values['peak_memory_mib']:.0f}",
            )
        result.add_section()
    if not report["has_auto_lirpa"]:
        result.add_row("all", f"{_AUTO_LIRPA}: {_NOT_INSTALLED}", *[""] * 6)
    return result


def _percent(share):
    return "" if share is None else f"{share:.0%}"


def _plain_sides():
    return {
        _OURS: (sys.executable, ("benchmarks.tensorflow_side",)),
        _TORCH: (_TORCH_PYTHON.value, ("benchmarks.torch_side",)),
    }


def _warm_up(side):
    """Runs a few steps and returns how many fill a turn."""
    side.ask("measure", steps=2)
    turn = side.ask("measure", steps=1)
    return max(1, round(_TURN_SECONDS.value / max(turn["wall_seconds"], 1e-3)))


def _summary(turns):
    """Medians over turns, per step."""
    return {
        "cpu_ms": _median_ms(turns, "cpu_seconds"),
        "wall_ms": _median_ms(turns, "wall_seconds"),
        "peak_memory_mib": turns[-1]["peak_memory_mib"],
    }


def _median_ms(turns, key):
    return 1e3 * statistics.median(turn[key] / turn["steps"] for turn in turns)


def _add_shares(report):
    """Adds the operations, and the share of the best convolution's rate."""
    peaks = report["peak_gflop_per_cpu_second"]
    best = max(rates["peak_convolution"] for rates in peaks.values())
    for name, entry in report["workloads"].items():
        workload = workloads.WORKLOADS[name]
        entry["operations"] = workloads.operations(workload)
        for values in entry["contestants"].values():
            rate = entry["operations"] / (values["cpu_ms"] * 1e6)
            values["share_of_peak"] = rate / best
        if workload.kind == "crown":
            entry["operations_as_patches"] = workloads.patch_operations(workload)
            values = entry["contestants"][_OURS]
            rate = entry["operations_as_patches"] / (values["cpu_ms"] * 1e6)
            values["share_of_peak_as_patches"] = rate / best


def _processor():
    """The processor's model, as the system names it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _check(names):
    """Raises for what a caller can get wrong."""
    unknown = [name for name in names if name not in workloads.WORKLOADS]
    if unknown or not names:
        raise app.UsageError(
            f"--workloads: known are {', '.join(workloads.WORKLOADS)}. "
            f"Received: {', '.join(unknown) or 'none'}",
            exitcode=2,
        )
    probe = [_TORCH_PYTHON.value, "-c", "import numpy, torch"]
    try:
        subprocess.run(probe, check=True, capture_output=True, cwd=_ROOT)
    except (OSError, subprocess.CalledProcessError) as error:
        raise app.UsageError(
            "--torch_python must be an interpreter that can import torch and numpy; "
            "`make bench` makes an environment for it. "
            f"Received: {_TORCH_PYTHON.value}",
            exitcode=2,
        ) from error


def _has_auto_lirpa():
    probe = [_TORCH_PYTHON.value, "-c", "import auto_LiRPA"]
    return not subprocess.run(probe, capture_output=True, cwd=_ROOT).returncode


def run(names: list[str]) -> dict:
    """Measures all workloads given and returns the whole report."""
    has_auto_lirpa = _has_auto_lirpa()
    report = {
        "command": [sys.executable, "-m", "benchmarks.run", *sys.argv[1:]],
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "processor": _processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "threads": _THREADS.value,
        "rounds": _ROUNDS.value,
        "load_average_before": os.getloadavg(),
        "has_auto_lirpa": has_auto_lirpa,
        "workloads": {},
    }
    rates = [peak_rates(_plain_sides())]
    for name in names:
        logging.info("%s", name)
        sides = contestants(workloads.WORKLOADS[name], has_auto_lirpa)
        report["workloads"][name] = {"contestants": measure(name, sides)}
    rates.append(peak_rates(_plain_sides()))
    report["peak_gflop_per_cpu_second"] = {
        contestant: {
            name: max(part[contestant][name] for part in rates) for name in best
        }
        for contestant, best in rates[0].items()
    }
    report["load_average_after"] = os.getloadavg()
    _add_shares(report)
    return report


def main(argv):
    """Measures, prints the table and writes the file."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}", exitcode=2)
    _check(_WORKLOADS.value)
    try:
        report = run(_WORKLOADS.value)
    except (ContestantError, DisagreementError) as error:
        logging.error("%s", error)
        sys.exit(1)
    if _OUT.value:
        with open(_OUT.value, "w") as file:
            json.dump(report, file, indent=2)
    terminal = console.Console(width=_TABLE_WIDTH)
    terminal.print(render(report))
    for contestant, rates in report["peak_gflop_per_cpu_second"].items():
        parts = (f"{name} {rate:.0f}" for name, rate in rates.items())
        terminal.print(f"{contestant}, GFLOP per CPU second: {', '.join(parts)}")
    terminal.print(f"{report['processor']}, {report['threads']} threads")


if __name__ == "__main__":
    app.run(main)
