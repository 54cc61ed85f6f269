"""Lesions on maps: how large, how bright, from rim to core, and against the tissue around them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Integer
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects, generate_binary_structure
from scipy.ndimage import label as connected
from torch import Tensor

from paradia.errors import GeometryError, InputError, MaskError, NonFiniteError
from paradia.grid import Grid
from paradia.sources.inside import depth
from paradia.types import Mask, Volume

CLASSES = ("hyper", "iso", "hypo")
"""Brighter than, like, and darker than the tissue around."""

UNKNOWN = "unknown"
"""Class of a lesion with too little tissue around it."""

FEWEST = 20
"""Voxels of normal-appearing tissue that a lesion is held against at least."""

DEEPEST = 10
"""Millimetres inside the border beyond which the profile tells no more depths apart."""

Labels = Integer[Tensor, "x y z"]


class Rule(NamedTuple):
    """What a lesion is held against, and when it differs."""

    near: float = 2.0
    """Tissue counts from this far outside the lesion's border, mm: nearer it may belong to the lesion."""
    far: float = 5.0
    """To this far, mm."""
    spread: float = 1.0
    """Difference beyond which a lesion is no longer iso-intense, in robust standard deviations of that tissue."""
    certainty: float = 2.0
    """And in standard errors of the difference."""
    rim: float = 1.5
    """Thickness of the rim inside the border, mm; the core is what lies deeper."""

    def __str__(self) -> str:
        shell = f"{self.near:g} to {self.far:g} mm outside its border, other lesions and excluded voxels left out"
        spread = f"{self.spread:g} robust standard deviations of that tissue (1.4826 times the median absolute deviation)"
        return (
            f"hyper- or hypo-intense where the lesion's mean differs from the median of the tissue {shell}, by more than {spread} and more "
            f"than {self.certainty:g} standard errors; iso-intense otherwise"
        )


class Depth(NamedTuple):
    """One step of the way from core to surroundings."""

    start: float
    """Distance from the border where it begins, mm; negative inside the lesion."""
    end: float
    voxels: int
    mean: float


class Brightness(NamedTuple):
    """A lesion on one map, in the map's unit; NaN where there is nothing to tell it from."""

    mean: float
    sd: float
    median: float
    core: float
    """Mean of what lies deeper than the rim."""
    rim: float
    """Mean of the rim."""
    around: float
    """Median of the normal-appearing tissue around."""
    around_sd: float
    """Its robust standard deviation."""
    difference: float
    """Mean of the lesion less `around`."""
    limit: float
    """Largest difference that is iso-intense."""
    kind: str
    """One of `CLASSES`, or `UNKNOWN`."""
    profile: tuple[Depth, ...]
    """In steps of 1 mm from the core outwards."""


class Lesion(NamedTuple):
    """One lesion."""

    label: int
    voxels: int
    volume: float
    """mm³."""
    centre: tuple[float, float, float]
    """Mean place, voxels."""
    around: int
    """Voxels of normal-appearing tissue."""
    maps: dict[str, Brightness]


class Agreement(NamedTuple):
    """How far two sets of classes of the same lesions agree."""

    number: int
    table: tuple[tuple[int, int, int], ...]
    """Rows: the first set; columns: the second; both in the order of `CLASSES`."""
    share: float
    """Share of lesions in one class."""
    low: float
    """Lower end of its 95 % interval after Wilson."""
    high: float
    kappa: float
    """Cohen's κ: agreement beyond chance, 1 at best; NaN where all lesions are in one class in both sets."""


def components(mask: Mask) -> Labels:
    """Number the connected parts of a mask from 1; voxels that touch at a corner are connected.

    Parameters
    ----------
    mask
        All lesions.
    """
    return torch.from_numpy(connected(mask.cpu().numpy(), generate_binary_structure(3, 3))[0].astype(np.int32)).to(mask.device)


