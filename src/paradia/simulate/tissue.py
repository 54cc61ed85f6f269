"""The maps of an anatomy that is made of tissue; the table of tissues and what it rests on are in `_table`."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from paradia.errors import InputError
from paradia.grid import Grid
from paradia.simulate._noise import texture as noise
from paradia.simulate._shapes import Frame
from paradia.simulate._table import LABELS as LABELS
from paradia.simulate._table import NAMES as NAMES
from paradia.simulate._table import REFERENCE_AGE as REFERENCE_AGE
from paradia.simulate._table import TISSUES as TISSUES
from paradia.simulate._table import Tissue as Tissue
from paradia.simulate._table import has_iron, relaxivity
from paradia.simulate._table import iron as iron
from paradia.simulate._table import static_dephasing as static_dephasing
from paradia.simulate._table import venous_chi as venous_chi
from paradia.simulate.anatomy import Anatomy
from paradia.types import Volume

R2_OF_IRON = 40.0
"""Change of R2 at 3 T with the χ+ of more or less iron, 1/s per ppm: about a third of what R2′ changes by; a choice."""

TEXTURES = (2.5, 7.0, 18.0)
"""Lengths of the variation within tissues, mm."""

TURNING = 0.4
"""Share of white matter's Dr− that turns with its fibres like sin²θ."""


class Maps(NamedTuple):
    """What an anatomy is made of, everywhere, at one field strength: volumes of one shape."""

    chi_pos: Volume
    """χ+, ppm; air's χ too."""
    chi_neg: Volume
    """Magnitude of χ−, ppm; bone's too. χ = χ+ − χ−."""
    density: Volume
    """Proton density, water 1."""
    r1: Volume
    """Longitudinal relaxation rate, 1/s."""
    r2: Volume
    """Transverse relaxation rate of a spin echo, 1/s."""
    r2prime: Volume
    """R2′ = Dr+ χ+ + Dr− χ−, 1/s."""
    r2star: Volume
    """R2* = R2 + R2′, 1/s."""
    fat: Volume
    """Share of the signal that is fat's."""


def maps(
    anatomy: Anatomy,
    *,
    b0: float = 3.0,
    seed: int = 0,
    age: float | None = None,
    sex: str | None = None,
    dr_pos: float | None = None,
    dr_neg: float | None = None,
    texture: float = 1.0,
    b0_dir_fibres: bool = True,
) -> Maps:
    r"""Give an anatomy its susceptibilities and relaxation.

    Each tissue varies about its mean: iron and myelin each with a random field of several lengths and with the anatomy's
    `detail`; χ± , R1, R2 and proton density follow.  Within the brain, borders are softened by half a voxel; veins share
    voxels with what surrounds them.

    Parameters
    ----------
    anatomy
        What lies where.
    b0
        Field strength, T.  R2 grows linearly with it, by 54 % from 3 to 7 T; R1 falls with the power of B0 that gives the
        tissue's ratio.
    seed
        Draws the variation between and within tissues.
    age
        Years; sets the iron. None is the age that the table holds at.
    sex
        ``"female"``, ``"male"`` or None; sets the haematocrit of venous blood.
    dr_pos
        Dr+, 1/s per ppm at this field strength. None is 137 · B0/3.
    dr_neg
        Dr−, as Dr+.
    texture
        Factor on all variation, between people and within tissues; 0 gives every voxel its table's value.
    b0_dir_fibres
        Whether χ− and its R2′ turn with the fibres, where the anatomy knows them.

    Returns
    -------
    Maps
        On the anatomy's grid, single precision.

    Raises
    ------
    InputError
        A field strength, age, sex, relaxivity or factor that cannot be.
    """
    dr = relaxivity(b0, dr_pos, dr_neg)
    if not (math.isfinite(texture) and texture >= 0):
        raise InputError(f"texture is a factor and not negative, got {texture}. 1 is natural, 0 none.")
    generator = torch.Generator().manual_seed(seed)
    rows = _rows(b0, age, sex, texture * torch.randn((len(TISSUES), 2), generator=generator))
    labels = anatomy.labels.flatten().int()
    shape = anatomy.labels.shape
    # one gather for everything; a column is then contiguous
    columns = {name: row.index_select(0, labels).view(shape) for name, row in rows.items()}
    if texture:
        _vary(columns, anatomy, texture, generator)
    turn = _turn(columns, anatomy) if b0_dir_fibres and anatomy.fibres is not None else None
    brain = {name: columns[name] for name in ("chi_pos", "chi_neg", "density", "r1", "r2")}
    _bleed(brain, anatomy.veins, {name: float(rows[name][LABELS["vein"]]) for name in brain})
    soften(brain, anatomy.mask)
    chi_pos, chi_neg, density, r1, r2 = brain.values()
    diamagnetic = chi_neg if turn is None else chi_neg * turn
    r2prime = dr[0] * chi_pos + dr[1] * diamagnetic
    air = anatomy.labels == 0
    r2prime.masked_fill_(air, 0.0)  # nothing there decays
    r2.masked_fill_(air, 0.0)
    r1.masked_fill_(air, 0.0)
    return Maps(chi_pos, chi_neg, density, r1, r2, r2prime, r2 + r2prime, columns["fat"])


