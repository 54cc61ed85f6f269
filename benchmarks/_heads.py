"""The heads that defaults are chosen and judged on: several anatomies, resolutions, noises and fields of view.

Fields are made on finer voxels and averaged, so that no method is fed its own discretisation, but for ``full``, ``cut`` and the heads of
`GRIDS`, and for ``thick`` within its slices. ``zubal`` is another anatomy altogether, drawn by hand, and bone and air touch its brain,
without fluid between; it needs the folder of real inputs beside the repository, stays there, and no default was chosen on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn.functional import avg_pool3d

from paradia.fft import crop, fast_shape, pad
from paradia.grid import Grid
from paradia.operators.dipole import Dipole
from paradia.scan import Scan
from paradia.simulate.head import head
from paradia.simulate.labels import ZUBAL as MAPPING

ECHO_TIMES = (0.004, 0.012, 0.020, 0.028)
ZUBAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "head-zubal"


NUCLEI = (
    "caudate", "putamen", "pallidum_external", "pallidum_internal", "thalamus", "subthalamic", "substantia_nigra", "red_nucleus", "dentate"
)  # fmt: skip
"""Deep grey nuclei, as the simulators call them."""


class Judged(NamedTuple):
    """A head, what a scanner would tell of it, and the truth."""

    name: str
    grid: Grid
    mask: Tensor
    """The brain."""
    chi: Tensor
    """ppm, everywhere."""
    local_field: Tensor
    """Of what the mask holds, ppm."""
    total_field: Tensor
    """Of everything, shimmed, ppm."""
    noise: Tensor
    """Standard deviation of the field of a four-echo scan, ppm, in the mask."""
    magnitude: Tensor
    """Of its echoes, everywhere, free of noise."""
    nuclei: Mapping[str, Tensor]
    """Deep grey nuclei: voxels of the brain that hold nothing else."""

    def noisy(self, field: Tensor, seed: int = 0) -> Tensor:
        """Return a field with noise, zero outside the mask."""
        draw = torch.randn(field.shape, generator=torch.Generator().manual_seed(seed))
        return (field + self.noise * draw) * self.mask


def judged(name: str) -> Judged:
    """Make a head by name; see `HEADS`."""
    return HEADS[name]()


def _simulated(
    name: str,
    shape: tuple[int, int, int],
    voxel: tuple[float, float, float],
    *,
    finer: tuple[int, int, int] = (1, 1, 1),
    seed: int = 0,
    b0: float = 3.0,
    snr: float = 100.0,
    b0_dir: tuple[float, float, float] = (0.0, 0.0, 1.0),
) -> Judged:
    fine = Grid(
        tuple(n * f for n, f in zip(shape, finer, strict=True)),  # type: ignore[arg-type]
        tuple(v / f for v, f in zip(voxel, finer, strict=True)),  # type: ignore[arg-type]
        b0_dir,
    )
    truth = head(fine, seed=seed, b0=b0)
    grid, mask = Grid(shape, voxel, b0_dir), _pool(truth.mask.float(), finer) > 0.99
    local_field = truth.local_field
    if finer != (1, 1, 1):
        inside = mask.float()
        for axis, factor in enumerate(finer):
            inside = inside.repeat_interleave(factor, axis)
        wide = fast_shape(fine.shape, fine.shape)
        local_field = crop(Dipole(fine.with_shape(wide))(pad(truth.chi * inside, wide)), fine.shape)
    echoes = torch.stack([_pool(truth.magnitude0 * torch.exp(-t * truth.r2star), finer) for t in ECHO_TIMES])
    fields = (_pool(field, finer) for field in (truth.chi, local_field, truth.total_field))
    nuclei = {name: mask & (_pool(truth.region(name).float(), finer) > 0.99) for name in NUCLEI if name in truth.names.values()}
    return Judged(name, grid, mask, *fields, _noise(echoes, mask, snr, b0), echoes, nuclei)


def _pool(image: Tensor, factor: tuple[int, int, int]) -> Tensor:
    return image.clone() if factor == (1, 1, 1) else avg_pool3d(image[None], factor)[0]


def _noise(echoes: Tensor, mask: Tensor, snr: float, b0: float) -> Tensor:
    """Return the Cramér-Rao bound of a fit of field and offset."""
    scan = Scan(ECHO_TIMES, b0)
    sigma = echoes[0].max() / snr
    angles = torch.tensor([scan.rad_per_ppm(t) for t in ECHO_TIMES])[:, None, None, None]
    weights = (echoes / sigma).square()
    total = weights.sum(0).clamp_min(1e-6)
    mean = (weights * angles).sum(0) / total
    information = (weights * (angles - mean).square()).sum(0)
    return torch.where(mask, information.clamp_min(1e-6).rsqrt(), 0.0).clamp_max(1.0)


_CHI = {
    **dict.fromkeys((0, 15, 104), 9.4), 100: 4.0, **dict.fromkeys((4, 5, 70, 71, 76, 81, 102), -2.1), 26: 0.3, 30: -0.5,
    **dict.fromkeys((22, 98), 0.6), 84: 0.3, 23: 0.2, 113: -0.02, **dict.fromkeys((83, 107, 111), -0.03), 91: -0.02, 85: -0.02,
    77: 0.005, **dict.fromkeys((89, 95, 103, 112, 114, 117, 124, 96, 99, 118), 0.02), 101: 0.05, 105: 0.045, 120: 0.13, 109: 0.02,
}  # fmt: skip
"""χ by label, ppm relative to water; what is not named has none."""


@cache
def _zubal() -> tuple[Tensor, Tensor, Tensor]:
    """Read labels, brain and texture at the drawn resolution; the neck goes on to the edge."""
    labels = np.asarray(nib.load(ZUBAL / "zubal_phantom_1iso.nii.gz").dataobj).astype(np.int16)
    brain = np.asarray(nib.load(ZUBAL / "zubalPhantom_brainMask_1iso.nii.gz").dataobj) > 0
    first = int(np.nonzero(labels.any((0, 1)))[0][0])
    labels[..., :first] = labels[..., first : first + 1]
    brain &= ~np.isin(labels, [n for n, chi in _CHI.items() if abs(chi) >= 0.3])
    noise = np.random.default_rng(0).standard_normal(labels.shape, dtype=np.float32)
    texture = sum(gaussian_filter(noise, s) * s**1.5 for s in (1.5, 4.0))
    return torch.from_numpy(labels), torch.from_numpy(brain), torch.from_numpy(texture / texture.std())


def _drawn(name: str, factor: int, *, snr: float = 100.0, cut: tuple[int, int] = (0, 192)) -> Judged:
    labels, brain, texture = _zubal()
    table = torch.zeros(125)
    table[list(_CHI)] = torch.tensor(list(_CHI.values()))
    chi = table[labels.long()] + 0.012 * texture * brain
    side = 0.775  # mm; the drawing's brain is 3.2 l at its nominal voxel
    fine, factors = Grid(tuple(labels.shape), (side,) * 3, (0.0, 0.1, 0.995)), (factor,) * 3  # type: ignore[arg-type]
    mask = _pool(brain.float(), factors) > 0.99
    inside = mask.clone()
    for axis in range(3):
        inside = inside.repeat_interleave(factor, axis)
    wide = fast_shape(fine.shape, [n // 2 for n in fine.shape])
    dipole = Dipole(fine.with_shape(wide))
    total = _pool(crop(dipole(pad(chi - 9.4, wide)), fine.shape), factors)
    local = _pool(crop(dipole(pad(chi * inside, wide)), fine.shape), factors)
    chi = _pool(chi, factors)
    x, y, z = torch.meshgrid(*((torch.arange(n) - n / 2) / 100 for n in mask.shape), indexing="ij")
    terms = torch.stack([torch.ones(mask.shape), x, y, z, x * y, x * z, y * z, x * x - y * y, 2 * z * z - x * x - y * y], -1)
    shim = torch.linalg.lstsq(terms[mask].double(), total[mask].double()[:, None]).solution[:, 0].float()
    total = total - terms @ shim
    bright = 0.8 * _pool(((labels != 0) & ~torch.isin(labels, torch.tensor([4, 104, 15]))).float(), factors)
    echoes = torch.stack([bright * math.exp(-t * 25) for t in ECHO_TIMES])
    keep = slice(cut[0] // factor, cut[1] // factor)
    grid = Grid(tuple(mask[..., keep].shape), (side * factor,) * 3, fine.b0_dir)  # type: ignore[arg-type]
    parts = [image[..., keep].contiguous() for image in (mask, chi, local, total, _noise(echoes, mask, snr, 3.0), echoes)]
    pure = {name: (_pool((labels == number).float(), factors) > 0.99) & mask for number, name in MAPPING.items() if name in NUCLEI}
    return Judged(name, grid, *parts, {name: region[..., keep].contiguous() for name, region in pure.items()})


HEADS: dict[str, Callable[[], Judged]] = {
    "coarse": lambda: _simulated("coarse", (96, 112, 96), (2.0, 2.0, 2.0), finer=(2, 2, 2), b0_dir=(0.0, 0.17, 0.985)),
    "coarse-7t": lambda: _simulated("coarse-7t", (96, 112, 96), (2.0, 2.0, 2.0), finer=(2, 2, 2), seed=1, b0=7.0, snr=60.0),
    "coarse-cut": lambda: _simulated("coarse-cut", (96, 96, 64), (2.0, 2.0, 2.0), finer=(2, 2, 2), seed=2),
    "thick": lambda: _simulated("thick", (128, 144, 60), (1.5, 1.5, 3.0), finer=(1, 1, 2), seed=3, snr=50.0, b0_dir=(0.3, 0.1, 0.95)),
    "full": lambda: _simulated("full", (192, 192, 128), (1.0, 1.0, 1.2), seed=4, b0_dir=(0.0, 0.17, 0.985)),
    "cut": lambda: _simulated("cut", (192, 192, 128), (1.0, 1.0, 1.0), seed=5),
    "zubal": lambda: _drawn("zubal", 2),
    "zubal-coarse": lambda: _drawn("zubal-coarse", 3),
    "zubal-cut": lambda: _drawn("zubal-cut", 2, cut=(30, 166)),
}
"""Heads by name. ``-cut`` heads reach beyond the field of view close to the brain."""