def lesions(
    labels: Labels, maps: Mapping[str, Volume], mask: Mask, grid: Grid, *, exclude: Mask | None = None, rule: Rule | None = None
) -> list[Lesion]:
    """Measure every lesion on every map.

    Parameters
    ----------
    labels
        Number of the lesion that each voxel belongs to, 0 outside; `components` makes them of a mask.
    maps
        Maps by name, any unit.
    mask
        Voxels where the maps hold: lesions are measured inside it, and tissue outside it does not count.
    grid
        Voxel sizes.
    exclude
        Voxels that are no normal-appearing tissue: fluid, veins.
    rule
        See `Rule`.

    Returns
    -------
    list of Lesion
        In the order of their numbers. A lesion with too little tissue around it is of the class `UNKNOWN`.

    Raises
    ------
    GeometryError
        Images of different shapes.
    MaskError
        No voxel of a lesion lies in the mask, or no lesion has normal-appearing tissue around it.
    InputError
        A rule that makes no sense, or no map.
    NonFiniteError
        A map without numbers in a lesion or in its shell. Elsewhere such voxels are left out of the profile.

    Notes
    -----
    Distances from the border are those between voxel centres less half of a voxel's mean edge, so that they have no jump at the border.
    """
    rule = rule or Rule()
    _check(labels, maps, mask, grid, exclude, rule)
    inside = (labels * mask).long().cpu().numpy()
    tissue = (mask & (labels == 0) if exclude is None else mask & (labels == 0) & ~exclude).cpu().numpy()
    away = distance_transform_edt(labels.cpu().numpy() == 0, sampling=grid.voxel_size) - _half(grid)
    tissue &= away >= rule.near  # from any lesion
    values = {name: image.detach().cpu().double().numpy() for name, image in maps.items()}
    whole, boxes = mask.cpu().numpy(), find_objects(inside)
    places = [(number, box) for number, box in enumerate(boxes, 1) if box is not None]
    found = [_lesion(number, box, inside, tissue, values, whole, grid, rule) for number, box in places]
    if all(lesion.around < FEWEST for lesion in found):
        raise MaskError(
            f"no lesion has {FEWEST} voxels of normal-appearing tissue between {rule.near:g} and {rule.far:g} mm from its border. "
            "Exclude less, or widen the shell."
        )
    return found


def agreement(first: Sequence[str], second: Sequence[str]) -> Agreement:
    """Compare the classes of lesions by two pipelines; lesions that are `UNKNOWN` in either are left out.

    Parameters
    ----------
    first, second
        Classes of the same lesions in the same order.

    Raises
    ------
    InputError
        They are not as many, or none is known in both.

    References
    ----------
    Wilson EB. J Am Stat Assoc 1927;22:209-212. doi:10.1080/01621459.1927.10502953.
    Cohen J. Educ Psychol Meas 1960;20:37-46. doi:10.1177/001316446002000104.
    """
    if len(first) != len(second):
        raise InputError(f"there are {len(first)} lesions in the first set and {len(second)} in the second. Give the same lesions.")
    pairs = [pair for pair in zip(first, second, strict=True) if UNKNOWN not in pair]
    if not pairs:
        raise InputError("no lesion has a class in both sets. Give lesions with normal-appearing tissue around them.")
    table = np.array([[sum(pair == (a, b) for pair in pairs) for b in CLASSES] for a in CLASSES])
    n = len(pairs)
    share = float(np.trace(table)) / n
    z = 1.959964
    centre, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    chance = float(table.sum(0) @ table.sum(1)) / n**2
    kappa = (share - chance) / (1 - chance) if chance < 1 else math.nan
    rows = tuple((int(a), int(b), int(c)) for a, b, c in table)
    scale = 1 + z * z / n
    return Agreement(n, rows, share, max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale), kappa)


def _check(labels: Tensor, maps: Mapping[str, Tensor], mask: Tensor, grid: Grid, exclude: Tensor | None, rule: Rule) -> None:
    """Refuse what cannot be measured."""
    if not maps:
        raise InputError("there is no map to measure lesions on. Give at least one.")
    for name, image in {"labels": labels, "mask": mask, "exclude": exclude, **maps}.items():
        if image is not None and tuple(image.shape) != grid.shape:
            raise GeometryError(f"{name} has shape {tuple(image.shape)}, but the grid {grid.shape}. Bring all to one space.")
    if not 0 <= rule.near < rule.far or min(rule.spread, rule.certainty) < 0 or rule.rim <= 0:
        raise InputError(f"a shell goes from 0 or more to further out, limits are not negative and a rim is thicker than 0, got {rule!r}.")
    if not bool((labels > 0).any()):
        raise MaskError("the lesion mask is empty: no voxel is above zero. Give another.")
    if not bool(((labels > 0) & mask).any()):
        raise MaskError("no lesion lies inside the mask of the maps. Check that both are of one subject and in one space.")


