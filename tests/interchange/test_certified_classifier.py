"""The exported certified classifier: alone, it proves what the library proves."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import robust_tf as rt
from robust_tf.errors import InputError
from robust_tf.interchange.certified_classifier import METHODS
from robust_tf.interchange.certified_classifier import export_certified
from robust_tf.verification.accuracy import LEAST_MARGIN
from robust_tf.verification.radii import certified_radii
from tests.propagation import networks
from tests.training import small

EPSILON, STEPS, UPPER = 0.02, 9, 0.25
# What a graph must not hold: calls into Python, and reads of files.
FOREIGN = ("PyFunc", "ReadFile", "HashTable", "LookupTable", "Text")


@pytest.fixture(scope="module")
def trained():
    """A classifier that is certain enough for certificates, with BatchNormalization."""
    classifier = small.cnn(normalized=True)
    model = small.certified_model(
        classifier, small.terms.natural(), optimizer=keras.optimizers.Adam(0.01)
    )
    small.fit(model, small.batches(), 25)
    return classifier


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Folders by method."""
    folder = tmp_path_factory.mktemp("saved")
    for method in METHODS:
        export_certified(
            folder / method, trained, method=method, upper=UPPER, steps=STEPS
        )
    return folder


@pytest.fixture(scope="module")
def images():
    return small.images_and_labels(9, seed=3)[0]


@pytest.fixture(scope="module")
def loaded(exported):
    """What the folders hold, by method."""
    return {method: tf.saved_model.load(exported / method) for method in METHODS}


def certified(loaded, images, radius):
    found = loaded.certify(tf.constant(images), tf.constant(radius, images.dtype))
    return {name: value.numpy() for name, value in found.items()}


@pytest.mark.parametrize("method", METHODS)
def test_it_proves_what_the_library_proves(trained, loaded, images, method):
    found = certified(loaded[method], images, EPSILON)
    logits = np.asarray(trained(images, training=False))
    prediction = logits.argmax(-1)
    rows = rt.margin_specification(prediction, small.CLASSES)
    region = rt.LpBall(images, EPSILON)
    wanted = rt.compute_bounds(rt.convert(trained), region, method, rows).lower.numpy()
    np.testing.assert_array_equal(found["prediction"], prediction)
    np.testing.assert_allclose(found["lower_bounds"], wanted, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found["certified"], wanted.min(-1) > LEAST_MARGIN)
    again = loaded[method].predict(tf.constant(images))["logits"]
    np.testing.assert_allclose(again, logits, rtol=0, atol=1e-5)


def test_some_are_certified_and_some_are_not(loaded, images):
    flags = certified(loaded["crown"], images, 0.05)["certified"]
    assert flags.any() and not flags.all()


@pytest.mark.parametrize("method", METHODS)
def test_radii_are_those_of_the_library(trained, loaded, images, method):
    found = loaded[method].certified_radius(tf.constant(images))
    prediction, radii = found["prediction"].numpy(), found["radius"].numpy()
    model = rt.convert(trained)
    wanted = certified_radii(
        model, images, prediction, method=method, upper=UPPER, steps=STEPS
    )
    np.testing.assert_allclose(radii, wanted, rtol=0, atol=1e-5)
    assert len(set(radii.tolist())) > 3 and radii.max() < UPPER
    # Each was proved itself, and the next step's was not.
    for place, radius in enumerate(radii):
        one = images[place : place + 1]
        if radius > 0.0:
            assert certified(loaded[method], one, radius)["certified"][0]
        beyond = radius + UPPER / 2 ** (STEPS - 1)
        assert not certified(loaded[method], one, beyond)["certified"][0]


