"""Bounds of boxes with signs of neurons, against points that lie in them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.graph import BoundGraph
from robust_tf.verification import stages
from robust_tf.verification.box_bounds import BoxBounds
from robust_tf.verification.boxes import Boxes
from robust_tf.verification.prover import Prover
from tests.verification import verifying
from tests.verification.verifying import Bench

SIZES = (4, 10, 10, 3)
CLIPPED = 1e-3


@pytest.fixture(scope="module")
def bench():
    bench = Bench(SIZES)
    bench.randomize(5)
    center = np.full([1, 4], 0.2, "float32")
    bench.region = rt.Box(center - 1.0, center + 1.0)
    unsafe = rt.UnsafeSet.from_clauses(
        [
            ((verifying.row_between(3), verifying.row_between(3, 2, 1)), [0.3, 0.1]),
            ((np.eye(3)[0],), [-0.5]),
        ]
    )
    bench.unsafe = unsafe
    task = bench.task(bench.region, unsafe)
    bench.shared = task.unsafe([0]), stages.intervals(task, [0])[0]
    return bench


def before_activations(bench, points):
    """Values of all neurons, and margins of the clauses, in float64."""
    values, found = np.asarray(points, "float64"), []
    weights = [w.astype("float64") for w in bench.model.get_weights()]
    for kernel, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        found.append(values @ kernel + bias)
        values = np.maximum(found[-1], 0.0)
    outputs = values @ weights[-2] + weights[-1]
    return np.concatenate(found, -1), verifying.clause_margins(bench.unsafe, outputs)


def random_boxes(bench, count, split_neurons):
    """Small boxes, with signs of neurons as they are at a point of each."""
    rng = np.random.default_rng(count + split_neurons)
    low, high = (
        end.numpy()[0] for end in (bench.region.box.lower, bench.region.box.upper)
    )
    ends = np.sort(rng.uniform(low, high, size=(2, count, 4)), 0)
    points = rng.uniform(*ends)
    signs = np.sign(before_activations(bench, points)[0]).astype(np.int8)
    for row in signs:
        row[rng.permutation(20)[split_neurons:]] = 0
    return *ends, signs


def points_in(lower, upper, count=4000):
    rng = np.random.default_rng(0)
    shares = rng.uniform(size=(count, lower.shape[-1]))
    shares[::4] = np.round(shares[::4])
    return np.clip(lower + shares * (upper - lower), lower, upper)


@pytest.mark.parametrize("split_neurons", [0, 3, 20])
def test_margins_and_smaller_boxes_hold(bench, split_neurons):
    bounds = BoxBounds(bench.prover, 1.0, CLIPPED)
    boxes = random_boxes(bench, 40, split_neurons)
    margins, points, lower, upper, effect, neuron = bounds.run(bench.shared, *boxes)
    assert (lower >= boxes[0]).all() and (upper <= boxes[1]).all()
    assert ((points >= boxes[0] - 1e-12) & (points <= boxes[1] + 1e-12)).all()
    assert (effect >= 0.0).all()
    seen, gaps = 0, []
    for i in range(40):
        inside = points_in(boxes[0][i], boxes[1][i])
        before, least = before_activations(bench, inside)
        is_left = (boxes[2][i] * before >= 0.0).all(-1)
        seen += is_left.sum()
        least = least[is_left].astype("float64")
        assert (margins[i] <= least.min(0, initial=np.inf)).all()
        gaps.append(least.min(0, initial=np.inf) - margins[i])
        # What the smaller box has lost is safe, by more than rounding.
        is_lost = ~((inside >= lower[i]) & (inside <= upper[i])).all(-1)
        is_open = ~(margins[i] > 0.0)
        assert (least[is_lost[is_left]][:, is_open] > CLIPPED).all()
        if neuron[i] >= 0:
            assert boxes[2][i, neuron[i]] == 0
    assert seen > 2000
    gaps = np.asarray(gaps)
    # Samples find no least points; but with all signs, forms are exact.
    assert np.median(gaps[np.isfinite(gaps)]) < (0.1 if split_neurons == 20 else 0.7)


def test_splits_of_neurons_tighten(bench):
    """With all signs known, forms are exact."""
    bounds = BoxBounds(bench.prover, 1.0, CLIPPED)
    lower, upper, signs = random_boxes(bench, 40, 20)
    split, *_ = bounds.run(bench.shared, lower, upper, signs)
    plain, *_ = bounds.run(bench.shared, lower, upper, np.zeros_like(signs))
    is_positive = plain > 0.0
    assert (split[is_positive] > 0.0).all()
    assert ((split > 0.0) & ~is_positive).sum() >= 3


def test_contradicting_signs_exclude_all(bench):
    """Neurons of the first layer, below 0 all over the box, that should be above."""
    lower, upper, signs = random_boxes(bench, 1, 0)
    before, _ = before_activations(bench, points_in(lower[0], upper[0]))
    dead = np.flatnonzero((before[:, :10] < -0.01).all(0))
    signs[0, dead[:1]] = 1
    margins, *_ = BoxBounds(bench.prover, 1.0, CLIPPED).run(
        bench.shared, lower, upper, signs
    )
    assert dead.size
    assert (margins > 0.0).all()


def test_batches_of_any_size_agree(bench):
    boxes = random_boxes(bench, 40, 3)
    bounds = BoxBounds(bench.prover, 1.0, CLIPPED)
    whole = bounds.run(bench.shared, *boxes)
    bounds._at_once = 7
    for one, other in zip(whole, bounds.run(bench.shared, *boxes), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)


def test_neurons_are_split_where_few_are_open(bench):
    boxes = random_boxes(bench, 40, 0)
    *_, never = BoxBounds(bench.prover, 0.0, CLIPPED).run(bench.shared, *boxes)
    *_, always = BoxBounds(bench.prover, 1.0, CLIPPED).run(bench.shared, *boxes)
    *_, some = BoxBounds(bench.prover, 0.6, CLIPPED).run(bench.shared, *boxes)
    assert (never == -1).all()
    assert (some >= 0).sum() < (always >= 0).sum()
    chosen = some >= 0
    assert chosen.any()
    np.testing.assert_array_equal(some[chosen], always[chosen])


@pytest.mark.parametrize(
    ("layers", "neurons"),
    [
        ([keras.layers.ReLU(), keras.layers.Dense(7)], 7),
        ([keras.layers.Reshape([2, 2, 1]), keras.layers.Conv2D(3, 1)], 5),
        ([keras.layers.Dense(2100), keras.layers.ReLU()], 5),
    ],
)
def test_neurons_of_the_input_of_images_and_of_wide_layers_stay(layers, neurons):
    """They are bounded, but not split; and points tell that bounds hold."""
    tail = [keras.layers.ReLU(), keras.layers.Flatten()]
    if neurons == 5:
        tail += [keras.layers.Dense(5), keras.layers.ReLU()]
    stack = [keras.Input([4]), *layers, *tail, keras.layers.Dense(2)]
    model = rt.convert(keras.Sequential(stack))
    graph = BoundGraph.from_model(model)
    prover = Prover(graph)
    bounds = BoxBounds(prover, 1.0, CLIPPED)
    assert bounds.neurons.total == neurons < prover.neurons.total
    lower, upper = np.full([1, 4], -0.5), np.full([1, 4], 0.5)
    region = rt.Box(tf.constant(lower), tf.constant(upper))
    unsafe = rt.UnsafeSet.from_clauses([(np.eye(2)[:1], [0.0])])
    known = prover.interval(region, unsafe)[1]
    signs = np.zeros([1, neurons], np.int8)
    margins, *_, neuron = bounds.run((unsafe, known), lower, upper, signs)
    outputs = verifying.outputs_of(model, points_in(lower[0], upper[0]))
    least = outputs[:, 0].min()
    assert least - 3.0 < margins[0, 0] <= least + 1e-6
    assert 0 <= neuron[0] < neurons


class TestBoxes:
    def halves(self, neuron):
        boxes = Boxes.whole(np.array([0.0, -1.0]), np.array([1.0, 1.0]), np.zeros(2), 3)
        return Boxes(**vars(boxes) | {"neuron": np.array([neuron], np.int32)}).split()

    def test_inputs(self):
        halves = self.halves(-1)
        np.testing.assert_array_equal(halves.lower, [[0.0, -1.0], [0.0, 0.0]])
        np.testing.assert_array_equal(halves.upper, [[1.0, 0.0], [1.0, 1.0]])
        assert not halves.signs.any()

    def test_neurons(self):
        halves = self.halves(2)
        np.testing.assert_array_equal(halves.signs, [[0, 0, 1], [0, 0, -1]])
        np.testing.assert_array_equal(halves.lower, [[0.0, -1.0]] * 2)
        np.testing.assert_array_equal(halves.upper, [[1.0, 1.0]] * 2)

    def test_no_middle(self):
        point = Boxes.whole(np.zeros(2), np.zeros(2), np.zeros(2), 3)
        assert point.split() is None
        neuron = {"neuron": np.array([1], np.int32)}
        assert len(Boxes(**vars(point) | neuron).split()) == 2


def test_types(bench):
    found = BoxBounds(bench.prover, 1.0, CLIPPED).run(
        bench.shared, *random_boxes(bench, 2, 0)
    )
    assert [array.dtype for array in found[:5]] == [np.dtype("float64")] * 5
    assert tf.as_dtype(found[5].dtype) == tf.int32