def relaxed(tissue: Maps, anatomy: Anatomy, dr_pos: float, dr_neg: float) -> Maps:
    """Give maps the R2′ = Dr+ χ+ + Dr− χ− of their sources, and the R2* that follows; air does not decay."""
    r2prime = (dr_pos * tissue.chi_pos + dr_neg * tissue.chi_neg).masked_fill_(anatomy.labels == 0, 0.0)
    return tissue._replace(r2prime=r2prime, r2star=tissue.r2 + r2prime)


def _rows(b0: float, age: float | None, sex: str | None, draws: Tensor) -> dict[str, Tensor]:
    """Return each quantity of every tissue for one person."""
    if age is not None and not (math.isfinite(age) and 0 <= age <= 120):
        raise InputError(f"the age must be between 0 and 120 years, got {age}.")
    if sex not in (None, "female", "male"):
        raise InputError(f"sex is 'female', 'male' or None, got {sex!r}.")
    t = {name: torch.tensor([float(getattr(tissue, name)) for tissue in TISSUES]) for name in Tissue._fields[1:]}
    older = torch.tensor([_older(tissue.name, age) for tissue in TISSUES])
    older[LABELS["vein"]] = {None: 1.0, "female": 0.40 / 0.42, "male": 0.45 / 0.42}[sex]
    # limited, so that nobody's iron is negative
    people = (1 + t["between"][:, None] * draws.clamp(-2.5, 2.5)).clamp_(min=0.1)
    chi_pos, chi_neg = t["chi_pos"] * older * people[:, 0], t["chi_neg"] * people[:, 1]
    extra = torch.where(older == 1.0, 0.0, t["chi_pos"] * (older - 1))
    extra[LABELS["vein"]] = 0.0
    r2 = (1e3 / t["t2"] * (1 + (1 / 0.65 - 1) * (b0 - 3) / 4)).clamp(min=0.1)
    r2 = torch.maximum(r2 + R2_OF_IRON * b0 / 3 * extra, 0.5 * r2)
    r1 = 1e3 / t["t1"] * (b0 / 3) ** (t["r1_factor"].log() / math.log(7 / 3))
    rows = {"chi_pos": chi_pos, "chi_neg": chi_neg, "density": t["density"], "r1": r1, "r2": r2, "fat": t["fat"]}
    return {**rows, "spread_pos": t["spread_pos"] * older, "spread_neg": t["spread_neg"], "anisotropy": t["anisotropy"]}


def _older(name: str, age: float | None) -> float:
    """Return by what factor a tissue's iron differs from that at the reference age."""
    return 1.0 if age is None or not has_iron(name) else iron(name, age) / iron(name, REFERENCE_AGE)


def place(grid: Grid) -> Frame:
    """Return where the voxels are about the middle of a grid, mm, so that texture is the same at any resolution."""
    x, y, z = (
        (torch.arange(n, dtype=torch.float64) - (n - 1) / 2).mul(size).float() for n, size in zip(grid.shape, grid.voxel_size, strict=True)
    )
    return Frame(x, y, z)


