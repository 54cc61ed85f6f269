"""The bank's head outside the brain: skin and fat from the mean head, bone, sinuses and airways drawn about the places it shows."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from paradia.io._bank_lattice import Floats, Lattice, distance, smooth
from paradia.simulate._shapes import Point, ellipsoid, join, superellipsoid, tube

At = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

# Places in the template's frame read off the mean head: centre on the right, half-axes, turn.
_SINUSES: tuple[tuple[Point, Point], ...] = (
    ((10.0, 79.0, -10.0), (11.0, 5.5, 12.0)),  # frontal
    ((7.0, 46.0, -37.0), (5.2, 25.0, 11.5)),  # ethmoid
    ((8.5, 15.0, -37.0), (7.8, 12.0, 10.0)),  # sphenoid
    ((28.0, 46.0, -62.0), (11.5, 15.5, 15.0)),  # maxillary
)
_MASTOID: tuple[Point, Point] = ((57.0, -40.0, -42.0), (8.5, 13.0, 15.0))
_EYE: tuple[Point, Point] = ((33.0, 67.0, -42.0), (13.2, 13.2, 13.2))


def draw(box: Lattice, mean: Floats, inside: Floats) -> dict[str, Floats]:
    """Draw the head on the right half of a lattice.

    Parameters
    ----------
    box
        The lattice, 2 mm.
    mean
        The mean head's T1 contrast.
    inside
        Distance into the skull, mm: over brain and water.

    Returns
    -------
    dict
        Distances named as `simulate.bank.HEAD`, without the inside of the skull and the brain.
    """
    at = box.points()
    skin = _skin(box, at, mean)
    _, _, z = _full(at)
    # the mean head is less domed in front than the template: no scalp lies farther from the brain than skull and scalp are thick
    skin = smooth(np.minimum(skin, inside + 15.0 + 250.0 * _ramp(-z, 0.0, 60.0)), 1.0)
    cavity, airway, eye = _cavities(at)
    bone = _bone(at, skin, inside)
    shell = np.maximum(cavity, -99) + 1.8  # every sinus has walls of bone
    bone = np.maximum(bone, np.minimum(shell, skin - 4.0))
    bone = np.minimum(bone, -np.maximum(_np(eye), _np(_orbit(at))))
    fat = _fat(at, mean, skin)
    return {"skin": skin, "bone": bone, "cavity": cavity, "airway": airway, "eye": _np(eye), "fat": fat}


def _np(values: torch.Tensor) -> Floats:
    return np.ascontiguousarray(values.numpy(), dtype=np.float32)


def _full(at: At) -> tuple[Floats, Floats, Floats]:
    x, y, z = at
    zero = 0 * (x + y + z)
    return _np(x + zero), _np(y + zero), _np(z + zero)


def _skin(box: Lattice, at: At, mean: Floats) -> Floats:
    """Find the skin in the mean head; below its field of view a jaw and a neck follow."""
    _, _, z = _full(at)
    region = (smooth(mean, 1.0) > 90.0) & (z < 110.0)
    margin = ((6, 6), (6, 6), (6, 6))
    region = ndimage.binary_closing(np.pad(np.pad(region, margin, mode="edge"), margin), iterations=5)[12:-12, 12:-12, 12:-12]
    for k in range(region.shape[2]):  # a slice at a time: cavities inside are no outside
        both = np.concatenate([region[:0:-1, :, k], region[:, :, k]])
        region[:, :, k] = ndimage.binary_fill_holes(both)[region.shape[0] - 1 :]
    found = smooth(distance(region, box.spacing), 0.7)
    neck = tube(at, [(0.0, -32.0, -60.0), (0.0, -38.0, -110.0), (0.0, -42.0, -260.0)], [64.0, 60.0, 60.0])
    chin = superellipsoid(at, (0.0, 26.0, -92.0), (54.0, 64.0, 44.0))[0]
    drawn = _np(join(neck, chin, 10.0))
    share = np.clip((z + 112.0) / 16.0, 0, 1)
    return (share * found + (1 - share) * np.minimum(drawn, 40.0)).astype(np.float32)


def _cavities(at: At) -> tuple[Floats, Floats, torch.Tensor]:
    """Paranasal sinuses and mastoid cells; nose, mouth, throat and ear canals; eyes."""
    x, y, z = at
    total = torch.full((1, 1, 1), -99.0)
    for centre, semi in _SINUSES:
        total = torch.maximum(total, ellipsoid(at, centre, semi))
    septa = 0.9 * torch.sin(x * 1.1) * torch.sin(y * 0.42 + 0.3 * z)  # ethmoid cells
    total = total - torch.where((x < 14) & (y > 18) & (z > -50) & (z < -24), septa.abs(), torch.zeros(()))
    cells = torch.minimum(ellipsoid(at, *_MASTOID), 2.0 + 3.6 * torch.sin(x * 0.85) * torch.sin(y * 0.75 + 1.0) * torch.sin(z * 0.8))
    total = torch.maximum(total, cells)
    passages = torch.maximum(
        ellipsoid(at, (5.0, 62.0, -64.0), (3.6, 32.0, 17.0)),
        tube(
            at,
            [(0.0, 28.0, -66.0), (0.0, 10.0, -72.0), (0.0, 6.0, -95.0), (0.0, 4.0, -120.0), (0.0, 6.0, -140.0), (0.0, 6.0, -260.0)],
            [8.0, 9.0, 6.5, 7.0, 9.0, 9.0],
        ),
    )
    passages = torch.maximum(passages, tube(at, [(5.0, 86.0, -80.0), (6.0, 96.0, -92.0)], [3.6, 4.5]))  # nostrils
    passages = torch.maximum(passages, tube(at, [(46.0, -24.0, -38.0), (60.0, -24.0, -38.0), (100.0, -26.0, -40.0)], [3.2, 3.4, 4.6]))
    passages = torch.maximum(passages, 3.0 - (torch.hypot(torch.hypot(x / 22.0, (y - 45.0) / 30.0), (z + 91.0) / 3.0) * 3.0))
    eye = ellipsoid(at, *_EYE)
    return _np(total), _np(passages), eye


def _orbit(at: At) -> torch.Tensor:
    """The cone of fat and muscle behind an eye."""
    return tube(at, [(33.0, 68.0, -42.0), (20.0, 30.0, -36.0)], [16.0, 3.5])


def _bone(at: At, skin: Floats, inside: Floats) -> Floats:
    """Calvaria between skull's inside and scalp; petrous bone, face, jaw and spine."""
    x, y, z = _full(at)
    thick = (
        7.4
        + 5.0 * _ramp(y, 50.0, 70.0) * _ramp(z, -30.0, -15.0) * _ramp(-z, -20.0, 0.0)
        + 2.0 * _ramp(-y, 80.0, 105.0) * _ramp(z, -30.0, -10.0)
    )
    thick -= 3.0 * _ramp(x, 55.0, 68.0) * _ramp(-z, -20.0, 5.0)  # thin behind the temples
    calvaria = np.minimum(-inside + 0.0, inside + thick)
    base = np.minimum(-inside, inside + 13.0)
    petrous = np.minimum(base, _np(tube(at, [(14.0, -8.0, -38.0), (40.0, -26.0, -38.0), (58.0, -36.0, -44.0)], [9.0, 11.0, 13.0])))
    clivus = np.minimum(base, _np(tube(at, [(0.0, 14.0, -32.0), (0.0, -8.0, -50.0), (0.0, -18.0, -66.0)], [12.0, 11.0, 8.0])))
    face = torch.maximum(
        tube(at, [(36.0, 34.0, -86.0), (28.0, 62.0, -84.0), (0.0, 80.0, -82.0)], [8.0, 7.5, 7.0]),  # upper jaw
        tube(
            at,
            [(54.0, 2.0, -52.0), (50.0, 4.0, -92.0), (40.0, 34.0, -112.0), (20.0, 64.0, -118.0), (0.0, 76.0, -116.0)],
            [5.0, 6.0, 7.0, 7.0, 8.0],
        ),
    )
    face = torch.maximum(
        face, tube(at, [(64.0, -12.0, -42.0), (66.0, 20.0, -48.0), (50.0, 54.0, -58.0), (42.0, 58.0, -58.0)], [3.0, 4.0, 6.0, 7.0])
    )
    face = torch.maximum(face, tube(at, [(0.0, 84.0, -24.0), (6.0, 92.0, -42.0)], [5.0, 3.0]))  # bridge of the nose
    xt, yt, zt = at
    palate = 2.4 - (zt + 80.0).abs() + 0 * xt + 0 * yt
    palate = torch.minimum(palate, ellipsoid(at, (0.0, 48.0, -80.0), (25.0, 30.0, 20.0)))
    septum = torch.minimum(1.2 - xt + 0 * yt + 0 * zt, ellipsoid(at, (0.0, 60.0, -60.0), (4.0, 28.0, 22.0)))
    orbit = 2.2 - (_orbit(at) + 2.2).abs()
    orbit = torch.minimum(orbit, 64.0 - yt + 0 * xt + 0 * zt)
    spine = tube(at, [(0.0, -24.0, -76.0), (0.0, -22.0, -120.0), (0.0, -26.0, -260.0)], [11.0, 11.5, 12.0])
    arch = tube(at, [(14.0, -32.0, -80.0), (16.0, -40.0, -120.0), (16.0, -42.0, -260.0)], [6.0, 6.5, 6.5])
    spines = tube(at, [(0.0, -66.0, -84.0), (0.0, -68.0, -120.0), (0.0, -70.0, -260.0)], [6.0, 5.0, 5.0])
    discs = 1.5 * torch.cos(2 * torch.pi * zt / 19.0).clamp(min=0.2) - 0.3 + 0 * xt + 0 * yt
    spine = torch.maximum(spine - discs, torch.maximum(arch - discs, spines - 2 * discs))
    drawn = face
    for part in (palate, septum, orbit, spine):
        drawn = torch.maximum(drawn, part)
    skull = np.maximum.reduce([calvaria, petrous, clivus])
    neck = _ramp(-z, 62.0, 70.0)  # where the brain leaves the skull there is no shell
    skull = np.where(neck > 0.5, -8.0, skull)
    bone = np.maximum(skull, np.minimum(_np(drawn), -inside))
    return np.minimum(bone, skin - 4.5).astype(np.float32)


def _fat(at: At, mean: Floats, skin: Floats) -> Floats:
    """Return where fat outweighs muscle: the scalp, the orbits, under the skin of the face, where the mean head is bright."""
    _, _, z = _full(at)
    bright = (smooth(mean, 0.7) - 330.0) / 40.0
    bright = np.where(z < -108.0, np.minimum(9.0 - skin, 2.0), bright)
    scalp = np.minimum(skin - 1.6, 6.5 - skin)
    behind = np.minimum(_np(_orbit(at)), 4.0)
    return np.maximum.reduce([bright, scalp, behind]).astype(np.float32)


def _ramp(values: Floats, low: float, high: float) -> Floats:
    return np.clip((values - low) / (high - low), 0, 1).astype(np.float32)


def spinal(at: At) -> tuple[torch.Tensor, torch.Tensor]:
    """Return distances into the cord and its sheath of water below the template's brain."""
    path: list[Point] = [(0.0, -42.0, -62.0), (0.0, -46.0, -76.0), (0.0, -45.0, -110.0), (0.0, -48.0, -260.0)]
    return tube(at, path, [7.5, 6.2, 5.8, 5.8]), tube(at, path, [11.0, 10.0, 9.0, 9.0])
