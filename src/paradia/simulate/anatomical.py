"""Draw a subject from the anatomy bank."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paradia.errors import InputError
from paradia.grid import Grid
from paradia.simulate import _deform, _fill, _vessels
from paradia.simulate._fibres import directions
from paradia.simulate.anatomy import Anatomy
from paradia.simulate.bank import load

CENTRE = (0.0, -17.0, 8.0)
"""Place of the bank that the middle of the grid shows."""
SIZE = 0.928
"""Size of an average adult against the bank: the template is larger than life."""
AGES = (0.0, 110.0)


def anatomical(
    grid: Grid,
    *,
    seed: int,
    age: float | int | None = None,
    sex: str | None = None,
    strength: float | int = 1.0,
    device: torch.device | str | None = None,
) -> Anatomy:
    """Draw the anatomy of one subject.

    A random affine map and a random smooth deformation without folds carry the bank's head over to the subject; ventricles and sulci widen
    with age; sinuses, skull, scalp and the course of the veins are drawn anew. The middle of the grid is the middle of the head, x to the
    right, y forward, z up; the direction of B0 does not turn it. Below the bank the neck goes on, around the head is air.

    Parameters
    ----------
    grid
        Shape and voxel size. Boundaries lie where they are, whatever the voxel size.
    seed
        The same seed gives the same subject on any grid.
    age
        Years, drawn from 18 to 80 when not given.
    sex
        ``"female"`` or ``"male"``, drawn when not given.
    strength
        How much subjects differ from the bank, 1 for people, 0 for the bank itself at this age and sex.
    device
        Where the tensors are made.

    Returns
    -------
    Anatomy
        Labels, brain mask, share of veins, detail and fibre directions.

    Raises
    ------
    InputError
        The age, sex or strength cannot be.

    References
    ----------
    .. [1] Fonov V, et al. Unbiased average age-appropriate atlases for pediatric studies. NeuroImage 2011;54:313-327.
       doi:10.1016/j.neuroimage.2010.07.033.
    .. [2] Arsigny V, et al. A log-Euclidean framework for statistics on diffeomorphisms. MICCAI 2006:924-931. doi:10.1007/11866565_113.
    """
    if age is not None and not AGES[0] <= age <= AGES[1]:
        raise InputError(f"an age must lie between {AGES[0]:g} and {AGES[1]:g} years, got {age}. Give years.")
    if sex not in (None, "female", "male"):
        raise InputError(f"sex must be 'female', 'male' or None, got {sex!r}.")
    if not (math.isfinite(strength) and 0 <= strength <= 2):
        raise InputError(f"strength must lie between 0 and 2, got {strength}. 1 is the variety among people.")
    bank = load()
    generator = torch.Generator().manual_seed(seed)
    traits = Traits(generator, age, sex, strength)
    deformation = _deform.draw(traits.matrix, torch.tensor(CENTRE), bank.widening, traits.widen, generator, strength)
    axes = [
        (torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2) * v for n, v in zip(grid.shape, grid.voxel_size, strict=True)
    ]
    shifts = _fill.Shifts(generator, strength, traits.atrophy, *traits.sinuses)
    labels, mask, detail = _fill.fill(bank, deformation, axes, shifts)
    veins = _vessels.draw(axes, deformation, bank, generator, labels, mask)
    return Anatomy(labels, mask, veins, detail, directions(bank, deformation, axes, labels), grid)


class Traits:
    """What distinguishes a subject as a whole."""

    def __init__(self, generator: torch.Generator, age: float | int | None, sex: str | None, strength: float | int) -> None:
        """Draw everything, so that what is given changes nothing else."""
        u, n = torch.rand(4, generator=generator), torch.randn(16, generator=generator) * strength
        self.age = 18.0 + 62.0 * float(u[0]) if age is None else age
        self.male = bool(u[1] < 0.5) if sex is None else sex == "male"
        old = max(self.age - 25.0, 0.0) / 50.0
        # intracranial volume: men about 12 % more than women, SD 8 %
        size = SIZE * (1.019 if self.male else 0.981) * math.exp(0.022 * float(n[0]))
        scales = size * torch.exp(0.028 * n[1:4] - 0.028 * n[1:4].mean())
        turn = torch.tensor([0.05, 0.035, 0.035]) * n[4:7]
        shear = torch.zeros(3, 3)
        shear[0, 1], shear[0, 2], shear[1, 2] = (0.02 * n[7:10]).tolist()
        self.matrix = _rotation(turn) @ (torch.eye(3) + shear) @ torch.diag(1 / scales)
        self.widen = min(max(-0.4 + 1.9 * old**1.6 + (0.5 + 0.5 * old) * float(n[10]), -1.0), 4.5)
        """Widening of the ventricles, mm of the bank."""
        self.atrophy = min(max(-0.42 + 0.42 * old + 0.13 * float(n[11]), -0.8), 0.6)
        """How far sulci open, mm on each bank."""
        self.sinuses = (2.6 * float(n[12]), 2.0 * float(n[13]))
        """Growth of paranasal sinuses and mastoid cells, mm."""


def _rotation(angles: Tensor) -> Tensor:
    """Turn about x, y and z by angles in rad."""
    a, b, c = angles.tolist()
    skew = torch.tensor([[0.0, -c, b], [c, 0.0, -a], [-b, a, 0.0]])
    return torch.linalg.matrix_exp(skew)
