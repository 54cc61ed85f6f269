"""How well para- and diamagnetic sources were told apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor

from paradia.metrics.accuracy import region_means
from paradia.types import Mask, Volume

FEWEST = 50
"""Voxels that a region or a bin of angles must have to count."""

LEAST = 5e-3
"""Smallest true mean that a percentage can be taken of, ppm."""


def leak(estimate: Volume, region: Mask) -> float:
    """Return the mean magnitude of a source map where there is none of its kind.

    Parameters
    ----------
    estimate
        One source, ppm.
    region
        Where all that there is belongs to the other source: calcifications for the paramagnetic map, iron-rich nuclei and
        veins for the diamagnetic one.

    Returns
    -------
    float
        ppm; 0 is perfect, NaN without a region.
    """
    return float(estimate[region].double().abs().mean()) if region.any() else math.nan


def mspe(estimate: Volume, truth: Volume, labels: Int[Tensor, "x y z"], mask: Mask, which: Iterable[int] | None = None) -> float:
    """Return the mean over regions of the squared relative error of the region's mean, in percent.

    Parameters
    ----------
    estimate, truth
        One source, ppm.
    labels
        Region of each voxel; zero belongs to none.
    mask
        Voxels that count.
    which
        Labels to take; all where not given. Regions of less than 50 voxels, or with a true mean below 5 ppb, are left out.

    Returns
    -------
    float
        100 times the mean of the squares; 0 is perfect, NaN where no region counts.

    References
    ----------
    Ridani et al. Magn Reson Med. doi:10.1002/mrm.70468.
    """
    counted = labels * mask
    names, sizes = counted[counted > 0].unique(return_counts=True)
    large = {name for name, size in zip(names.tolist(), sizes.tolist(), strict=True) if size >= FEWEST}
    found, true = region_means(estimate, labels, mask), region_means(truth, labels, mask)
    wanted = large if which is None else large & set(which)
    errors = [((found[name] - true[name]) / true[name]) ** 2 for name in sorted(wanted) if abs(true[name]) >= LEAST]
    return 100 * sum(errors) / len(errors) if errors else math.nan


def mspe_by_angle(estimate: Volume, truth: Volume, angle: Volume, mask: Mask, *, bins: int = 9) -> list[float]:
    """Return the mean squared relative error of single voxels by the angle of the fibres to B0, in percent.

    Parameters
    ----------
    estimate, truth
        One source, ppm.
    angle
        Angle between fibres and B0, degrees, from 0 to 90.
    mask
        White matter.
    bins
        Bins into which the quarter turn is cut.

    Returns
    -------
    list
        One value a bin, parallel fibres first. Voxels beyond 1.5 interquartile ranges of the middle half are left out; NaN
        where fewer than 50 voxels have such an angle.
    """
    a, b, theta = (image[mask].double() for image in (estimate, truth, angle))
    known = b != 0
    errors, theta = 100 * ((a - b) / b)[known].square(), theta[known]
    edges = torch.linspace(0, 90, bins + 1, dtype=torch.float64, device=theta.device)
    edges[-1] = math.nextafter(90.0, math.inf)  # the last bin holds its end
    profile = []
    for low, high in pairwise(edges):
        here = errors[(theta >= low) & (theta < high)]
        profile.append(_trimmed_mean(here) if here.numel() >= FEWEST else math.nan)
    return profile


def angle_variation(profile: Sequence[float]) -> float:
    """Return by how many percent the error falls from the most parallel to the most perpendicular fibres.

    Parameters
    ----------
    profile
        What `mspe_by_angle` gave; bins without a value are passed over.

    Returns
    -------
    float
        Positive where parallel fibres come out worse; NaN with fewer than two bins.
    """
    known = [value for value in profile if not math.isnan(value)]
    if len(known) < 2 or known[0] == 0:
        return math.nan
    return 100 * (known[0] - known[-1]) / known[0]


def _trimmed_mean(values: Tensor) -> float:
    """Return the mean without what lies beyond 1.5 interquartile ranges of the middle half."""
    ordered = values.sort().values
    low, high = (_percentile(ordered, share) for share in (0.25, 0.75))
    reach = 1.5 * (high - low)
    return float(ordered[(ordered >= low - reach) & (ordered <= high + reach)].mean())


def _percentile(ordered: Tensor, share: float) -> float:
    """Interpolate between order statistics; unlike torch.quantile it has no limit of size."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    low, high = float(ordered[below]), float(ordered[min(below + 1, len(ordered) - 1)])
    return low + (place - below) * (high - low)
