"""A network in turn with field and R2′: iron apart from myelin."""

from __future__ import annotations

from paradia.grid import Grid
from paradia.nets.separated import ANCHOR, ITERATIONS, TRUST
from paradia.scan import Scan
from paradia.separation._inputs import rates
from paradia.separation._learned import Asked, Given, learned, prepare
from paradia.sources.doubt import believed_rate
from paradia.types import Callback, LearnedSeparation, Mask, Volume

CITE = "10.1002/hbm.70136"

WEIGHTS = ("sepnet",)


def sepnet_r2prime(
    local_field: Volume,
    r2prime: Volume,
    mask: Mask,
    grid: Grid,
    scan: Scan,
    r2prime_noise: Volume | None = None,
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
    r"""Solve the equations of field and R2′ in every voxel; then a trained network proposes, and field and R2′ correct it.

    In each stage the network sees χ+ and χ− so far, χ, the field, R2′ and what is left of both, and proposes better maps with a standard
    deviation :math:`\tau^\pm` for each voxel. Then the data have their say:

    .. math:: \arg\min_{\chi^\pm}\; t\,\|\sigma^{-1} M (f - D(\chi^+ - \chi^-))\|^2
              + t\,\|\rho^{-1}(R_2' - D_r^+\chi^+ - D_r^-\chi^-)\|^2 + \|(\chi^+ - z^+)/\tau^+\|^2 + \|(\chi^- - z^-)/\tau^-\|^2

    with the proposals z, the noise σ of the field, and ρ, the noise of R2′ and 30 % of itself, since relaxivities differ from place to
    place; what comes out negative is cut. Voxel size and direction of B0 enter through the dipole D, field strength and relaxivities as
    they are. The network was trained on simulated heads and on random shapes alone; nobody's scan is in its weights.

    Parameters
    ----------
    local_field
        Field of the sources inside the mask, ppm.
    r2prime
        Reversible relaxation rate R2′ = R2* − R2, 1/s. Negative values count as zero.
    mask
        Voxels where both hold.
    grid
        Voxel size and direction of B0.
    scan
        Tells the field strength.
    r2prime_noise
        Standard deviation of R2′, 1/s; judged from its second differences without it. Where it is zero it is unknown.
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
        t of the formula, 0 or more: 1 if all errors were white and known, 0 to leave all to the network.
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
        χ+ and χ− with their standard deviations, ppm; what they leave of the field and of the rate; the closed form of the same data and
        how far it is from the network; how little the volume resembles the training; and the band where it was asked for.

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
    The idea of χ-sepnet-R2′, a network that is shown field, χ and R2′. Architecture, the data steps, conditions, training data and weights
    are not those of the paper; labels are the simulator's truth.

    References
    ----------
    Kim M, Ji S, Kim J, et al. Hum Brain Mapp 2025;46:e70136. doi:10.1002/hbm.70136.
    """
    given, asked = Given(local_field, mask, grid, scan, noise, chi), Asked(dr_pos, dr_neg, stages, trust, refine, anchor, band)
    dr = prepare(given, asked, r2prime=r2prime, r2prime_noise=r2prime_noise)
    rate = rates("r2prime", r2prime, mask)
    loud = believed_rate(rate, mask, r2prime_noise)
    return learned("sepnet_r2prime", given, asked, rate, loud, dr, callback)
