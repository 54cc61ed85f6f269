"""What each tissue is made of, and the maps of an anatomy that is made of it.

χ+ and χ− of the deep nuclei, cortex, white matter and fluid are the base values of the realistic in-silico head [1]_ and
its two-source extension, those of bundles the orientation averages of their fits, with χ− = Δχ cos²θ + χ0 along the fibre
angle θ.  T2 at 3 T comes from its 7 T values, R2(3 T) = 0.65 R2(7 T), and so do the ratios of R1.  T1 and proton
densities are usual values at 3 T; muscle and fat as measured [2]_; air and bone as tabulated [3]_.  Iron grows with age as
it was weighed [4]_; its curves for caudate, putamen and pallidum agree with values that others computed from them for 30
years, those of other tissues are of the same form with the mean contents of adults, their rates chosen here.  Lesions,
dura, choroid plexus, pineal gland, the split of the pallidum into its segments (whose mean is the table's), and spreads
within tissues are choices of this simulator.  Spreads between people are those of an atlas of 106 healthy adults [5]_,
from 0.07 (white matter) to 0.2.

References
----------
.. [1] Marques JP, et al. QSM reconstruction challenge 2.0: a realistic in silico head phantom. Magn Reson Med
   2021;86:526-542. doi:10.1002/mrm.28716.
.. [2] Gold GE, et al. Musculoskeletal MRI at 3.0 T: relaxation times and image contrast. Am J Roentgenol
   2004;183:343-351. doi:10.2214/ajr.183.2.1830343.
.. [3] Schenck JF. The role of magnetic susceptibility in magnetic resonance imaging. Med Phys 1996;23:815-850.
   doi:10.1118/1.597854.
.. [4] Hallgren B, Sourander P. The effect of age on the non-haemin iron in the human brain. J Neurochem 1958;3:41-51.
   doi:10.1111/j.1471-4159.1958.tb12607.x.
.. [5] Min K, et al. A human brain atlas of χ-separation for normative iron and myelin distributions. NMR Biomed
   2024;37:e5226. doi:10.1002/nbm.5226.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from paradia.errors import InputError
from paradia.scan import GAMMA_BAR
from paradia.simulate._noise import texture as noise
from paradia.simulate._shapes import Frame
from paradia.simulate.anatomy import Anatomy
from paradia.types import Volume

REFERENCE_AGE = 40.0
"""Age at which the table's χ+ holds, years."""

RELAXIVITY = 137.0
"""Dr+ and Dr− at 3 T, 1/s per ppm, as fitted in vivo (Shin 2021, doi:10.1016/j.neuroimage.2021.118371); others found 114."""

R2_OF_IRON = 40.0
"""Change of R2 at 3 T with the χ+ of more or less iron, 1/s per ppm; a choice, as R2 rises with iron about a third as much as R2′."""

TEXTURES = (2.5, 7.0, 18.0)
"""Lengths of the variation within tissues, mm."""

TURNING = 0.4
"""Share of white matter's Dr− that turns with its fibres like sin²θ."""


class Tissue(NamedTuple):
    """One tissue at 3 T and `REFERENCE_AGE`."""

    name: str
    chi_pos: float
    """χ+, ppm."""
    chi_neg: float
    """Magnitude of χ−, ppm, averaged over fibre directions."""
    spread_pos: float
    """Standard deviation of χ+ within the tissue, ppm."""
    spread_neg: float
    """Standard deviation of χ− within the tissue, ppm."""
    between: float
    """Standard deviation of χ+ and χ− from person to person, as a share."""
    density: float
    """Proton density, water 1."""
    t1: float
    """T1, ms."""
    t2: float
    """T2, ms."""
    r1_factor: float = 0.74
    """R1 at 7 T over R1 at 3 T."""
    fat: float = 0.0
    """Share of the signal that is fat's."""
    anisotropy: float = 0.0
    """Δχ: how much less diamagnetic along the fibres than across, ppm."""