def _vary(columns: dict[str, Tensor], anatomy: Anatomy, strength: float, generator: torch.Generator) -> None:
    """Let iron and myelin vary within each tissue, and all that follows from them."""
    here = place(anatomy.grid)
    detail = _within(anatomy)
    rough_iron, rough_myelin = noise(here, generator, TEXTURES), noise(here, generator, TEXTURES)
    iron_ = rough_iron.mul_(0.95 * strength).sub_(detail, alpha=0.31 * strength)
    myelin = rough_myelin.mul_(0.8 * strength).add_(detail, alpha=0.6 * strength)
    columns["chi_pos"].addcmul_(columns["spread_pos"], iron_).clamp_(min=0.0)
    columns["chi_neg"].addcmul_(columns["spread_neg"], myelin).clamp_(min=0.0)
    columns["density"].addcmul_(columns["density"], myelin, value=-0.02).clamp_(min=0.0)
    columns["r2"].addcmul_(columns["r2"], iron_.add(myelin).clamp_(-12.0, 12.0), value=0.035)
    columns["r1"].addcmul_(columns["r1"], myelin.clamp_(-12.0, 12.0), value=0.04)


def _within(anatomy: Anatomy) -> Tensor:
    """Return the anatomy's detail less its mean over each tissue of the brain, so that means stay the table's."""
    index = anatomy.labels.flatten().long()
    inside = anatomy.mask.flatten()
    kept = torch.where(inside, index, len(TISSUES))
    flat = anatomy.detail.flatten()
    count = torch.bincount(kept, minlength=len(TISSUES) + 1).clamp_(min=1)
    means = torch.bincount(kept, weights=flat.double(), minlength=len(TISSUES) + 1) / count
    means[-1] = 0.0
    return ((flat - means.float()[kept]) * inside).view(anatomy.labels.shape)


def _turn(columns: dict[str, Tensor], anatomy: Anatomy) -> Tensor:
    """Turn χ− with the fibres and return the factor on its R2′."""
    assert anatomy.fibres is not None
    x, y, z = anatomy.grid.b0_dir
    fx, fy, fz = anatomy.fibres
    along = (x * fx + y * fy + z * fz).square_()
    known = anatomy.fibres.square().sum(0) > 0.25
    fibrous = known & (columns["anisotropy"] > 0)
    columns["chi_neg"].sub_(torch.where(fibrous, columns["anisotropy"] * (along - 1 / 3), 0.0)).clamp_(min=0.0)
    return torch.where(fibrous, 1 + TURNING * (1.5 * (1 - along) - 1), 1.0)


def _bleed(brain: dict[str, Tensor], veins: Tensor, blood: dict[str, float]) -> None:
    """Mix venous blood in: χ and density by volume, rates by the protons that decay."""
    if not bool(veins.any()):
        return
    protons = veins * blood["density"]
    seen = protons / (protons + (1 - veins) * brain["density"]).clamp_(min=1e-6)
    for name, image in brain.items():
        image.lerp_(torch.full_like(image, blood[name]), seen if name in ("r1", "r2") else veins)


def soften(brain: dict[str, Tensor], mask: Tensor) -> None:
    """Share borders between voxels of the brain, in place, and nothing across its surface."""
    if not bool(mask.any()):
        return
    weight = _blur(mask.float()).clamp_(min=1e-3)
    for image in brain.values():
        image.copy_(torch.where(mask, _blur(image * mask) / weight, image))


def _blur(image: Tensor) -> Tensor:
    """Smooth by half a voxel."""
    for axis in range(3):
        n = image.shape[axis]
        smooth = image * 0.75
        if n > 1:
            smooth.narrow(axis, 1, n - 1).add_(image.narrow(axis, 0, n - 1), alpha=0.125)
            smooth.narrow(axis, 0, n - 1).add_(image.narrow(axis, 1, n - 1), alpha=0.125)
        image = smooth
    return image
