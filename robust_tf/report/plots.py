"""Pictures of results: accuracy against the radius, training, images with radii."""

import dataclasses
import io
import itertools
import os
import pathlib
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from robust_tf.errors import InputError
from robust_tf.files import write_atomically

# Told apart by colour-blind readers too (M. Okabe, K. Ito: Color Universal Design).
_ORANGE, _SKY, _GREEN = "#e69f00", "#56b4e9", "#009e73"
_BLUE, _VERMILION, _PURPLE = "#0072b2", "#d55e00", "#cc79a7"
_PALE = "#e6e6e6"
_CYCLE = (_BLUE, _VERMILION, _GREEN, _ORANGE, _PURPLE, _SKY, "black")
_DASHES = ("-", "--", ":", "-.")
# Name: what the legend calls it, colour, marker. From best case to worst.
_CURVES = {
    "clean": ("clean", "black", None),
    "pgd": ("withstands PGD", _VERMILION, "v"),
    "alpha-crown": ("certified by alpha-CROWN", _PURPLE, "D"),
    "crown": ("certified by CROWN", _BLUE, "o"),
    "convex-adversarial": ("certified by convex-adversarial", _GREEN, "P"),
    "crown-ibp": ("certified by CROWN-IBP", _ORANGE, "s"),
    "ibp": ("certified by IBP", _SKY, "^"),
}
_PROOFS = tuple(name for name in _CURVES if name not in ("clean", "pgd"))
_RADIUS = "radius (pixels in [0, 1])"
_NO_TERMS = ("epoch", "step", "seconds", "epsilon", "learning_rate")
_REGULARIZERS = ("tightness_loss", "balance_loss")
_PENALTIES = ("l1_penalty",)
_STATES = {"active": _BLUE, "unstable": _ORANGE, "inactive": _PALE}  # From below.
_FIRST_STATE = next(iter(_STATES))
_FAR_APART = 30.0


def accuracy_against_radius(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    path: str | os.PathLike,
    title: str,
) -> None:
    """Draws what share of the examples is right, withstands attacks, and is proved.

    Args:
        curves: pairs (radius, accuracy as a fraction) by name: "clean", "pgd", or a
            method of `compute_bounds`. Between PGD and the best proof, what is
            undecided is shaded.
        path: of the picture, such as `accuracy.png`.
        title: above it.

    Raises:
        InputError: for an unknown name, or no curves.
    """
    unknown = sorted(curves.keys() - _CURVES.keys())
    if unknown or not curves:
        raise InputError(
            f"Curves are called {', '.join(_CURVES)}. Received: {unknown or 'none'}"
        )
    figure = _figure(7.2, 4.6)
    axes = figure.add_subplot()
    for name in [name for name in _CURVES if name in curves]:
        label, colour, marker = _CURVES[name]
        radii, accuracies = np.array(sorted(curves[name])).T
        axes.plot(
            radii,
            100.0 * accuracies,
            label=label,
            color=colour,
            marker=marker,
            markersize=5,
            linestyle="-" if marker else "--",
        )
    _shade_undecided(axes, curves)
    axes.set(title=title, xlabel=_RADIUS, ylabel="accuracy (%)", ylim=(0, 102))
    axes.set_xlim(left=0.0)
    _finish(axes)
    axes.legend(loc="best")
    _save(figure, path)


def training_curves(
    metrics: Mapping[str, Sequence[dict]], path: str | os.PathLike
) -> None:
    """Draws all that training measures, by epoch, of one or several runs.

    Panels: the losses; the warm-up regularizers and the penalty on weights, where there
    are any, which have scales of their own; accuracies; the radius. Losses that lie far
    apart have a logarithmic scale. Shares of neurons: see `neuron_shares`.

    Args:
        metrics: the records of `metrics.jsonl` by name of the run. One run has a
            colour for each quantity, several have a colour for each run.
        path: of the picture.

    Raises:
        InputError: where there are no records.
    """
    if not any(metrics.values()):
        raise InputError("There are no epochs to draw. Received: runs without records")
    keys = {key for run in metrics.values() for record in run for key in record}
    shown = [panel for panel in _PANELS if any(map(panel.shows, keys))]
    heights = [panel.height for panel in shown]
    figure = _figure(9.0, 1.1 * sum(heights))
    grid = figure.subplots(len(shown), 1, sharex=True, height_ratios=heights)
    for axes, panel in zip(np.atleast_1d(grid), shown, strict=True):
        _draw_runs(axes, metrics, panel.shows)
        _finish(axes)
        if axes.lines:
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        axes.set_ylabel(panel.label)
        if panel.may_be_logarithmic and _lie_far_apart(axes.lines):
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0.0, top=panel.top)
    title = next(iter(metrics)) if len(metrics) == 1 else f"{len(metrics)} runs"
    figure.axes[0].set_title(title)
    figure.axes[-1].set_xlabel("epoch")
    _save(figure, path)


