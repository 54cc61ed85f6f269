"""Deep white matter as zero."""

from __future__ import annotations

import torch
from scipy.ndimage import binary_opening
from torch import Tensor

from paradia.fft import each
from paradia.grid import Grid
from paradia.reference._shift import check_shapes, shift
from paradia.sources.inside import check_numbers, depth, largest_pieces
from paradia.sources.knobs import check_not_negative, check_positive
from paradia.types import Image, Mask, Volume

CITE = ""


def white_matter(
    chi: Image,
    mask: Mask,
    grid: Grid,
    r2star: Volume,
    *,
    depth_mm: float = 12.0,
    spread: float = 0.25,
) -> Image:
    """Set the mean of χ over an estimate of deep white matter to zero.

    An estimate, since no anatomical image is at hand: well inside the brain, the most frequent R2* is that of white matter,
    whose χ is the lower half there. A segmentation given as `region` is better where there is one.

    Parameters
    ----------
    chi
        χ, ppm, shape (..., x, y, z); the estimate is made on the mean over the leading axes.
    mask
        Where it holds.
    grid
        Its geometry.
    r2star
        R2*, 1/s.
    depth_mm
        Least distance from the edge of the mask, mm.
    spread
        Half width of the band of R2* around its mode, as a fraction of it.

    Returns
    -------
    Image
        χ, ppm, zero outside the mask.

    Raises
    ------
    MaskError
        No white matter was found.
    GeometryError, NonFiniteError
        Images on different grids, or χ that is NaN or Inf inside the mask.
    InputError
        A knob out of range.
    """
    check_positive(spread=spread)
    check_not_negative(depth_mm=depth_mm)
    check_shapes(chi, mask=mask, r2star=r2star)
    check_numbers(mask, chi=chi)
    deep = mask & (depth(mask, grid) >= depth_mm) & (r2star > 0) & r2star.isfinite()
    if not deep.any():
        return shift(chi, mask, deep, f"brain deeper than {depth_mm} mm")
    mode = _mode(r2star[deep])
    band = deep & ((r2star - mode).abs() <= spread * mode)

    def one(volume: Tensor) -> Tensor:
        low = band & (volume <= volume[band].median())
        opened = torch.from_numpy(binary_opening(low.cpu().numpy())).to(low.device)
        return shift(volume, mask, largest_pieces(opened, 2), "estimate of white matter")

    return each(one, chi)


def _mode(values: Tensor) -> float:
    """Most frequent value: the middle of the shortest interval that holds a quarter of them."""
    ordered = values.flatten().sort().values
    quarter = max(1, ordered.numel() // 4)
    widths = ordered[quarter:] - ordered[:-quarter]
    start = int(widths.argmin()) if widths.numel() else 0
    return float((ordered[start] + ordered[min(start + quarter, ordered.numel() - 1)]) / 2)