TISSUES = (
    Tissue("air", 9.4, 0.0, 0.0, 0.0, 0.0, 0.0, 1000.0, 1000.0),
    Tissue("muscle", 0.0, 0.0, 0.0, 0.0, 0.0, 0.75, 1420.0, 31.7),
    Tissue("fat", 0.038, 0.019, 0.004, 0.002, 0.1, 0.90, 371.0, 133.0, fat=0.95),
    Tissue("bone", 0.0, 2.1, 0.0, 0.0, 0.0, 0.08, 250.0, 0.5),
    Tissue("marrow", 0.0, 1.0, 0.0, 0.1, 0.1, 0.35, 365.0, 133.0, fat=0.8),
    Tissue("csf", 0.019, 0.0, 0.001, 0.0, 0.0, 1.0, 4000.0, 1584.0, 1.0),
    Tissue("grey_matter", 0.0392, 0.0192, 0.006, 0.004, 0.10, 0.82, 1400.0, 130.3, 0.736),
    Tissue("white_matter", 0.0059, 0.0359, 0.0015, 0.005, 0.07, 0.70, 850.0, 70.1, 0.725, anisotropy=0.0091),
    Tissue("caudate", 0.0527, 0.0087, 0.006, 0.002, 0.15, 0.82, 1250.0, 88.4, 0.759),
    Tissue("putamen", 0.0471, 0.0091, 0.007, 0.002, 0.20, 0.80, 1150.0, 77.6, 0.742),
    Tissue("pallidum_external", 0.1490, 0.0115, 0.014, 0.003, 0.08, 0.73, 1000.0, 63.8, 0.733),
    Tissue("pallidum_internal", 0.1310, 0.0172, 0.012, 0.003, 0.08, 0.73, 1000.0, 63.8, 0.733),
    Tissue("thalamus", 0.0509, 0.0309, 0.009, 0.006, 0.15, 0.76, 1150.0, 87.1, 0.739),
    Tissue("subthalamic", 0.1224, 0.0114, 0.012, 0.003, 0.11, 0.75, 1050.0, 72.7, 0.74),
    Tissue("substantia_nigra", 0.1224, 0.0114, 0.014, 0.003, 0.12, 0.74, 1050.0, 72.7, 0.74),
    Tissue("red_nucleus", 0.1109, 0.0109, 0.010, 0.003, 0.13, 0.74, 1000.0, 67.8, 0.74),
    Tissue("dentate", 0.1684, 0.0164, 0.018, 0.004, 0.13, 0.74, 1000.0, 110.3, 0.74),
    Tissue("vein", 0.27, 0.0, 0.02, 0.0, 0.10, 0.80, 1650.0, 55.0, 0.757),
    Tissue("artery", 0.02, 0.02, 0.0, 0.0, 0.0, 0.80, 1650.0, 150.0, 0.757),
    Tissue("dura", 0.01, 0.02, 0.002, 0.003, 0.1, 0.60, 900.0, 35.0),
    Tissue("choroid", 0.05, 0.04, 0.015, 0.012, 0.2, 0.90, 1500.0, 120.0),
    Tissue("pineal", 0.04, 0.06, 0.010, 0.015, 0.2, 0.85, 1300.0, 90.0),
    Tissue("eye", 0.01, 0.0, 0.0, 0.0, 0.0, 1.0, 4000.0, 1000.0, 1.0),
    Tissue("corpus_callosum", 0.0059, 0.0394, 0.0015, 0.005, 0.08, 0.70, 850.0, 70.1, 0.725, anisotropy=0.0233),
    Tissue("internal_capsule", 0.0059, 0.0446, 0.0015, 0.005, 0.08, 0.70, 850.0, 70.1, 0.725, anisotropy=0.0005),
    Tissue("optic_radiation", 0.0059, 0.0539, 0.0015, 0.005, 0.10, 0.70, 850.0, 70.1, 0.725, anisotropy=0.016),
    Tissue("lesion", 0.0120, 0.0130, 0.003, 0.003, 0.1, 0.86, 1400.0, 130.0),
    Tissue("calcification", 0.0, 3.3, 0.0, 0.3, 0.1, 0.35, 1000.0, 20.0),
    Tissue("haemorrhage", 1.0, 0.0, 0.15, 0.0, 0.2, 0.75, 900.0, 35.0),
    Tissue("procedural", 0.05, 0.05, 0.02, 0.02, 0.3, 0.80, 1100.0, 80.0),
)
"""Every tissue; its place in the row is its label."""

LABELS = {tissue.name: index for index, tissue in enumerate(TISSUES)}
NAMES = {index: tissue.name for index, tissue in enumerate(TISSUES)}

_IRON = {
    "caudate": (9.66, 0.05, 0.33),
    "putamen": (14.62, 0.04, 0.46),
    "pallidum_external": (21.41, 0.09, 0.37),
    "pallidum_internal": (21.41, 0.09, 0.37),
    **dict.fromkeys(("white_matter", "corpus_callosum", "internal_capsule", "optic_radiation"), (3.95, 0.10, 0.31)),
    "grey_matter": (3.9, 0.06, 0.3),  # from here on: form and adult content as published, rates not
    "thalamus": (4.5, 0.10, 0.3),
    "red_nucleus": (19.1, 0.06, 0.4),
    "substantia_nigra": (18.1, 0.08, 0.4),
    "subthalamic": (18.1, 0.08, 0.4),
    "dentate": (10.0, 0.05, 0.35),
}
"""Asymptote and intercept in mg per 100 g of fresh tissue, rate per year."""


