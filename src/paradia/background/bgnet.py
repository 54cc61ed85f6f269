"""A network that mends what a joint fit of the sources inside and outside takes for background."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.fft import Window, each_of
from paradia.grid import Grid
from paradia.nets.checks import TOTAL_LIMIT, check_field, check_voxels
from paradia.nets.familiar import tell
from paradia.nets.store import network
from paradia.nets.unrolled import clear
from paradia.sources.doubt import believed
from paradia.sources.fit import BRISK, fit
from paradia.sources.inside import levelled
from paradia.sources.split import MARGIN, Effort
from paradia.types import Callback, Image, LearnedField, Mask, Volume

CITE = "10.1016/j.media.2022.102700"

WEIGHTS = ("bgnet",)


def bgnet(
    total_field: Image,
    mask: Mask,
    grid: Grid,
    noise: Volume | None = None,
    *,
    start: int = BRISK.start,
    rounds: int = BRISK.rounds,
    max_iter: int = BRISK.max_iter,
    callback: Callback | None = None,
) -> LearnedField:
    """Fit sources inside and outside together, and let a trained network tell better which field is whose.

    The fit is that of `joint`, shorter. The network sees the total field, both shares of it, what neither explains and how deep
    each voxel lies, and answers with a change of the local field and how far to trust it. It was trained on simulated heads and
    on random shapes alone, with any direction of B0; nobody's scan is in its weights.

    Parameters
    ----------
    total_field
        Total field, ppm.
    mask
        Voxels where it holds.
    grid
        Voxel size and direction of B0.
    noise
        Standard deviation of the field, ppm; judged from the field's own roughness without it. Where it is zero it is unknown.
    start
        Most iterations of the quadratic fit.
    rounds
        How often the fit learns where edges are.
    max_iter
        Iterations in each round.
    callback
        Called as ``callback(iteration, relative_change)`` in the fit.

    Returns
    -------
    LearnedField
        Local field and its standard deviation, ppm, the mask given, and how little the volume resembles the training.

    Raises
    ------
    GeometryError
        Shapes that do not fit the grid.
    MaskError
        The mask is empty.
    InputError
        The field cannot be in ppm.
    WeightsError
        The weights are missing or not those released.

    Notes
    -----
    The order, background removal by one network and inversion by another, is that of the paper; the classical start, the
    architecture, the training data and the weights are not. The original method is covered by a patent (US 11,940,519).

    References
    ----------
    Cognolato F, O'Brien K, Jin J, et al. Med Image Anal 2023;84:102700. doi:10.1016/j.media.2022.102700.
    """
    window = Window.around(mask, grid, MARGIN, total_field=total_field, noise=noise)
    check_field(total_field, mask, "total field", TOTAL_LIMIT)
    net = network("bgnet", str(total_field.device))
    check_voxels(grid, net)
    known = None if noise is None else window.take(noise).float()

    def remove(field: Tensor) -> tuple[Tensor, ...]:
        if not field.any():
            return torch.zeros_like(field), torch.zeros_like(field), field.new_zeros(())
        fitted = fit(window, field, known, Effort(start, rounds, max_iter), callback)
        loud = believed(field, window.mask, known)
        found = clear(net, field, fitted.local_field, fitted.chi, fitted.rest, loud, window)
        tell(found.novelty, "bgnet")
        return found.value, found.deviation, field.new_tensor(found.novelty)

    local, deviation, strange = each_of(remove, window.take(levelled(total_field, mask)).float())
    return LearnedField(window.put(local).to(total_field), mask, window.put(deviation).to(total_field), strange.to(total_field))
