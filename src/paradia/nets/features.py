"""What networks see of maps: numbers near one, whatever the unit, the scale of the field and the strength of a lesion."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from paradia.fft import irfftn, rfftn
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.sources.inside import depth

DAMPING = 0.02
"""Of the division in k-space that shows a network the field as susceptibility, noise and streaks included."""

FIELD = 3.0
"""A field is about a third as large as the susceptibility that makes it."""

RESIDUAL = 10.0
"""What a good start leaves unexplained is about a tenth of the field."""

DEPTH = 20.0
"""Distance from the edge of the mask that counts as one, mm."""


def spread(image: Tensor, mask: Tensor) -> Tensor:
    """Return the robust standard deviation in the mask: 1.4826 times the median distance from the median.

    A haemorrhage does not change it, and twice the image has twice of it: what is divided by it does not depend on scale.
    """
    inside = image[mask]
    return 1.4826 * (inside - inside.median()).abs().median()


def squash(x: Tensor) -> Tensor:
    """Compress: linear near zero, logarithmic far away, so that calcification does not blind the network to its surroundings."""
    return torch.asinh(x)


def gain(x: Tensor) -> Tensor:
    """Return by how much a change of one in squashed units changes the value itself."""
    return (1 + x.square()).sqrt()


def loudness(noise: Tensor, unit: Tensor, mask: Tensor) -> Tensor:
    """Show a noise: the logarithm of what it is in a unit, zero outside the mask; where it is unknown, infinite, as the largest known."""
    known = noise[mask & noise.isfinite()]
    loudest = known.amax() if known.numel() else noise.new_ones(())
    return torch.where(mask, (noise.clamp_max(loudest) / unit).clamp_min(1e-3).log(), 0.0)


def inversion_channels(
    field: Float[Tensor, "x y z"], chi: Tensor, mask: Tensor, noise: Tensor, dipole: Dipole, scale: Tensor
) -> Float[Tensor, "6 x y z"]:
    """Show a local field and a susceptibility that nearly explains it.

    Parameters
    ----------
    field
        Local field, ppm, zero outside the mask; window padded with zeros so that nothing wraps around.
    chi
        Susceptibility so far, ppm, with mean zero in the mask.
    mask
        Voxels where both hold.
    noise
        Standard deviation of the field, ppm; infinite where unknown.
    dipole
        Of the window.
    scale
        `spread` of the start.

    Returns
    -------
    Tensor
        χ, the field divided by the dipole, the field, what χ does not explain of it, that divided by the dipole, and the
        noise: divided by `scale` and squashed.
    """
    left = (field - dipole(chi)) * mask
    both = rfftn(torch.stack([field, left]))
    kernel = dipole.kernel.to(field)
    divided = irfftn(both.mul_(kernel / (kernel.square() + DAMPING)), field.shape)
    rows = [chi, divided[0], FIELD * field, FIELD * RESIDUAL * left, RESIDUAL * divided[1]]
    seen = squash(torch.stack(rows) / scale) * mask
    loud = loudness(FIELD * noise, scale, mask)
    return torch.cat([seen, loud[None]])


def background_channels(
    total: Float[Tensor, "x y z"], local: Tensor, chi: Tensor, rest: Tensor, mask: Tensor, noise: Tensor, grid: Grid, scale: Tensor
) -> Float[Tensor, "7 x y z"]:
    """Show a total field and a split of it.

    Parameters
    ----------
    total
        Total field, ppm.
    local
        Share of the sources inside so far, ppm.
    chi
        Those sources, ppm.
    rest
        What neither side explains, ppm.
    mask
        Voxels where all hold.
    noise
        Standard deviation of the field, ppm; infinite where unknown.
    grid
        Of the window.
    scale
        `spread` of χ.

    Returns
    -------
    Tensor
        Local field, χ, the background, the rest, the total field in a scale of its own, the depth under the mask's edge, and the
        noise.
    """
    rows = [FIELD * local, chi, 0.1 * FIELD * (total - local), FIELD * RESIDUAL * rest]
    seen = squash(torch.stack(rows) / scale) * mask
    whole = squash(total / spread(total, mask).clamp_min(1e-9)) * mask
    deep = (depth(mask, grid).to(total) / DEPTH).clamp_max(2.0)
    loud = loudness(FIELD * noise, scale, mask)
    return torch.cat([seen, torch.stack([whole, deep, loud])])
