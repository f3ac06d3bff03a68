"""Networks and properties of the competition, where its files are at hand."""

import csv
import os
import pathlib
import re

import numpy as np
import pytest

import robust_tf as rt
from robust_tf.interchange.onnx_reader import read_onnx
from robust_tf.interchange.onnx_writer import write_onnx
from robust_tf.interchange.vnnlib import read_property
from robust_tf.interchange.witness import Standing
from robust_tf.interchange.witness import Witness
from robust_tf.interchange.witness import check_witness
from tests.interchange.graphs import run

_BESIDE = pathlib.Path(__file__).parents[3] / "shared" / "data" / "vnncomp"
FOLDER = pathlib.Path(os.environ.get("ROBUST_TF_VNNCOMP", _BESIDE))
NETWORKS = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.glob("*/*.onnx"))
PROPERTIES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.glob("*/*.vnnlib"))
pytestmark = pytest.mark.skipif(
    not NETWORKS, reason=f"no competition files in '{FOLDER}' (ROBUST_TF_VNNCOMP)"
)
SHAPES = {
    "acasxu": (1, 5, 1),
    "cifar10_resnet": (32, 32, 3),
    "mnistfc": (784, 1),
}


def box_of(path):
    """Limits by a pattern of their own: one comparison with a number for each."""
    text = path.read_text()
    found = {}
    pattern = r"\((<=|>=) X_(\d+) (-?[\d.e-]+)\)"
    for sign, index, number in re.findall(pattern, text):
        found.setdefault(int(index), {})[sign] = float(number)
    ends = [found[i] for i in range(len(found))]
    return [end[">="] for end in ends], [end["<="] for end in ends]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, tmp_path):
    path = FOLDER / name
    network = read_onnx(path, box=(-0.5, 0.5))
    wanted_shape = SHAPES.get(path.parent.name)
    if wanted_shape:
        assert network.model.inputs[0].shape[1:] == wanted_shape
    flat = np.random.default_rng(1).normal(size=[4, network.num_inputs])
    flat = flat.astype("float32")
    wanted = run(path, flat, network.input_shape)
    converted = rt.convert(network.model)
    actual = np.asarray(converted(network.to_model(flat)))
    np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-4)
    write_onnx(network.model, tmp_path / "again.onnx")
    again = read_onnx(tmp_path / "again.onnx")
    held = network.to_model(flat)
    np.testing.assert_allclose(
        again.evaluate(again.to_flat(held)), wanted, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", PROPERTIES)
def test_properties(name):
    path = FOLDER / name
    (part,) = read_property(path).parts
    lower, upper = box_of(path)
    np.testing.assert_array_equal(part.lower, lower)
    np.testing.assert_array_equal(part.upper, upper)
    rows, clauses = part.unsafe.rows.numpy()[0], part.unsafe.clauses
    if path.parent.name in ("mnistfc", "cifar10_resnet"):
        label = int(np.flatnonzero((rows == 1.0).all(0))[0])
        others = [k for k in range(10) if k != label]
        np.testing.assert_array_equal(rows, np.eye(10)[label] - np.eye(10)[others])
        assert clauses == tuple(range(9))
        assert not part.unsafe.thresholds.numpy().any()
        if path.parent.name == "mnistfc":
            assert f"label: {label}." in path.read_text().partition("\n")[0]
    elif path.name in ("prop_3.vnnlib", "prop_4.vnnlib", "test_prop.vnnlib"):
        assert clauses == (0,) * 4  # The first is least: of all at once.
        np.testing.assert_array_equal(rows, np.eye(5)[0] - np.eye(5)[1:])
    elif path.name == "prop_2.vnnlib":
        assert clauses == (0,) * 4  # The first is greatest.
        np.testing.assert_array_equal(rows, np.eye(5)[1:] - np.eye(5)[0])
    elif path.name == "prop_1.vnnlib":
        np.testing.assert_array_equal(rows, [[-1, 0, 0, 0, 0]])
        np.testing.assert_allclose(part.unsafe.thresholds, [[-3.991125645861615]])
    else:
        assert clauses == (0,)


def instances():
    """(network, property, expected verdict) of the list."""
    if not (FOLDER / "instances.csv").is_file():
        return []
    with open(FOLDER / "instances.csv", newline="") as file:
        return [
            (row["category"], row["network"], row["property"], row["expected"])
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("instance", instances(), ids="-".join)
def test_samples_refute_no_property_that_holds(instance):
    """A box or clause that was misread would let many points through."""
    category, net, spec, expected = instance
    network = read_onnx(FOLDER / category / net)
    prop = read_property(FOLDER / category / spec)
    network.check_property(prop)
    (part,) = prop.parts
    lower, upper = part.inward("float32")
    shares = np.random.default_rng(2).random([1000, len(lower)])
    flat = (lower + shares * (upper - lower)).astype("float32")
    margins = part.unsafe.margin(network.evaluate(flat).astype("float64")).numpy()
    worst = np.argmin(margins)
    point = flat[worst].astype("float64")
    outputs = network.session.run(point[None])[0].astype("float64")
    check = check_witness(Witness("sat", point, outputs), prop, network.session.run)
    if expected == "unsat":
        assert margins.min() > 0.0
        assert check.standing == Standing.INVALID
    elif margins.min() <= 0.0:
        assert check.standing != Standing.INVALID
