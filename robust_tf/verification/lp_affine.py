"""Affine functions of a program's columns."""

import dataclasses

import numpy as np
from scipy import sparse


@dataclasses.dataclass(frozen=True)
class Affine:
    """The functions `matrix @ v + constant` of a program's columns `v`, one per row.

    Attributes:
        matrix: `[rows, columns]`; columns beyond count as 0.
        constant: `[rows]`.
    """

    matrix: sparse.csr_array
    constant: np.ndarray

    @classmethod
    def columns(cls, columns, values=1.0) -> "Affine":
        """The columns of these numbers, `[rows]`, each times its value."""
        places = np.arange(len(columns))
        return cls(entries(places, columns, values, len(columns)), 0.0 * places)

    @classmethod
    def join(cls, parts) -> "Affine":
        """The rows of all parts, in their order."""
        width = max((part.matrix.shape[1] for part in parts), default=0)
        matrices = [widened(part.matrix, width) for part in parts]
        return cls(
            sparse.vstack([sparse.csr_array((0, width)), *matrices], "csr"),
            np.concatenate([[], *(part.constant for part in parts)]),
        )

    def scaled(self, factors) -> "Affine":
        """Each row times its factor, `[rows]`."""
        factors = np.broadcast_to(factors, self.constant.shape)
        places = np.arange(len(factors))
        return self.combined(entries(places, places, factors, len(factors)))

    def take(self, index) -> "Affine":
        """Some of the rows."""
        return Affine(self.matrix[index], self.constant[index])

    def combined(self, coefficients: sparse.csr_array) -> "Affine":
        """`coefficients @ (matrix @ v + constant)`; coefficients `[new rows, rows]`."""
        coefficients = widened(coefficients, len(self.constant))
        matrix = sparse.csr_array(coefficients @ self.matrix)
        return Affine(matrix, coefficients @ self.constant)

    def __add__(self, other) -> "Affine":
        if not isinstance(other, Affine):
            return Affine(self.matrix, self.constant + other)
        width = max(self.matrix.shape[1], other.matrix.shape[1])
        total = widened(self.matrix, width) + widened(other.matrix, width)
        return Affine(total, self.constant + other.constant)

    def __neg__(self) -> "Affine":
        return Affine(-self.matrix, -self.constant)

    def __sub__(self, other) -> "Affine":
        return self + (-other)

    def magnitude(self, reach) -> np.ndarray:
        """The sum of the greatest magnitudes of each row's terms, `[rows]`.

        Args:
            reach: the greatest magnitude of each column, `[columns]`.
        """
        return abs(self.matrix) @ reach[: self.matrix.shape[1]] + abs(self.constant)


def entries(rows, columns, values, num_rows: int) -> sparse.csr_array:
    """Zero but for `values` at (rows, columns), `[num_rows, greatest column + 1]`."""
    values = np.broadcast_to(np.asarray(values, "float64"), np.shape(rows))
    width = int(max(columns, default=-1)) + 1
    return sparse.csr_array((values, (rows, columns)), (num_rows, width))


def widened(matrix: sparse.csr_array, width: int) -> sparse.csr_array:
    """The same rows over more columns."""
    parts = (matrix.data, matrix.indices, matrix.indptr)
    return sparse.csr_array(parts, (matrix.shape[0], width))
