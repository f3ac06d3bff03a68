"""Lines of JSON between the driver and its contestants, each a process of its own.

Standard library only. The driver sends one line, `{"command": ...}`, and waits for one
line; whoever has no line to answer sleeps, so that one process computes at a time.
"""

import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Contestant:
    """What a side offers for one workload.

    Attributes:
        step: computes one step and returns once its result is there.
        verify: returns numbers that all contestants must agree on: a dictionary of
            nested lists. It may change the weights.
        versions: packages and their versions.
    """

    step: Callable[[], object]
    verify: Callable[[], dict]
    versions: dict


class ContestantError(RuntimeError):
    """A contestant ended or reported an error."""


def serve(prepare: Callable[[str, int], Contestant]) -> None:
    """Answers the driver's lines until it closes the pipe.

    Args:
        prepare: makes the contestant from a workload's name and a number of threads.
    """
    # Libraries print to standard output too; only answers may reach the driver.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    contestant = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["command"] == "start":
            contestant = prepare(request["workload"], request["threads"])
            answer = {"versions": contestant.versions}
        elif request["command"] == "verify":
            answer = contestant.verify()
        elif request["command"] == "measure":
            answer = measure(contestant.step, request["steps"])
        else:
            raise ValueError(f"Unknown command. Received: {request}")
        print(json.dumps(answer), file=answers)


def measure(step: Callable[[], object], steps: int) -> dict:
    """Runs `steps` steps and returns what the whole process spent on them."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(steps):
        step()
    return {
        "steps": steps,
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - wall,
        "peak_memory_mib": _peak_memory_mib(),
    }


def _peak_memory_mib():
    """The largest resident size since the process began."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / (1024**2 if sys.platform == "darwin" else 1024)


_ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    # Idle threads of OpenMP (PyTorch) spin by default: processor time for nothing, and
    # a step many times longer where another program holds a core.
    "OMP_WAIT_POLICY": "passive",
    # Keeps freed memory: without it both sides fault in every large tensor anew.
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
}


class Side:
    """A contestant's process, seen from the driver.

    Args:
        python: the interpreter that has the side's packages.
        module: the module to run and its arguments, such as
            `("benchmarks.torch_side", "patches")`.
        directory: the repository's root.
    """

    def __init__(self, python: str, module: tuple, directory: str):
        self.name = " ".join(module)
        environment = {**_ENVIRONMENT, **os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
        self._process = subprocess.Popen(
            [python, "-m", *module],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def ask(self, command: str, **arguments) -> dict:
        """Sends one command and returns the answer.

        Raises:
            ContestantError: where the process ended; its own words are on stderr.
        """
        try:
            print(
                json.dumps({"command": command, **arguments}), file=self._process.stdin
            )
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ContestantError(
                f"{self.name} ended during {command!r} with exit status "
                f"{self._process.wait()}. Its message stands above."
            )
        return json.loads(line)

    def close(self) -> None:
        """Lets the process end by itself."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.close()
        except BrokenPipeError:
            self._process.wait()
