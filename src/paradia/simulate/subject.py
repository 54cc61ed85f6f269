"""A person: anatomy, tissue, lesions and fields on one grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Integer
from torch import Tensor

from paradia.errors import GeometryError, InputError, nearest
from paradia.grid import Grid
from paradia.simulate import tissue
from paradia.simulate._average import averaged_anatomy, averaged_maps, coarser, finer, mean, most, repeated
from paradia.simulate._table import relaxivity
from paradia.simulate.anatomy import Anatomy
from paradia.simulate.fields import fields
from paradia.simulate.lesions import KINDS, Lesion, draw, lesion_labels
from paradia.types import Mask, Volume

HEAD = Grid((192, 224, 192))
"""A whole head at 1 mm."""

COARSEST = 8.0
"""Voxels larger than this, in mm, resolve nothing of a head."""


class Subject(NamedTuple):
    """All that is known of a simulated head."""

    anatomy: Anatomy
    """What lies where."""
    chi: Volume
    """χ = χ+ − χ− in the brain, ppm; outside it with the soft edges that the fields were made of."""
    chi_pos: Volume
    """χ+, ppm."""
    chi_neg: Volume
    """Magnitude of χ−, ppm."""
    density: Volume
    """Proton density, water 1."""
    r1: Volume
    """1/s."""
    r2: Volume
    """1/s."""
    r2prime: Volume
    """1/s."""
    r2star: Volume
    """R2 + R2′, 1/s."""
    fat: Volume
    """Share of the signal that is fat's."""
    local_field: Volume
    """Field of χ inside the mask, ppm, defined everywhere."""
    total_field: Volume
    """Field of everything after second-order shimming over the brain, ppm."""
    lesions: tuple[Lesion, ...]
    """What `lesions.draw` drew; their number in `lesion_labels` is their place here, from 1."""
    lesion_labels: Integer[Tensor, "x y z"]
    """0 where there is no lesion."""
    b0: float
    """Field strength that the rates belong to, T."""
    dr_pos: float
    """Dr+, 1/s per ppm."""
    dr_neg: float
    """Dr−, 1/s per ppm."""
    age: float
    """Years."""
    sex: str
    """``"female"`` or ``"male"``."""
    grid: Grid
    """Where it all lives."""

    @property
    def mask(self) -> Mask:
        """The brain."""
        return self.anatomy.mask

    @property
    def labels(self) -> Tensor:
        """Tissue that fills most of each voxel."""
        return self.anatomy.labels

    @property
    def names(self) -> Mapping[int, str]:
        """Name of each label."""
        return MappingProxyType(tissue.NAMES)

    def region(self, name: str) -> Mask:
        """Return the voxels of the brain that one tissue fills.

        Parameters
        ----------
        name
            Name of a tissue.

        Raises
        ------
        InputError
            There is no tissue of that name.
        """
        if name not in tissue.LABELS:
            raise InputError(f"there is no tissue {name!r}. {nearest(name, tissue.LABELS)}")
        return (self.labels == tissue.LABELS[name]) & self.mask


