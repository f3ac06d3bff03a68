"""Checkpoints are whole or passed over, and belong to one run."""

import json
import logging
import os

import keras
import numpy as np
import pytest

import robust_tf as rt
from robust_tf import files
from robust_tf.training import checkpoints
from robust_tf.training.checkpoints import Checkpoint
from robust_tf.training.checkpoints import CheckpointStore

RUN = {"seed": "0", "batch_size": "16"}


def _checkpoint(epoch):
    return Checkpoint(epoch, {"0000 w": np.full(3, epoch, "float32")}, {"best": 0.1})


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints", RUN)


@pytest.fixture
def folder(tmp_path, store):
    for epoch in (1, 2, 3):
        store.save(_checkpoint(epoch))
    return tmp_path / "checkpoints"


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_comes_back(store, folder):
    found = store.newest()
    assert found.epoch == 3
    assert found.notes == {"best": 0.1}
    assert found.values["0000 w"].dtype == np.float32
    np.testing.assert_array_equal(found.values["0000 w"], [3, 3, 3])


def test_the_last_few_are_kept(store, folder):
    names = ["epoch-000002.json", "epoch-000002.npz"]
    names += ["epoch-000003.json", "epoch-000003.npz"]
    assert _names(folder) == names


def test_what_a_killed_writer_left_goes_with_the_next(store, folder):
    left = folder / ".epoch-000003.npz.0123.tmp"
    left.write_bytes(b"half")
    store.save(_checkpoint(4))
    assert not left.exists() and store.newest().epoch == 4


def test_a_named_one_stays_apart(store, folder):
    store.save(_checkpoint(1), "best")
    assert store.newest().epoch == 3
    assert store.load("best").epoch == 1
    for epoch in (4, 5):
        store.save(_checkpoint(epoch))
    assert store.load("best").epoch == 1


def _truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def _flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("npz", _truncate),
        ("npz", _flip_a_bit),
        ("npz", _empty),
        ("json", _truncate),
        ("json", _empty),
        ("json", lambda path: path.write_text("[]")),
        ("json", lambda path: path.write_text('{"sha256": null}')),
        ("json", lambda path: path.unlink()),
    ],
)
def test_damage_is_passed_over_and_said(store, folder, caplog, suffix, damage):
    damage(folder / f"epoch-000003.{suffix}")
    with caplog.at_level(logging.WARNING, "absl"):
        assert store.newest().epoch == 2
    (record,) = caplog.records
    assert "epoch-000003.npz' is passed over" in record.getMessage()


def test_a_digest_without_values_is_no_checkpoint(store, folder):
    (folder / "epoch-000003.npz").unlink()
    assert store.newest().epoch == 2


def test_half_written_files_are_no_checkpoints(store, folder, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", killed)
    monkeypatch.setattr(files.pathlib.Path, "unlink", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
        store.save(_checkpoint(4))
    monkeypatch.undo()
    assert any(name.endswith(".tmp") for name in _names(folder))
    assert store.newest().epoch == 3
    store.save(_checkpoint(4))
    assert store.newest().epoch == 4


def test_all_damaged_is_none(store, folder):
    for path in folder.glob("*.npz"):
        _truncate(path)
    assert store.newest() is None


def test_beginning_anew_beside_damaged_ones(store, folder):
    """New ones, of fewer epochs, must not be dropped as the oldest."""
    for path in folder.glob("*.npz"):
        _truncate(path)
    for epoch in (1, 2):
        store.save(_checkpoint(epoch))
        assert store.newest().epoch == epoch
    assert not (folder / "epoch-000003.npz").exists()


def test_another_run_is_refused(folder):
    other = CheckpointStore(folder, RUN | {"batch_size": "32", "clipping": "1.0"})
    message = (
        "another run:\n  batch_size: '16' there, '32' here\n  clipping: None there"
    )
    with pytest.raises(rt.InputError, match=message):
        other.newest()


def _model(units):
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(units)(inputs)
    return keras.Model(inputs, keras.layers.Dense(2, name="last")(hidden))


def test_another_architecture_is_refused_and_nothing_set():
    values = checkpoints.collect(_model(4).variables)
    other = _model(5)
    before = [np.asarray(variable) for variable in other.variables]
    with pytest.raises(rt.InputError) as error:
        checkpoints.restore(other.variables, values)
    message = str(error.value)
    assert "3 variables differ" in message
    assert "0000 dense/kernel: float32[3, 4] there, float32[3, 5] here" in message
    for variable, value in zip(other.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    with pytest.raises(rt.InputError, match=r"0003 last/bias: absent there"):
        checkpoints.restore(other.variables, dict(list(values.items())[:3]))


def test_names_do_not_depend_on_what_was_built_before():
    first, second = _model(4), _model(4)
    assert first.layers[1].name != second.layers[1].name
    optimizers = [keras.optimizers.Adam(), keras.optimizers.Adam()]
    for optimizer, model in zip(optimizers, (first, second), strict=True):
        optimizer.build(model.trainable_variables)
    one, other = (
        [*model.variables, *optimizer.variables]
        for model, optimizer in zip((first, second), optimizers, strict=True)
    )
    assert checkpoints.collect(one).keys() == checkpoints.collect(other).keys()
    checkpoints.restore(other, checkpoints.collect(one))
    for value, wanted in zip(other, one, strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_all_types_come_back_bit_for_bit(store):
    values = {
        "0000 seed": np.array([1, 2], "uint32"),
        "0001 step": np.array(7, "int64"),
        "0002 odd": np.array([np.nan, -0.0, 1e-45], "float32"),
        "0003 wide": np.array([0.1], "float64"),
    }
    store.save(Checkpoint(1, values, {"best_value": None}))
    found = store.newest().values
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert found[name].dtype == value.dtype
        assert found[name].tobytes() == value.tobytes()


def test_records_tell_the_digest(folder):
    record = json.loads((folder / "epoch-000003.json").read_text())
    assert record.keys() == {"epoch", "sha256", "run", "notes"}
    assert record["run"] == RUN
