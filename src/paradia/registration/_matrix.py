"""Matrices from one space to another."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from paradia.errors import GeometryError


def checked(name: str, given: ArrayLike) -> NDArray[np.float64]:
    """Return a 4×4 matrix that has an inverse.

    Raises
    ------
    GeometryError
        It has another shape, is not finite, or is singular.
    """
    matrix = np.asarray(given, dtype=float)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.linalg.det(matrix):
        raise GeometryError(f"{name} must be a 4×4 affine that can be inverted, got {matrix.tolist()}. Repair the header.")
    return matrix
