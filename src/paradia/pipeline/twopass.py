"""Two passes: reliable voxels first, then all, so that strong sources spoil their surroundings less.

In and around a calcification, a bleeding or a large vein the phase is lost, and whatever field was fitted there ends as
streaks all around. The first pass leaves such voxels out of the mask: to the background removal they are sources outside,
and their field is taken away. The second pass has them in. The two are put together: the first where it holds, the second
in the voxels that only it has.

References
----------
Stewart AW, Robinson SD, O'Brien K, et al. Magn Reson Med 2022;87:1289-1300. doi:10.1002/mrm.29048.
"""

from __future__ import annotations

from torch import Tensor

from paradia.errors import InputError
from paradia.operators.weighting import known_noise
from paradia.sources.inside import within

CITE = "10.1002/mrm.29048"

STAGE = "two_pass"
"""Under what name the records of a run have what is done here."""

TWICE = ("background", "inversion", "singlestep")
"""Stages that are done in both passes."""

LIMIT = 4.0
"""Multiple of the median noise up to which a voxel is reliable; on simulated heads 3 costs calm tissue more than it gives."""

FIRST, SECOND = "reliable voxels", "all voxels"
"""What the passes are called."""


def reliable(mask: Tensor, noise: Tensor) -> Tensor:
    """Leave out the voxels whose field is far noisier than that of others, also inside the mask, where they make holes.

    Parameters
    ----------
    mask
        Voxels that were fitted.
    noise
        Standard deviation of the field, which a fit raises where the echoes contradict each other, ppm; where it is zero or no
        number it is unknown, and the voxel not reliable.

    Raises
    ------
    InputError
        There is no noise in the mask to go by.
    """
    known = known_noise(noise, mask)
    if not known.any():
        raise InputError("two passes go by the noise of the field, and it is zero in all of the mask. Run without two_pass.")
    return known & (noise <= LIMIT * noise[known].median())


def combine(first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor) -> Tensor:
    """Take the first pass where it holds and the second elsewhere, its zero moved to that of the first.

    Neither pass knows the zero of χ; the second is shifted by the median difference over the voxels that both have.

    Parameters
    ----------
    first, second
        χ of either pass, ppm.
    first_mask, second_mask
        Where it holds.
    """
    both = first_mask & second_mask
    if not both.any():
        return second
    shift = (first - second)[both].median()
    return within((second + shift).where(~both, first), second_mask)
