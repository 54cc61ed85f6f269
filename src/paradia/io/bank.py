"""Rebuild the anatomy bank from openly licensed packages.

The bank ships with Paradia; this is how it was made. It needs nilearn (the ICBM 152 template: T1, grey and white matter) and pydeface (a
mean whole head), which Paradia itself does not need. Where neither has a label, or labels exist only on unclear terms, shapes are drawn
about published places and fitted to published volumes.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from paradia.errors import FileError, MissingDependencyError
from paradia.io import _bank_deep, _bank_head
from paradia.io._bank_fibres import tensor as fibre_tensor
from paradia.io._bank_lattice import Bools, Floats, Lattice, code, distance, largest, lattice, smooth
from paradia.io.atomic import replacing
from paradia.simulate.bank import DEEP, HEAD, Bank, Map, pack

CITE = "10.1016/j.neuroimage.2010.07.033"

_FINE = lattice((0.0, -112.0, -78.0), (78.0, 78.0, 88.0), 0.5)
_DEEP = lattice((0.0, -96.0, -48.0), (50.0, 44.0, 36.0), 0.5)
_HEAD = lattice((0.0, -136.0, -160.0), (104.0, 132.0, 116.0), 2.0)
_COARSE = lattice((0.0, -120.0, -84.0), (84.0, 84.0, 92.0), 4.0)

# From the template's frame to the mean head's: an affine fit of intensities within the brain by Powell's method, once, then rounded.
_TO_MEAN = np.array(
    [[0.8705, 0.0583, 0.0126, -4.3358], [-0.0601, 0.8783, -0.1168, 15.3396], [-0.0114, 0.1045, 0.8101, -2.768], [0.0, 0.0, 0.0, 1.0]]
)
_NAMES = ("", *(name for group in _bank_deep.GROUPS for name in group))


def build(output: Path) -> Path:
    """Build the anatomy bank from the installed packages nilearn and pydeface.

    Parameters
    ----------
    output
        The safetensors file to write, or a folder to put ``bank.safetensors`` into.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    MissingDependencyError
        nilearn or pydeface is not installed.
    FileError
        A package lacks its template, or the file cannot be written.

    Notes
    -----
    The same packages (nilearn 0.14.1 and pydeface 2.1.0) give the file that ships.

    References
    ----------
    .. [1] Fonov V, et al. Unbiased average age-appropriate atlases for pediatric studies. NeuroImage 2011;54:313-327.
       doi:10.1016/j.neuroimage.2010.07.033.
    """
    nilearn, pydeface = _package("nilearn"), _package("pydeface")
    output = Path(output)
    target = output if output.suffix == ".safetensors" else output / "bank.safetensors"
    templates = {
        name: _image(nilearn / "datasets" / "data" / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz") for name in ("t1", "gm", "wm")
    }
    mean, affine = _image(pydeface / "data" / "mean_reg2mean.nii.gz")
    bank = _assemble(templates, (mean, np.linalg.inv(_TO_MEAN) @ affine))
    with replacing(target) as file:
        file.write(pack(bank))
    return target


def _package(name: str) -> Path:
    """Return the folder of an installed package without importing it."""
    spec = find_spec(name)
    if spec is None or not spec.origin:
        raise MissingDependencyError(f"the anatomy bank is built from {name}, which is not installed. Run: pip install nilearn pydeface")
    return Path(spec.origin).parent


def _image(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read an image and its affine."""
    try:
        image: Any = nib.load(path)
        return np.asarray(image.dataobj, dtype=np.float32), image.affine
    except (OSError, nib.filebasedimages.ImageFileError) as error:
        raise FileError(f"{path} cannot be read ({error}). Install nilearn 0.14.1 and pydeface 2.1.0.") from error