def _lesion(
    number: int,
    box: tuple[slice, ...],
    inside: NDArray[np.int64],
    tissue: NDArray[np.bool_],
    values: Mapping[str, NDArray[np.float64]],
    mask: NDArray[np.bool_],
    grid: Grid,
    rule: Rule,
) -> Lesion:
    """Measure one lesion in a box around it."""
    reach = [math.ceil((rule.far + max(grid.voxel_size)) / size) + 1 for size in grid.voxel_size]
    around = tuple(slice(max(0, side.start - r), side.stop + r) for side, r in zip(box, reach, strict=True))
    own = inside[around] == number
    within = depth(torch.from_numpy(own), grid).numpy()
    away = distance_transform_edt(~own, sampling=grid.voxel_size)
    distance = np.where(own, _half(grid) - within, away - _half(grid))
    shell = tissue[around] & (distance >= rule.near) & (distance <= rule.far)
    outside = mask[around] & ((inside[around] == 0) | own)
    places = np.argwhere(own).mean(0) + [side.start for side in around]
    found = {}
    for name, volume in values.items():
        image = volume[around]
        if not np.isfinite(image[own | shell]).all():
            raise NonFiniteError(f"{name} is NaN or Inf in or around lesion {number}. Take those voxels out of the mask.")
        found[name] = _brightness(image, own, shell, distance, outside, rule)
    count = int(own.sum())
    centre = (float(places[0]), float(places[1]), float(places[2]))
    return Lesion(number, count, count * grid.voxel_volume, centre, int(shell.sum()), found)


def _brightness(
    image: NDArray[np.float64],
    own: NDArray[np.bool_],
    shell: NDArray[np.bool_],
    distance: NDArray[np.float64],
    outside: NDArray[np.bool_],
    rule: Rule,
) -> Brightness:
    """Measure a lesion on one map."""
    values, near = image[own], image[shell]
    deep = own & (distance < -rule.rim)
    core, rim = _mean(image[deep]), _mean(image[own & ~deep])
    mean, sd = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0
    profile = _profile(image, own, distance, outside & np.isfinite(image), rule)
    if len(near) < FEWEST:
        return Brightness(mean, sd, float(np.median(values)), core, rim, math.nan, math.nan, math.nan, math.nan, UNKNOWN, profile)
    middle = float(np.median(near))
    spread = 1.4826 * float(np.median(np.abs(near - middle)))
    error = math.sqrt(sd**2 / len(values) + math.pi / 2 * spread**2 / len(near))  # a median's is larger than a mean's
    limit, difference = max(rule.spread * spread, rule.certainty * error), mean - middle
    kind = "hyper" if difference > limit else "hypo" if difference < -limit else "iso"
    return Brightness(mean, sd, float(np.median(values)), core, rim, middle, spread, difference, limit, kind, profile)


def _profile(
    image: NDArray[np.float64], own: NDArray[np.bool_], distance: NDArray[np.float64], outside: NDArray[np.bool_], rule: Rule
) -> tuple[Depth, ...]:
    """Return means over steps of 1 mm from the border, other lesions left out."""
    deepest = min(DEEPEST, math.ceil(-float(distance[own].min()) + 1e-9))
    steps = []
    for start in range(-deepest, math.ceil(rule.far)):
        low = -math.inf if start == -DEEPEST else start
        here = outside & (distance >= low) & (distance < start + 1)
        if here.any():
            steps.append(Depth(float(start), float(start + 1), int(here.sum()), float(image[here].mean())))
    return tuple(steps)


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean, or NaN of nothing: a small lesion has no core, and one of voxels thicker than a rim has no rim."""
    return float(values.mean()) if values.size else math.nan


def _half(grid: Grid) -> float:
    """Return half of a voxel's mean edge, mm."""
    return sum(grid.voxel_size) / 6
