"""Run a network over a whole volume, at once or in overlapping windows."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from paradia.errors import ParadiaWarning
from paradia.fft import bounding_box
from paradia.nets.precision import quick
from paradia.nets.unet import UNet3d

BORDER = 16
"""Voxels around a window's own that it sees besides."""

MARGIN = 8
"""Voxels beyond all that is not zero that a network still sees; more of nothing hardly changes its answer."""

BYTES = 400.0
"""Memory a voxel takes on its way through the network, beyond the channels in and out: measured for the widths that ship."""

LIMIT = 1.2e9
"""Largest working memory of one pass, bytes."""

LESS = 4
"""How many times smaller windows are than what a GPU had too little memory for."""


def apply(net: UNet3d, channels: Float[Tensor, "inputs x y z"]) -> Float[Tensor, "outputs x y z"]:
    """Give the network's answer for a volume, in half precision inside where the machine has it, single precision outside.

    It is zero further than `MARGIN` from all channels that are not. What fits goes at once; larger volumes in windows, each with a
    border of its neighbours' voxels. A GPU that runs out of memory is asked again in smaller ones.

    Parameters
    ----------
    net
        The network.
    channels
        Its inputs.

    Returns
    -------
    Tensor
        Its outputs.
    """
    seen = (channels != 0).any(0)
    if not seen.any():
        return channels.new_zeros((net.outputs, *channels.shape[1:]))
    box = tuple(slice(side.start - side.start % net.fold, side.stop) for side in bounding_box(seen, MARGIN))  # blocks stay where they are
    inside = channels[(slice(None), *box)]
    answer = _answer(net, inside)
    result = answer.new_zeros((answer.shape[0], *channels.shape[1:]))
    result[(slice(None), *box)] = answer
    return result


def _answer(net: UNet3d, channels: Tensor) -> Tensor:
    """Give the answer at once if there is memory for it."""
    count, most = channels[0].numel(), LIMIT / BYTES
    if count <= most:
        try:
            return _once(net, channels)
        except torch.OutOfMemoryError:
            warnings.warn("the GPU has too little memory for the volume at once: going on in windows.", ParadiaWarning, stacklevel=3)
            torch.cuda.empty_cache()
            most = count / LESS
    return _windows(net, channels, most)


def ask(net: UNet3d, channels: Float[Tensor, "inputs x y z"]) -> Float[Tensor, "outputs x y z"]:
    """Give the mean of two answers of the network: for the volume, and for its mirror image with the folded blocks moved by half.

    One answer alone has a faint lattice of the blocks' size in it; that of the other falls between.

    Parameters
    ----------
    net
        The network.
    channels
        Its inputs: maps that a mirror image may be taken of, as in training.

    Returns
    -------
    Tensor
        Its outputs.
    """
    axes = (1, 2, 3)
    x, y, z = ((net.fold // 2 - n) % net.fold for n in channels.shape[1:])  # what brings the blocks between those of the volume
    mirrored = apply(net, pad(channels.flip(axes), (z, 0, y, 0, x, 0)))[:, x:, y:, z:]
    return (apply(net, channels) + mirrored.flip(axes)) / 2


def _once(net: UNet3d, channels: Tensor) -> Tensor:
    device = channels.device.type
    with torch.inference_mode(), quick(device):
        result = net(channels[None])[0].float()
    return result.clone()  # no longer an inference tensor: it may enter a graph


def _windows(net: UNet3d, channels: Tensor, most: float) -> Tensor:
    """Give the answer window by window, none of more voxels than `most` if that can be."""
    sizes = channels.shape[1:]
    border = math.ceil(BORDER / net.multiple) * net.multiple  # pooling falls in a window as it does in the whole volume
    result: Tensor | None = None
    for tile in itertools.product(*_tiles(sizes, net.multiple, border, most)):
        part = _once(net, channels[(slice(None), *(wide for _, wide in tile))])
        if result is None:
            result = part.new_zeros((part.shape[0], *sizes))
        own = tuple(slice(own.start - wide.start, own.stop - wide.start) for own, wide in tile)
        result[(slice(None), *(own for own, _ in tile))] = part[(slice(None), *own)]
    assert result is not None
    return result


def _tiles(sizes: Sequence[int], multiple: int, border: int, most: float) -> tuple[list[tuple[slice, slice]], ...]:
    """Return for each axis its windows, what is their own and what they see: those of the least work that fit, else the smallest."""
    counts = [math.ceil(size / multiple) for size in sizes]
    steps = [sorted({multiple * math.ceil(count / parts) for parts in range(1, count + 1)}, reverse=True) for count in counts]
    choices = [[_along(size, step, border) for step in axis] for size, axis in zip(sizes, steps, strict=True)]

    def largest(tiles: Sequence[list[tuple[slice, slice]]]) -> int:
        return math.prod(max(wide.stop - wide.start for _, wide in axis) for axis in tiles)

    def work(tiles: Sequence[list[tuple[slice, slice]]]) -> int:
        return math.prod(sum(wide.stop - wide.start for _, wide in axis) for axis in tiles)

    every = list(itertools.product(*choices))
    fitting = [tiles for tiles in every if largest(tiles) <= most]
    return min(fitting, key=work) if fitting else min(every, key=largest)


def _along(size: int, step: int, border: int) -> list[tuple[slice, slice]]:
    """Cut an axis into windows."""
    return [(slice(s, min(s + step, size)), slice(max(s - border, 0), min(s + step + border, size))) for s in range(0, size, step)]
