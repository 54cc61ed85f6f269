"""A network in turn with field and R2*: iron apart from myelin without spin echoes."""

from __future__ import annotations

from paradia.grid import Grid
from paradia.nets.separated import ANCHOR, ITERATIONS, TRUST, less_typical
from paradia.scan import Scan
from paradia.separation._inputs import rates
from paradia.separation._learned import Asked, Given, learned, prepare
from paradia.sources.doubt import believed_rate
from paradia.types import Callback, LearnedSeparation, Mask, Volume

CITE = "10.1002/hbm.70136"

WEIGHTS = ("sepnet",)


def sepnet_r2star(
    local_field: Volume,
    r2star: Volume,
    mask: Mask,
    grid: Grid,
    scan: Scan,
    r2star_noise: Volume | None = None,
    noise: Volume | None = None,
    chi: Volume | None = None,
    *,
    dr_pos: float | None = None,
    dr_neg: float | None = None,
    stages: int = 1,
    trust: float = TRUST,
    refine: int = ITERATIONS,
    anchor: float = ANCHOR,
    band: float = 0.0,
    callback: Callback | None = None,
) -> LearnedSeparation:
    """Separate as `sepnet_r2prime` from gradient echoes alone, with R2* less the R2 that brain tissue usually has in the place of R2′.

    The usual R2 is 13 1/s at 3 T and grows with the square root of B0; by a quarter of it R2 differs from voxel to voxel, and this is added
    to the noise of the rate. The network, the same as with R2′, is told by that noise how little the rate can be trusted, and was trained
    on as many such cases as on those with spin echoes.

    Parameters
    ----------
    local_field
        Field of the sources inside the mask, ppm.
    r2star
        Transverse relaxation rate R2*, 1/s. What field gradients across a voxel add should have been taken off.
    mask
        Voxels where both hold.
    grid
        Voxel size and direction of B0.
    scan
        Tells the field strength.
    r2star_noise
        Standard deviation of R2*, 1/s; judged from its second differences without it. Where it is zero it is unknown.
    noise
        Standard deviation of the field, ppm; judged from the field's own roughness without it. Where it is zero it is unknown.
    chi
        Total susceptibility to begin with, ppm; its mean, which no field tells, is half of the zero of both maps (`anchor`). Without
        it, what `varnet` begins with, with a mean of zero.
    dr_pos
        Relaxivity Dr+ of paramagnetic sources, Hz/ppm. Without it 137 Hz/ppm times B0/3 T (Shin et al.; 114 where χ is a COSMOS map). It
        scales the result.
    dr_neg
        Relaxivity Dr− of diamagnetic sources, likewise.
    stages
        How often the network is asked, at least once.
    trust
        How much both equations count, 0 or more: 1 if all errors were white and known, 0 to leave all to the network.
    refine
        Iterations in which both equations correct the last proposal too; 0 leaves the last word to the network.
    anchor
        How far the mean of χ+ − χ− is that of ``chi``, 0 to 1: no field tells it, and the brain's mean is some ppb away from tissue without
        sources. 1 keeps the zero of ``chi``; 0 takes that which the network reads off the rates.
    band
        Share by which both relaxivities are lowered and raised to see how far the maps follow, up to 0.9; 0.2 is usual, 0 leaves it out.
        Each direction takes as long as the separation itself.
    callback
        Called as ``callback(iteration, relative_change)`` in the start of the inversion, where χ is not given.

    Returns
    -------
    LearnedSeparation
        χ+ and χ− with their standard deviations, ppm; what they leave of the field and of the rate above the usual R2; the closed form of
        the same data and how far it is from the network; how little the volume resembles the training; and the band where it was asked for.

    Raises
    ------
    GeometryError, MaskError, NonFiniteError
        Shapes that do not fit the grid, an empty mask, a number missing inside it.
    InputError
        A field or χ that cannot be in ppm, rates in 1/ms or mostly negative, no relaxivity known at the field strength, or a knob out of
        range.
    WeightsError
        The weights are missing or not those released.

    Notes
    -----
    The idea of χ-sepnet-R2*; there another network first makes R2′ out of R2*, here one does both. Where R2 departs from the usual, in
    fluid, oedema and lesions, the network has to tell from the surroundings, and is less certain.

    References
    ----------
    Kim M, Ji S, Kim J, et al. Hum Brain Mapp 2025;46:e70136. doi:10.1002/hbm.70136.
    """
    given, asked = Given(local_field, mask, grid, scan, noise, chi), Asked(dr_pos, dr_neg, stages, trust, refine, anchor, band)
    dr = prepare(given, asked, r2star=r2star, r2star_noise=r2star_noise)
    decay = rates("r2star", r2star, mask)
    loud = believed_rate(decay, mask, r2star_noise)
    return learned("sepnet_r2star", given, asked, *less_typical(decay, loud, scan.b0), dr, callback)
