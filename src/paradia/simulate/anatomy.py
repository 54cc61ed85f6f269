"""What lies where in a head, before any of it has a susceptibility."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Integer
from torch import Tensor

from paradia.grid import Grid
from paradia.types import Mask, Volume


class Anatomy(NamedTuple):
    """Tissues on a grid: which one fills each voxel, and what a label alone does not tell.

    It knows shapes only. `tissue.maps` gives it physics, `subject` the fields.
    """

    labels: Integer[Tensor, "x y z"]
    """Index into `tissue.TISSUES` of what fills most of each voxel, the world outside the head too (air is 0)."""
    mask: Mask
    """The brain: everything under the pia, with its ventricles and veins."""
    veins: Volume
    """Share of each voxel that is venous blood, 0 to 1: veins are thinner than voxels."""
    detail: Volume
    """Fine structure within tissues, such as a template's T1 contrast shows it: mean 0 and SD about 1 in the brain, 0 outside."""
    fibres: Float[Tensor, "3 x y z"] | None
    """Unit direction of white-matter fibres in array axes, zero where there are none; None where nobody knows them."""
    grid: Grid
    """Where it lives."""
