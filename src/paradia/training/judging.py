"""How a network does on volumes that it never saw, and how far its deviations hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from paradia.nets.unet import UNet3d
from paradia.nets.windows import ask
from paradia.training.tasks import Task
from paradia.training.volumes import Prepared

COVERED = 0.6827
"""Share of the errors that a calibrated deviation holds, as one standard deviation of a normal error would."""

SAMPLES = 100_000
"""Voxels of a volume that the calibration is read off."""


class Judged(NamedTuple):
    """How a network does on a validation volume."""

    name: str
    voxel_size: tuple[float, float, float]
    b0: float
    before: float
    """Root of the squared error of the start over that of the target, %."""
    after: float
    """The same of the network's answer."""
    ratios: Tensor
    """(output, voxel): |error| over the uncalibrated deviation at voxels of the mask."""


def judge(task: Task, net: UNet3d, volume: Prepared, number: int, name: str) -> Judged:
    """Measure a network on one volume.

    Parameters
    ----------
    task
        What it was trained for.
    net
        The network.
    volume
        A volume that it never saw.
    number
        Draws which start the lesson has.
    name
        Of the volume.
    """
    generator = torch.Generator().manual_seed(number)
    lesson = task.lesson(volume, generator)
    n = lesson.target.shape[0]
    answer = ask(net, lesson.channels)
    error = ((lesson.start + lesson.unit * answer[:n]) - lesson.target)[:, lesson.mask]
    deviation = (lesson.unit * answer[n:].clamp(-6, 3).exp())[:, lesson.mask]
    few = torch.randperm(error.shape[1], generator=generator)[:SAMPLES].to(error.device)
    size = lesson.target[:, lesson.mask].norm()
    before = (lesson.start - lesson.target)[:, lesson.mask].norm() / size
    return Judged(
        name,
        volume.window.grid.voxel_size,
        volume.b0,
        100 * float(before),
        100 * float(error.norm() / size),
        (error.abs() / deviation)[:, few].cpu(),
    )


def calibration(judged: Sequence[Judged]) -> tuple[float, ...]:
    """Find for each output the factor with which a deviation holds its share of the errors, all volumes counting alike.

    Parameters
    ----------
    judged
        One for each volume.
    """
    least = min(one.ratios.shape[1] for one in judged)
    rows = torch.cat([one.ratios[:, :least] for one in judged], 1).sort(1).values
    place = COVERED * (rows.shape[1] - 1)
    return tuple(round(float(row[math.ceil(place)]), 4) for row in rows)


def covered(judged: Sequence[Judged], factors: Sequence[float]) -> float:
    """Return how many errors lie within a calibrated deviation, %.

    Parameters
    ----------
    judged
        One for each volume.
    factors
        What the deviations of each output are multiplied by.
    """
    limits = torch.tensor(factors)[:, None]
    return 100 * float(torch.cat([(one.ratios < limits).float().flatten() for one in judged]).mean())
