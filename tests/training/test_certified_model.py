"""What `fit` and `evaluate` of a certified model do, measured from outside."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf import data as datasets
from robust_tf import layers
from robust_tf import schedules
from robust_tf.data import ImageDataset
from robust_tf.objectives import terms
from robust_tf.objectives.forward import Adversary
from robust_tf.regions import Threat
from robust_tf.training.certified_model import CertifiedModel
from tests.training import small


def _plain(**dense):
    """A classifier of Keras's own layers."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input(small.SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(8, activation="relu", **dense),
            keras.layers.Dense(small.CLASSES, **dense),
        ]
    )


@pytest.mark.parametrize("objective", [terms.robust(None), terms.robust()])
def test_at_radius_zero_the_certified_loss_is_the_natural_one(objective):
    objective = terms.WeightedSum(
        (*objective.terms, terms.StandardCrossEntropy()), (1.0, 0.0)
    )
    ramp = schedules.LinearRamp(start=100, length=1)
    model = small.certified_model(small.cnn(normalized=True), objective, ramp=ramp)
    history = small.fit(model, small.batches())
    assert history["epsilon"] == [0.0]
    for certified, natural in (
        ("certified_loss", "standard_loss"),
        ("certified_accuracy", "clean_accuracy"),
    ):
        np.testing.assert_allclose(history[certified], history[natural], rtol=1e-5)


def test_validation_is_at_the_full_radius_and_leaves_padding_out():
    images, labels = small.images_and_labels(count=21)
    dataset = ImageDataset("small", images, labels, small.CLASSES, "validation")
    ramp = schedules.LinearRamp(start=100, length=1)
    model = small.certified_model(
        small.cnn(), terms.robust_natural(0.25, None), ramp=ramp
    )
    measured = model.evaluate(
        datasets.evaluation_batches(dataset, 8), verbose=0, return_dict=True
    )
    rows = rt.margin_specification(labels, small.CLASSES)
    region = rt.LpBall(images, 0.05)
    bound = rt.compute_bounds(model.classifier, region, "ibp", rows).lower.numpy()
    logits = model.classifier(images).numpy()
    standard = keras.losses.sparse_categorical_crossentropy(
        labels, logits, from_logits=True
    ).numpy()
    certified = np.log1p(np.exp(-bound).sum(-1))
    wanted = {
        "epsilon": 0.05,
        "standard_loss": standard.mean(),
        "certified_loss": certified.mean(),
        "loss": (0.25 * standard + 0.75 * certified).mean(),
        "clean_accuracy": (logits.argmax(-1) == labels).mean(),
        "certified_accuracy": (bound > 0).all(-1).mean(),
    }
    assert measured == pytest.approx(wanted, rel=1e-5)


def test_training_measures_the_current_radius():
    ramp = schedules.LinearRamp(start=1, length=2)
    model = small.certified_model(small.cnn(), terms.robust(None), ramp=ramp)
    history = small.fit(model, small.batches(), epochs=2)
    assert history["epsilon"] == pytest.approx([0.05 * 0.5 / 3, 0.05])
    assert int(model.optimizer.iterations) == 6


def test_the_radius_of_training_is_its_own():
    ramp = schedules.LinearRamp(start=2, length=1)
    model = small.certified_model(
        small.cnn(), terms.robust(None), ramp=ramp, radius_factor=1.5, min_radius=1e-3
    )
    data = small.batches()
    history = model.fit(
        data, epochs=2, validation_data=data, shuffle=False, verbose=0
    ).history
    assert history["epsilon"] == pytest.approx([1e-3, 0.075])
    assert history["val_epsilon"] == pytest.approx([0.05, 0.05])