def test_methods_are_not_one_and_the_same(loaded, images):
    bounds = [certified(loaded[m], images, EPSILON)["lower_bounds"] for m in METHODS]
    assert (bounds[2].min(-1) > bounds[0].min(-1) + 1e-4).all()
    assert abs(bounds[2] - bounds[1]).max() > 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_image_is_never_certified(loaded, images, method):
    spoiled = images.copy()
    wrong = [np.nan, np.inf, -np.inf, -1e-6, 1.00001]
    spoiled[np.arange(5), 1, 3, 0] = wrong  # One pixel each.
    spoiled[5], spoiled[6] = np.nan, 200.0
    is_wrong = np.arange(len(images)) < 7
    for radius in (0.0, 1e-3):
        found = certified(loaded[method], spoiled, radius)
        kept = certified(loaded[method], images, radius)
        assert kept["certified"].all()
        np.testing.assert_array_equal(found["certified"], ~is_wrong)
        assert (found["lower_bounds"][is_wrong] == -np.inf).all()
        np.testing.assert_allclose(
            found["lower_bounds"][~is_wrong], kept["lower_bounds"][~is_wrong], atol=1e-6
        )
    found = loaded[method].certified_radius(tf.constant(spoiled))
    radii = found["radius"].numpy()
    assert (radii[is_wrong] == 0.0).all() and (radii[~is_wrong] > 0.0).all()


@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_radius_certifies_nothing(loaded, images, method):
    for radius in (np.nan, np.inf, -np.inf, -1e-6, 1.00001, 8.0):
        found = certified(loaded[method], images, radius)
        assert not found["certified"].any()
        assert (found["lower_bounds"] == -np.inf).all()


def test_a_constant_classifier_is_certified_at_any_radius_but_not_at_a_tie(tmp_path):
    inputs = keras.Input((2, 2, 1))
    flat = rt.layers.Flatten()(inputs)
    dense = rt.layers.Dense(3, kernel_initializer="zeros")
    model = keras.Model(inputs, dense(flat))
    images = np.full((2, 2, 2, 1), 0.5, "float32")
    for bias, is_proved in (((1.0, 3.0, 2.0), True), ((1.0, 3.0, 3.0), False)):
        dense.bias.assign(bias)
        folder = tmp_path / str(is_proved)
        export_certified(folder, model, method="ibp", upper=0.5)
        loaded = tf.saved_model.load(folder)
        found = certified(loaded, images, 1.0)
        assert found["prediction"].tolist() == [1, 1]
        assert found["certified"].tolist() == [is_proved] * 2
        radii = loaded.certified_radius(tf.constant(images))["radius"].numpy()
        assert radii.tolist() == [0.5 * is_proved] * 2


def test_margins_that_rounding_could_make_prove_nothing(tmp_path):
    inputs = keras.Input((2, 2, 1))
    dense = rt.layers.Dense(2, kernel_initializer="zeros")
    model = keras.Model(inputs, dense(rt.layers.Flatten()(inputs)))
    dense.bias.assign((0.0, 0.5 * LEAST_MARGIN))
    export_certified(tmp_path / "model", model, method="crown")
    loaded = tf.saved_model.load(tmp_path / "model")
    found = certified(loaded, np.zeros((1, 2, 2, 1), "float32"), 0.0)
    assert found["lower_bounds"].min() > 0.0 and not found["certified"].any()


@pytest.mark.parametrize("count", [1, 23])
def test_any_batch_size(loaded, count):
    images, model = tf.constant(small.images_and_labels(23)[0][:count]), loaded["crown"]
    assert model.certify(images, tf.constant(0.01))["certified"].shape == (count,)
    assert model.certified_radius(images)["radius"].shape == (count,)
    assert model.predict(images)["logits"].shape == (count, small.CLASSES)


def test_weights_are_those_of_the_export(trained, loaded, tmp_path, images):
    model = keras.models.clone_model(trained)
    model.set_weights(trained.get_weights())
    export_certified(tmp_path / "model", model, method="ibp")
    for variable in model.weights:
        variable.assign(variable * 0.0)
    alone = tf.saved_model.load(tmp_path / "model")
    before = certified(loaded["ibp"], images, EPSILON)["lower_bounds"]
    after = certified(alone, images, EPSILON)["lower_bounds"]
    np.testing.assert_array_equal(before, after)


def test_residual_sums_and_float64(tmp_path):
    model = networks.converted("residual", dtype="float64")
    images = networks.centers(model, 4, dtype="float64")
    export_certified(tmp_path / "model", model, method="crown-ibp", steps=1)
    found = certified(tf.saved_model.load(tmp_path / "model"), images, 0.003)
    rows = rt.margin_specification(found["prediction"], 3, tf.float64)
    region = rt.LpBall(images, 0.003)
    wanted = rt.compute_bounds(model, region, "crown-ibp", rows).lower
    np.testing.assert_allclose(found["lower_bounds"], wanted, rtol=0, atol=1e-9)


