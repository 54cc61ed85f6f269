"""Whether a volume looks like those that a network was trained with, told by a few statistics of what the network sees."""

from __future__ import annotations

import json
import math
import warnings
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from paradia.errors import InputError, ParadiaWarning
from paradia.fft import bounding_box
from paradia.nets.unet import UNet3d

SAMPLES = 200_000
"""Voxels that quantiles are taken over."""

FEWEST = 5
"""Volumes below which there is nothing to compare with."""

FOLDS = 5
"""Parts of the training volumes, each of which is held against the others to find how far a familiar one may lie."""

FLAT = 1e-3
"""Standard deviation of a channel below which it is one number, as a noise that nobody mapped."""

COMMON = 0.99
"""Share of the training volumes that count as familiar."""


class Familiar(NamedTuple):
    """What the statistics of training volumes are like."""

    mean: Tensor
    """(statistic,)."""
    deviation: Tensor
    """(statistic,)."""
    precision: Tensor
    """(statistic, statistic): inverse of their correlations, these shrunk towards none."""
    limit: float
    """Distance beyond which one training volume in a hundred lies."""


def statistics(channels: Float[Tensor, "channel x y z"], mask: Bool[Tensor, "x y z"]) -> Float[Tensor, " statistic"]:
    """Return five numbers a channel: mean, log of the standard deviation, 2nd and 98th percentile, log of the roughness.

    The roughness is the mean square of the first differences over the variance: noise has much of it, a smooth image little. Of a channel
    that is one number only the mean says anything; the others are NaN.

    Parameters
    ----------
    channels
        What a network sees.
    mask
        Voxels that count.
    """
    box = bounding_box(mask)
    channels, mask = channels[(slice(None), *box)], mask[box]
    inside = channels[:, mask]
    mean, deviation = inside.mean(1), inside.std(1, correction=int(inside.shape[1] > 1))
    deviation = torch.where(deviation < FLAT, math.nan, deviation)
    few = inside[:, :: max(1, inside.shape[1] // SAMPLES)].sort(1).values
    low, high = (few[:, round(share * (few.shape[1] - 1))] for share in (0.02, 0.98))
    squares, pairs = torch.zeros_like(mean), 0
    for axis in range(3):
        n = mask.shape[axis] - 1
        both = mask.narrow(axis, 0, n) & mask.narrow(axis, 1, n)
        squares += channels.diff(dim=axis + 1).square().mul_(both).sum((1, 2, 3))
        pairs += int(both.sum())
    rough = (squares / max(pairs, 1) / deviation.square()).clamp_min(1e-6)
    found = torch.stack([mean, deviation.log(), low, high, rough.log()])
    found[1:, deviation.isnan()] = math.nan
    return found.flatten()


def learn(rows: Float[Tensor, "volume statistic"]) -> Familiar:
    """Learn from the statistics of training volumes what is familiar.

    Parameters
    ----------
    rows
        `statistics` of each; what one does not tell counts as the mean of the others.

    Raises
    ------
    InputError
        There are fewer than five volumes.
    """
    if len(rows) < FEWEST:
        raise InputError(f"there must be at least {FEWEST} volumes to learn what is familiar, got {len(rows)}. Simulate more.")
    rows = rows.double().cpu()
    rows = torch.where(rows.isnan(), rows.nanmean(0).nan_to_num(), rows)
    apart = torch.zeros(len(rows), dtype=torch.float64)
    for fold in range(FOLDS):  # each volume against the others: one that was learnt from lies closer
        held = torch.arange(len(rows)) % FOLDS == fold
        apart[held] = torch.stack([_distance(row, _shape(rows[~held])) for row in rows[held]])
    return _shape(rows)._replace(limit=float(torch.quantile(apart, COMMON)))


def _shape(rows: Tensor) -> Familiar:
    mean, deviation = rows.mean(0), rows.std(0).clamp_min(1e-3)
    scaled = (rows - mean) / deviation
    count, size = scaled.shape
    shrink = size / (size + count)
    correlation = (1 - shrink) * scaled.T @ scaled / (count - 1) + shrink * torch.eye(size, dtype=scaled.dtype)
    return Familiar(mean, deviation, torch.linalg.inv(correlation), 1.0)


def _distance(row: Tensor, known: Familiar) -> Tensor:
    told = ~row.isnan()
    scaled = ((row - known.mean) / known.deviation)[told]
    precision = known.precision
    if not told.all():  # that of the others, whatever these may be
        precision = torch.linalg.inv(torch.linalg.inv(precision)[told][:, told])
    return (scaled @ precision @ scaled / len(scaled)).sqrt()


def to_json(known: Familiar) -> str:
    """Write it for the header of a file of weights, five digits a number."""

    def short(values: Tensor) -> list:
        return [short(row) if row.ndim else float(f"{float(row):.5g}") for row in values]

    return json.dumps([short(known.mean), short(known.deviation), short(known.precision), float(f"{known.limit:.5g}")])


def from_json(text: str) -> Familiar:
    """Read what `to_json` wrote."""
    *tensors, limit = json.loads(text)
    mean, deviation, precision = (torch.tensor(values, dtype=torch.float64) for values in tensors)
    return Familiar(mean, deviation, precision, limit)


def novelty(net: UNet3d, channels: Tensor, mask: Tensor) -> float:
    """Return how far a volume lies from the training volumes of a network: 1 is where one in a hundred of them lies.

    The distance is Mahalanobis': in standard deviations, correlations between the statistics allowed for.

    Parameters
    ----------
    net
        The network, loaded with its weights.
    channels
        What it sees.
    mask
        Voxels that count.

    Returns
    -------
    float
        0 where the weights say nothing of their training.
    """
    if "familiar" not in net.about:
        return 0.0
    known = from_json(net.about["familiar"])
    return float(_distance(statistics(channels, mask).double().cpu(), known)) / known.limit


def belief(novelty: float) -> float:
    """Return the share of a network's answer to take: all on a volume like those of its training, less the less it is like them.

    Parameters
    ----------
    novelty
        See `novelty`.
    """
    return 1 / max(novelty, 1.0)


def tell(novelty: float, name: str) -> None:
    """Warn of a volume that is not familiar."""
    if novelty > 1:
        warnings.warn(
            f"{name}: this volume does not look like those that the network was trained with (novelty {novelty:.2g}, where 99 % of these "
            "stay below 1). Trust its map less, and compare it with a classical method.",
            ParadiaWarning,
            stacklevel=3,
        )