def test_small_boxes_certify_nothing_in_training():
    def corner(logits_fn, region, labels, seed):
        del logits_fn, labels, seed
        return region.box.upper

    objective = terms.WeightedSum(
        (terms.IntervalCrossEntropy(),),
        (1.0,),
        adversary=Adversary(corner, box_share=0.1),
    )
    model = small.certified_model(small.cnn(), objective)
    data = small.batches()
    history = model.fit(data, validation_data=data, shuffle=False, verbose=0).history
    assert "certified_accuracy" not in history
    images, labels = small.images_and_labels()
    rows = rt.margin_specification(labels, small.CLASSES)
    region = rt.LpBall(images, 0.05)
    bound = rt.compute_bounds(model.classifier, region, "ibp", rows).lower.numpy()
    wanted = (bound > 0).all(-1).mean()
    assert history["val_certified_accuracy"] == pytest.approx([wanted], abs=1e-6)


@pytest.mark.parametrize("norm", [2, 1])
@pytest.mark.parametrize("final_beta", [None, 0.5], ids=["ibp", "crown_ibp"])
def test_other_norms_train(norm, final_beta):
    model = small.certified_model(
        small.cnn(),
        terms.robust(final_beta),
        threat=Threat(0.1, norm),
        ramp=schedules.LinearRamp(start=15, length=30),
        optimizer=keras.optimizers.Adam(0.02),
    )
    history = small.fit(model, small.batches(), epochs=25)
    assert history["epsilon"][-1] == pytest.approx(0.1)
    assert history["loss"][-1] < 0.1 * history["loss"][0]
    assert history["certified_accuracy"][-1] == 1.0


def test_parts_of_a_batch_add_up_to_the_batch():
    results = []
    for parts in (1, 4):
        model = small.certified_model(
            small.cnn(), small.with_penalty(terms.robust(None)), micro_batches=parts
        )
        history = small.fit(model, small.batches())
        results.append((history, small.weights(model.classifier)))
    (history, weights), (parts_history, parts_weights) = results
    for key, values in history.items():
        np.testing.assert_allclose(parts_history[key], values, rtol=1e-5)
    for value, other in zip(weights, parts_weights, strict=True):
        np.testing.assert_allclose(other, value, atol=1e-6)


def test_parts_must_be_equal():
    model = small.certified_model(small.cnn(), terms.natural(), micro_batches=3)
    with pytest.raises(rt.InputError, match="multiple of 3 micro-batches.*: 16"):
        small.fit(model, small.batches())
    with pytest.raises(rt.InputError, match="micro_batches"):
        CertifiedModel(small.cnn(), terms.natural(), Threat(0.1), None, micro_batches=0)


def test_clipping_bounds_the_step():
    before = small.weights(small.cnn())
    model = small.certified_model(
        small.cnn(),
        terms.natural(),
        optimizer=keras.optimizers.SGD(1.0),
        max_gradient_norm=1e-2,
    )
    small.fit(model, small.batches(size=48))
    after = small.weights(model.classifier)
    squares = [np.square(a - b).sum() for a, b in zip(after, before, strict=True)]
    assert np.sqrt(sum(squares)) == pytest.approx(1e-2, rel=1e-3)


def test_attacks_differ_from_step_to_step_and_repeat_from_run_to_run():
    def noise(logits_fn, region, labels, seed):
        del logits_fn, labels
        shape = tf.shape(region.x)
        return region.x + tf.random.stateless_normal(shape, seed)

    def losses(seed):
        model = small.certified_model(
            small.cnn(),
            small.adversarial(noise),
            optimizer=keras.optimizers.SGD(0.0),
            seed=seed,
        )
        # One batch to an epoch, always the same: only the noise can differ.
        return small.fit(model, small.batches(size=48), epochs=3)["adversarial_loss"]

    first = losses(seed=0)
    assert len(set(first)) == 3
    assert losses(seed=0) == first
    assert not set(losses(seed=1)) & set(first)


