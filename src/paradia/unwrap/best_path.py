"""Unwrapping along the best path, by scikit-image."""

from __future__ import annotations

import numpy as np
import torch

from paradia.errors import MissingDependencyError
from paradia.fft import bounding_box
from paradia.scan import Scan
from paradia.solvers.pieces import level
from paradia.types import Echoes, Mask
from paradia.unwrap._checks import check

CITE = "10.1364/AO.46.006623"

TURN = 2 * torch.pi


def best_path(phase: Echoes, mask: Mask, scan: Scan) -> Echoes:
    r"""Unwrap every echo for itself with the best-path method of scikit-image.

    Edges between neighbours are joined in the order of their reliability, which is the inverse of the second differences of the
    phase. Magnitudes do not count.

    Parameters
    ----------
    phase
        Wrapped phase of every echo, rad.
    mask
        Voxels to unwrap.
    scan
        Echo times.

    Returns
    -------
    Echoes
        Unwrapped phase, rad: the wrapped phase plus whole turns inside the mask, zero outside it.

    Raises
    ------
    MissingDependencyError
        scikit-image is not installed.
    GeometryError, MetadataError, MaskError, NonFiniteError
        Shapes or the number of echo times do not fit, the mask is empty, or the phase inside it is not finite.

    Notes
    -----
    A second opinion, the same as other programs use; it runs on the CPU in double precision. Pieces of the mask that do not touch
    are unwrapped each for itself, and each is shifted by the whole turns that make its median continue the earlier echoes.

    References
    ----------
    Abdul-Rahman HS, et al. Fast and robust three-dimensional best path phase unwrapping algorithm. Appl Opt 2007;46:6623.
    https://doi.org/10.1364/AO.46.006623
    """
    try:
        from skimage.restoration import unwrap_phase
    except ImportError as error:
        raise MissingDependencyError(
            "unwrap best_path needs scikit-image, which is not installed. Install it with: pip install 'paradia[unwrap]', "
            "or take unwrap romeo, which needs nothing."
        ) from error
    from scipy.ndimage import label

    check(phase, mask, scan=scan)
    box = bounding_box(mask)
    inside = mask[box]
    outside = ~inside.cpu().numpy()
    thicker = [(0, int(n == 1)) for n in inside.shape]  # an axis of one voxel is no axis to scikit-image
    pieces, _ = label(~outside)
    piece = torch.from_numpy(pieces[~outside].astype(np.int64) - 1).to(phase.device)
    unwrapped = torch.zeros_like(phase)
    earlier: list[torch.Tensor] = []
    for echo in range(phase.shape[0]):
        wrapped = torch.where(inside, phase[echo][box], 0)
        principal = wrapped - TURN * (wrapped / TURN).round()  # scikit-image looks for single turns only
        values = np.ma.masked_array(
            np.pad(principal.cpu().numpy().astype(np.float64), thicker), np.pad(outside, thicker, constant_values=True)
        )
        solid = np.ma.getdata(unwrap_phase(values, rng=0))  # seeded: it breaks ties at random
        smooth = torch.from_numpy(solid[tuple(map(slice, inside.shape))]).to(phase)
        turns = wrapped[inside] / TURN
        whole = (smooth[inside] / TURN - turns).round()
        whole = whole + level(turns + whole, piece, earlier, scan.echo_times[: echo + 1])
        earlier.append(turns + whole)
        unwrapped[echo][box][inside] = wrapped[inside] + TURN * whole
    return unwrapped
