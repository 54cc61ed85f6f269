"""Deep structures of the bank: shapes about published places, confined by the template's contrast, to published volumes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage

from paradia.io._bank_lattice import Bools, Floats, Lattice, distance, largest, smooth
from paradia.simulate._shapes import Point, ellipsoid, tube

# Volumes on one side of an average brain, cm³; the template is larger than life by the factor below. Caudate, putamen, thalamus:
# Ahsan et al. 2007, doi 10.1016/j.neuroimage.2007.06.004 (post-mortem and MRI tables therein); pallidum, subthalamic nucleus, red nucleus,
# substantia nigra: Keuken et al. 2014, doi 10.1016/j.neuroimage.2013.07.046, and Massey & Yousry 2010; dentate: Diedrichsen et al. 2011,
# doi 10.1016/j.neuroimage.2010.10.035. Places: the same sources and the template itself.
LARGER = 1.31
VOLUMES = {
    "caudate": 3.75,
    "putamen": 4.6,
    "pallidum_external": 1.1,
    "pallidum_internal": 0.46,
    "thalamus": 6.5,
    "subthalamic": 0.145,
    "substantia_nigra": 0.55,
    "red_nucleus": 0.28,
    "dentate": 0.95,
    "choroid": 0.35,
    "pineal": 0.06,  # half of it: the midplane cuts it
}
GROUPS: tuple[tuple[str, ...], ...] = (
    ("caudate", "pallidum_external", "red_nucleus", "dentate", "choroid", "pineal"),
    ("putamen", "thalamus", "substantia_nigra"),
    ("pallidum_internal", "subthalamic"),
    ("corpus_callosum", "internal_capsule", "optic_radiation"),
)

_CAUDATE: tuple[list[Point], list[float]] = (
    [
        (9.5, 11.0, -7.0),
        (12.0, 18.0, 2.0),
        (14.0, 9.0, 13.0),
        (16.5, -5.0, 19.0),
        (19.0, -15.0, 21.5),
        (23.0, -27.0, 20.0),
        (28.0, -36.0, 12.0),
        (31.0, -38.0, 4.0),
        (33.0, -28.0, -6.0),
    ],
    [6.0, 8.5, 8.0, 6.0, 5.0, 4.0, 2.6, 2.0, 1.4],
)
_PUTAMEN: tuple[list[Point], list[float]] = (
    [(18.0, 14.0, -6.0), (21.0, 12.0, 1.0), (25.5, 3.0, 3.0), (28.0, -4.0, 3.0), (30.0, -12.0, 3.0), (31.5, -20.0, 1.0)],
    [7.0, 9.0, 10.5, 10.0, 8.0, 4.0],
)
_PALLIDUM: tuple[list[Point], list[float]] = (
    [(14.0, 4.0, -3.0), (18.0, -2.0, 0.0), (21.5, -8.0, 1.0), (25.0, -14.0, 1.0)],
    [5.5, 8.0, 8.0, 4.5],
)
_CALLOSUM: tuple[list[Point], list[float]] = (
    [
        (0.0, 17.0, -7.0),
        (0.0, 28.0, 1.0),
        (0.0, 31.0, 8.0),
        (0.0, 24.0, 17.0),
        (0.0, 8.0, 24.0),
        (0.0, -12.0, 27.0),
        (0.0, -28.0, 23.0),
        (0.0, -39.0, 14.0),
        (0.0, -35.0, 7.0),
    ],
    [3.0, 6.0, 8.0, 8.0, 7.0, 7.0, 7.0, 8.0, 5.0],
)
_RADIATION: tuple[list[Point], list[float]] = (
    [
        (23.0, -25.0, -3.0),
        (34.0, -17.0, -7.0),
        (38.0, -30.0, -4.0),
        (36.0, -48.0, 2.0),
        (29.0, -66.0, 4.0),
        (20.0, -82.0, 4.0),
        (13.0, -90.0, 3.0),
    ],
    [3.0, 3.5, 4.0, 5.0, 5.0, 4.0, 3.0],
)


class Deep(NamedTuple):
    """Deep structures on a lattice."""

    regions: dict[str, Bools]
    """Where each lies, none over another."""
    ventricles: Bools
    """Lateral and third ventricles, aqueduct and fourth ventricle."""


def draw(box: Lattice, t1: Floats, white: Bools, water: Bools) -> Deep:
    """Draw all deep structures on the right.

    Parameters
    ----------
    box
        The lattice, 0.5 mm.
    t1
        The template's T1 contrast, 0 to 255.
    white
        Where white matter prevails in the template.
    water
        Where there is cerebrospinal fluid.
    """
    at = box.points()
    t = smooth(t1, 1.0)
    regions: dict[str, Bools] = {}
    taken = water.copy()

    def fit(name: str, score: Floats) -> None:
        regions[name] = _fit(score, ~taken, VOLUMES[name] * LARGER * 1000 / box.spacing**3)
        taken[regions[name]] = True

    wet = 0.12 * (t - 150.0)
    fit("caudate", np.minimum.reduce([_np(tube(at, *_CAUDATE)), 0.15 * (213.0 - t), wet]))
    lateral = 33.6 - _np(at[0] + 0 * at[1] + 0 * at[2])
    fit("putamen", np.minimum.reduce([_np(tube(at, *_PUTAMEN)), 0.2 * (211.0 - t), wet, lateral]))
    pallidum = np.minimum(_np(tube(at, *_PALLIDUM)), 0.15 * (222.0 - t))
    whole = _fit(pallidum, ~taken, (VOLUMES["pallidum_external"] + VOLUMES["pallidum_internal"]) * LARGER * 1000 / box.spacing**3)
    inner = -distance(regions["putamen"], box.spacing) - 0.08 * (_np(at[1] + 0 * at[0] + 0 * at[2]) + 6.0)
    fit("pallidum_internal", np.where(whole, inner, -99.0).astype(np.float32))
    regions["pallidum_external"] = whole & ~regions["pallidum_internal"]
    taken |= whole
    thalamus = _np(ellipsoid(at, (11.8, -17.5, 7.0), (9.8, 16.0, 10.0), (0.0, 0.0, 24.0)))
    fit("thalamus", np.minimum.reduce([thalamus, 0.15 * (222.0 - t), wet]))
    fit("subthalamic", _np(ellipsoid(at, (11.3, -13.0, -6.8), (2.6, 4.6, 2.2), (25.0, 25.0, 28.0))))
    fit("red_nucleus", _np(ellipsoid(at, (5.2, -21.0, -8.8), (3.8, 3.9, 4.6), (-15.0, 0.0, 0.0))))
    fit("substantia_nigra", _np(ellipsoid(at, (10.6, -17.3, -12.5), (2.6, 7.0, 4.6), (30.0, 28.0, 40.0))))
    fit("dentate", _dentate(at))
    ventricles = _ventricles(at, water)
    glomus = np.maximum(
        _np(tube(at, [(19.0, -30.0, 17.0), (22.0, -38.0, 11.0), (25.0, -36.0, 4.0)], [1.5, 2.6, 1.5])),
        _np(tube(at, [(5.0, -8.0, 18.0), (12.0, -20.0, 19.0), (19.0, -30.0, 17.0)], [0.8, 1.0, 1.4])),
    )
    taken &= ~ventricles
    fit("choroid", np.where(ventricles, glomus, -9.0).astype(np.float32))
    fit("pineal", _np(ellipsoid(at, (0.0, -31.0, 0.5), (3.2, 4.2, 2.8))))
    taken |= ventricles
    _tracts(box, at, white & ~taken, regions)
    return Deep(regions, ventricles)


def _np(values: torch.Tensor) -> Floats:
    return np.ascontiguousarray(values.numpy(), dtype=np.float32)


def _fit(score: Floats, free: Bools, voxels: float) -> Bools:
    """Return the connected region of the highest scores, as many voxels as asked."""
    score = np.where(free, smooth(score, 1.0), -99.0).astype(np.float32)
    want = round(voxels)
    for _ in range(3):
        level = np.partition(score.ravel(), -want)[-want]
        region = score >= max(level, -90.0)
        main = largest(region)
        if main.sum() > 0.995 * region.sum():
            break
        score = np.where(region & ~main, -99.0, score).astype(np.float32)
    return main


def _dentate(at: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> Floats:
    """A crumpled sheet about a hilum that opens forward and inward."""
    x, y, z = at
    outer = ellipsoid(at, (15.5, -57.0, -34.0), (7.5, 10.5, 6.8), (15.0, 20.0, -28.0))
    folds = 1.1 * (torch.sin(x * 1.5 + 0.5 * z) * torch.cos(z * 1.3) + torch.sin(y * 1.2 + 0.4 * x) * torch.cos(x * 1.0 + z * 0.8))
    sheet = 1.2 - (outer - 2.2 + folds).abs()
    hilum = ellipsoid(at, (9.5, -50.0, -33.5), (6.0, 7.0, 3.6), (0.0, 0.0, -28.0))
    return _np(torch.minimum(torch.minimum(sheet, outer + 1.5), -hilum))


def _ventricles(at: tuple[torch.Tensor, torch.Tensor, torch.Tensor], water: Bools) -> Bools:
    """Take the template's water within generous tubes about the ventricles."""
    lateral: list[Point] = [
        (4.0, 30.0, 4.0),
        (8.0, 20.0, 12.0),
        (9.0, 5.0, 18.0),
        (13.0, -15.0, 22.0),
        (22.0, -38.0, 16.0),
        (28.0, -36.0, 2.0),
        (32.0, -24.0, -10.0),
        (30.0, -8.0, -18.0),
    ]
    shape = torch.maximum(
        tube(at, lateral, [10.0, 11.0, 11.0, 10.0, 13.0, 10.0, 6.0, 5.0]), tube(at, [(22.0, -40.0, 14.0), (24.0, -66.0, 9.0)], [9.0, 6.0])
    )
    middle = torch.maximum(
        tube(at, [(0.0, 4.0, -6.0), (0.0, -10.0, 0.0), (0.0, -22.0, 2.0)], [5.0, 7.0, 5.0]),
        torch.maximum(
            tube(at, [(0.0, -26.0, -3.0), (0.0, -34.0, -16.0)], [2.2, 2.2]),
            tube(at, [(0.0, -38.0, -24.0), (0.0, -46.0, -38.0)], [8.0, 8.0]),
        ),
    )
    near = _np(torch.maximum(shape, middle)) > 0
    return near & water


def _tracts(box: Lattice, at: tuple[torch.Tensor, torch.Tensor, torch.Tensor], white: Bools, regions: dict[str, Bools]) -> None:
    """Name the white matter of the corpus callosum, the internal capsule and the optic radiation."""
    x, y, z = at
    flat = tube((0 * x, y, z), *_CALLOSUM)  # the same at every x
    callosum = white & (_np(flat - 0.009 * x.square()) > 0)
    regions["corpus_callosum"] = largest(callosum)
    medial = distance(regions["caudate"] | regions["thalamus"], box.spacing)
    lateral = distance(regions["putamen"] | regions["pallidum_external"] | regions["pallidum_internal"], box.spacing)
    height = _np(z + 0 * x + 0 * y)
    capsule = white & (medial > -9.0) & (lateral > -9.0) & (height > -8.0) & (height < 22.0) & ~regions["corpus_callosum"]
    regions["internal_capsule"] = largest(ndimage.binary_opening(capsule, iterations=1))
    radiation = white & (_np(tube(at, *_RADIATION)) > 0) & ~regions["internal_capsule"] & ~regions["corpus_callosum"]
    regions["optic_radiation"] = largest(radiation)
