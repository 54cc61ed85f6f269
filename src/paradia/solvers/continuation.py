"""Phase continued from neighbour to neighbour along the most reliable paths."""

from __future__ import annotations

from torch import Tensor

from paradia.solvers.neighbours import TERMS, grid_edges
from paradia.solvers.spanning import spanning_shifts


def continue_phase(
    turns: Tensor, magnitude: Tensor, mask: Tensor, second: tuple[Tensor, float] | None = None, terms: tuple[str, ...] = TERMS
) -> tuple[Tensor, Tensor]:
    """Return the whole turns of each voxel of a mask and the piece of the mask that it belongs to.

    Parameters
    ----------
    turns
        Wrapped phase (x, y, z), turns.
    magnitude
        Magnitude, any unit.
    mask
        Voxels to continue the phase over.
    second
        Phase at another echo time, turns, and the factor that scales it to this one.
    terms
        Names of the terms that an edge is weighed by.

    Returns
    -------
    tuple of Tensor
        Turns to add and number of the piece, for the voxels of the mask in order.
    """
    edges, nodes = grid_edges(turns, magnitude, mask, second, terms)
    return spanning_shifts(edges, nodes)
