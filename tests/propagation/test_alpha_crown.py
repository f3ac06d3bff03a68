"""alpha-CROWN: between CROWN and the linear program, and never above a point."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.graph import BoundGraph
from robust_tf.graph import Choices
from robust_tf.propagation.alpha_crown import AlphaCrown
from robust_tf.propagation.alpha_crown import intermediate_bounds
from robust_tf.propagation.ascent import Ascent
from robust_tf.propagation.ascent import Parameter
from robust_tf.propagation.crown import crown_bounds
from robust_tf.propagation.crown import crown_margins
from robust_tf.propagation.interval import interval_bounds
from robust_tf.propagation.interval import interval_margins
from robust_tf.verification.lp_bounds import lp_bound
from robust_tf.verification.milp import minimal_margin
from tests.propagation import networks
from tests.verification import lp_cases

# By 300 steps with intermediate bounds fixed: of the published table.
ALPHA = {
    "one": -0.482484,
    "two": -1.488957,
    "three": -1.328698,
    "four": -2.806838,
    "five": -2.628901,
}
OTHERS = {
    "conv": lp_cases.conv_net,
    "residual": lp_cases.residual_net,
    "leaky": lp_cases.leaky_net,
    "pooling": lp_cases.pooling_net,
}


def searched(graph, region, bounds, rows, mode="output", iterations=20, **options):
    """Margins, intervals and slopes; compiled where that is soon done."""
    ascent = Ascent(iterations, patience=iterations)
    search = AlphaCrown(mode, ascent)
    if mode != "output":
        return search.search(graph, region, bounds, rows, **options)
    run = tf.function(
        lambda: search.search(graph, region, bounds, rows, **options), autograph=False
    )
    return run()


def rows_over(graph):
    return tf.constant(lp_cases.row_over(graph)[None, None])


def assert_holds_on(graph, region, bounds, count=4000):
    """No sample may lie outside of the intervals of any edge."""
    values = lp_cases.values_on(graph, lp_cases.samples(region, count))
    for edge, value in values.items():
        assert (value >= bounds[edge].lower - 1e-9).numpy().all(), edge
        assert (value <= bounds[edge].upper + 1e-9).numpy().all(), edge


@pytest.fixture(scope="module")
def frozen():
    """Graph, region, CROWN's intervals and row of each frozen network."""
    made = {}
    for name in lp_cases.FROZEN:
        graph, region, _ = lp_cases.frozen(name)
        plain = interval_bounds(graph, region, Choices())
        # The table's: intersected with plain IBP, not with its chain over CROWN's.
        bounds = crown_bounds(graph, region, (Choices(),), intersect=False, known=plain)
        made[name] = graph, region, plain, bounds, rows_over(graph)
    return made


@pytest.mark.parametrize("name", lp_cases.FROZEN)
def test_the_published_order(frozen, name):
    graph, region, plain, bounds, rows = frozen[name]
    ibp, crown_ibp, crown, program, exact = lp_cases.FROZEN[name][3:]
    found = [
        interval_margins(graph, region, plain, rows, Choices()),
        crown_margins(graph, region, plain, rows, Choices()),
        crown_margins(graph, region, bounds, rows, Choices()),
    ]
    found = [margin.numpy().item() for margin in found]
    np.testing.assert_allclose(found, [ibp, crown_ibp, crown], atol=1e-5)
    alpha = searched(graph, region, bounds, rows, iterations=300)[0].numpy().item()
    assert alpha == pytest.approx(ALPHA[name], abs=1e-4)
    solved = lp_bound(graph, region, bounds, rows.numpy()[0, 0]).value
    assert solved == pytest.approx(program, abs=1e-5)
    assert solved - 1e-2 < alpha <= solved + 1e-9
    assert sorted([*found, alpha, exact]) == [*found, alpha, exact]


