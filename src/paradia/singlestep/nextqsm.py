"""Two networks in turn with the field: from total field to susceptibility."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.fft import Window, each_of
from paradia.grid import Grid
from paradia.nets.checks import TOTAL_LIMIT, check_field, check_voxels
from paradia.nets.familiar import tell
from paradia.nets.settled import ITERATIONS, TRUST
from paradia.nets.store import network
from paradia.nets.total import invert
from paradia.sources.fit import BRISK, fit
from paradia.sources.inside import levelled
from paradia.sources.knobs import check_count, check_not_negative
from paradia.sources.split import MARGIN, Effort
from paradia.types import Callback, Image, LearnedSources, Mask, Volume

CITE = "10.1016/j.media.2022.102700"

WEIGHTS = ("bgnet", "varnet")


def nextqsm(
    total_field: Image,
    mask: Mask,
    grid: Grid,
    noise: Volume | None = None,
    *,
    stages: int = 2,
    trust: float = TRUST,
    refine: int = ITERATIONS,
    start: int = BRISK.start,
    rounds: int = BRISK.rounds,
    max_iter: int = BRISK.max_iter,
    residual: bool = False,
    callback: Callback | None = None,
) -> LearnedSources:
    r"""Fit sources inside and outside together; one network mends the local field, another in turn with the total field the χ.

    The fit and the first network are those of `bgnet`; the second begins with the mean of a short `l1bayes` and a short `nltv` of the
    mended field, which trust it as far as the first network does. Each time the second has proposed a χ with its standard deviation
    :math:`\tau`, the total field decides anew what is due to sources inside and what to sources outside:

    .. math:: \arg\min_{\chi, q}\; \|\sigma^{-1} M (f - D(\chi + q))\|^2 + \|(\chi - z)/\tau\|_t^2 + \|(q - q_0)/s\|^2

    with the proposal z, the sources outside so far :math:`q_0`, which may be 0.5 ppm off, and a norm in which errors of the proposal go
    together; `nets.settled` has it. The local field given back is that of the χ given back.

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
    stages
        How often the second network is asked, at least once. Once takes about a fifth less time and is a little further off.
    trust
        t, 0 or more: share of what the network doubts that the field may move.
    refine
        Iterations in which the field corrects the last proposal, and a third of them each before it; 0 leaves all to the networks.
    start
        Most iterations of the quadratic fit.
    rounds
        How often the fit learns where edges are.
    max_iter
        Iterations in each round.
    residual
        Whether what neither side explains, noise for the most part, stays in the local field: a separation may tell what it is.
    callback
        Called as ``callback(iteration, relative_change)`` in the fit.

    Returns
    -------
    LearnedSources
        χ and the local field that it makes with their standard deviations, ppm (that of the field as the first network left it), what
        sources on neither side explain of the total field, and how little the volume resembles the training.

    Raises
    ------
    GeometryError
        Shapes that do not fit the grid.
    MaskError
        The mask is empty.
    InputError
        The field cannot be in ppm, or a knob is out of range.
    WeightsError
        The weights are missing or not those released.

    Notes
    -----
    The system of the paper, a network for the background and a variational one for the inversion, built anew: classical start,
    architecture, data steps on the total field, training data and weights are not those of the paper. The original method is covered by a
    patent (US 11,940,519).

    References
    ----------
    Cognolato F, O'Brien K, Jin J, et al. Med Image Anal 2023;84:102700. doi:10.1016/j.media.2022.102700.
    """
    check_count(stages=stages)
    check_not_negative(trust=trust, refine=refine)
    window = Window.around(mask, grid, MARGIN, total_field=total_field, noise=noise)
    check_field(total_field, mask, "total field", TOTAL_LIMIT)
    background, inversion = (network(name, str(total_field.device)) for name in WEIGHTS)
    check_voxels(grid, background, inversion)
    known = None if noise is None else window.take(noise).float()

    def one(field: Tensor) -> tuple[Tensor, ...]:
        if not field.any():
            return *[torch.zeros_like(field)] * 5, field.new_zeros(())
        fitted = fit(window, field, known, Effort(start, rounds, max_iter), callback)
        *found, strange = invert(background, inversion, field, known, fitted, window, stages=stages, trust=trust, refine=refine)
        tell(strange, "nextqsm")
        return *found, field.new_tensor(strange)

    *maps, strange = each_of(one, window.take(levelled(total_field, mask)).float())
    chi, chi_noise, local_field, local_noise, left = (window.put(image).to(total_field) for image in maps)
    if residual:
        local_field = local_field + left
    return LearnedSources(chi, chi_noise, local_field, local_noise, left, strange.to(total_field))
