"""What each tissue is made of: two susceptibilities, relaxation, proton density and fat.

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

from paradia.errors import InputError
from paradia.scan import GAMMA_BAR, usual_relaxivity

REFERENCE_AGE = 40.0
"""Age at which the table's χ+ holds, years."""


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
    Tissue("dura", 0.01, 0.02, 0.002, 0.003, 0.1, 0.60, 900.0, 8.0),
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


def has_iron(name: str) -> bool:
    """Whether a tissue's iron has a curve."""
    return name in _IRON


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
    """Fill in what is not given of Dr+ and Dr−: `usual_relaxivity` of the field strength in T.

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
    usual = usual_relaxivity(b0)
    return (usual if dr_pos is None else float(dr_pos), usual if dr_neg is None else float(dr_neg))
