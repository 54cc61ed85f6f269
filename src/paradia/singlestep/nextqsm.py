"""Two networks in turn with the field: from total field to susceptibility."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paradia.errors import InputError
from paradia.fft import Window, each_of
from paradia.grid import Grid
from paradia.nets.checks import TOTAL_LIMIT, check_field, check_voxels
from paradia.nets.familiar import tell
from paradia.nets.store import network
from paradia.nets.unrolled import ITERATIONS, START_ITERATIONS, TRUST, clear, invert, problem, unexplained
from paradia.registry import load
from paradia.sources.doubt import believed
from paradia.sources.fit import BRISK, fit
from paradia.sources.inside import within
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
    stages: int = 1,
    trust: float = TRUST,
    refine: int = ITERATIONS,
    start: int = BRISK.start,
    rounds: int = BRISK.rounds,
    max_iter: int = BRISK.max_iter,
    callback: Callback | None = None,
) -> LearnedSources:
    """Fit sources inside and outside together; one network mends the local field, another in turn with that field the χ.

    This is `bgnet` and `varnet` in one, with all that the first knows: the short `l1bayes` that the second network begins with trusts the
    mended field as far as the first network does. What the fit leaves over is shown to the second, and the data steps do without it.

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
        How often the second network is asked, at least once.
    trust
        Weight of the field in the data steps, 0 or more; see `varnet`.
    refine
        Iterations in which the field corrects the last proposal too; 0 leaves the last word to the network.
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
    LearnedSources
        χ and local field with their standard deviations, ppm, what χ leaves of the local field, and how little the volume resembles
        the training.

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
    architecture, data term, training data and weights are not those of the paper. The original method is covered by a patent
    (US 11,940,519).

    References
    ----------
    Cognolato F, O'Brien K, Jin J, et al. Med Image Anal 2023;84:102700. doi:10.1016/j.media.2022.102700.
    """
    if stages < 1 or trust < 0 or refine < 0:
        raise InputError(f"stages must be at least 1, trust and refine at least 0, got {stages}, {trust:g} and {refine}.")
    window = Window.around(mask, grid, MARGIN, total_field=total_field, noise=noise)
    check_field(total_field, mask, "total field", TOTAL_LIMIT)
    background, inversion = (network(name, str(total_field.device)) for name in WEIGHTS)
    check_voxels(grid, background, inversion)
    known = None if noise is None else window.take(noise).float()
    l1bayes = load("inversion", "l1bayes").function  # stages know no other by import

    def one(field: Tensor) -> tuple[Tensor, ...]:
        if not field.any():
            return *[torch.zeros_like(field)] * 5, field.new_zeros(())
        fitted = fit(window, field, known, Effort(start, rounds, max_iter), callback)
        loud = believed(field, window.mask, known)
        local = clear(background, field, fitted.local_field, fitted.chi, fitted.rest, loud, window)
        sharp = l1bayes(local.value, window.mask, window.grid, torch.hypot(loud, local.deviation), max_iter=START_ITERATIONS, tol=math.inf)
        # what neither side explains is shown to the network, but no data step is to turn it into sources
        held, chi = problem(local.value + fitted.rest, sharp, window.mask, loud, window.grid, local.value)
        found = invert(inversion, chi, held, stages=stages, trust=trust, refine=refine)
        strange = max(local.novelty, found.novelty)
        tell(strange, "nextqsm")
        left = unexplained(found.value, held.field, held.mask, held.dipole)
        return found.value, found.deviation, local.value, local.deviation, left, field.new_tensor(strange)

    *maps, strange = each_of(one, window.take(within(total_field, mask)).float())
    chi, chi_noise, local_field, local_noise, left = (window.put(image).to(total_field) for image in maps)
    return LearnedSources(chi, chi_noise, local_field, local_noise, left, strange.to(total_field))
