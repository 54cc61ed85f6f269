"""Voxels whose spatial unwrapping failed, found again by all echoes and their neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.fieldmap._smooth import wrap

REACH = 2
"""Neighbours looked at, voxels to each side."""

DOUBT = 25.0
"""Misfit, in units of the noise variance, from which a voxel is examined."""

DEPHASED = 0.3
"""Phase, rad, by which an echo as strong as the strongest may stray from the line; weaker ones more, as their weakness."""

CHUNK = 8192


def repair(field: Tensor, phase: Tensor, power: Tensor, slope: Tensor, sigma: Tensor, mask: Tensor, *, rounds: int = 3) -> Tensor:
    """Return the field with doubtful voxels chosen anew.

    A voxel is in doubt when its echoes do not fit its field, or when it differs from a neighbour by nearly a turn between echoes. Among
    many fields it gets the one that all echoes, and the confident neighbours as a prior, make most likely.

    Parameters
    ----------
    field
        Field of the voxels of the mask, ppm.
    phase
        Phase less the offset, rad, shape (echo, voxel).
    power
        Squared magnitude, same shape.
    slope
        Phase that one ppm gathers until each echo, rad.
    sigma
        Noise of the real and the imaginary part.
    mask
        The voxels.
    rounds
        Passes; later ones trust voxels that earlier ones mended.
    """
    period = 2 * torch.pi / (slope[1:] - slope[:-1]).min()
    variance = sigma.square().clamp_min(torch.finfo(field.dtype).tiny)
    misfit = (power * wrap(phase - slope[:, None] * field).square()).sum(0) / variance
    doubt = (misfit > DOUBT) | _jumps(field, mask, 0.4 * float(period))
    place = torch.full(mask.shape, -1, dtype=torch.int64, device=mask.device)
    place[mask] = torch.arange(field.numel(), device=mask.device)
    sites = mask.nonzero()
    for _ in range(rounds):
        todo = doubt.nonzero().squeeze(1)
        if todo.numel() == 0:
            break
        confident = ~doubt
        mended, settled = field.clone(), doubt.clone()
        for part in todo.split(CHUNK):
            centre, spread, known = _neighbours(part, sites, place, field, confident, period)
            value, left = _choose(centre, spread, field[part], phase[:, part], power[:, part] / variance, slope, period)
            mended[part] = torch.where(known, value, field[part])
            settled[part] = ~known | (left > DOUBT)
        field, doubt = mended, settled
    return field


def _jumps(field: Tensor, mask: Tensor, limit: float) -> Tensor:
    """Tell which voxels differ from a neighbour by more than the limit."""
    volume = torch.zeros(mask.shape, dtype=field.dtype, device=field.device)
    volume[mask] = field
    marked = torch.zeros_like(mask)
    for axis in range(3):
        n = mask.shape[axis]
        if n < 2:
            continue
        here, there = volume.narrow(axis, 0, n - 1), volume.narrow(axis, 1, n - 1)
        jump = ((there - here).abs() > limit) & mask.narrow(axis, 0, n - 1) & mask.narrow(axis, 1, n - 1)
        marked.narrow(axis, 0, n - 1).logical_or_(jump)
        marked.narrow(axis, 1, n - 1).logical_or_(jump)
    return marked[mask]


def _neighbours(
    part: Tensor, sites: Tensor, place: Tensor, field: Tensor, confident: Tensor, period: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean and spread of the confident neighbours, and whether there are any."""
    reach = torch.arange(-REACH, REACH + 1, device=part.device)
    offsets = torch.cartesian_prod(reach, reach, reach)
    closeness = torch.exp(-0.5 * offsets.square().sum(1) / 1.5**2)
    at = sites[part][:, None, :] + offsets
    size = torch.tensor(place.shape, device=part.device)
    valid = ((at >= 0) & (at < size)).all(2)
    at = at.clamp_min(0).minimum(size - 1)
    index = place[at[..., 0], at[..., 1], at[..., 2]]
    index0 = index.clamp_min(0)
    weight = closeness * (valid & (index >= 0) & confident[index0] & (index != part[:, None]))
    total = weight.sum(1)
    value = field[index0]
    mean = (weight * value).sum(1) / total.clamp_min(1e-6)
    spread = ((weight * (value - mean[:, None]).square()).sum(1) / total.clamp_min(1e-6)).sqrt()
    return mean, spread + 0.1 * period, total > 0.5


def _choose(
    centre: Tensor, spread: Tensor, old: Tensor, phase: Tensor, power: Tensor, slope: Tensor, period: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the likeliest field near the neighbours' and its misfit."""
    step = 0.8 / float(slope.max())
    count = min(200, int(1.6 * float(period) / step) + 1)
    ladder = torch.arange(-count, count + 1, device=old.device, dtype=old.dtype) * step
    candidates = torch.cat((centre[:, None] + ladder, old[:, None], (phase[0] / slope[0])[:, None]), 1)
    first = (phase[0] / slope[0])[:, None]  # what the spatial unwrapping of the earliest echo says
    near = ((candidates - centre[:, None]) / spread[:, None]).square()
    score = -0.5 * near.minimum(((candidates - first) / (0.1 * period)).square())
    trust = power / (1 + DEPHASED**2 * power.amax(0))  # weak echoes beside strong ones are dephased, and their phase strays from the line
    for echo in range(phase.shape[0]):
        score += trust[echo][:, None] * torch.cos(phase[echo][:, None] - slope[echo] * candidates)
    best = candidates.gather(1, score.argmax(1, keepdim=True)).squeeze(1)
    gain = (power * slope[:, None].square()).sum(0).clamp_min(torch.finfo(old.dtype).tiny)
    for _ in range(3):
        best = best + (power * slope[:, None] * torch.sin(phase - slope[:, None] * best)).sum(0) / gain
    return best, (power * wrap(phase - slope[:, None] * best).square()).sum(0)
