"""Pictures of the linear regions of trained classifiers (arXiv:1810.07481)."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from robust_tf import data as datasets
from robust_tf.errors import InputError
from robust_tf.experiments import evaluate
from robust_tf.experiments.settings import Data
from robust_tf.experiments.settings import Examples
from robust_tf.graph import BoundGraph
from robust_tf.propagation import surroundings
from robust_tf.propagation.plane import Plane
from robust_tf.propagation.plane import Section
from robust_tf.regions import Threat
from robust_tf.regions import parse_norm
from robust_tf.report import region_plots
from robust_tf.report import tile_plots
from robust_tf.report import tiles

KINDS = ("regions", "gradients", "filters", "distances")
_GRADIENTS = 10  # Images with gradients, as published.
_FILTERS = {"first": 10, "second": 16}  # Of each layer, at most.


def draw(
    out: str | os.PathLike,
    *,
    models: Mapping[str, str],
    data: Data,
    kinds: Sequence[str] = KINDS,
    examples: Examples = Examples(),  # noqa: B008
    points: Sequence[int] | None = None,
    norm: str | float = "inf",
    epsilon: float | None = None,
    resolution: int = 200,
) -> list[pathlib.Path]:
    """Draws classifiers of ReLUs side by side, and returns the paths of the pictures.

    Args:
        out: folder of the pictures, made if it is missing.
        models: paths of `.keras` or `.mat` files or run folders, by name.
        data: which images.
        kinds: of `KINDS`.
        examples: which of the images: all of them for distances, the first ten for
            gradients.
        points: indices of the three images that span the plane of linear regions; None
            for the first chosen ones of three classes.
        norm: of the distances.
        epsilon: where histograms of distances have a line; None for none.
        resolution: cells of the grid on which zeros of later layers are looked for,
            along each side.

    Raises:
        InputError: for files that are missing or are no classifiers of these images,
            and kinds, points and numbers out of range.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise InputError(f"`kinds` must be of {KINDS}. Received: {unknown}")
    Threat(epsilon or 0.0, norm)  # Checks both.
    images, loaded = evaluate.load_all(list(models.values()), data, examples)
    graphs = [BoundGraph.from_model(model) for _, model in loaded]
    pictures = _Pictures(dict(zip(models, graphs, strict=True)), images, examples)
    if "regions" in kinds:
        points = pictures.checked_points(points)
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    steps = {
        "regions": lambda: pictures.regions(out, points, resolution),
        "gradients": lambda: pictures.gradients(out),
        "filters": lambda: pictures.filters(out),
        "distances": lambda: pictures.distances(out, norm, epsilon),
    }
    return [path for kind in dict.fromkeys(kinds) for path in steps[kind]()]


def dataset_of(paths: Iterable[str]) -> str:
    """Returns the name of the data set that run folders were trained on.

    Raises:
        InputError: where these are no run folders of one data set.
    """
    known = {evaluate.dataset_of(path) for path in paths} - {None}
    if len(known) != 1:
        raise InputError(
            "`--dataset` must name the data set: the models are no run folders of one. "
            f"Received: models of {sorted(known) or 'no known data set'}"
        )
    return known.pop()


@dataclasses.dataclass(frozen=True)
class _Pictures:
    """Classifiers by name, and the images that they are compared on.

    Each method returns the paths that it has written.
    """

    graphs: dict[str, BoundGraph]
    images: datasets.LabelledImages
    examples: Examples

    def __post_init__(self):
        self.examples.indices_in(self.images)  # Refused out of range.

    @property
    def indices(self) -> np.ndarray:
        return np.asarray(self.examples.indices_in(self.images))

    def regions(self, out, points, resolution):
        plane = Plane.through(self.images.floats(np.asarray(points)))
        sections = {
            name: Section.of(graph, plane, resolution=resolution)
            for name, graph in self.graphs.items()
        }
        captions = [f"image {i}, label {self.images.labels[i]}" for i in points]
        path = out / "linear_regions.png"
        region_plots.linear_regions(sections, plane, captions, path)
        return [path]

    def gradients(self, out):
        chosen = self.indices[:_GRADIENTS]
        images, labels = self.images.floats(chosen), self.images.labels[chosen]
        gradients = {
            name: surroundings.input_gradients(graph, images, labels)
            for name, graph in self.graphs.items()
        }
        path = out / "input_gradients.png"
        tile_plots.input_gradients(images, labels, gradients, path)
        return [path]

    def filters(self, out):
        """One picture for each layer; the second only of convolutions."""
        paths = []
        for place, (which, count) in enumerate(_FILTERS.items()):
            found = {
                name: tiles.filter_tiles(graph, place, count)
                for name, graph in self.graphs.items()
            }
            found = {name: shown for name, shown in found.items() if shown is not None}
            if found:
                paths.append(out / f"filters_{which}_layer.png")
                title = f"Filters of the {which} layer"
                tile_plots.filters(found, paths[-1], title)
        return paths

    def distances(self, out, norm, epsilon):
        chosen = self.indices
        images, labels = self.images.floats(chosen), self.images.labels[chosen]
        found = {}
        for name, graph in self.graphs.items():
            with evaluate.progress_bar(name, len(chosen)) as progress:
                found[name] = surroundings.nearest_distances(
                    graph, images, labels, parse_norm(norm), progress
                )
        path = out / "distances.png"
        region_plots.distance_histograms(found, path, norm, epsilon)
        return [path]

    def checked_points(self, points) -> list[int]:
        """Indices of three images: those given, or the first of three classes."""
        if points is None:
            labels = self.images.labels[self.indices]
            _, first = np.unique(labels, return_index=True)
            if len(first) < 3:
                raise InputError(
                    "Linear regions are drawn on the plane through three images, and "
                    f"those chosen are of {len(first)} classes. Choose more of them, "
                    "or give `--points=INDEX,INDEX,INDEX`."
                )
            return [int(i) for i in self.indices[np.sort(first)[:3]]]
        size = len(self.images)
        are_whole = all(isinstance(i, int) and 0 <= i < size for i in points)
        if len(points) != 3 or not are_whole:
            raise InputError(
                "`--points` must be three indices of images, separated by commas, in "
                f"[0, {size}). Received: {','.join(map(str, points))}"
            )
        return list(points)