PROGRAM = """
import json, sys
sys.modules["robust_tf"] = None  # An import of it fails.
import numpy as np, tensorflow as tf
folder, images, radius = sys.argv[1], np.load(sys.argv[2]), float(sys.argv[3])
model = tf.saved_model.load(folder)
images = tf.constant(images)
found = model.signatures["certify"](images=images, radius=tf.constant(radius))
found |= {"logits": model.signatures["serving_default"](images=images)["logits"]}
found |= {"radius": model.signatures["certified_radius"](images=images)["radius"]}
assert not any(name.startswith("robust_tf.") for name in sys.modules)
print(json.dumps({name: value.numpy().tolist() for name, value in found.items()}))
"""


def run(*arguments, cwd):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_process_without_this_library_finds_the_same(trained, exported, images):
    method = "crown-ibp"
    np.save(exported / "images.npy", images)
    folder = exported / method
    place = exported / "images.npy"
    found = json.loads(run("-c", PROGRAM, folder, place, EPSILON, cwd=exported))
    logits = np.asarray(trained(images, training=False))
    prediction = logits.argmax(-1)
    assert found["prediction"] == prediction.tolist()
    rows = rt.margin_specification(prediction, small.CLASSES)
    model, region = rt.convert(trained), rt.LpBall(images, EPSILON)
    wanted = rt.compute_bounds(model, region, method, rows).lower.numpy()
    np.testing.assert_allclose(found["lower_bounds"], wanted, rtol=0, atol=1e-5)
    assert found["certified"] == (wanted.min(-1) > LEAST_MARGIN).tolist()
    np.testing.assert_allclose(found["logits"], logits, rtol=0, atol=1e-5)
    radii = certified_radii(
        model, images, prediction, method=method, upper=UPPER, steps=STEPS
    )
    np.testing.assert_allclose(found["radius"], radii, rtol=0, atol=1e-5)


def test_the_signatures_that_saved_model_cli_lists(exported):
    tool = "tensorflow.python.tools.saved_model_cli"
    folder = exported / "crown"
    shown = run("-m", tool, "show", "--dir", folder, "--all", cwd=exported)
    signatures, _, _ = shown.partition("Concrete Functions:")
    parts = {
        part.partition("'")[0]: part
        for part in signatures.split("signature_def['")[1:]
        if not part.startswith("__")
    }
    names = {"predict", "certify", "certified_radius", "serving_default"}
    assert set(parts) == names
    outputs = {
        "predict": ["logits"],
        "serving_default": ["logits"],
        "certify": ["prediction", "lower_bounds", "certified"],
        "certified_radius": ["prediction", "radius"],
    }
    for name, part in parts.items():
        assert "inputs['images']" in part and "shape: (-1, 6, 6, 1)" in part
        has_radius = "inputs['radius'] tensor_info:" in part and "shape: ()" in part
        assert has_radius == (name == "certify")
        assert all(f"outputs['{output}']" in part for output in outputs[name])


def test_no_python_and_no_files_within(exported):
    for method in METHODS:
        content = (exported / method / "saved_model.pb").read_bytes()
        assert b"PartitionedCall" in content
        assert not [name for name in FOREIGN if name.encode() in content]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"method": "alpha-crown"}, "`method` must be one of"),
        ({"upper": 8.0}, "`upper` must be a radius above 0"),
        ({"upper": np.nan}, "`upper` must be a radius above 0"),
        ({"steps": 0}, "`steps` must be a whole number"),
        ({"steps": True}, "`steps` must be a whole number"),
    ],
)
def test_bad_options_are_refused(trained, tmp_path, options, text):
    with pytest.raises(InputError, match=text):
        export_certified(tmp_path / "model", trained, **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_left_alone(trained, tmp_path):
    with pytest.raises(InputError, match="exists already"):
        export_certified(tmp_path, trained)
    assert not list(tmp_path.iterdir())
