"""Pictures of verification: verdicts over time, accuracy by stage, counts."""

import itertools
import os
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
from matplotlib.patches import Patch

from robust_tf.errors import InputError
from robust_tf.report import plots
from robust_tf.report.tables import STAGES

# Told apart by colour-blind readers too; from what is known to what is not.
_VERDICTS = {
    "VERIFIED": ("verified", plots._BLUE),
    "FALSIFIED": ("falsified", plots._VERMILION),
    "UNKNOWN": ("unknown", plots._PALE),
    "TIMEOUT": ("timeout", plots._ORANGE),
    "ERROR": ("error", "black"),
}
_DECIDED = {"VERIFIED": "-", "FALSIFIED": "--"}
_LEAST_SECONDS = 1e-3  # What is faster is drawn there, on a logarithmic scale.
_LEAST_SHARE = 4.0  # Percent; narrower bars hold no number.


def decided_over_time(
    records: Mapping[str, Sequence[dict]], path: str | os.PathLike
) -> None:
    """Draws how many examples were decided within so many seconds each (cactus plot).

    Args:
        records: of `verification.jsonl`, one for each index, by name of the run. One
            run has a colour for each verdict, several have a colour for each run.
        path: of the picture.

    Raises:
        InputError: where there are no records.
    """
    if not any(records.values()):
        raise InputError("There are no records to draw. Received: runs without records")
    figure = plots._figure(7.2, 4.6)
    axes = figure.add_subplot()
    _draw_decided(axes, records)
    tried = max(len(run) for run in records.values())
    axes.axhline(tried, color="black", linestyle=":", label=f"tried: {tried}")
    name = f"{len(records)} runs" if len(records) > 1 else next(iter(records))
    axes.set(
        title=f"{name}: decided over time",
        xlabel="work on one example (seconds, at most)",
        ylabel="examples decided",
        xscale="log",
    )
    axes.set_ylim(bottom=0)
    plots._finish(axes)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    plots._save(figure, path)


def accuracy_by_stage(
    summaries: Mapping[str, dict], path: str | os.PathLike, columns: int = 2
) -> None:
    """Draws what is proved and what is still possible after each stage.

    Proofs count that rest on a solver's tolerance, too.

    Args:
        summaries: of `verification_summary.json`, by name of the run; one panel each.
        path: of the picture.
        columns: of panels, at most.

    Raises:
        InputError: where there are no summaries.
    """
    if not summaries:
        raise InputError("There are no summaries to draw. Received: none")
    columns = min(columns, len(summaries))
    rows = -(-len(summaries) // columns)
    figure = plots._figure(5.4 * columns, 4.4 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, (name, summary) in zip(grid.flat, summaries.items(), strict=False):
        _draw_stages(axes, name, summary)
    for axes in grid.flat[len(summaries) :]:
        axes.set_axis_off()
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    plots._save(figure, path)


def verdict_counts(summaries: Mapping[str, dict], path: str | os.PathLike) -> None:
    """Draws the shares of all verdicts, one bar for each run.

    Args:
        summaries: of `verification_summary.json`, by name of the run.
        path: of the picture.

    Raises:
        InputError: where there are no summaries.
    """
    if not summaries:
        raise InputError("There are no summaries to draw. Received: none")
    figure = plots._figure(8.0, 1.6 + 0.5 * len(summaries))
    axes = figure.add_subplot()
    for place, summary in enumerate(summaries.values()):
        left = 0.0
        for verdict, (_, colour) in _VERDICTS.items():
            count = summary["verdicts"][verdict]
            share = 100.0 * count / summary["examples"]
            axes.barh(place, share, 0.7, left, color=colour)
            if share >= _LEAST_SHARE:
                ink = "white" if colour in ("black", plots._BLUE) else "black"
                middle = left + share / 2
                axes.text(middle, place, count, ha="center", va="center", color=ink)
            left += share
    names = [f"{name} ({one['examples']})" for name, one in summaries.items()]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(title="Verdicts", xlim=(0, 100), xlabel="share of the examples tried (%)")
    axes.spines[["top", "right"]].set_visible(False)
    handles = [Patch(facecolor=colour, label=s) for s, colour in _VERDICTS.values()]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    plots._save(figure, path)


def _draw_decided(axes, records):
    """One line for each run and verdict, up to the longest time of all."""
    several = len(records) > 1
    end = max(record["seconds"] for run in records.values() for record in run)
    end = max(end, _LEAST_SECONDS)
    for (number, run), verdict in itertools.product(enumerate(records), _DECIDED):
        found = [r["seconds"] for r in records[run] if r["verdict"] == verdict]
        if not found:
            continue
        seconds = np.maximum(np.sort(found), _LEAST_SECONDS)
        said, colour = _VERDICTS[verdict]
        axes.step(
            np.concatenate([[_LEAST_SECONDS], seconds, [end]]),
            np.array([*range(len(seconds) + 1), len(seconds)]),
            where="post",
            color=plots._CYCLE[number % len(plots._CYCLE)] if several else colour,
            linestyle=_DECIDED[verdict],
            label=f"{run}: {said}" if several else said,
        )


def _draw_stages(axes, name, summary):
    stages = list(summary["verified_by"])
    falsified = [summary["falsified_by"].get(stage, 0) for stage in stages]
    verified = [summary["verified_by"][stage] for stage in stages]
    unit = 100.0 / summary["examples"]
    below = unit * np.cumsum(verified)
    above = 100.0 - unit * np.cumsum(falsified)
    places = np.arange(len(stages))
    axes.fill_between(
        places, below, above, color=plots._PALE, zorder=0, label="undecided"
    )
    axes.plot(places, above, "v-", color=plots._VERMILION, label="not falsified")
    axes.plot(places, below, "o-", color=plots._BLUE, label="verified")
    said = [STAGES.get(stage, stage) for stage in stages]
    axes.set_xticks(places, said, rotation=30, ha="right")
    axes.set(
        title=f"{name}\n{summary['dataset']}, eps {summary['epsilon']:.4g}, norm "
        f"{summary['norm']}",
        xlabel="after this stage",
        ylabel="accuracy (% of examples tried)",
        ylim=(0, 102),
    )
    plots._finish(axes)
