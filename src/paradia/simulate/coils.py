"""Receive coils: what each of them sees of a head."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Complex
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from torch import Tensor

from paradia.errors import InputError
from paradia.grid import Grid
from paradia.simulate._loops import helmet, receive

HELMET = (108.0, 130.0, 122.0)
"""Semi-axes of an adult's head coil, mm: to the sides, to front and back, upwards."""

STEP = 7.0
"""Sensitivities are computed at places this far apart, mm, and interpolated by cubic splines; they vary more slowly inside a head."""


MOST = 128
"""No array has more loops."""

Sensitivities: TypeAlias = Complex[Tensor, "coil x y z"]
"""What each coil sees of the transverse magnetisation, complex."""


def sensitivities(
    grid: Grid,
    n: int = 16,
    *,
    seed: int = 0,
    radius: tuple[float, float, float] = HELMET,
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
    delay: float = 0.0,
) -> Sensitivities:
    r"""Compute the receive sensitivities of loops around a head by the law of Biot and Savart.

    By reciprocity a loop sees the magnetisation :math:`M_x + iM_y` with the weight :math:`B_x - iB_y` of the field that a
    unit current in it would make, x and y across B0.

    Parameters
    ----------
    grid
        Where to sample. The helmet is fixed to the scanner: its axis is the direction of B0, whichever way the slab is turned.
    n
        Number of loops.
    seed
        Shifts the loops a little, and turns the helmet and the phase of every receiver.
    radius
        Semi-axes of the helmet, mm.
    centre
        Middle of the helmet in array axes, mm from the middle of the grid.
    delay
        How much the phase of a loop falls with the distance from it, rad/m: about 24 at 3 T and 55 at 7 T, where the wavelength in
        the head is 0.26 and 0.11 m. It stands in for the waves, which the law of Biot and Savart knows nothing of.

    Returns
    -------
    Tensor
        Complex sensitivities (coil, x, y, z); the root of the sum of their squares is 1 in the middle of the helmet.

    Raises
    ------
    InputError
        There is no loop, or there are more than any array has; the helmet has no size.

    Notes
    -----
    The loops are thin, circular and in air; the field has the closed form by complete elliptic integrals.  Near the wire it is that of a
    current smeared over 4 mm.

    References
    ----------
    Hoult DI. The principle of reciprocity in signal strength calculations. Concepts Magn Reson 2000;12:173-187.
    doi:10.1002/1099-0534(2000)12:4<173::AID-CMR1>3.0.CO;2-Q.

    Simpson J, et al. Simple analytic expressions for the magnetic field of a circular current loop. NASA/TM-2013-217919, 2001.
    """
    check_array(n, radius)
    loops = helmet(n, radius, seed)
    turn = np.exp(2j * math.pi * np.random.default_rng([seed, n]).random(n))
    axes = _axes(grid)
    knots = [_knots(axis) for axis in axes]
    places = np.stack(np.meshgrid(*knots, indexing="ij"), -1).reshape(-1, 3) - np.asarray(centre, dtype=float)
    scanner = places @ _scanner(grid).T
    middle = np.sqrt((np.abs(receive(np.zeros((1, 3)), loops, delay)) ** 2).sum())
    coarse = (receive(scanner, loops, delay) * (turn / middle)[:, None]).reshape(n, *(len(axis) for axis in knots))
    along_x, along_y, along_z = (_weights(knot, axis) for knot, axis in zip(knots, axes, strict=True))
    fine = torch.empty((n, *grid.shape), dtype=torch.complex64)
    for out, values in zip(fine, torch.view_as_real(torch.from_numpy(coarse.astype(np.complex64))), strict=True):
        spread = (along_y @ (along_z @ values).flatten(2)).flatten(1)  # x last, straight into the result
        torch.mm(along_x, spread, out=torch.view_as_real(out).view(grid.shape[0], -1))
    return fine


def check_array(n: int, radius: tuple[float, float, float]) -> None:
    """Refuse arrays without loops, with more than any has, and helmets without size."""
    if not 1 <= n <= MOST:
        raise InputError(f"a coil array has 1 to {MOST} loops, got {n}. Head coils have 8 to 64.")
    if len(radius) != 3 or not all(math.isfinite(r) and r > 0 for r in radius):
        raise InputError(f"the helmet needs three positive semi-axes in mm, got {radius}.")


def _scanner(grid: Grid) -> NDArray[np.float64]:
    """Return the rotation from array axes to the scanner's, the smallest that takes the direction of B0 to z."""
    x, y, z = grid.b0_dir
    if z < -1 + 1e-9:
        return np.diag([1.0, -1.0, -1.0])
    cross = np.array([[0, 0, -x], [0, 0, -y], [x, y, 0]])
    return np.eye(3) + cross + cross @ cross / (1 + z)


def _axes(grid: Grid) -> list[NDArray]:
    """Return the places of the voxels along each axis, mm from the middle of the grid."""
    return [(np.arange(n) - (n - 1) / 2) * v for n, v in zip(grid.shape, grid.voxel_size, strict=True)]


def _knots(axis: NDArray) -> NDArray[np.float64]:
    """Return where to compute along an axis: at every voxel, or less often where voxels are small."""
    count = math.ceil((axis[-1] - axis[0]) / STEP) + 1
    return axis if count >= len(axis) or count < 4 else np.linspace(axis[0], axis[-1], count)


def _weights(knots: NDArray, axis: NDArray) -> Tensor:
    """Return the matrix that interpolates from knots to voxels by cubic splines."""
    if knots is axis or len(knots) == len(axis):
        return torch.eye(len(axis))
    return torch.from_numpy(CubicSpline(knots, np.eye(len(knots)))(axis)).to(torch.float32)
