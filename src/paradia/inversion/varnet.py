"""A network in turn with the field: from local field to susceptibility."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.fft import Window, each_of
from paradia.grid import Grid
from paradia.nets.beginning import begin
from paradia.nets.checks import LOCAL_LIMIT, check_field, check_voxels
from paradia.nets.familiar import tell
from paradia.nets.settled import ITERATIONS, TRUST, invert
from paradia.nets.store import network
from paradia.nets.unrolled import problem, unexplained
from paradia.sources.doubt import believed
from paradia.sources.inside import within
from paradia.sources.knobs import check_count, check_not_negative
from paradia.sources.split import MARGIN
from paradia.types import Callback, Image, LearnedChi, Mask, Volume

CITE = "10.1016/j.media.2022.102700"

WEIGHTS = ("varnet",)


def varnet(
    local_field: Image,
    mask: Mask,
    grid: Grid,
    noise: Volume | None = None,
    *,
    stages: int = 1,
    trust: float = TRUST,
    refine: int = ITERATIONS,
    callback: Callback | None = None,
) -> LearnedChi:
    r"""Begin with few edges; a trained network proposes, then the field corrects it where it can tell better.

    The start is the mean of `l1bayes` and `nltv`, both shorter. In each stage the network sees χ, the field and what χ does not explain of
    it, and proposes a better χ, z, with a standard deviation :math:`\tau` for each voxel. Then the field has its say:

    .. math:: \arg\min_{\chi, q}\; \|\sigma^{-1} M (f - D(\chi + q))\|^2 + \|(\chi - z)/\tau\|_t^2 + \|q/s\|^2

    with a norm in which errors of the proposal go together, and sources q outside the mask, which take up what a background removal has
    left: s, between 0.003 and 0.5 ppm, is told from what the start leaves of the field; `nets.settled` has it. The field counts inside the
    mask alone, weighed by its noise and by how much of it the proposal leaves, and voxel size and direction of B0 enter through the dipole
    D. The network was trained on simulated heads and on random shapes alone; nobody's scan is in its weights.

    Parameters
    ----------
    local_field
        Field of the sources inside the mask, ppm.
    mask
        Voxels where it holds.
    grid
        Voxel size and direction of B0.
    noise
        Standard deviation of the field, ppm; judged from the field's own roughness without it. Where it is zero it is unknown.
    stages
        How often the network is asked, at least once.
    trust
        t, 0 or more: share of what the network doubts that the field may move.
    refine
        Iterations in which the field corrects the last proposal, and a third of them each before it; 0 leaves all to the network.
    callback
        Called as ``callback(iteration, relative_change)`` in the start.

    Returns
    -------
    LearnedChi
        χ and its standard deviation, ppm, what χ leaves of the field, and how little the volume resembles the training.

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
    A variational network as in the paper, with its faults mended: the data term is confined to the mask, does not depend on the size of the
    volume and is solved, not descended. Architecture, training data and weights are not those of the paper. The original method is covered
    by a patent (US 11,940,519).

    References
    ----------
    Cognolato F, O'Brien K, Jin J, et al. Med Image Anal 2023;84:102700. doi:10.1016/j.media.2022.102700.
    """
    check_count(stages=stages)
    check_not_negative(trust=trust, refine=refine)
    window = Window.around(mask, grid, MARGIN, local_field=local_field, noise=noise)
    check_field(local_field, mask, "local field", LOCAL_LIMIT)
    net = network("varnet", str(local_field.device))
    check_voxels(grid, net)
    known = None if noise is None else window.take(noise).float()

    def one(field: Tensor) -> tuple[Tensor, ...]:
        if not field.any():
            return *[torch.zeros_like(field)] * 3, field.new_zeros(())
        loud = believed(field, window.mask, known)
        start = begin(field, window.mask, window.grid, known, callback)
        held, chi = problem(field, start, window.mask, loud, window.grid)
        found = invert(net, chi, held, stages=stages, trust=trust, refine=refine)
        tell(found.novelty, "varnet")
        return found.value, found.deviation, unexplained(found.value, held.field, held.mask, held.dipole), field.new_tensor(found.novelty)

    *maps, strange = each_of(one, window.take(within(local_field, mask)).float())
    chi, deviation, left = (window.put(image).to(local_field) for image in maps)
    return LearnedChi(chi, deviation, left, strange.to(local_field))
