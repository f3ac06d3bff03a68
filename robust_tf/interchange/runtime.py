"""The reference by which networks are read and written: ONNX Runtime."""

import gzip
import importlib
import os
import pathlib

import numpy as np

from robust_tf.errors import InputError

RELATIVE_TOLERANCE = 1e-4
ABSOLUTE_TOLERANCE = 1e-5


def require(name: str):
    """Returns the package `onnx` or `onnxruntime`, or says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"ONNX files need the package `{name}`. Received: {error}. Install it: "
            'pip install "robust_tf[onnx]"'
        ) from error


class Session:
    """Runs a network as ONNX Runtime does, on inputs one by one.

    Args:
        source: path of a file, compressed if it ends in `.gz`, or its content.
        name: of the network, for errors.

    Attributes:
        name: of the network.
        shape: of the input, as declared, with a free first axis taken for 1.
        num_inputs: entries of the input.

    Raises:
        InputError: where the runtime refuses the network, or it has more than one
            input, or free axes other than the first.
    """

    def __init__(self, source: str | os.PathLike | bytes, name: str):
        content = source if isinstance(source, bytes) else _content(source)
        self.name = name
        self._session = _open(content, name)
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise InputError(
                f"A classifier has one input. Received: '{name}' with "
                f"{[one.name for one in inputs]}"
            )
        self._input = inputs[0]
        self.shape = concrete_shape(self._input.shape, name)
        self.num_inputs = int(np.prod(self.shape, dtype=np.int64))
        self._dtype = "float64" if "double" in self._input.type else "float32"

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Returns the outputs at points, both flat in C order of the declared shapes.

        Args:
            inputs: `[points, num_inputs]`, rounded to the type of the network's input.

        Returns:
            `[points, num_outputs]`.
        """
        found = []
        for point in np.asarray(inputs):
            feed = {self._input.name: point.reshape(self.shape).astype(self._dtype)}
            try:
                outputs = self._session.run(None, feed)
            except Exception as error:
                raise InputError(
                    f"ONNX Runtime could not run '{self.name}' on an input of shape "
                    f"{self.shape}. Received: {_first_line(error)}"
                ) from error
            found.append(outputs[0].reshape(-1))
        return np.stack(found)


def concrete_shape(shape, name: str) -> tuple[int, ...]:
    """Returns a declared shape with a free first axis, the batch, taken for 1.

    Args:
        shape: sizes; whatever is no positive integer is free.
        name: of the network, for errors.

    Raises:
        InputError: for other free axes.
    """
    sizes = [size if isinstance(size, int) and size > 0 else None for size in shape]
    if sizes and sizes[0] is None:
        sizes[0] = 1
    if None in sizes:
        raise InputError(
            f"All axes of the input but the first must be fixed. Received: {shape} in "
            f"'{name}'. Export the network again with fixed sizes."
        )
    return tuple(sizes)


def compare(session: Session, evaluate, box, what: str) -> None:
    """Checks a network against its file, at three random points.

    Args:
        session: runs the file.
        evaluate: from `[points, num_inputs]` to `[points, num_outputs]`.
        box: ends of the inputs, `[num_inputs]` each or numbers.
        what: the beginning of the error.

    Raises:
        InputError: naming the greatest difference, where outputs differ.
    """
    random = np.random.default_rng(0)
    lower, upper = (np.broadcast_to(end, session.num_inputs) for end in box)
    shares = random.random([3, session.num_inputs])
    points = (lower + shares * (upper - lower)).astype("float32")
    wanted, actual = session.run(points), np.asarray(evaluate(points))
    if wanted.shape == actual.shape and np.allclose(
        actual, wanted, RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE
    ):
        return
    if wanted.shape != actual.shape:
        found = f"{actual.shape[1]} outputs instead of {wanted.shape[1]}"
    else:
        found = f"outputs that differ by up to {abs(actual - wanted).max():.3g}"
    raise InputError(
        f"{what} Received: {found}, at three random inputs within "
        f"[{lower.min():g}, {upper.max():g}]. An operator may be understood in another "
        "way here; report the network, or simplify it."
    )


def evaluate_constants(content: bytes, name: str) -> list[np.ndarray]:
    """Returns all outputs of a network without inputs.

    Raises:
        InputError: naming the network, where it cannot be computed.
    """
    session = _open(content, name)
    try:
        return session.run(None, {})
    except Exception as error:
        raise InputError(
            f"ONNX Runtime could not compute the constant '{name}'. Received: "
            f"{_first_line(error)}"
        ) from error


def _open(content, name):
    """The runtime's own session, on one thread and silent."""
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return runtime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # The runtime's errors share no base of their own.
        raise InputError(
            f"ONNX Runtime refuses '{name}'. Received: {_first_line(error)}. The file "
            "may be damaged, or need a newer runtime."
        ) from error


def _content(source) -> bytes | str:
    """What a session is made from: a path keeps weights in other files within reach."""
    path = pathlib.Path(source)
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else str(path)


def _first_line(error) -> str:
    return str(error).partition("\n")[0]
