"""What each network learns: its channels, its target and the unit it is measured in, for a whole volume."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from paradia.nets import separated, unrolled
from paradia.nets.features import FIELD, background_channels, gain, inversion_channels, spread
from paradia.nets.unet import UNet3d
from paradia.nets.unrolled import Problem, centred, problem
from paradia.scan import Scan
from paradia.training.volumes import Prepared

LOCAL, SETTLED = 0.35, 0.4
"""Shares of the lessons that begin with a local field, and with what the total field made of a first proposal; the others begin with the
joint fit."""

PLAIN = 0.15
"""Share of the lessons whose noise is told as one number, as it is where nobody gives a map."""

PATCH = 6
"""Voxels over which relaxivities differ."""

LARGEST_PATCH = 0.25
"""Most that they differ by, as a standard deviation relative to the rate."""

LARGEST_R2_ERROR = 0.1
"""Most that the R2 of spin echoes is off by, relative to it."""

LARGEST_SLOPE = 0.3
"""Most of the decay by the slope of the field that is left, or taken too much, as a share."""

STEEPEST = 40.0
"""Largest slope that anybody corrects for, Hz a voxel."""

LATE = 0.02
"""Echo time at which that decay is reckoned, s."""


class Lesson(NamedTuple):
    """A volume ready for a network."""

    channels: Tensor
    """(input, x, y, z)."""
    start: Tensor
    """(output, x, y, z): what the network's answer is added to, ppm."""
    target: Tensor
    """(output, x, y, z), ppm."""
    unit: Tensor
    """(output, x, y, z): ppm that an answer of one is worth."""
    mask: Tensor
    """(x, y, z)."""


@dataclass(frozen=True)
class Task:
    """A network to be trained."""

    name: str
    architecture: Mapping[str, object]
    """Arguments of `UNet3d`; half of the outputs are means, half logarithms of deviations."""
    lesson: Callable[[Prepared, torch.Generator], Lesson]
    """Given a volume and what draws."""
    squares: float = 2.0
    """Share of the squared error in the loss, beside the error itself: where it is large, what is seldom there is not taken for never."""

    def network(self) -> UNet3d:
        """Build it, untrained."""
        return UNet3d(**self.architecture)  # type: ignore[arg-type]


def _inversion(volume: Prepared, generator: torch.Generator) -> Lesson:
    """χ from the local field: true with noise and leftovers, as the joint fit found it, or as the total field settled it once."""
    maps, mask, grid = volume.maps, volume.window.mask, volume.window.grid
    field, start = _begun(maps, generator)
    held, chi = problem(field, start, mask, _told(maps["noise"], mask, generator), grid)
    return _lesson(held, chi, centred(maps["chi_pos"] - maps["chi_neg"], mask))