def neuron_shares(records: Sequence[dict], path: str | os.PathLike, title: str) -> None:
    """Draws which share of each ReLU's neurons is active, unstable, inactive, by epoch.

    Args:
        records: of `metrics.jsonl`; those of epochs without shares are left out.
        path: of the picture.
        title: above it.

    Raises:
        InputError: where no epoch has shares.
    """
    records = [record for record in records if has_neuron_shares(record)]
    if not records:
        raise InputError(
            "There are no shares of neurons to draw (`active/1` and so on). Train with "
            "`neuron_examples` above 0, a model with ReLUs."
        )
    count = sum(key.startswith(f"{_FIRST_STATE}/") for key in records[0])
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = _figure(2.9 * columns + 0.6, 2.2 * rows + 1.0)
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    epochs = [record["epoch"] + 1 for record in records]
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    for number, axes in enumerate(grid.flat[:count], 1):
        bottom = np.zeros(len(records))
        for state, colour in _STATES.items():
            shares = [100.0 * record[f"{state}/{number}"] for record in records]
            axes.bar(epochs, shares, 1.0, bottom, color=colour, label=state)
            bottom += shares
        axes.set(title=f"ReLU {number}", ylim=(0, 100))
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    figure.supylabel("share of neurons (%)")
    handles = [Patch(facecolor=c, label=state) for state, c in _STATES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    _save(figure, path)


def has_neuron_shares(record: Mapping) -> bool:
    """Whether a record of an epoch tells in which states neurons are."""
    return record.get(f"{_FIRST_STATE}/1") is not None


def radii_grid(
    images: np.ndarray,
    labels: np.ndarray,
    certified: np.ndarray,
    attacked: np.ndarray,
    path: str | os.PathLike,
    title: str,
) -> None:
    """Draws images with what is known of the radii around them.

    Args:
        images: `[n, height, width, 1 or 3]` in [0, 1].
        labels: `[n]`.
        certified: largest radius proved, `[n]`, in pixels in [0, 1].
        attacked: smallest radius attacked with success, `[n]`; infinity for none, 0
            for an image that is misclassified as it is.
        path: of the picture.
        title: above it.

    Raises:
        InputError: where there are no images, or lengths differ.
    """
    lengths = {len(part) for part in (images, labels, certified, attacked)}
    if len(lengths) != 1 or lengths == {0}:
        raise InputError(
            "There must be as many labels and radii as images, and at least one. "
            f"Received: {sorted(lengths)}"
        )
    columns = min(len(images), 8, max(4, int(np.ceil(np.sqrt(len(images))))))
    rows = -(-len(images) // columns)
    figure = _figure(max(1.75 * columns, 5.0) + 0.3, 2.5 * rows + 1.1)
    figure.get_layout_engine().set(hspace=0.1, wspace=0.06)  # For the bars.
    figure.suptitle(title)
    cells = figure.subplots(rows, columns, squeeze=False).flat
    known = np.concatenate([certified, attacked])
    end = 1.1 * max(float(known[np.isfinite(known)].max()), 1e-6)
    for axes in cells:
        axes.set_axis_off()
    examples = zip(images, labels, certified, attacked, strict=True)
    for axes, example in zip(figure.axes, examples, strict=False):
        _draw_example(axes, *example, end)
    handles = [
        Patch(facecolor=_BLUE, label="proved robust"),
        Patch(facecolor=_PALE, label="undecided"),
        Patch(facecolor=_VERMILION, label="attacked"),
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        title=f"bars: {_RADIUS}, from 0 to {end:.2g}",
    )
    _save(figure, path)


def _figure(width, height) -> Figure:
    """A figure of that many inches, with a canvas of its own and no global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure, path):
    path = pathlib.Path(path)
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:] or "png", dpi=150)
    write_atomically(path, content.getvalue())


def _finish(axes: Axes):
    axes.grid(color=_PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _shade_undecided(axes, curves):
    """Fills what lies between the attack and the best proof, at common radii."""
    proofs = [dict(curves[name]) for name in _PROOFS if name in curves]
    attack = dict(curves.get("pgd", ()))
    radii = sorted(set(attack).intersection(*proofs)) if proofs else []
    if not radii:
        return
    best = [100.0 * max(proof[radius] for proof in proofs) for radius in radii]
    above = [100.0 * attack[radius] for radius in radii]
    axes.fill_between(
        radii,
        best,
        above,
        color=_PALE,
        zorder=0,
        label="undecided: no attack, no proof",
    )


def _is_accuracy(key) -> bool:
    return key.endswith("_accuracy")


def _is_regularizer(key) -> bool:
    return key.removeprefix("val_") in _REGULARIZERS


def _is_penalty(key) -> bool:
    return key.removeprefix("val_") in _PENALTIES


def _is_loss(key) -> bool:
    """Whatever is none of the others: a run may have terms of its own."""
    others = (_is_accuracy, _is_regularizer, _is_penalty)
    is_share = key.partition("/")[0] in _STATES
    is_term = key.removeprefix("val_") not in _NO_TERMS
    return is_term and not is_share and not any(is_other(key) for is_other in others)


@dataclasses.dataclass(frozen=True)
class _Panel:
    """Quantities that share a scale: which keys, and how they are drawn."""

    label: str
    shows: Callable[[str], bool]
    height: float
    top: float | None = None
    may_be_logarithmic: bool = False


_PANELS = (
    _Panel("loss (mean)", _is_loss, 3.0, may_be_logarithmic=True),
    _Panel("warm-up\nregularizer", _is_regularizer, 1.6),
    _Panel("penalty", _is_penalty, 1.6),
    _Panel("accuracy (%)", _is_accuracy, 3.0, top=102.0),
    _Panel("radius\n(pixels in [0, 1])", lambda key: key == "epsilon", 1.6),
)


def _lie_far_apart(lines) -> bool:
    """Whether medians of curves differ so much that a linear scale would hide some."""
    medians = [float(np.median(line.get_ydata())) for line in lines]
    return bool(medians) and 0.0 < min(medians) < max(medians) / _FAR_APART


def _draw_runs(axes, metrics, is_shown):
    """One line for each run and quantity; those of validation are thin."""
    records = [record for run in metrics.values() for record in run]
    keys = sorted({key for record in records for key in record if is_shown(key)})
    keys.sort(key=_rank)
    bases = list(dict.fromkeys(key.removeprefix("val_") for key in keys))
    several = len(metrics) > 1
    for (number, run), key in itertools.product(enumerate(metrics), keys):
        place, is_validation = bases.index(key.removeprefix("val_")), "val_" in key
        points = [record for record in metrics[run] if record.get(key) is not None]
        if not points:
            continue
        values = np.array([point[key] for point in points])
        axes.plot(
            [point["epoch"] + 1 for point in points],
            100.0 * values if _is_accuracy(key) else values,
            color=_CYCLE[(number if several else place) % len(_CYCLE)],
            linestyle=_DASHES[(place if several else is_validation) % len(_DASHES)],
            # The total lies below: it may be one term and nothing else.
            linewidth=0.9 if is_validation else 3.2 if key == "loss" else 1.6,
            label=f"{run}: {_said(key)}" if several else _said(key),
        )


def _said(key) -> str:
    """What the legend calls a key of `metrics.jsonl`."""
    if key == "epsilon":
        return "training radius"
    words = key.removeprefix("val_").replace("_", " ")
    return f"{words} (validation)" if key.startswith("val_") else words


def _rank(key):
    """The total before its terms, clean before certified."""
    base = key.removeprefix("val_")
    return base not in ("loss", "clean_accuracy"), base, key


def _draw_example(axes, image, label, certified, attacked, end):
    """An image, its caption, and below it a bar of radii from 0 to `end`."""
    is_grey = image.shape[-1] == 1
    axes.imshow(image[..., 0] if is_grey else image, cmap="gray", vmin=0.0, vmax=1.0)
    if attacked == 0.0:
        caption = f"label {label}\nmisclassified"
    else:
        is_found = np.isfinite(attacked)
        found = f"attacked {attacked:.3f}" if is_found else "no attack found"
        caption = f"label {label}\nproved {certified:.3f}\n{found}"
    axes.set_title(caption, fontsize=9)
    bar = axes.inset_axes((0.0, -0.12, 1.0, 0.07))
    bar.axvspan(0.0, end, color=_PALE)
    bar.axvspan(0.0, certified, color=_BLUE)
    if np.isfinite(attacked):
        bar.axvspan(attacked, end, color=_VERMILION)
    bar.set(xlim=(0.0, end), xticks=[], yticks=[])
    bar.spines[:].set_visible(False)
