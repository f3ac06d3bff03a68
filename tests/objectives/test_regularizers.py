"""Warm-up regularizers: golden values, layers that have none, and what they move."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import layers
from robust_tf import schedules
from robust_tf.bounds import IntervalBound
from robust_tf.graph import BoundGraph
from robust_tf.objectives import terms
from robust_tf.objectives.certified_training import certified_training
from robust_tf.objectives.forward import CertifiedForward
from robust_tf.objectives.regularizers import BoundTightness
from robust_tf.objectives.regularizers import CenterSpread
from robust_tf.objectives.regularizers import ReluBalance
from robust_tf.objectives.regularizers import ReluStability
from robust_tf.objectives.regularizers import bound_tightness
from robust_tf.objectives.regularizers import normalized_input
from robust_tf.objectives.regularizers import relu_balance
from robust_tf.objectives.relaxation_area import ReluRelaxationMean
from tests import golden_cases
from tests.training import small

GOLDEN = golden_cases.losses()["regularizers"]


def bound(lower, upper):
    return IntervalBound(tf.constant(lower, tf.float64), tf.constant(upper, tf.float64))


def passed(model, images, epsilon):
    return CertifiedForward(
        graph=BoundGraph.from_model(model),
        images=tf.constant(images),
        labels=tf.zeros([len(images)], tf.int32),
        region=rt.LpBall(images, epsilon),
        ramp=tf.constant(0.0, images.dtype),
        seed=tf.constant([0, 0]),
        training=True,
    )


@pytest.mark.parametrize("row", GOLDEN["rows"], ids=lambda row: row["layers"])
def test_golden_values(row):
    entrance = bound([[-GOLDEN["input_radius"]]], [[GOLDEN["input_radius"]]])
    bounds = [bound(**GOLDEN["layers"][name]) for name in row["layers"]]
    tightness = bound_tightness(entrance, bounds, GOLDEN["tolerance"])
    assert float(tightness) == pytest.approx(row["tightness"], abs=1e-7)
    balance = relu_balance(bounds, GOLDEN["tolerance"])
    assert float(balance) == pytest.approx(row["balance"], abs=1e-7)


def test_without_active_neurons_both_ratios_are_0():
    silent = bound([[-2.0, -1.0]], [[-1.0, 0.5]])
    assert float(relu_balance([silent], 0.5)) == 2.0


@pytest.mark.parametrize(
    "ends",
    [
        ([[0.1, 0.2]], [[0.3, 0.4]]),  # No inactive neuron.
        ([[-2.0, -1.0]], [[-1.0, -0.5]]),  # No active one.
        ([[-1.0, -1.0]], [[1.0, 1.0]]),  # Neither.
        ([[0.0, 0.0]], [[0.0, 0.0]]),  # No width.
        ([[-1.0, -1.0]], [[-1.0, -1.0]]),  # No variance.
    ],
)
def test_gradients_are_finite(ends):
    lower, upper = (tf.constant(end, tf.float64) for end in ends)
    with tf.GradientTape() as tape:
        tape.watch([lower, upper])
        layer = IntervalBound(lower, upper)
        entrance = bound([[-0.1]], [[0.1]])
        loss = bound_tightness(entrance, [layer], 0.5) + relu_balance([layer], 0.5)
    assert np.isfinite(loss)
    for gradient in tape.gradient(loss, [lower, upper]):
        assert np.isfinite(gradient).all()


def test_radii_are_those_of_the_normalised_input():
    """Scaling the input by 4 and the first kernel by 1/4 changes no bound."""
    random = np.random.default_rng(0)
    images = random.uniform(size=(4, 5))
    kernel = random.normal(size=(5, 3))
    losses = []
    for scale in (1.0, 4.0):
        inputs = keras.Input((5,), dtype="float64")
        tensor = layers.Rescaling(scale, dtype="float64")(inputs)
        dense = layers.Dense(3, dtype="float64")
        tensor = layers.ReLU(dtype="float64")(dense(tensor))
        model = keras.Model(inputs, layers.Dense(2, dtype="float64")(tensor))
        dense.kernel.assign(kernel / scale)
        assert normalized_input(BoundGraph.from_model(model)) == 1
        losses.append(BoundTightness(0.9)(passed(model, images, 0.1)).numpy())
    radius = np.mean(0.1 * np.abs(kernel).sum(0))  # Of uncut boxes, at most.
    assert losses[0][0] > 1 - 0.1 / radius / 0.9 - 0.05
    # The radius of the input is 4 times as large, that of the layer the same.
    first, second = (1.0 - losses[0][0]), (1.0 - losses[1][0])
    assert second == pytest.approx(4 * first) or losses[1][0] == 0.0


def test_brute_force_on_a_network():
    images, _ = small.images_and_labels(8)
    images = images.astype("float64")
    model = small.cnn(normalized=True, dtype="float64")
    forward = passed(model, images, 0.1)
    tightness, balance = [], []
    for edge in [
        node.inputs[0]
        for node in forward.graph.nodes
        if isinstance(node.layer, layers.ReLU)
    ]:
        lower = forward.intervals[edge].lower.numpy()
        upper = forward.intervals[edge].upper.numpy()
        center = (lower + upper) / 2
        box = forward.region.box
        width = np.mean(box.upper.numpy() - box.lower.numpy())
        tightness.append(max(0.5 - width / np.mean(upper - lower), 0) / 0.5)
        active, inactive = lower > 0, upper < 0
        means = np.mean(center * active) / -np.mean(center * inactive)
        squares = (center - center.mean()) ** 2
        spreads = np.sum(squares * active) / np.sum(squares * inactive)
        ratios = [min(ratio, 1 / max(ratio, 1e-12)) for ratio in (means, spreads)]
        balance.append(sum(max(0.5 - ratio, 0) for ratio in ratios) / 0.5)
    assert np.mean(tightness) > 0.0 and np.mean(balance) > 0.0
    np.testing.assert_allclose(BoundTightness()(forward), np.mean(tightness), rtol=1e-9)
    np.testing.assert_allclose(ReluBalance()(forward), np.mean(balance), rtol=1e-9)


def test_sums_over_neurons():
    images, _ = small.images_and_labels(5)
    forward = passed(
        small.cnn(normalized=True, dtype="float64"), images.astype("float64"), 0.1
    )
    stability, volume, spread = 0.0, 0.0, []
    for node in forward.graph.nodes:
        if isinstance(node.layer, layers.ReLU):
            bounds = forward.intervals[node.inputs[0]]
            low, high = (
                end.numpy().reshape(5, -1) for end in (bounds.lower, bounds.upper)
            )
            stability = stability - np.tanh(1 + low * high).sum(1)
            volume = volume + (np.maximum(-low, 0) * np.maximum(high, 0)).mean(1)
            deviation = np.std((low + high) / 2, ddof=1)
            spread.append(max(3.0 - deviation, 0) / 3.0)
    assert np.ptp(stability) > 0.1 and volume.min() > 0.0 and max(spread) > 0.0
    for term, wanted in (
        (ReluStability(), stability),
        (ReluRelaxationMean(), volume),
        (CenterSpread(3.0), np.full(5, np.mean(spread))),
    ):
        np.testing.assert_allclose(term(forward), wanted, rtol=1e-9)


def test_training_tightens_bounds_before_the_ramp():
    def tightness(weight):
        model = small.certified_model(
            small.cnn(),
            certified_training(
                terms.IntervalCrossEntropy(), "fast", regularizer_weight=weight
            ),
            ramp=schedules.LinearRamp(start=1000, length=1),
            optimizer=keras.optimizers.Adam(0.01),
            min_radius=1e-3,
        )
        history = small.fit(model, small.batches(), epochs=20)
        assert history["epsilon"][-1] == pytest.approx(1e-3)
        graph_pass = passed(model.classifier, small.images_and_labels(8)[0], 0.05)
        return float(BoundTightness()(graph_pass)[0]), history

    plain, _ = tightness(0.0)
    regular, history = tightness(5.0)
    assert regular < 0.7 * plain
    assert history["tightness_loss"][-1] < history["tightness_loss"][0]


def test_weights_follow_the_radius():
    objective = certified_training(
        terms.IntervalCrossEntropy(), "fast", regularizer_weight=0.5, l1_weight=1e-5
    )
    assert objective.names == (
        "standard_loss",
        "certified_loss",
        "tightness_loss",
        "balance_loss",
        "l1_penalty",
    )
    for ramp, wanted in (
        (0.0, [1.0, 0.0, 0.5, 0.5, 1e-5]),
        (1e-19, [0.0, 1.0, 0.5, 0.5, 1e-5]),
        (0.25, [0.0, 1.0, 0.375, 0.375, 1e-5]),
        (1.0, [0.0, 1.0, 0.0, 0.0, 1e-5]),
    ):
        values = [
            float(w(tf.constant(ramp))) if callable(w) else w for w in objective.weights
        ]
        assert values == pytest.approx(wanted)


def test_what_cannot_be():
    with pytest.raises(rt.InputError, match="`tolerance`.*0"):
        BoundTightness(0.0)
    with pytest.raises(rt.InputError, match="`tolerance`.*-1"):
        ReluBalance(-1)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    with pytest.raises(rt.InputError, match="ReLU"):
        BoundTightness()(passed(model, np.zeros((2, 3), "float32"), 0.1))