def _begun(maps: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw what came before: a local field and the χ to begin with, ppm."""
    drawn = float(torch.rand((), generator=generator))
    if drawn < LOCAL:
        return maps["field"], maps["chi_local"]
    if drawn < LOCAL + SETTLED:
        return maps["field_settled"], maps["chi_settled"]
    return maps["local_joint"] + maps["rest_joint"], maps["chi_joint"]


def _told(noise: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Draw how a noise is told: voxel by voxel, or as one number."""
    if torch.rand((), generator=generator) < PLAIN:
        return torch.where(mask, noise[mask].median(), 0.0)
    return noise


def _lesson(held: Problem, chi: Tensor, truth: Tensor) -> Lesson:
    channels = inversion_channels(held.field, chi, held.mask, held.noise, held.dipole, held.scale)
    unit = held.scale * gain(chi / held.scale)
    return Lesson(channels, chi[None], truth[None], unit[None], held.mask)


def _background(volume: Prepared, generator: torch.Generator) -> Lesson:
    """The local field from the total one and the joint fit to it."""
    maps, mask, grid = volume.maps, volume.window.mask, volume.window.grid
    chi = centred(maps["chi_joint"], mask)
    scale = spread(chi, mask)
    local = maps["local_joint"]
    noise = _told(maps["noise"], mask, generator)
    channels = background_channels(maps["total_field"], local, chi, maps["rest_joint"], mask, noise, grid, scale)
    unit = scale / FIELD * gain(FIELD * local / scale)
    return Lesson(channels, local[None], maps["local_field"][None], unit[None], mask)


def _separation(volume: Prepared, generator: torch.Generator) -> Lesson:
    """χ+ and χ− with R2′ from spin echoes or with R2* alone, as often: the noise of the rate tells the network which."""
    maps, mask, grid = volume.maps, volume.window.mask, volume.window.grid
    field, start = _begun(maps, generator)
    noise = _told(maps["noise"], mask, generator)
    known, chi = unrolled.problem(field, start, mask, noise, grid)
    off = torch.exp(0.1 * torch.randn(2, generator=generator)).tolist()  # nobody knows Dr exactly
    dr = (volume.dr_pos * off[0], volume.dr_neg * off[1])
    if torch.rand((), generator=generator) < 0.5:
        wrong = wrong_rate(volume, maps["r2"], generator)
        rate, rate_noise = (maps["r2prime"] + wrong * mask).clamp_min(0), maps["r2prime_noise"]
    else:
        wrong = wrong_rate(volume, None, generator)
        rate, rate_noise = separated.less_typical((maps["r2star"] + wrong * mask).clamp_min(0), maps["r2star_noise"], volume.b0)
    held = separated.separable(field, chi, rate, rate_noise, noise, mask, known.dipole, dr, volume.b0)
    pair = separated.guess(held)
    unit = held.scale * gain(pair / held.scale)
    return Lesson(separated.separation_channels(pair, held), pair, torch.stack([maps["chi_pos"], maps["chi_neg"]]), unit, mask)


def wrong_rate(volume: Prepared, r2: Tensor | None, generator: torch.Generator) -> Tensor:
    """Draw what is wrong with a measured rate beside its noise, 1/s.

    Relaxivities differ from place to place, R2 from spin echoes is off as a whole, and where the field is steep some of the decay
    that it makes is left or too much of it taken away.
    """
    maps, size = volume.maps, volume.maps["r2prime"].shape

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    coarse = torch.randn([1, 1, *(max(2, round(n / PATCH)) for n in size)], generator=generator).to(maps["r2prime"])
    smooth = interpolate(coarse, size, mode="trilinear", align_corners=True)[0, 0]
    wrong = maps["r2prime"] * smooth * uniform(0.0, LARGEST_PATCH)
    if r2 is not None:
        wrong = wrong + r2 * uniform(-LARGEST_R2_ERROR, LARGEST_R2_ERROR)
    steep = _squared_slopes(Scan((LATE,), volume.b0).hz_per_ppm * maps["total_field"], volume.window.mask)
    # a voxel across which the frequency goes by Δf loses sinc(Δf t) of its signal by then: (π Δf)² t / 6 as a rate
    return wrong + steep * (math.pi**2 * LATE / 6 * uniform(-LARGEST_SLOPE, LARGEST_SLOPE))


def _squared_slopes(hertz: Tensor, mask: Tensor) -> Tensor:
    """Return the squared slope of a field, Hz² a voxel: along each axis the mean over the steps to neighbours that the mask holds."""
    total = torch.zeros_like(hertz)
    for axis in range(3):
        n = hertz.shape[axis] - 1
        both = mask.narrow(axis, 0, n) & mask.narrow(axis, 1, n)
        squares = torch.where(both, hertz.diff(dim=axis).clamp(-STEEPEST, STEEPEST).square(), 0.0)
        along, steps = torch.zeros_like(hertz), torch.zeros_like(hertz)
        for first in (0, 1):
            along.narrow(axis, first, n).add_(squares)
            steps.narrow(axis, first, n).add_(both)
        total += along / steps.clamp_min_(1)
    return total


TASKS = {
    task.name: task
    for task in (
        Task("varnet", {"inputs": 6, "outputs": 2, "widths": (32, 64, 128, 128)}, _inversion),
        Task("bgnet", {"inputs": 7, "outputs": 2, "widths": (32, 64, 128, 128)}, _background),
        Task("sepnet", {"inputs": 10, "outputs": 4, "widths": (32, 64, 128, 128)}, _separation, squares=0.0),  # with them it errs more
    )
}
"""Every network that `paradia train` knows."""
