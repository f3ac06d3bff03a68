"""Programs hold every run of their classifier, and exact ones nothing else."""

import keras
import numpy as np
import pytest

import robust_tf as rt
from robust_tf.errors import InputError
from robust_tf.verification import lp_program
from robust_tf.verification.encoding import Encoding
from robust_tf.verification.lp_affine import Affine
from robust_tf.verification.lp_program import Program
from robust_tf.verification.lp_program import SolverOptions
from robust_tf.verification.lp_program import Status
from tests.verification import lp_cases as cases

OPTIONS = SolverOptions()
NETS = {
    "conv": (cases.conv_net, 0.2),
    "residual": (cases.residual_net, 0.3),
    "pooling": (cases.pooling_net, 0.2),
    "global_pooling": (lambda: cases.pooling_net(is_global=True), 0.2),
    "leaky": (cases.leaky_net, 0.4),
}
each_net = pytest.mark.parametrize("name", NETS)


def encoded(name, **options):
    make, radius = NETS[name]
    graph = make()
    region = cases.box_around(graph, radius)
    bounds = cases.crown(graph, region)
    return graph, region, bounds, Encoding(graph, region, bounds, **options)


def optimum(encoding, row, is_integer=True):
    margin = encoding.rows(encoding.graph.output, row[None])
    program = encoding.program
    minimize = program.minimize if is_integer else program.minimize_relaxed
    found = minimize(margin.matrix.toarray()[0], OPTIONS)
    return found, found.value + margin.constant[0]


def run_of(encoding, point):
    """The columns of a run: the inputs, outputs that have columns, and binaries."""
    graph, columns = encoding.graph, [np.ravel(point)]
    values = {e: v.numpy()[0] for e, v in cases.values_on(graph, point[None]).items()}
    for node in graph.nodes:
        if node.layer.name not in encoding.unstable:
            continue
        index = encoding.unstable[node.layer.name]
        outputs = values[node.output].ravel()[index]
        columns.append(outputs)
        if encoding.is_relaxed and node.layer.has_lower_slope:
            continue
        if node.layer.has_lower_slope:
            columns.append(1.0 * (values[node.inputs[0]].ravel()[index] > 0.0))
        else:
            return None  # Which entry wins is left to the solver.
    return np.concatenate(columns)


@pytest.mark.parametrize("is_relaxed", [False, True])
@pytest.mark.parametrize("name", ["conv", "residual", "leaky"])
def test_runs_obey_all_rows(name, is_relaxed):
    graph, region, _, encoding = encoded(name, is_relaxed=is_relaxed)
    assert sum(map(len, encoding.unstable.values())) >= 6
    _, matrix, limit = encoding.program.assembled([])
    outputs = encoding.rows(graph.output, np.eye(3))
    for point in cases.samples(region, 200):
        columns = run_of(encoding, point)
        assert (matrix @ columns - limit).max() < 1e-9
        expected = cases.values_on(graph, point[None])[graph.output][0]
        actual = outputs.matrix @ columns[: outputs.matrix.shape[1]] + outputs.constant
        np.testing.assert_allclose(actual, expected, atol=1e-9)


@each_net
def test_exact_optimum_is_attained_and_below_samples(name):
    graph, region, _, encoding = encoded(name)
    row = cases.row_over(graph)
    found, value = optimum(encoding, row)
    assert found.status is Status.OPTIMAL
    assert encoding.program.num_integers > 0
    attained = cases.margin_at(graph, encoding.point(found.columns), row)
    assert attained == pytest.approx(value, abs=1e-5)
    assert value < cases.margins_at(graph, cases.samples(region), row).min()


@each_net
def test_relaxation_is_below_the_optimum_and_above_crown(name):
    graph, region, bounds, exact = encoded(name)
    relaxed = Encoding(graph, region, bounds, is_relaxed=True)
    row = cases.row_over(graph)
    _, value = optimum(exact, row)
    _, lower = optimum(relaxed, row, is_integer=False)
    assert relaxed.program.num_integers == 0
    assert lower <= value + 1e-7
    if "pooling" not in name:  # CROWN's line above a maximum is none of its rows.
        assert cases.crown_margin(graph, region, bounds, row) <= lower + 1e-7


@pytest.mark.parametrize("name", ["conv", "residual", "leaky"])
def test_real_binaries_are_the_triangle_and_the_ends(name):
    graph, region, bounds, exact = encoded(name)
    relaxed = Encoding(graph, region, bounds, is_relaxed=True)
    for node in graph.nodes:  # The triangle alone does not keep outputs below u.
        index = relaxed.unstable.get(node.layer.name)
        if index is not None:
            outputs = relaxed.neurons(node.output, index)
            high = np.ravel(bounds[node.output].upper)[index]
            relaxed.at_most(("end", node.layer.name), outputs + -high)
    row = cases.row_over(graph)
    _, by_binaries = optimum(exact, row, is_integer=False)
    _, by_triangle = optimum(relaxed, row, is_integer=False)
    assert by_binaries == pytest.approx(by_triangle, abs=1e-7)