def test_joint_and_each_are_tighter_and_hold(frozen):
    gains = []
    for name in ("one", "two", "four"):
        graph, region, _, bounds, rows = frozen[name]
        exact = lp_cases.FROZEN[name][-1]
        margins = {}
        for mode in ("output", "joint", "each"):
            found, tighter, slopes = searched(graph, region, bounds, rows, mode, 8)
            margins[mode] = found.numpy().item()
            assert margins[mode] <= exact
            assert_holds_on(graph, region, tighter)
            widths = [
                sum(float(tf.reduce_sum(b.radius)) for b in one.values())
                for one in (tighter, bounds)
            ]
            assert (widths[0] < widths[1] - 0.01) == (mode != "output")
            # The slopes give these bounds again, in a pass of their own.
            again = intermediate_bounds(graph, region, bounds, slopes.by_edge)
            for edge, bound in again.items():
                assert (bound.lower <= tighter[edge].upper).numpy().all()
                assert bound.lower.shape == tighter[edge].lower.shape
            assert_holds_on(graph, region, again, 500)
        gains.append([margins[one] - margins["output"] for one in ("joint", "each")])
    assert (np.mean(gains, 0) > 0.03).all()


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_of_networks(name):
    graph = OTHERS[name]()
    region = lp_cases.box_around(graph, 0.25)
    bounds, rows = lp_cases.crown(graph, region), rows_over(graph)
    row = rows.numpy()[0, 0]
    crown = crown_margins(graph, region, bounds, rows, Choices()).numpy().item()
    program = lp_bound(graph, region, bounds, row).value
    exact = minimal_margin(graph, region, bounds, row).value
    output, _, _ = searched(graph, region, bounds, rows, iterations=80)
    joint, tighter, _ = searched(graph, region, bounds, rows, "joint", 5)
    assert crown <= output.numpy().item() <= program + 1e-9
    assert joint.numpy().item() <= exact + 1e-6
    assert_holds_on(graph, region, tighter)
    if name != "pooling":  # Its upper planes are not searched.
        assert output.numpy().item() > program - 1e-2


@pytest.mark.parametrize("mode", ["joint", "each"])
def test_edges_without_neurons_before_them(mode):
    """Convolution and BatchNormalization, then the first activation."""
    model = networks.converted("residual", dtype="float64")
    graph = BoundGraph.from_model(model)
    region = rt.LpBall(networks.centers(model, 2, dtype="float64"), 0.03)
    bounds = crown_bounds(graph, region, (Choices(),))
    rows = rt.margin_specification([0, 1], 3, tf.float64)
    search = AlphaCrown(mode, Ascent(2))
    found, tighter, _ = search.search(graph, region, bounds, rows)
    crown = crown_margins(graph, region, bounds, rows, Choices())
    assert (found >= crown).numpy().all()
    points = networks.points_in(region, 200)
    outputs = model(points.reshape(-1, *points.shape[2:])).numpy().reshape(200, 2, 3)
    assert (np.einsum("brc,nbc->nbr", rows, outputs) >= found.numpy() - 1e-9).all()
    assert (outputs >= tighter[graph.output].lower.numpy() - 1e-9).all()


class TestBatches:
    def case(self, dtype, count=4):
        model = networks.converted("mlp", seed=4, dtype=dtype, scale=1.3)
        graph = BoundGraph.from_model(model)
        region = rt.LpBall(networks.centers(model, count, dtype=dtype), 0.3)
        rows = rt.margin_specification([0, 1, 2, 0][:count], 3, region.dtype)
        return graph, region, rows

    @pytest.mark.parametrize(
        ("dtype", "mode"), [("float32", "output"), ("float64", "joint")]
    )
    def test_examples_are_bounded_each_by_itself(self, dtype, mode):
        """In a graph of any batch size, as one by one."""
        graph = lp_cases.leaky_net(sizes=(3, 5, 5, 3))
        centers = np.random.default_rng(2).normal(size=(3, 3)).astype(dtype)
        rows = rt.margin_specification([0, 1, 2], 3, tf.as_dtype(dtype))
        search = AlphaCrown(mode, Ascent(5))

        def run(centers, rows):
            box = rt.LpBall(centers, 0.5, valid_range=None)
            bounds = crown_bounds(graph, box, (Choices(),))
            return search.search(graph, box, bounds, rows)[0]

        signature = [
            tf.TensorSpec([None, 3], dtype),
            tf.TensorSpec([None, 2, 3], dtype),
        ]
        compiled = tf.function(run, input_signature=signature, autograph=False)
        whole = compiled(centers, rows)
        assert whole.dtype == dtype
        single = [compiled(centers[i : i + 1], rows[i : i + 1]) for i in range(3)]
        tolerance = 1e-4 if dtype == "float32" else 1e-9
        np.testing.assert_allclose(whole, tf.concat(single, 0), atol=tolerance)
        eager = run(tf.constant(centers[:1]), rows[:1])
        np.testing.assert_allclose(whole[:1], eager, atol=tolerance)

    def test_thresholds_move_the_bounds_alone(self):
        graph, region, rows = self.case("float64", 2)
        bounds = crown_bounds(graph, region, (Choices(),))
        plain, _, _ = searched(graph, region, bounds, rows, iterations=4)
        limits = tf.constant([[0.25, -1.0]], tf.float64)
        moved, _, _ = searched(
            graph, region, bounds, rows, iterations=4, thresholds=limits
        )
        np.testing.assert_allclose(moved, plain - limits, atol=1e-12)

    def test_without_activations_there_is_nothing_to_search(self):
        inputs = keras.Input((5,), dtype="float64")
        dense = rt.layers.Dense(3, dtype="float64")
        graph = BoundGraph.from_model(keras.Model(inputs, dense(inputs)))
        region = rt.LpBall(np.full((2, 5), 0.5), 0.1)
        bounds = crown_bounds(graph, region, (Choices(),))
        rows = tf.eye(3, dtype=tf.float64)[None]
        found, same, slopes = AlphaCrown("joint").search(graph, region, bounds, rows)
        crown = crown_margins(graph, region, bounds, rows, Choices())
        np.testing.assert_array_equal(found, crown)
        assert same is bounds
        assert slopes.rows.shape == slopes.shares.shape == (2, 3, 0)


