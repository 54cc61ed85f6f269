"""What each tissue is made of: susceptibility, decay, proton density and T1.

χ in ppm relative to water, sums of the para- and diamagnetic columns of the realistic in-silico head [1]_; calcification
and the T1, T2* and proton densities are usual values at 3 T.  T2* of structures with much iron follows their χ.

References
----------
.. [1] Marques JP, et al. QSM reconstruction challenge 2.0: a realistic in silico head phantom. Magn Reson Med
   2021;86:526-542. doi:10.1002/mrm.28716.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Tissue(NamedTuple):
    """One tissue at 3 T."""

    name: str
    chi: float
    """Susceptibility, ppm."""
    spread: float
    """Standard deviation of χ within the tissue, ppm."""
    t2star: float
    """T2*, ms; 0 where there is nothing to see."""
    t1: float
    """T1, ms."""
    density: float
    """Proton density, water 1."""


TISSUES = (
    Tissue("air", 9.2, 0.0, 0.0, 0.0, 0.0),
    Tissue("muscle", 0.0, 0.004, 30.0, 1400.0, 0.75),
    Tissue("fat", 0.019, 0.004, 30.0, 380.0, 0.9),
    Tissue("bone", -2.1, 0.0, 1.5, 250.0, 0.08),
    Tissue("marrow", -1.0, 0.0, 8.0, 350.0, 0.35),
    Tissue("csf", 0.019, 0.001, 600.0, 4000.0, 1.0),
    Tissue("grey_matter", 0.020, 0.006, 60.0, 1400.0, 0.82),
    Tissue("white_matter", -0.030, 0.006, 48.0, 850.0, 0.70),
    Tissue("caudate", 0.044, 0.006, 45.0, 1250.0, 0.82),
    Tissue("putamen", 0.038, 0.008, 42.0, 1150.0, 0.80),
    Tissue("globus_pallidus", 0.1305, 0.012, 26.0, 1000.0, 0.73),
    Tissue("thalamus", 0.020, 0.008, 48.0, 1150.0, 0.76),
    Tissue("red_nucleus", 0.100, 0.010, 28.0, 1000.0, 0.74),
    Tissue("substantia_nigra", 0.111, 0.012, 27.0, 1050.0, 0.74),
    Tissue("dentate", 0.152, 0.014, 31.0, 1000.0, 0.74),
    Tissue("vein", 0.19, 0.004, 20.0, 1650.0, 0.80),
    Tissue("calcification", -3.3, 0.0, 8.0, 1000.0, 0.35),
)
"""Every tissue; its place in the row is its label."""

NAMES = {index: tissue.name for index, tissue in enumerate(TISSUES)}
LABELS = {name: index for index, name in NAMES.items()}


def r2star(tissue: Tissue, b0: float) -> float:
    """Return R2*, 1/s: at 7 T twice that at 3 T, linear in the field."""
    if tissue.t2star == 0:
        return 0.0
    return 1e3 / tissue.t2star * max(1 + (b0 - 3) / 4, 0.1)


def weight(tissue: Tissue, b0: float, tr: float, flip: float) -> float:
    """Return the steady-state signal of a spoiled gradient echo at echo time zero; T1 grows with B0 to the power 0.355."""
    if tissue.density == 0:
        return 0.0
    decay = math.exp(-tr * 1e3 / (tissue.t1 * (b0 / 3) ** 0.355))
    angle = math.radians(flip)
    return tissue.density * math.sin(angle) * (1 - decay) / (1 - math.cos(angle) * decay)
