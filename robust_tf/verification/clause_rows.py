"""Rows and thresholds, clause by clause."""

import numpy as np

from robust_tf.specifications import UnsafeSet


class RowsOfClauses:
    """Rows and thresholds of each clause, padded to one number of rows.

    A row of padding has the margin -1 everywhere, so it proves nothing.
    """

    def __init__(self, unsafe: UnsafeSet):
        clauses = np.asarray(unsafe.clauses)
        members = [np.flatnonzero(clauses == c) for c in range(unsafe.num_clauses)]
        self.width = max(map(len, members))
        self._members = members
        rows, ends = unsafe.rows.numpy()[0], unsafe.thresholds.numpy()[0]
        self._rows = self.by_clause(rows)
        self._ends = np.ones([len(members), self.width])
        for clause, member in enumerate(members):
            self._ends[clause, : len(member)] = ends[member]

    def by_clause(self, values) -> np.ndarray:
        """Returns `[rows, ...]` as `[clauses, rows of a clause, ...]`."""
        shape = [len(self._members), self.width, *values.shape[1:]]
        padded = np.zeros(shape, values.dtype)
        for clause, member in enumerate(self._members):
            padded[clause, : len(member)] = values[member]
        return padded

    def of(self, clauses) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows and thresholds for the clause of each domain."""
        return self._rows[clauses], self._ends[clauses]
