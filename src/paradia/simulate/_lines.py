"""Lines of k-space as places on a lattice: how far out they lie, which are in the middle, which keep apart."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def distance(shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the distance from the zero frequency, 1 on the ellipse that touches the sides."""
    y, z = ((np.arange(n) - n // 2) / max(n / 2, 1) for n in shape)
    return np.hypot(y[:, None], z)


def middle(shape: tuple[int, int], calibration: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the lines of the calibration, around the zero frequency."""
    y, z = (((k := np.arange(n) - n // 2) >= -(c // 2)) & (k < c - c // 2) for n, c in zip(shape, calibration, strict=True))
    return y[:, None] & z


def visit(places: NDArray, radius: NDArray, shape: tuple[int, int]) -> NDArray:
    """Take each place in turn unless one taken before lies closer than the radius of either."""
    squared = radius * radius
    reach = math.ceil(float(radius.max()))
    steps = np.arange(-reach, reach + 1, dtype=np.float32)
    apart = steps[:, None] ** 2 + steps**2
    free = np.ones([n + 2 * reach for n in shape], bool)  # with room for the disks around places at the edge
    padded = np.pad(squared, reach)
    own, side = squared[places[:, 0], places[:, 1]].tolist(), 2 * reach + 1
    taken = []
    for index, (y, z) in enumerate(places.tolist()):
        if not free[y + reach, z + reach]:
            continue
        taken.append(index)
        around = (slice(y, y + side), slice(z, z + side))
        free[around] &= apart >= np.maximum(padded[around], own[index])
    return places[taken]
