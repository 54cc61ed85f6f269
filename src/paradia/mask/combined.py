"""The brain, less what has no usable phase."""

from __future__ import annotations

from paradia.grid import Grid
from paradia.mask import _morphology as morphology
from paradia.mask._reliability import bridged, check_knobs, checked, nonempty, otsu, reliability
from paradia.mask.bet import bet
from paradia.scan import Scan
from paradia.types import Echoes, Mask

CITE = "10.1002/mrm.30006"


def combined(
    phase: Echoes, magnitude: Echoes, grid: Grid, scan: Scan, *, fraction: float = 0.55, threshold: float = 0.0, closing: float = 4.0
) -> Mask:
    """Extract the brain and drop the regions at its edge whose phase cannot be trusted.

    Low reliability alone does not make a hole: veins, iron-rich nuclei and microbleeds stay, since gaps narrower than the
    closing and all that is enclosed by good phase are filled. What is lost is dropout over air cavities and any skull
    that the extraction left.

    Parameters
    ----------
    phase
        Wrapped phase, rad; what is not finite counts as unreliable.
    magnitude
        Magnitude, any unit. Planes without any signal between others, slices that were lost, are bridged.
    grid
        Geometry.
    scan
        Echo times.
    fraction
        Share of the local brightness below which a point is no brain, between 0 and 1. Larger gives a smaller brain.
    threshold
        Least reliability of a voxel, 0 to 1; 0 takes 0.6 of the value that best parts tissue from noise.
    closing
        Radius of the gaps in good phase that are filled, mm.

    Returns
    -------
    Mask
        The brain with usable phase.

    Raises
    ------
    MaskError
        There is no signal, or nothing is left.
    GeometryError
        The data do not belong together.
    InputError
        A knob out of its range.

    References
    ----------
    QSM Consensus Organization Committee, et al. Recommended implementation of quantitative susceptibility mapping for
    clinical research in the brain. Magn Reson Med 2024;91:1834-1862. doi:10.1002/mrm.30006.
    """
    check_knobs(threshold, closing=closing)
    magnitude, phase = bridged(*reversed(checked(phase, magnitude, grid, scan)))
    brain = bet(magnitude, grid, fraction=fraction)
    weight = reliability(phase, magnitude, scan)
    limit = threshold or 0.6 * otsu(weight[magnitude[0] > 0])
    good = morphology.largest(morphology.opened(brain & (weight > limit), grid, 1.0), "the brain with usable phase")
    mask = morphology.filled(morphology.closed(good, grid, closing)) & brain
    return nonempty(
        morphology.largest(mask, "the brain with usable phase"),
        f"brain extraction with phase quality above {limit:.2f}",
        "Lower its threshold or fraction, or give a mask.",
    )
