"""Adversarial training inside interval bounds: TAPS and STAPS (arXiv:2305.04574).

A feature extractor is bounded by IBP; in the box of its features an attack looks for
the worst point of the classifier behind it, one for each wrong class. STAPS is the same
term under `Adversary.box_share`, which bounds a small box around an attacked image.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from robust_tf import layers
from robust_tf.bounds import IntervalBound
from robust_tf.errors import InputError
from robust_tf.graph import BoundGraph
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.objectives.terms import IntervalCrossEntropy
from robust_tf.objectives.terms import margin_cross_entropy
from robust_tf.regions import Box
from robust_tf.replicas import mean_over_replicas

# Keeps the numbers of this attack apart from those of the attack on the images.
_STREAM = 1


@dataclasses.dataclass(frozen=True)
class Taps:
    """The loss of TAPS times that of IBP, of the means over the whole batch.

    `[batch]`, equal. Both factors pull on the weights, the first `gradient_weight`
    times as hard as in the product's own gradient: the paper's alpha is
    `gradient_weight / (1 + gradient_weight)`, and its factor `2 - 2 alpha` before both
    is left out, as in the authors' implementation, to whose scale the published weights
    of other terms belong. At 1 the gradient is the product's own.

    BatchNormalization behind the split uses the statistics of the bounds, so that no
    margin at a point of the box lies below that of IBP.

    Attributes:
        attack: searches the box of the features, such as `attacks.pgd.PGD`:
            `(logits_fn, region, labels, seed)` to points. It sees each wrong class j as
            a problem of two classes, with logits `z_label - z_j` and 0 and label 0.
        classifier_relus: how many ReLU layers lie behind the split. It follows the
            ReLU before them; at the model's number of ReLU layers it is the input.
        edge: None, or the number of the edge to split at, instead.
        connection: c of the gradient connector (`connect`), in (0, 1].
        gradient_weight: of the first factor's gradient, at least 0.

    Raises:
        InputError: for values out of range; when called, for splits that the model does
            not have, or where paths lead past the split.
    """

    attack: Callable
    classifier_relus: int = 1
    edge: int | None = None
    connection: float = 0.5
    gradient_weight: float = 5.0
    name: str = "taps_loss"

    def __post_init__(self):
        for name, value in (
            ("classifier_relus", self.classifier_relus),
            ("edge", self.edge or 0),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InputError(
                    f"`{name}` must be a whole number of at least 0. Received: "
                    f"{value!r}"
                )
        if not 0.0 < self.connection <= 1.0:
            raise InputError(
                f"`connection` must lie in (0, 1]. Received: {self.connection}"
            )
        if not 0.0 <= self.gradient_weight < float("inf"):
            raise InputError(
                "`gradient_weight` must be finite and at least 0. Received: "
                f"{self.gradient_weight}"
            )

    def __call__(self, forward: CertifiedForward) -> tf.Tensor:
        searched = _mean(margin_cross_entropy(self.latent_margins(forward)))
        certified = _mean(IntervalCrossEntropy()(forward))
        # Its value to the last bit, and more of its gradient.
        excess = searched - tf.stop_gradient(searched)
        loss = (searched + (self.gradient_weight - 1.0) * excess) * certified
        return tf.fill(tf.shape(forward.labels), loss)

    def margins(self, forward: CertifiedForward) -> tf.Tensor:
        """Lower bounds of the margins by IBP, `[batch, classes - 1]`."""
        return forward.interval_margins

    def latent_margins(self, forward: CertifiedForward) -> tf.Tensor:
        """Each margin at the worst point found for it, `[batch, classes - 1]`.

        No bounds: those of IBP lie below. Gradients reach the weights before the split
        through the ends of the box.
        """
        edge = self._split(forward)
        box, rows = forward.intervals[edge], forward.rows
        rest = _Rest(forward, edge, _folded(rows, 1))
        box = IntervalBound(*(_repeated(end, rows) for end in (box.lower, box.upper)))
        points = rest.search(self.attack, box)
        margins = rest.margins(connect(points, box, self.connection))
        return tf.reshape(margins, tf.shape(rows)[:2])

    def _split(self, forward) -> int:
        graph, region = forward.graph, forward.bound_region
        edge = self.edge
        if edge is None:
            edge = edge_before_relus(graph, self.classifier_relus)
        if edge >= len(graph.shapes):
            raise InputError(
                f"`edge` must be below {len(graph.shapes)}, the number of edges. "
                f"Received: {edge}"
            )
        if not region.is_box and edge in graph.affine_edges():
            raise InputError(
                "Balls that are no boxes have no box of features before the first "
                f"ReLU. Received: a split at edge {edge}, norm {region.norm:g}. Split "
                "further on: take fewer `classifier_relus`."
            )
        return edge


def edge_before_relus(graph: BoundGraph, count: int) -> int:
    """Returns the edge behind which `count` ReLU layers lie.

    That is the output of the ReLU before them, or the input.

    Raises:
        InputError: where the model has fewer.
    """
    relus = [n.output for n in graph.nodes if isinstance(n.layer, layers.ReLU)]
    if count > len(relus):
        raise InputError(
            f"`classifier_relus` must be at most {len(relus)}, the number of ReLU "
            f"layers of the model. Received: {count}"
        )
    return [0, *relus][len(relus) - count]


def connect(points: tf.Tensor, box: IntervalBound, share: float) -> tf.Tensor:
    """Returns `points`, with gradients into the ends of the box that holds them.

    The gradient connector of arXiv:2305.04574, rectified linear: for each coordinate x
    between l and u, `dx/du` is 1 at u and falls to 0 at a distance of `share (u - l)`;
    `dx/dl` likewise from l. Both are 1/2 where l = u.

    Args:
        points: `[batch, *shape]`, constants.
        box: holds them, `[batch, *shape]`.
        share: c, in (0, 1]; at 1 points keep their relative places in the box.
    """
    reach = tf.stop_gradient(share * (box.upper - box.lower))
    total = points
    for end in (box.lower, box.upper):
        held = tf.stop_gradient(end)
        is_wide = reach > 0.0
        distance = tf.abs(points - held) / tf.where(is_wide, reach, 1.0)
        weight = tf.where(is_wide, tf.nn.relu(1.0 - distance), 0.5)
        total += tf.stop_gradient(weight) * (end - held)
    return total


class _Rest:
    """What follows the split, seen as one problem of two classes for each margin.

    All that could need other replicas is computed here, before any loop.
    """

    def __init__(self, forward, edge, rows):
        self._graph, self._edge, self._rows = forward.graph, edge, rows
        self._choices = forward.choices
        self._seed = tf.random.fold_in(forward.seed, _STREAM, alg="philox")

    def margins(self, points):
        """One margin for each point, `[batch * margins]`."""
        logits = self._graph.forward_from(self._edge, points, self._choices)
        return tf.reduce_sum(self._rows * logits, -1)

    def search(self, attack, box):
        """The point of smallest margin found in each box, without gradient."""
        box = IntervalBound(*map(tf.stop_gradient, (box.lower, box.upper)))
        labels = tf.zeros(tf.shape(self._rows)[:1], tf.int32)

        def logits_fn(points):
            margins = self.margins(points)
            return tf.stack([margins, tf.zeros_like(margins)], -1)

        points = attack(logits_fn, Box.from_interval(box), labels, self._seed)
        return tf.stop_gradient(points)


def _repeated(tensor, rows):
    """Each example once for each of its rows, `[batch * rows, *shape]`."""
    sizes = tf.concat([tf.shape(rows)[:2], tf.shape(tensor)[1:]], 0)
    repeated = tf.broadcast_to(tensor[:, None], sizes)
    return _folded(repeated, tensor.shape.rank - 1)


def _folded(tensor, rank):
    """Merges all axes but the last `rank` into one."""
    shape = tensor.shape[tensor.shape.rank - rank :]
    return tf.reshape(tensor, [-1, *shape])


def _mean(losses):
    return mean_over_replicas(tf.reduce_mean(losses))
