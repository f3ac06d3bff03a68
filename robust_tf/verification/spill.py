"""Subproblems that wait on disk."""

import dataclasses
import pathlib
import shutil
import tempfile
import weakref

import numpy as np
from absl import logging

from robust_tf.verification.domains import Domains


@dataclasses.dataclass(frozen=True)
class _Block:
    """A file, and what must be known of its domains meanwhile."""

    path: pathlib.Path
    lower: np.ndarray
    clause: np.ndarray
    size: int


class DiskBlocks:
    """Blocks of domains in files of a folder of their own, which ends with this.

    Args:
        budget_mb: for all files, in MiB.
    """

    def __init__(self, budget_mb: float):
        self._left = budget_mb * 2**20
        self._blocks: list[_Block] = []
        self._folder: pathlib.Path | None = None
        self._written = 0

    def __len__(self) -> int:
        return sum(len(block.lower) for block in self._blocks)

    @property
    def lower(self) -> list[np.ndarray]:
        """Margins of all domains, by block."""
        return [block.lower for block in self._blocks]

    @property
    def clause(self) -> list[np.ndarray]:
        """Clauses of all domains, by block."""
        return [block.clause for block in self._blocks]

    def write(self, domains: Domains) -> bool:
        """Writes one block; False, and nothing is kept, where it finds no room."""
        size = domains.bytes_each * len(domains)
        if size > self._left:
            return False
        try:
            path = self._next_path()
            np.savez(path, *domains.arrays())
        except OSError as error:
            # What is half written goes with the folder.
            logging.warning("A block of open domains was not written: %s", error)
            self._left = 0.0
            return False
        self._written += 1
        self._left -= size
        self._blocks.append(_Block(path, domains.lower, domains.clause, size))
        return True

    def _next_path(self) -> pathlib.Path:
        if self._folder is None:
            self._folder = pathlib.Path(tempfile.mkdtemp(prefix="domains-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder / f"{self._written}.npz"

    def read(self, newest: bool) -> Domains:
        """Takes a block out: the newest, or that with the lowest margin."""
        least = [block.lower.min() for block in self._blocks]
        place = len(least) - 1 if newest else int(np.argmin(least))
        block = self._blocks.pop(place)
        with np.load(block.path) as arrays:
            domains = Domains(*(arrays[name] for name in arrays.files))
        block.path.unlink()
        self._left += block.size
        return domains