def test_regularizers_of_layers_count():
    plain, regular = (
        small.certified_model(rt.convert(_plain(kernel_regularizer=penalty)), objective)
        for penalty, objective in (
            (None, small.with_penalty(terms.natural(), 0.01)),
            (keras.regularizers.L1(0.01), terms.natural()),
        )
    )
    histories = [small.fit(model, small.batches()) for model in (plain, regular)]
    assert histories[0]["loss"] == pytest.approx(histories[1]["loss"], rel=1e-5)
    pairs = zip(plain.classifier.weights, regular.classifier.weights, strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_weights_of_examples_are_refused():
    images, labels = small.images_and_labels()
    model = small.certified_model(small.cnn(), terms.natural())
    with pytest.raises(rt.InputError, match="takes no weights"):
        model.fit(images, labels, sample_weight=np.ones(48), verbose=0, batch_size=16)


def test_classifiers_must_be_converted():
    for make in (_plain, lambda: keras.Model(i := keras.Input((3,)), _dense(i))):
        with pytest.raises(rt.InputError, match="Convert the model"):
            CertifiedModel(make(), terms.natural(), Threat(0.1), schedules.Constant(1))


def _dense(tensor):
    return keras.layers.Dense(2)(tensor)


def test_keras_callbacks_and_arrays(tmp_path):
    images, labels = small.images_and_labels()
    model = small.certified_model(
        rt.convert(_plain()),
        terms.robust_natural(0.5, None),
        optimizer=keras.optimizers.SGD(0.0),
    )
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=1)
    board = keras.callbacks.TensorBoard(tmp_path / "board", write_graph=False)
    history = model.fit(
        images,
        labels,
        batch_size=20,  # The last batch is smaller.
        epochs=5,
        validation_data=(images, labels),
        callbacks=[stopping, board],
        verbose=0,
    ).history
    names = {"loss", "certified_loss", "standard_loss", "epsilon"}
    names |= {"clean_accuracy", "certified_accuracy"}
    assert history.keys() == names | {f"val_{name}" for name in names}
    assert len(history["loss"]) == 2
    assert list((tmp_path / "board" / "validation").iterdir())
    results = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert results["certified_loss"] == pytest.approx(
        history["val_certified_loss"][-1], rel=1e-5
    )
    logits = model.predict(images, verbose=0)
    np.testing.assert_allclose(logits, model.classifier(images), atol=1e-6)


def test_the_trained_classifier_is_loaded_by_keras(tmp_path):
    model = small.certified_model(small.cnn(normalized=True), terms.robust())
    small.fit(model, small.batches())
    model.classifier.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images, _ = small.images_and_labels(5)
    np.testing.assert_array_equal(loaded(images), model.classifier(images))
    region = rt.LpBall(images, 0.01)
    for one, other in ((loaded, model.classifier), (rt.convert(loaded), loaded)):
        bounds = [rt.compute_bounds(part, region, "crown-ibp") for part in (one, other)]
        np.testing.assert_array_equal(bounds[0].lower, bounds[1].lower)


def test_steps_run_eagerly():
    model = small.certified_model(small.cnn(normalized=True), terms.robust_natural())
    wanted = small.fit(model, small.batches(size=24))
    eager = small.certified_model(small.cnn(normalized=True), terms.robust_natural())
    eager.run_eagerly = True
    history = small.fit(eager, small.batches(size=24))
    for key, values in wanted.items():
        np.testing.assert_allclose(history[key], values, rtol=1e-5)


def test_dropout_is_for_logits_alone():
    """Bounds hold at inference; the clean loss sees the dropped neurons."""
    model = small.certified_model(
        small.cnn(dropout=0.5),
        terms.robust_natural(0.5, None),
        threat=Threat(0.0),
        optimizer=keras.optimizers.SGD(0.0),
    )
    history = small.fit(model, small.batches(size=48), epochs=3)
    assert np.ptp(history["certified_loss"]) < 1e-6
    assert np.ptp(history["standard_loss"]) > 1e-3


def test_layers_of_ours_need_no_conversion():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    CertifiedModel(model, terms.natural(), Threat(0.1), schedules.Constant(1.0))