def _assemble(
    templates: dict[str, tuple[NDArray[np.float32], NDArray[np.float64]]], mean: tuple[NDArray[np.float32], NDArray[np.float64]]
) -> Bank:
    """Make all maps."""
    t1, grey, wm = (_FINE.sample(*templates[name]) for name in ("t1", "gm", "wm"))
    white, water, hull = _brain(t1, grey, wm)
    cut = tuple(
        slice(round((o - p) / 0.5), round((o - p) / 0.5) + n) for o, p, n in zip(_DEEP.origin, _FINE.origin, _DEEP.shape, strict=True)
    )
    deep = _bank_deep.draw(_DEEP, t1[cut], white[cut], water[cut])
    for region in deep.regions.values():
        white[cut] &= ~region
        water[cut] &= ~region
    for tract in _bank_deep.GROUPS[3]:
        white[cut] |= deep.regions[tract]
    water[cut] |= deep.regions["choroid"]
    detail = _detail(t1, white, water, hull)
    brain = [code(distance(white, 0.5)[::2, ::2, ::2], 20), code(-distance(water, 0.5)[::2, ::2, ::2], 20), code(detail[::2, ::2, ::2], 30)]
    scores, labels = _groups(deep)
    ventricles = np.zeros_like(water)
    ventricles[cut] = deep.ventricles
    fine_hull = distance(hull, 0.5)
    coarse = _to(fine_hull, _FINE, _COARSE)
    wide = _widening(_to(distance(ventricles, 0.5), _FINE, _COARSE), coarse)
    fibres = fibre_tensor(_COARSE, _to(distance(white, 0.5), _FINE, _COARSE))
    return Bank(
        brain=_map(_FINE, brain, 1.0, (20.0, 20.0, 30.0)),
        deep=_map(_DEEP, scores, 1.0, (20.0,) * len(DEEP)),
        deep_labels=_map(_DEEP, labels, 1.0, (1.0,) * len(DEEP)),
        head=_map(_HEAD, _head(templates["t1"], mean, fine_hull), 2.0, (4.0,) * 3 + (12.0,) * (len(HEAD) - 3)),
        fibres=_map(_COARSE, [code(c, 100) for c in fibres], 4.0, (100.0,) * 6),
        widening=_map(_COARSE, [code(c, 100) for c in wide], 4.0, (100.0,) * 3),
        names=_NAMES,
        licences=(Path(__file__).parents[1] / "simulate" / "data" / "LICENCES.md").read_text(encoding="utf-8"),
    )


def _map(box: Lattice, channels: list[NDArray[np.uint8]], spacing: float, scale: tuple[float, ...]) -> Map:
    """Make a map of both sides of the head."""
    half = torch.from_numpy(np.stack(channels))
    x, y, z = box.origin
    size = half.shape[1] - 1
    return Map(torch.cat([half[:, 1:].flip(1), half], 1), (x - size * spacing, y, z), spacing, scale)


def _brain(t1: Floats, grey: Floats, wm: Floats) -> tuple[Bools, Bools, Bools]:
    """Tell white matter and water, and wrap the brain.

    The average of many brains blurs narrow sulci to grey. A local threshold on the sharpened contrast, lower near white matter, opens them.
    """
    x, y, z = (p.numpy() for p in _FINE.points())
    head = t1 > 20
    white = wm > grey
    near = ndimage.distance_transform_edt(~white) * 0.5
    local = smooth(t1, 4.0) / np.maximum(smooth(head.astype(np.float32), 4.0), 0.05)
    sharp = t1 + 2.3 * (t1 - local) * head
    tent = np.clip(8.0 - 0.8 * (-47.0 - y).clip(0), -22.0, 8.0)
    tent = tent + (-20.0 - tent) * np.clip(x / 14.0, 0, 1)
    below = (z < tent) & (y < -36.0 + 0.0 * x)
    stem = (x < 21.0 - 0.35 * (-10 - z).clip(0, 30)) & (y > -47.0) & (y < -8.0) & (z < 2.0) & (t1 > 165)
    stem |= (z < -48.0) & (x < 12) & (y > -56) & (t1 > 150)
    core = (x < 30.0) & (np.abs(y + 6.0) < 32.0) & (z > -9.0) & (z < 20.0) & (t1 > 206)
    deep = ndimage.distance_transform_edt(np.concatenate([head[:0:-1], head]))[head.shape[0] - 1 :] > 7.0
    white = white | (below & (sharp > 200.0) & deep) | (stem & ~((np.hypot(x, y + 36.0) < 5) & (z > -20))) | core
    water = (sharp < 132.0 + 13.0 * (near - 2.8)) & (near > 1.0)
    water = np.where(below, (sharp < 138.0) | (t1 < 112), water)
    water = (water | (t1 < 105)) & ~white & head
    tissue = largest(head & ~water)
    solid = np.concatenate([tissue[:0:-1], tissue])
    solid = ndimage.distance_transform_edt(~solid) < 12.0  # closing by a ball of 6 mm
    solid = ndimage.distance_transform_edt(solid)[tissue.shape[0] - 1 :] > 11.0
    hull = ndimage.binary_fill_holes(solid | tissue) & head
    return white & tissue, ~tissue, hull


