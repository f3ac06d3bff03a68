"""Bounds that count: in float64, with all rounding accounted for; compiled once."""

import functools

import tensorflow as tf

from robust_tf.bounds import IntervalBound
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation.alpha_crown import AlphaCrown
from robust_tf.propagation.alpha_crown import Slopes
from robust_tf.propagation.alpha_crown import intermediate_bounds
from robust_tf.propagation.crown import crown_bounds
from robust_tf.propagation.crown import crown_margins
from robust_tf.propagation.interval import interval_bounds
from robust_tf.propagation.interval import interval_margins
from robust_tf.propagation.slopes import Neurons
from robust_tf.regions import LpBall
from robust_tf.regions import Region
from robust_tf.rounding import Rounding
from robust_tf.rounding import difference_below
from robust_tf.rounding import largest_magnitude
from robust_tf.specifications import UnsafeSet
from robust_tf.verification.compiled import Compiled
from robust_tf.verification.result import Claim

DECIDING = tf.float64
SEARCHING = tf.float32
Intervals = dict[int, IntervalBound]
Charges = dict[int, tf.Tensor]


class Prover:
    """The bounds of one classifier, for batches of any size.

    Regions and unsafe sets are in float64, rows with a batch axis of the region's size.
    Margins are lower bounds of `<row, y> - threshold`, `[batch, rows]`, that hold for
    what the claim says. With them come intervals of all edges, and the charges by which
    a later pass over these intervals accounts for its rounding (`rounding.Rounding`).

    Args:
        graph: the classifier.
        claim: `Claim.SOUND` or `Claim.EXECUTED`.
        memory_budget_mb: for the coefficients of one chunk of rows, in MiB.
        largest_batch: examples at a time; more may need more memory than that.
    """

    def __init__(
        self,
        graph: BoundGraph,
        claim: Claim = Claim.SOUND,
        memory_budget_mb: float = 1024.0,
        largest_batch: int = 32,
    ):
        self.graph, self.claim = graph, Claim(claim)
        self.neurons = Neurons.of(graph)
        self._memory_budget_mb, self._largest_batch = memory_budget_mb, largest_batch
        self._interval = Compiled(self._interval_rule)
        self._single = Compiled(self._single_pass)
        self._crowns = {}
        self._by_slopes = Compiled(self._passes_by_slopes)
        self._searches, self._attacks, self._made = {}, {}, {}

    def rounding(self, charges: Charges | None = None) -> Rounding:
        """Returns the ledger of a pass, for bounds that hold by the claim."""
        return Rounding(charges, self.claim == Claim.EXECUTED)

    def once(self, key, make):
        """Returns what `make()` made when it was first asked for under a key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def interval(self, region: Region, unsafe: UnsafeSet):
        """IBP: returns margins, intervals and charges."""
        return self._interval({}, region, unsafe)

    def crown_ibp(self, region, unsafe, bounds: Intervals, charges: Charges):
        """One backward pass over given intervals: returns margins."""
        return self._single({}, region, unsafe, bounds, charges)

    def crown(self, region, unsafe, bounds: Intervals, relaxation: str = "adaptive"):
        """Passes of their own for intermediate bounds: margins, intervals, charges."""
        if relaxation not in self._crowns:
            rule = functools.partial(self._crown_passes, relaxation)
            self._crowns[relaxation] = Compiled(rule)
        return self._crowns[relaxation]({}, region, unsafe, bounds)

    def search(self, search: AlphaCrown, region, unsafe, bounds: Intervals) -> Slopes:
        """alpha-CROWN's search, in float32; its result proves nothing yet."""
        if search not in self._searches:

            def run(shared, region, unsafe, bounds):
                del shared
                region, unsafe, bounds = cast((region, unsafe, bounds), SEARCHING)
                _, _, slopes = search.search(
                    self.graph,
                    region,
                    bounds,
                    unsafe.rows,
                    unsafe.thresholds,
                    SEARCH_TARGET,
                )
                return slopes

            self._searches[search] = Compiled(run)
        return self._searches[search]({}, region, unsafe, bounds)

    def by_slopes(self, region, unsafe, bounds: Intervals, charges, slopes: Slopes):
        """Passes with the slopes that a search found: margins, intervals, charges."""
        return self._by_slopes({}, region, unsafe, bounds, charges, slopes)

    def attacked(self, attack, region, unsafe, seed, start=None) -> tf.Tensor:
        """Returns the worst points that an attack finds, `[batch, *shape]`.

        The attack sees a classifier with the label 0 and one more class for each
        clause, whose logit is minus the clause's margin.

        Args:
            attack: such as `attacks.pgd.PGD`.
            region: in the type of the search.
            unsafe: in that type.
            seed: two integers, `[2]`.
            start: points to begin from, `[batch, *shape]`; None for the attack's own.
        """
        if attack not in self._attacks:

            def run(seed, region, unsafe, *start):
                logits_of = self.graph.inference()

                def scores(points):
                    outputs = tf.cast(logits_of(points), region.dtype)
                    margins = unsafe.clause_margins(unsafe.row_margins(outputs))
                    return tf.concat([tf.zeros_like(margins[:, :1]), -margins], -1)

                labels = tf.zeros(tf.shape(region.box.lower)[:1], tf.int32)
                return attack(scores, region, labels, seed, *start)

            self._attacks[attack] = Compiled(run)
        given = () if start is None else (start,)
        return self._attacks[attack](seed, region, unsafe, *given)

    def _opened(self, region):
        rounding = self.rounding()
        rounding.open_input(_reach(region))
        return rounding

    def _interval_rule(self, shared, region, unsafe):
        del shared
        choices = Choices(rounding=self._opened(region))
        bounds = interval_bounds(self.graph, region, choices, self._memory_budget_mb)
        margins = interval_margins(self.graph, region, bounds, unsafe.rows, choices)
        return (
            difference_below(margins, unsafe.thresholds),
            bounds,
            choices.rounding.charges,
        )

    def _single_pass(self, shared, region, unsafe, bounds, charges):
        del shared
        choices = Choices(rounding=self.rounding(charges))
        margins = crown_margins(self.graph, region, bounds, unsafe.rows, choices)
        return difference_below(margins, unsafe.thresholds)

    def _crown_passes(self, relaxation, shared, region, unsafe, bounds):
        del shared
        choices = Choices(relaxation, rounding=self._opened(region))
        bounds = crown_bounds(
            self.graph,
            region,
            (choices,),
            memory_budget_mb=self._memory_budget_mb,
            known=bounds,
            unstable_only=True,
            largest_batch=self._largest_batch,
        )
        margins = self._best(region, unsafe, bounds, choices)
        return margins, bounds, choices.rounding.charges

    def _passes_by_slopes(self, shared, region, unsafe, bounds, charges, slopes):
        del shared
        slopes = cast(slopes, DECIDING)
        if slopes.by_edge:
            rounding = self._opened(region)
            bounds = intermediate_bounds(
                self.graph,
                region,
                bounds,
                slopes.by_edge,
                self._memory_budget_mb,
                rounding,
                slopes.shares_by_edge,
            )
            charges = rounding.charges
        choices = slopes.choices(self.graph, self.rounding(charges))
        margins = self._best(region, unsafe, bounds, choices)
        return margins, bounds, charges

    def _best(self, region, unsafe, bounds, choices):
        """Of a backward pass and of the interval rule."""
        rows = unsafe.rows
        margins = crown_margins(self.graph, region, bounds, rows, choices)
        other = interval_margins(self.graph, region, bounds, rows, choices)
        return difference_below(tf.maximum(margins, other), unsafe.thresholds)


# What a search in float32 aims at: float64 should confirm it.
SEARCH_TARGET = 1e-4


def _reach(region):
    """Bounds the magnitudes that meet coefficients on the input, `[batch, *shape]`."""
    if isinstance(region, LpBall) and not region.is_box:
        unclipped = LpBall(region.x, region.radius, region.norm, None)
        return tf.maximum(
            largest_magnitude(region.box), largest_magnitude(unclipped.box)
        )
    return largest_magnitude(region.box)


def cast(structure, dtype):
    """Returns a structure of tensors in another type."""
    return tf.nest.map_structure(lambda tensor: tf.cast(tensor, dtype), structure)
