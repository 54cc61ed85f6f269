"""The brain in gradient-echo magnitudes, by a surface that grows until it meets the skull."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from paradia.errors import GeometryError, InputError, MaskError
from paradia.grid import Grid
from paradia.mask import _morphology as morphology
from paradia.mask._evolution import evolve
from paradia.mask._reliability import bridged, nonempty, otsu
from paradia.mask._surface import voxels_inside
from paradia.sources.inside import single
from paradia.sources.knobs import check_count, check_not_negative
from paradia.types import Echoes, Mask

CITE = "10.1002/hbm.10062"

QUIET = 30.0
"""Signal-to-noise ratio that the surface needs; less is blurred."""

FAINT = 0.2
"""Share of the brain's brightness below which a gap in the edge is bone or air and stays open; veins and sinuses are brighter."""

WORKING = 2.0
"""Voxel size at which the surface is grown, mm."""


def bet(magnitude: Echoes, grid: Grid, *, fraction: float = 0.55, smoothness: float = 1.0, snap: float = 2.0, max_iter: int = 400) -> Mask:
    r"""Extract the brain.

    The echoes are joined to the root of their summed squares, which favours the early ones, and the coils' smooth bias is
    divided out. A sphere inside the brain then grows: each vertex is drawn outwards while the darkest point within 20 mm
    inwards is brighter than a share of the brightest, held back by its neighbours where the surface bends sharply. Last,
    the edge is set to where the tissue ends.

    Parameters
    ----------
    magnitude
        Magnitude of the echoes, any unit; what is not finite counts as dark. Planes without any signal between others are bridged.
    grid
        Geometry. The brain may leave the field of view.
    fraction
        Share of the local brightness below which a point is no brain, between 0 and 1. Larger gives a smaller brain.
    smoothness
        Factor on the force that keeps the surface smooth.
    snap
        How far the edge may move to meet the end of the tissue, mm; 0 leaves it where the surface is.
    max_iter
        Steps of the surface at each of its two resolutions.

    Returns
    -------
    Mask
        The brain.

    Raises
    ------
    MaskError
        There is no signal, or no brain was found.
    GeometryError
        The magnitude is not on the grid.
    InputError
        A knob out of its range.

    References
    ----------
    Smith SM. Fast robust automated brain extraction. Hum Brain Mapp 2002;17:143-155. doi:10.1002/hbm.10062.
    """
    if not 0 < fraction < 1:
        raise InputError(f"fraction must lie between 0 and 1, got {fraction}. It is a share of the brightness: 0.55 for 55 %.")
    check_not_negative(smoothness=smoothness, snap=snap)
    check_count(max_iter=max_iter)
    if tuple(magnitude.shape[1:]) != grid.shape:
        raise GeometryError(
            f"the magnitude has shape {tuple(magnitude.shape[1:])} and the grid {grid.shape}. Give the geometry of this image."
        )
    finite = torch.nan_to_num(single(magnitude), nan=0.0, posinf=0.0, neginf=0.0)
    if not bool((finite > 0).any()):
        raise MaskError("the magnitude is zero or not finite everywhere. Check the magnitude images.")
    joined = _joined(bridged(finite)[0])
    coarse, step = _coarse(joined, grid)
    even, tissue = _evened(coarse, step)
    vertices, faces = evolve(even, tissue, step, fraction=fraction, smoothness=smoothness, max_iter=max_iter)
    factor = np.asarray([round(s / v) for s, v in zip(step, grid.voxel_size, strict=True)])
    first = (factor - 1) / 2 * np.asarray(grid.voxel_size)  # centre of the first coarse voxel
    inside = torch.from_numpy(voxels_inside((vertices + first).astype(np.float32), faces, grid)).to(joined.device)
    if snap > 0:
        inside = _snapped(inside, joined, grid, snap)
    return nonempty(morphology.filled(morphology.largest(inside, "the brain")), "brain extraction", "Lower its fraction, or give a mask.")