def subject(
    seed: int,
    *,
    grid: Grid | None = None,
    b0: float = 3.0,
    age: float | None = None,
    sex: str | None = None,
    lesions: Sequence[str] = (),
    oversample: int = 1,
    dr_pos: float | None = None,
    dr_neg: float | None = None,
    anatomy: Anatomy | Callable[[Grid], Anatomy] | None = None,
) -> Subject:
    """Draw a person; the same seed gives the same person bit for bit.

    Parameters
    ----------
    seed
        Draws shape, vessels, tissue, and age and sex where these are not given.
    grid
        Where to sample. None is a whole head at 1 mm, or the anatomy's grid.
    b0
        Field strength, T.
    age
        Years. None draws one between 20 and 80.
    sex
        ``"female"`` or ``"male"``. None draws.
    lesions
        Kinds of lesions, one each; see `paradia.simulate.lesions.KINDS`.
    oversample
        How many times finer than the grid, along each axis, everything is made before it is averaged.
    dr_pos, dr_neg
        Dr+ and Dr−, 1/s per ppm at this field strength. None is 137 · B0/3.
    anatomy
        An anatomy of one's own, or what makes one on a grid. None draws one.

    Returns
    -------
    Subject
        Maps on the grid, single precision.

    Raises
    ------
    InputError
        A field strength, age, sex, lesion or factor that cannot be.
    GeometryError
        Voxels coarser than a head has detail, or an anatomy that lives on another grid than the (finer) one asked for.

    Notes
    -----
    χ and fields of a voxel are averages over its finer ones.  Rates are averaged by the signal that is left at 5 ms, so that
    a voxel half in bone decays like its visible half; R2* = R2 + R2′ holds, R2′ = Dr χ only where a voxel is of one tissue.
    """
    _check(oversample, age, sex)
    dr = relaxivity(b0, dr_pos, dr_neg)
    if unknown := set(lesions) - set(KINDS):
        raise InputError(f"there is no lesion {min(unknown)!r}. {nearest(min(unknown), KINDS)}")
    if grid is None:
        grid = coarser(anatomy.grid, oversample) if isinstance(anatomy, Anatomy) else HEAD
    if max(grid.voxel_size) > COARSEST:
        raise GeometryError(f"voxels of {grid.voxel_size} mm are too coarse for a head. Ask for {COARSEST:g} mm or less.")
    fine = finer(grid, oversample)
    if isinstance(anatomy, Anatomy) and not _alike(anatomy.grid, fine):
        raise GeometryError(f"the anatomy lives on {anatomy.grid}, but {fine} is needed. Make it there, or leave the grid out.")
    generator = torch.Generator().manual_seed(seed)
    years, coin = torch.rand(2, generator=generator).tolist()
    age = 20 + 60 * years if age is None else float(age)
    sex = ("female" if coin < 0.5 else "male") if sex is None else sex
    drawn = _anatomy(anatomy, fine, seed, age, sex)
    maps = tissue.maps(drawn, b0=b0, seed=seed, age=age, sex=sex, dr_pos=dr[0], dr_neg=dr[1])
    found: tuple[Lesion, ...] = ()
    if lesions:
        maps, drawn, found = draw(maps, drawn, seed=seed, kinds=tuple(lesions))
    return _assembled(drawn, maps, grid, found, (float(b0), *dr, age, sex))


def _anatomy(given: Anatomy | Callable[[Grid], Anatomy] | None, grid: Grid, seed: int, age: float, sex: str) -> Anatomy:
    """Take or make the anatomy."""
    if isinstance(given, Anatomy):
        return given
    if given is not None:
        return given(grid)
    from paradia.simulate.anatomical import anatomical  # its bank is large

    return anatomical(grid, seed=seed, age=age, sex=sex)


def _assembled(
    anatomy: Anatomy, maps: tissue.Maps, grid: Grid, lesions: tuple[Lesion, ...], person: tuple[float, float, float, float, str]
) -> Subject:
    """Compute the fields of maps and average it all onto the grid."""
    b0, dr_pos, dr_neg, age, sex = person
    factor = anatomy.grid.shape[0] // grid.shape[0]
    seen = averaged_anatomy(anatomy, factor)
    found = fields(maps.chi_pos - maps.chi_neg, repeated(seen.mask, factor), anatomy.grid)
    chi, local_field, total_field = (mean(image, factor) for image in (found.sources, found.local, found.total))
    del found
    places = most(lesion_labels(lesions, anatomy.grid), factor)
    chi_pos, chi_neg, density, r1, r2, r2prime, r2star, fat = averaged_maps(maps, factor)
    return Subject(
        seen._replace(grid=grid), chi, chi_pos, chi_neg, density, r1, r2, r2prime, r2star, fat,
        local_field, total_field, lesions, places, b0, dr_pos, dr_neg, age, sex, grid,
    )  # fmt: skip


def _check(oversample: int, age: float | None, sex: str | None) -> None:
    """Refuse what cannot be."""
    if isinstance(oversample, bool) or not 1 <= oversample <= 8 or oversample != int(oversample):
        raise InputError(f"oversample is a whole number from 1 to 8, got {oversample}.")
    if age is not None and not 0 <= age <= 120:
        raise InputError(f"the age must be between 0 and 120 years, got {age}.")
    if sex not in (None, "female", "male"):
        raise InputError(f"sex is 'female', 'male' or None, got {sex!r}.")


def _alike(one: Grid, other: Grid) -> bool:
    """Whether two grids are the same but for rounding."""
    near = [
        math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-5)
        for a, b in zip(one.voxel_size + one.b0_dir, other.voxel_size + other.b0_dir, strict=True)
    ]
    return one.shape == other.shape and all(near)