class TestAscent:
    """On `-(x - peak)^2`, one row each."""

    def run(self, ascent, peaks, by_row=True, target=None, hook=lambda: None):
        peaks = tf.constant([peaks], tf.float64)

        def evaluate(values):
            hook()
            (at,) = values
            height = -tf.square((at if by_row else at[:, None]) - peaks)
            return height, [at]

        start = tf.zeros_like(peaks) if by_row else tf.zeros([1], tf.float64)
        parameter = Parameter(
            start, 0.1, lambda x: tf.clip_by_value(x, 0.0, 1.0), by_row
        )
        bounds, values, others = ascent.maximise(evaluate, [parameter], target)
        return bounds.numpy()[0], values[0].numpy()[0], others[0].numpy()[0]

    def test_each_row_keeps_its_best(self):
        bounds, values, others = self.run(Ascent(200, patience=200), [0.35, 2.0, -1.0])
        np.testing.assert_allclose(bounds, [0.0, -1.0, -1.0], atol=1e-6)
        np.testing.assert_allclose(values, [0.35, 1.0, 0.0], atol=1e-3)
        assert (others >= values).all()  # Best over all iterations, overshoots too.
        assert bounds[0] == -np.square(values[0] - 0.35)

    def test_shared_values_are_those_of_the_greatest_sum(self):
        bounds, values, _ = self.run(Ascent(200, patience=200), [0.2, 0.6], False)
        assert values == pytest.approx(0.4, abs=1e-3)
        assert bounds[0] == pytest.approx(0.0, abs=1e-4)  # It was there on the way.
        assert bounds[1] > -0.05

    def test_one_iteration_evaluates_the_start(self):
        bounds, values, _ = self.run(Ascent(1), [0.5])
        assert bounds == -0.25
        assert values == 0.0

    def evaluations(self, ascent, *arguments, **options):
        calls = []
        self.run(ascent, *arguments, hook=lambda: calls.append(1), **options)
        return len(calls) - 1  # One finds out shapes.

    def test_it_stops(self):
        full = Ascent(40, patience=40)
        assert self.evaluations(full, [0.9]) == 40
        assert self.evaluations(Ascent(40, patience=3), [-1.0]) == 1 + 3 + 1
        early = self.evaluations(full, [0.9], target=-0.3)
        assert 4 <= early <= 7
        both = self.evaluations(full, [0.9, 0.9], target=-0.3)
        assert both == early
        assert self.evaluations(full, [0.9, 5.0], target=-0.3) == 40

    def test_rows_beyond_the_target_pull_no_more(self):
        """A shared value then serves the rows that are open."""
        _, free, _ = self.run(Ascent(150, patience=150), [0.0, 0.8], False)
        assert free == pytest.approx(0.4, abs=1e-2)
        bounds, _, _ = self.run(
            Ascent(150, patience=150), [0.0, 0.8], False, target=-0.01
        )
        assert (bounds > -0.01).all()

    @pytest.mark.parametrize(
        "options", [{"iterations": 0}, {"patience": 0}, {"decay": 0.0}, {"decay": 1.1}]
    )
    def test_wrong_options(self, options):
        with pytest.raises(rt.InputError, match="must be at least 1.*Received"):
            Ascent(**options)

    @pytest.mark.parametrize("options", [{"mode": "all"}, {"rate": 0.0}, {"rate": -1}])
    def test_wrong_searches(self, options):
        with pytest.raises(rt.InputError, match="`mode` must be one of.*Received"):
            AlphaCrown(**options)


