"""Heads made of anything: the outlines of anatomy, filled with what no tissue holds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paradia.simulate._noise import texture
from paradia.simulate.anatomy import Anatomy
from paradia.simulate.tissue import TISSUES, Maps, place, relaxed, soften

PARTS = 3
"""Into how many parts each tissue falls apart."""

LENGTHS = (8.0, 40.0)
"""Range of the size of these parts, mm."""

SOURCES = (0.1, 4.0)
"""Range of the factor on χ+ and on χ−, each drawn on its own."""

EXTRA = (0.01, 0.2)
"""Range of what may be added to either, ppm."""

OFTEN = 0.5
"""How often it is."""

OUTSIDE = (0.5, 1.5)
"""Range of the factor on the susceptibility of what lies around the brain."""


def randomised(tissue: Maps, anatomy: Anatomy, *, seed: int, dr_pos: float, dr_neg: float) -> Maps:
    """Keep the outlines of a head and change what fills them.

    Every tissue of the brain falls apart into three; each part has its χ+, χ−, proton density, R1 and R2 multiplied, and now and
    then something added, all by chance. What lies around the brain is more or less magnetic than in life. A network that is shown
    such heads learns shapes and physics, but not what a caudate holds.

    Parameters
    ----------
    tissue
        Maps of the head.
    anatomy
        Its outlines.
    seed
        Draws everything.
    dr_pos
        Dr+, Hz/ppm.
    dr_neg
        Dr−, Hz/ppm.

    Returns
    -------
    Maps
        R2′ = Dr+ χ+ + Dr− χ− of the sources drawn, whatever fibres do.

    References
    ----------
    Billot B, et al. SynthSeg: segmentation of brain MRI scans of any contrast and resolution without retraining. Med Image Anal
    2023;86:102789. doi:10.1016/j.media.2023.102789. There contrasts are drawn anew, here sources.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, count: int) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    def power(low: float, high: float, count: int) -> Tensor:
        return uniform(math.log(low), math.log(high), count).exp()

    count = PARTS * len(TISSUES)
    part = _parts(anatomy, float(power(*LENGTHS, 1)), generator) + PARTS * anatomy.labels.long()
    changed = {}
    for name in ("chi_pos", "chi_neg", "density", "r1", "r2"):
        source = name.startswith("chi")
        factor = power(*SOURCES, count) if source else uniform(0.7, 1.3, count)
        more = power(*EXTRA, count) * (uniform(0.0, 1.0, count) < OFTEN) if source else torch.zeros(count)
        both = {"factor": factor[part], "more": more[part]}
        soften(both, anatomy.mask)
        image = getattr(tissue, name)
        changed[name] = torch.where(anatomy.mask, image * both["factor"] + both["more"], image)
        if source:
            around = uniform(*OUTSIDE, len(TISSUES))[anatomy.labels.long()]
            changed[name] = torch.where(anatomy.mask, changed[name], image * around)
    return relaxed(tissue._replace(**changed), anatomy, dr_pos, dr_neg)


def _parts(anatomy: Anatomy, length: float, generator: torch.Generator) -> Tensor:
    """Number the largest of several smooth random fields in every voxel."""
    here = place(anatomy.grid)
    return torch.stack([texture(here, generator, (length,)) for _ in range(PARTS)]).argmax(0)
