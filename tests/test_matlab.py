"""MATLAB files: what goes in comes out; what is none is refused."""

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from robust_tf import matlab
from robust_tf.errors import InputError


def test_arrays_come_back(tmp_path):
    path = tmp_path / "a.mat"
    arrays = {
        "hard": np.array([[0.25, -1.0, 0.1 + 0.2]]),
        "counts": np.arange(6).reshape(2, 3),
        "vector": np.array([1.0, 2.0], "float32"),
    }
    matlab.write_arrays(path, arrays)
    found = matlab.read_arrays(path)
    assert found.keys() == arrays.keys()
    np.testing.assert_array_equal(found["hard"], arrays["hard"])
    assert found["hard"].dtype == np.float64
    np.testing.assert_array_equal(found["counts"], arrays["counts"])
    np.testing.assert_array_equal(found["vector"], [[1.0, 2.0]])


def test_single_variables(tmp_path):
    matlab.write_arrays(tmp_path / "a.mat", {"a": [1.0], "b": [2.0], "c": [3.0]})
    found = matlab.read_arrays(tmp_path / "a.mat", ("c", "a", "d"))
    assert found == {"a": [[1.0]], "c": [[3.0]]}


def test_scipy_reads_what_is_written(tmp_path):
    matlab.write_arrays(tmp_path / "a.mat", {"hard": [[0.5, -1.0]]})
    found = scipy.io.loadmat(tmp_path / "a.mat")
    np.testing.assert_array_equal(found["hard"], [[0.5, -1.0]])


def test_the_same_arrays_give_the_same_bytes(tmp_path):
    """SciPy writes the time into each file."""
    scipy.io.savemat(tmp_path / "scipy.mat", {"a": [[1.0]]})
    assert b"Created on" in (tmp_path / "scipy.mat").read_bytes()
    matlab.write_arrays(tmp_path / "a.mat", {"a": [[1.0]]})
    content = (tmp_path / "a.mat").read_bytes()
    assert content.startswith(b"MATLAB 5.0 MAT-file") and b"Created" not in content
    assert content[116:] == (tmp_path / "scipy.mat").read_bytes()[116:]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no such format",
        b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"\xff",
    ],
    ids=["empty", "text", "broken"],
)
def test_what_is_no_matlab_file_is_refused(tmp_path, content):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(InputError, match="a.mat' cannot be read as a MATLAB file"):
        matlab.read_arrays(tmp_path / "a.mat")


def test_version_7_3_is_refused_by_name(tmp_path):
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    (tmp_path / "a.mat").write_bytes(header + bytes(400))
    with pytest.raises(InputError, match="version 7.3.*save -v7"):
        matlab.read_arrays(tmp_path / "a.mat")


def test_sparse_matrices_are_refused(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"a": [[1.0]], "b": scipy.sparse.eye(3)})
    with pytest.raises(InputError, match="'b' of .*a.mat' must be a full array"):
        matlab.read_arrays(tmp_path / "a.mat")
    assert matlab.read_arrays(tmp_path / "a.mat", ("a",)) == {"a": [[1.0]]}


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="There is no file .*b.mat"):
        matlab.read_arrays(tmp_path / "b.mat")


@pytest.mark.parametrize(
    "arrays",
    [{"a": "text"}, {"a": [object()]}, {"1a": [1.0]}, {"_a": [1.0]}, {"a b": [1.0]}],
)
def test_what_is_no_variable_is_refused(tmp_path, arrays):
    with pytest.raises(InputError, match="MATLAB variables are arrays of numbers"):
        matlab.write_arrays(tmp_path / "a.mat", arrays)
    assert not (tmp_path / "a.mat").exists()