class TestSlopesOfUsers:
    @pytest.mark.parametrize("leak", [0.0, 0.25])
    def test_invalid_slopes_are_brought_into_range(self, leak):
        """2 and -1 would be no lower lines."""
        layer = rt.layers.ReLU(negative_slope=leak)
        box = rt.Box(np.float64([[-1.0, -2.0, -1.0]]), np.float64([[2.0, 1.0, 1.0]]))
        rows = tf.constant([[[1.0, 1.0, -1.0]]], tf.float64)
        found = {}
        for name, slopes in (("wrong", [2.0, -1.0, 7.0]), ("right", [1.0, leak, 1.0])):
            found[name] = layer.propagate_linear_backward(
                rows, box.box, lower_slope=tf.constant([slopes], tf.float64)
            )
        (wrong,), (right,) = found["wrong"][0], found["right"][0]
        np.testing.assert_array_equal(wrong, right)
        np.testing.assert_allclose(wrong[0, 0, :2], [1.0, leak])


class TestComputeBounds:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_between_crown_and_all_points(self, dtype):
        model = networks.converted("mlp", seed=4, dtype=dtype, scale=1.3)
        region = rt.LpBall(networks.centers(model, dtype=dtype), 0.3)
        rows = tf.constant(np.random.default_rng(0).normal(size=(1, 2, 3)), dtype)
        crown, alpha = (
            rt.compute_bounds(model, region, method, rows)
            for method in ("crown", "alpha-crown")
        )
        assert alpha.dtype == dtype
        assert (alpha.lower >= crown.lower).numpy().all()
        assert (alpha.upper <= crown.upper).numpy().all()
        gain = crown.upper - crown.lower - (alpha.upper - alpha.lower)
        assert (gain > 1e-3).numpy().all()
        points = networks.points_in(region, 500).astype(dtype)
        outputs = model(points.reshape(-1, 6)).numpy().reshape(500, 3, 3)
        values = np.einsum("rc,nbc->nbr", rows[0], outputs)
        assert (values >= alpha.lower.numpy() - 2e-5).all()
        assert (values <= alpha.upper.numpy() + 2e-5).all()

    @pytest.mark.parametrize("relaxation", ["zero-lb", "best"])
    def test_never_looser_than_crown_of_any_relaxation(self, relaxation):
        model = networks.converted("patches", seed=4, dtype="float64")
        region = rt.LpBall(networks.centers(model, 2, dtype="float64"), 0.1, 2)
        crown, alpha = (
            rt.compute_bounds(model, region, method, relaxation=relaxation)
            for method in ("crown", "alpha-crown")
        )
        assert (alpha.lower >= crown.lower).numpy().all()
        assert (alpha.upper <= crown.upper).numpy().all()
        assert (alpha.upper < crown.upper - 1e-6).numpy().any()

    def test_a_graph_of_any_batch_size_gives_the_same(self):
        model = networks.converted("patches", seed=4)
        centers = networks.centers(model, 3)

        def bounds(x):
            return rt.compute_bounds(
                model, rt.LpBall(x, 0.05), "alpha-crown", intermediate=True
            )

        shape = [None, *centers.shape[1:]]
        compiled = tf.function(
            bounds, input_signature=[tf.TensorSpec(shape, tf.float32)], autograph=False
        )
        (one, layers), (other, _) = compiled(centers), bounds(centers)
        np.testing.assert_allclose(one.lower, other.lower, atol=1e-4)
        np.testing.assert_allclose(one.upper, other.upper, atol=1e-4)
        assert len(layers) == len(model.layers) - 1
        last = list(itertools.islice(layers.values(), len(layers)))[-1]
        assert (one.upper <= last.upper + 1e-5).numpy().all()