@pytest.mark.parametrize("leak", [0.0, 0.25])
def test_one_hidden_layer_against_enumeration(leak):
    graph = cases.leaky_net(21, leak, (2, 7, 3))
    region = cases.box_around(graph, 0.6)
    encoding = Encoding(graph, region, cases.crown(graph, region))
    for first, second in ((0, 1), (1, 2), (2, 0)):
        row = cases.row_over(graph, first, second)
        expected = cases.enumerated(graph, region, row, leak)
        assert optimum(encoding, row)[1] == pytest.approx(expected, abs=1e-6)


def pairs_net(is_pooled):
    """Maxima of three pairs, by a pooling or by max(a, b) = b + relu(a - b)."""
    rng = np.random.default_rng(31)
    inputs = keras.Input((3,), **cases.FLOAT64)
    hidden = cases.random_dense(rng, 3, 6)(inputs)
    if is_pooled:
        hidden = keras.layers.Reshape((3, 2, 1), **cases.FLOAT64)(hidden)
        hidden = keras.layers.MaxPooling2D((1, 2), **cases.FLOAT64)(hidden)
        maxima = keras.layers.Flatten(**cases.FLOAT64)(hidden)
    else:
        picks = [np.eye(6)[:, start::2] for start in (0, 1)]
        left, right = (cases.dense(pick, np.zeros(3))(hidden) for pick in picks)
        excess = keras.layers.Subtract(**cases.FLOAT64)([left, right])
        maxima = keras.layers.Add(**cases.FLOAT64)([right, cases.relu()(excess)])
    return cases.converted(inputs, cases.random_dense(rng, 3, 3)(maxima))


def test_maximum_of_two_is_a_sum_with_a_relu():
    by_pool, by_relu = pairs_net(True), pairs_net(False)
    region = cases.box_around(by_pool, 0.5)
    values = []
    for graph in (by_pool, by_relu):
        encoding = Encoding(graph, region, cases.crown(graph, region))
        assert encoding.program.num_integers >= 2
        values.append(optimum(encoding, cases.row_over(graph))[1])
    assert values[0] == pytest.approx(values[1], abs=1e-6)


def test_nothing_unstable_is_a_linear_program():
    graph = cases.conv_net()
    region = cases.box_around(graph, 1e-6)
    encoding = Encoding(graph, region, cases.crown(graph, region))
    assert encoding.unstable == {}
    assert encoding.program.num_columns == 36
    found, value = optimum(encoding, cases.row_over(graph))
    assert found.dual_bound == found.value
    point = encoding.point(found.columns)
    attained = cases.margin_at(graph, point, cases.row_over(graph))
    assert attained == pytest.approx(value, abs=1e-12)


def test_an_l1_ball_is_kept():
    graph = cases.leaky_net(leak=0.0)
    center = np.full((1, 3), 0.3)
    ball = rt.LpBall(center, 0.4, norm=1, valid_range=(0.0, 1.0))
    encoding = Encoding(graph, ball, cases.crown(graph, ball))
    row = cases.row_over(graph)
    found, value = optimum(encoding, row)
    point = encoding.point(found.columns)
    assert np.abs(point - center).sum() <= 0.4
    assert cases.margin_at(graph, point, row) == pytest.approx(value, abs=1e-5)
    rng = np.random.default_rng(3)
    away = rng.dirichlet(np.ones(3), 5000) * rng.choice([-0.4, 0.4], (5000, 3))
    points = np.clip(center + away, 0.0, 1.0)
    assert value <= cases.margins_at(graph, points, row).min()
    box = rt.LpBall(center, 0.4, valid_range=(0.0, 1.0))
    wider = Encoding(graph, box, cases.crown(graph, box))
    assert optimum(wider, row)[1] < value - 1e-3


def test_splits_divide_the_optimum():
    graph, region, bounds, exact = encoded("conv")
    edge = graph.nodes[0].output
    row = cases.row_over(graph)
    (number, *_) = exact.unstable[graph.nodes[1].layer.name]
    halves = []
    for sign in (1, -1):
        signs = np.zeros(graph.shapes[edge], int)
        signs.flat[number] = sign
        half = Encoding(graph, region, bounds, splits={edge: signs})
        found, value = optimum(half, row)
        point = half.point(found.columns)
        reached = cases.values_on(graph, point[None])[edge].numpy().flat[number]
        assert sign * reached >= -1e-6
        halves.append(value)
    assert min(halves) == pytest.approx(optimum(exact, row)[1], abs=1e-5)
    assert max(halves) > min(halves) + 1e-3