def _detail(t1: Floats, white: Bools, water: Bools, hull: Bools) -> Floats:
    """Return the contrast within tissues: mean 0, SD 1 in each."""
    result = np.zeros_like(t1)
    for region in (white, hull & ~white & ~water, hull & water):
        inner = t1[region]
        level = smooth(np.where(region, t1, 0).astype(np.float32), 10.0) / np.maximum(smooth(region.astype(np.float32), 10.0), 0.02)
        result[region] = (inner - level[region]) / max(float(np.std(inner - level[region])), 1.0)
    return smooth(result, 0.8)


def _groups(deep: _bank_deep.Deep) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """Return a distance and the nearest member for each group."""
    scores, labels = [], []
    for group in _bank_deep.GROUPS:
        index = np.zeros(_DEEP.shape, np.uint8)
        for name in group:
            index[deep.regions[name]] = _NAMES.index(name)
        score = distance(index > 0, 0.5)
        where = ndimage.distance_transform_edt(index == 0, return_distances=False, return_indices=True)
        nearest = np.where(score > -5.0, index[tuple(where)], 0)
        scores.append(code(score[::2, ::2, ::2], 20))
        labels.append(nearest[::2, ::2, ::2].astype(np.uint8))
    return scores, labels


def _head(
    t1: tuple[NDArray[np.float32], NDArray[np.float64]], mean: tuple[NDArray[np.float32], NDArray[np.float64]], fine_hull: Floats
) -> list[NDArray[np.uint8]]:
    """Make the maps of the head."""
    grey = _HEAD.sample(*mean)
    mirrored = _HEAD._replace(origin=(-2.0 * (_HEAD.shape[0] - 1), *_HEAD.origin[1:])).sample(*mean)[::-1]
    grey = 0.5 * (grey + mirrored)  # the mean head is all but symmetric; the bank is
    brain = distance(_HEAD.sample(*t1) > 60, 2.0) + 1.0
    hull = _to(fine_hull, _FINE, _HEAD)
    cord, sheath = (part.numpy() for part in _bank_head.spinal(_HEAD.points()))
    z = np.broadcast_to(_HEAD.points()[2].numpy(), brain.shape)
    inside = np.where(z < -74.0, sheath, np.where(z < -58.0, np.maximum(brain, sheath), brain)).astype(np.float32)
    hull = np.where(z < -70.0, cord, np.where(z < -64.0, np.maximum(hull, cord), hull)).astype(np.float32)
    maps = _bank_head.draw(_HEAD, grey, inside) | {"skull_inside": inside, "hull": hull}
    return [code(maps[name], 4 if i < 3 else 12) for i, name in enumerate(HEAD)]


def _to(values: Floats, source: Lattice, target: Lattice) -> Floats:
    """Move a map of distances to another lattice; it goes on beyond its edge."""
    affine = np.diag([source.spacing] * 3 + [1.0])
    affine[:3, 3] = source.origin
    return target.sample(values, affine, mode="nearest")


def _widening(ventricles: Floats, hull: Floats) -> list[Floats]:
    """Push away from the middle of the ventricles, less with distance, nothing at the brain's surface."""
    flat = smooth(ventricles, 0.7)
    slopes: Any = np.gradient(flat, 4.0)
    slope = np.stack(slopes)
    away = -slope / np.maximum(np.linalg.norm(slope, axis=0), 0.25)
    out = (-flat).clip(0)
    share = np.exp(-((out / 20.0) ** 2)) * np.clip(1.0 - flat / 5.0, 0, 1) * np.clip(hull / 14.0, 0, 1)
    away *= share
    away[0, 0] = 0.0
    return [smooth(c, 0.6) if i else np.where(np.arange(c.shape[0])[:, None, None] == 0, 0, c) for i, c in enumerate(away)]
