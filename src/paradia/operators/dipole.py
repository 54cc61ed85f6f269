"""The field of magnetised tissue: convolution with the unit dipole."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from paradia.grid import Grid
from paradia.operators._convolution import Convolution, frequencies


class Dipole(Convolution):
    r"""Map susceptibility to field, both in ppm: :math:`D(k) = \frac13 - (k\cdot b)^2 / |k|^2`, :math:`D(0) = 0`.

    ::

        field = Dipole(grid, padding=2).to(chi) @ chi   # isolated object; padding=1 repeats it periodically
        chi_back = Dipole(grid).to(field).H @ field     # the adjoint; D is its own

    Parameters
    ----------
    grid
        Where the images live; voxel sizes and the direction of B0 are honoured.
    padding
        Factor, at least 1, by which each axis is extended with zeros before the transform. 1 makes the convolution
        periodic; 2 keeps the copies of the object out of the field of view.

    Notes
    -----
    The field is corrected for the Lorentz sphere: it vanishes inside a homogeneous sphere. At the highest frequency of
    an even axis +k and −k are the same sample; the kernel there is the mean of the two, so that the operator stays real
    and symmetric for any direction of B0.

    References
    ----------
    Salomir R, de Senneville BD, Moonen CTW. Concepts Magn Reson B 2003;19B:26-34. doi:10.1002/cmr.b.10083.
    Marques JP, Bowtell R. Concepts Magn Reson B 2005;25B:65-78. doi:10.1002/cmr.b.20034.
    """

    def __init__(self, grid: Grid, padding: float | int = 1) -> None:
        super().__init__(grid, dipole_kernel, padding)


@lru_cache(maxsize=2)
def dipole_kernel(grid: Grid) -> Tensor:
    """Sample the dipole on the half spectrum of the grid, double precision; treat it as read-only."""
    along = torch.zeros((), dtype=torch.float64)
    mixed_free = torch.zeros((), dtype=torch.float64)
    squared = torch.zeros((), dtype=torch.float64)
    for axis, (k, b) in enumerate(zip(frequencies(grid), grid.b0_dir, strict=True)):
        waves = (k.abs() * grid.extent[axis]).round()  # whole numbers: k itself carries the rounding of the voxel size
        highest = 2 * waves == grid.shape[axis]  # +k and −k share this sample: their mixed terms cancel
        along = along + b * k.masked_fill(highest, 0.0)
        mixed_free = mixed_free + (b * k).square().masked_fill(~highest, 0.0)
        squared = squared + k.square()
    squared[0, 0, 0] = 1.0
    kernel = along.square_().add_(mixed_free).div_(squared).neg_().add_(1 / 3)
    kernel[0, 0, 0] = 0.0
    return kernel