class TestInput:
    def test_smooth_layers_are_named(self):
        inputs = keras.Input((2,), **cases.FLOAT64)
        hidden = keras.layers.Dense(3, activation="sigmoid", **cases.FLOAT64)(inputs)
        outputs = keras.layers.Dense(2, **cases.FLOAT64)(hidden)
        graph = cases.converted(inputs, outputs)
        region = cases.box_around(graph, 0.1)
        with pytest.raises(InputError, match=r"\(Sigmoid\) is not piecewise linear"):
            Encoding(graph, region, cases.crown(graph, region))

    def test_l2_balls(self):
        graph = cases.leaky_net()
        ball = rt.LpBall(np.full((1, 3), 0.5), 0.1, norm=2)
        with pytest.raises(InputError, match="of norm 2"):
            Encoding(graph, ball, cases.crown(graph, ball))

    def test_float32_and_batches(self):
        graph = cases.leaky_net()
        for shape, dtype in (((1, 3), "float32"), ((2, 3), "float64")):
            region = rt.LpBall(np.full(shape, 0.5, dtype), 0.1)
            with pytest.raises(InputError, match="one example of shape"):
                Encoding(graph, region, {})

    @pytest.mark.parametrize(
        ("edge", "signs"), [(0, np.ones(3)), (1, np.ones(3)), (1, np.full(7, 2))]
    )
    def test_splits(self, edge, signs):
        graph = cases.leaky_net()
        region = cases.box_around(graph, 0.1)
        with pytest.raises(InputError, match="Splits are signs"):
            Encoding(graph, region, {}, splits={edge: signs})

    def test_rows_of_another_width(self):
        graph, _, _, encoding = encoded("leaky")
        with pytest.raises(InputError, match=r"are \[rows, 3\]"):
            encoding.rows(graph.output, np.ones((1, 4)))

    def test_distances_need_a_ball(self):
        *_, encoding = encoded("leaky")
        with pytest.raises(InputError, match="Received: Box"):
            encoding.add_distance()


class TestProgram:
    def program(self, coefficients, limit=-1.0, reach=1.0):
        program = Program()
        count = len(coefficients)
        columns = program.add_columns(np.full(count, -reach), np.full(count, reach))
        row = Affine.columns(columns, coefficients).matrix.sum(0)[None]
        program.add_rows("row", row, [limit])
        return program

    def test_small_entries_leave_rows_wider(self):
        # 0.5 x + 5e-10 y <= -0.25 - 2e-10 is met at y = -1 by x = -0.5 + 6e-10.
        program = self.program([0.5, 5e-10], -0.25 - 2e-10)
        _, matrix, limit = program.assembled([])
        assert matrix.nnz == 1
        np.testing.assert_allclose(limit, [-0.25 + 3e-10], rtol=0, atol=1e-15)

    def test_small_entries_that_matter_are_refused(self):
        with pytest.raises(InputError, match="would be dropped"):
            self.program([0.5, 5e-10], reach=1e4).minimize([1.0], OPTIONS)

    @pytest.mark.parametrize("number", [1e15, -1e16, np.inf, np.nan])
    def test_great_numbers_are_refused(self, number):
        with pytest.raises(InputError, match="in its matrix"):
            self.program([1.0, number]).minimize([1.0], OPTIONS)
        with pytest.raises(InputError, match="in its limits"):
            self.program([1.0, 1.0], number).minimize_relaxed([1.0], OPTIONS)
        with pytest.raises(InputError, match="in its objective"):
            self.program([1.0, 1.0]).minimize([number], OPTIONS)

    def test_statuses(self):
        program = self.program([1.0, 1.0], -3.0)
        for minimize in (program.minimize, program.minimize_relaxed):
            found = minimize([1.0], OPTIONS)
            assert found.status is Status.INFEASIBLE
            assert found.columns is None
            assert found.dual_bound == -np.inf
        program = Program()
        program.add_columns([0.0], [1.0], is_free=True)
        assert program.minimize([1.0], OPTIONS).status is not Status.OPTIMAL
        found = program.minimize_relaxed([1.0], OPTIONS)
        assert found.status is Status.UNBOUNDED
        assert lp_program.Solution(Status.ERROR).dual_bound == -np.inf

    def test_multipliers(self):
        # min x + 2 y, x + y >= 1, both in [0, 2]: x = 1, and a unit more costs 1.
        program = Program()
        program.add_columns([0.0, 0.0], [2.0, 2.0])
        program.add_rows("first", -np.ones((1, 2)), [-1.0])
        program.add_rows("second", np.ones((1, 2)), [5.0])
        found = program.minimize_relaxed([1.0, 2.0], OPTIONS)
        assert found.value == pytest.approx(1.0)
        np.testing.assert_allclose(found.multipliers["first"], [1.0])
        np.testing.assert_allclose(found.multipliers["second"], [0.0])

    def test_names_are_unique(self):
        program = self.program([1.0])
        with pytest.raises(InputError, match="Received twice: row"):
            program.add_rows("row", np.ones((1, 1)), [1.0])

    def test_options(self):
        with pytest.raises(InputError, match="at least 0"):
            SolverOptions(time_limit_s=-1.0)
