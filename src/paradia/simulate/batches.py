"""Training data without end: volumes simulated on the way, cropped where the brain is."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from paradia.errors import InputError
from paradia.fft import fast_shape, irfftn, pad, rfftn
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.simulate.examples import Example, Recipe, example

TRIES = 50
"""How often a place in a mask is looked for by chance."""


def batches(
    recipe: Recipe,
    *,
    crop: int = 64,
    batch: int = 4,
    crops: int = 96,
    seed: int = 0,
    total: bool = False,
    coarse: bool = True,
    device: str = "cpu",
) -> Iterator[dict[str, Tensor]]:
    """Yield crops of simulated volumes for ever.

    Parameters
    ----------
    recipe
        What the volumes are like.
    crop
        Edge of a crop, voxels.
    batch
        Crops in a batch.
    crops
        Crops taken from a volume before the next is simulated.
    seed
        Of the first volume; each takes the next number.
    total
        Whether ``field`` is the total field instead of the local one with noise and what background removal leaves.
    coarse
        Whether to add ``start``: a damped inversion of the whole volume's local field.
    device
        CPU or CUDA.

    Yields
    ------
    dict
        ``field``, ``noise``, ``mask``, ``chi_pos``, ``chi_neg``, ``chi``, ``local_field``, ``r2star``, ``r2prime``, ``start``:
        each (batch, 1, crop, crop, crop), single precision; ``dr_pos``, ``dr_neg``, ``b0``: (batch,).

    Raises
    ------
    InputError
        A size is not positive.
    """
    if min(crop, batch, crops) < 1:
        raise InputError(f"crop, batch and crops must be positive, got {crop}, {batch}, {crops}.")
    while True:
        generator = torch.Generator().manual_seed(seed)
        volume = channels(example(recipe, seed, device), total=total, coarse=coarse)
        stack, scalars = volume
        seed += 1
        names = list(stack)
        images = torch.stack([stack[name] for name in names])
        for _ in range(max(crops // batch, 1)):
            taken = torch.stack([take(images, stack["mask"], crop, generator) for _ in range(batch)], 1)
            yield {name: part[:, None] for name, part in zip(names, taken, strict=True)} | {
                name: torch.full((batch,), value, device=images.device) for name, value in scalars.items()
            }


def channels(found: Example, *, total: bool, coarse: bool) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Lay an example out as maps by name and numbers by name; see `batches`."""
    local = found.local_field + found.leftover
    generator = torch.Generator().manual_seed(int(found.noise.sum() * 1e3) % 2**31)
    noisy = (local + found.noise * torch.randn(found.noise.shape, generator=generator).to(local)) * found.mask
    stack = {
        "field": found.total_field if total else noisy,
        "noise": found.noise,
        "mask": found.mask.float(),
        "chi_pos": found.chi_pos,
        "chi_neg": found.chi_neg,
        "chi": found.chi_pos - found.chi_neg,
        "local_field": found.local_field,
        "r2star": found.r2star,
        "r2prime": found.r2prime,
    }
    if coarse:
        stack["start"] = damped(noisy, found.mask, found.grid)
    return stack, {"b0": found.b0, "dr_pos": found.dr_pos, "dr_neg": found.dr_neg}


def damped(field: Tensor, mask: Tensor, grid: Grid, damping: float = 0.02) -> Tensor:
    """Divide by the dipole, damped, on a field of view half as wide again: a start that costs two transforms."""
    shape = fast_shape(grid.shape, [n // 4 for n in grid.shape])
    kernel = Dipole(grid.with_shape(shape)).to(field).kernel
    spectrum = rfftn(pad(field, shape)).mul_(kernel / (kernel.square() + damping))
    x, y, z = grid.shape
    return irfftn(spectrum, shape)[:x, :y, :z] * mask


def take(images: Tensor, mask: Tensor, crop: int, generator: torch.Generator) -> Tensor:
    """Cut a cube whose middle lies in the mask, filled with zeros where the volume ends.

    Parameters
    ----------
    images
        (channel, x, y, z).
    mask
        (x, y, z), not zero where the middle may lie.
    crop
        Edge, voxels.
    generator
        Draws the place.

    Returns
    -------
    Tensor
        (channel, crop, crop, crop).
    """
    middle = _place(mask, generator)
    result = images.new_zeros((images.shape[0], crop, crop, crop))
    source, target = [slice(None)], [slice(None)]
    for m, n in zip(middle, mask.shape, strict=True):
        low = max(min(m - crop // 2, n - crop), 0)
        source.append(slice(low, min(low + crop, n)))
        target.append(slice(0, min(crop, n - low)))
    result[tuple(target)] = images[tuple(source)]
    return result


def _place(mask: Tensor, generator: torch.Generator) -> list[int]:
    """Draw a voxel of a mask; most masks are met soon by chance, which costs less than a list of their voxels."""
    for _ in range(TRIES):
        voxel = [int(torch.randint(n, (), generator=generator)) for n in mask.shape]
        if mask[tuple(voxel)]:
            return voxel
    inside = mask.nonzero()
    return [int(i) for i in inside[int(torch.randint(len(inside), (), generator=generator))]]