class Maps(NamedTuple):
    """What an anatomy is made of, everywhere, at one field strength."""

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
    b0: float
    """Field strength of the rates, T."""
    dr_pos: float
    """Dr+, 1/s per ppm."""
    dr_neg: float
    """Dr−, 1/s per ppm, averaged over fibre directions."""


def iron(name: str, age: float) -> float:
    """Return the non-haem iron of a tissue in mg per 100 g of fresh weight, after Hallgren and Sourander.

    Parameters
    ----------
    name
        A tissue of the brain.
    age
        Years.

    Returns
    -------
    float
        0 for tissues that nobody weighed.
    """
    asymptote, rate, intercept = _IRON.get(name, (0.0, 0.0, 0.0))
    return asymptote * (1 - math.exp(-rate * age)) + intercept


def static_dephasing(b0: float) -> float:
    r"""Return Dr of randomly placed spheres in static dephasing, :math:`\frac{2\pi}{9\sqrt3}\,\gamma B_0`, in 1/s per ppm.

    Parameters
    ----------
    b0
        Field strength, T.

    Returns
    -------
    float
        324 at 3 T, more than twice what is found in vivo.

    References
    ----------
    Yablonskiy DA, Haacke EM. Magn Reson Med 1994;32:749-763. doi:10.1002/mrm.1910320610.
    """
    return 2 * math.pi / (9 * math.sqrt(3)) * 2 * math.pi * GAMMA_BAR * 1e-6 * b0


def venous_chi(saturation: float, haematocrit: float = 0.42) -> float:
    r"""Return by how much venous blood exceeds arterial, :math:`4\pi\cdot0.27\,\mathrm{Hct}\,(1-Y)`, in ppm.

    The table's vein is that of Y = 0.81, the larger part of what maps of χ show in veins; the blood of a resting brain, at
    0.65, would have 0.5 ppm.

    Parameters
    ----------
    saturation
        Y, 0 to 1.
    haematocrit
        Share of blood that is red cells, 0 to 1.

    References
    ----------
    Spees WM, et al. Magn Reson Med 2001;45:533-542. doi:10.1002/mrm.1072.
    """
    return 4 * math.pi * 0.27 * haematocrit * (1 - saturation)


def relaxivity(b0: float, dr_pos: float | None = None, dr_neg: float | None = None) -> tuple[float, float]:
    """Fill in what is not given of Dr+ and Dr−: `RELAXIVITY`, in proportion to the field strength in T.

    Raises
    ------
    InputError
        A field strength or relaxivity that cannot be.
    """
    if not (math.isfinite(b0) and 0.01 <= b0 <= 30):
        raise InputError(f"the field strength must be in tesla, between 0.01 and 30, got {b0}.")
    for name, value in (("dr_pos", dr_pos), ("dr_neg", dr_neg)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name} is a rate per ppm and not negative, got {value}. At 3 T usual values are 114 to 137.")
    usual = RELAXIVITY * b0 / 3
    return (usual if dr_pos is None else float(dr_pos), usual if dr_neg is None else float(dr_neg))


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
    _soften(brain, anatomy)
    chi_pos, chi_neg, density, r1, r2 = brain.values()
    diamagnetic = chi_neg if turn is None else chi_neg * turn
    r2prime = dr[0] * chi_pos + dr[1] * diamagnetic
    air = anatomy.labels == 0
    r2prime.masked_fill_(air, 0.0)  # nothing there decays
    r2.masked_fill_(air, 0.0)
    r1.masked_fill_(air, 0.0)
    return Maps(chi_pos, chi_neg, density, r1, r2, r2prime, r2 + r2prime, columns["fat"], float(b0), *dr)


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
    return 1.0 if age is None or name not in _IRON else iron(name, age) / iron(name, REFERENCE_AGE)


def frame(anatomy: Anatomy) -> Frame:
    """Return the place of the voxels about the middle of the grid, mm: texture is the same at any resolution."""
    axes = [
        (torch.arange(n, dtype=torch.float64) - (n - 1) / 2).mul(size).float()
        for n, size in zip(anatomy.grid.shape, anatomy.grid.voxel_size, strict=True)
    ]
    return Frame(*axes)


def _vary(columns: dict[str, Tensor], anatomy: Anatomy, strength: float, generator: torch.Generator) -> None:
    """Let iron and myelin vary within each tissue, and all that follows from them."""
    place = frame(anatomy)
    detail = _within(anatomy)
    rough_iron, rough_myelin = noise(place, generator, TEXTURES), noise(place, generator, TEXTURES)
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


def _soften(brain: dict[str, Tensor], anatomy: Anatomy) -> None:
    """Share borders between voxels of the brain, nothing across its surface."""
    mask = anatomy.mask
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