def _joined(magnitude: Tensor) -> Tensor:
    """Join the echoes to the root of their summed squares; where noise would pass for tissue, blur and take its floor off.

    The squares are blurred and not the magnitudes: noise adds a constant to their mean, twice its variance an echo.
    """
    power = magnitude.square().sum(0)
    joined = power.sqrt()
    tissue = joined > otsu(joined)
    signal = float(magnitude[0][tissue].mean()) if bool(tissue.any()) else 0.0
    noise = _noise(magnitude[0], tissue)
    if not signal:  # one even value, or a first echo without any
        return joined
    width = (QUIET * noise / signal / 6.7) ** (2 / 3)  # a Gaussian averages 6.7² width³ voxels
    if width < 0.5:
        return joined
    blurred = ndimage.gaussian_filter(power.cpu().numpy(), min(width, 2.0), mode="nearest")
    return torch.from_numpy(blurred).to(power).sub(2 * noise**2 * len(magnitude)).clamp_min(0).sqrt()


def _noise(image: Tensor, tissue: Tensor) -> float:
    """Tell the noise from the finest detail, along all axes at once, where there is tissue."""
    detail, inside = image, tissue
    for axis in range(3):
        n = detail.shape[axis] - 1
        if n:
            detail = detail.diff(dim=axis) / 2**0.5
            inside = inside.narrow(axis, 0, n) & inside.narrow(axis, 1, n)
    return float(detail[inside].abs().median()) / 0.6745 if bool(inside.any()) else 0.0


def _coarse(joined: Tensor, grid: Grid) -> tuple[np.ndarray, tuple[float, ...]]:
    """Average whole blocks of voxels to about the working size."""
    factor = [max(1, min(round(WORKING / v), n)) for v, n in zip(grid.voxel_size, grid.shape, strict=True)]
    short = [-n % f for n, f in zip(grid.shape, factor, strict=True)]
    padded = torch.nn.functional.pad(joined[None, None], [w for s in reversed(short) for w in (0, s)], mode="replicate")
    pooled = torch.nn.functional.avg_pool3d(padded, factor)[0, 0]
    return pooled.cpu().numpy(), tuple(f * v for f, v in zip(factor, grid.voxel_size, strict=True))


def _evened(image: np.ndarray, step: tuple[float, ...], width: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    """Divide by the smooth brightness of the tissue, so that tissue is about 1; return also where tissue is."""
    tissue = image > 0.8 * otsu(torch.from_numpy(np.minimum(image, np.quantile(image, 0.98))))
    sigma = [width / s for s in step]
    share = ndimage.gaussian_filter(tissue.astype(np.float32), sigma, mode="nearest", truncate=3)
    bias = ndimage.gaussian_filter(np.where(tissue, image, 0.0).astype(np.float32), sigma, mode="nearest", truncate=3) / np.maximum(
        share, 1e-3
    )
    return (image / np.maximum(bias, 0.1 * float(image[tissue].mean()))).astype(np.float32), tissue


def _snapped(inside: Tensor, joined: Tensor, grid: Grid, reach: float) -> Tensor:
    """Near the surface keep what is bright compared with the brain beside it and hangs together with the brain within."""
    box = tuple(slice(max(int(i.min()) - 8, 0), int(i.max()) + 9) for i in inside.nonzero().T) if inside.any() else ()
    if not box:
        return inside
    part, image = inside[box], joined[box]
    local = grid.with_shape(part.shape)
    core = morphology.erode(part, local, reach)
    hull = morphology.dilate(part, local, reach)
    weights = core.float()
    level = _smooth(image * weights, local, 10.0) / _smooth(weights, local, 10.0).clamp(min=1e-4)
    bright = (image > 0.5 * level) & hull
    kept = morphology.largest(morphology.opened(bright | core, local, 2.0) | core, "the brain")
    result = torch.zeros_like(inside)
    result[box] = morphology.closed(kept, local, 4.0) & hull & ((image > FAINT * level) | core)
    return result


def _smooth(image: Tensor, grid: Grid, width: float) -> Tensor:
    """Blur by three running means along each axis: nearly a Gaussian, at a cost that does not grow with its width."""
    array = image.cpu().numpy()
    for axis, v in enumerate(grid.voxel_size):
        length = max(1, 2 * math.floor(width / v / 2) + 1)
        for _ in range(2):
            array = ndimage.uniform_filter1d(array, length, axis=axis, mode="nearest")
    return torch.from_numpy(array).to(image.device)
