"""Run a network over a whole volume, at once or in overlapping windows."""

from __future__ import annotations

import itertools
import warnings

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from paradia.errors import ParadiaWarning
from paradia.nets.precision import quick
from paradia.nets.unet import UNet3d

WINDOW = 128
"""Edge of a window, voxels, the border that is thrown away included."""

BORDER = 16
"""Voxels at a window's border whose answer is not used where a neighbour knows better."""

BYTES = 400.0
"""Memory a voxel takes on its way through the network, beyond the channels in and out: measured for the widths that ship."""

LIMIT = 1.2e9
"""Largest working memory of one pass, bytes."""


def apply(net: UNet3d, channels: Float[Tensor, "inputs x y z"]) -> Float[Tensor, "outputs x y z"]:
    """Give the network's answer for a volume, in half precision inside where the machine has it, single precision outside.

    What fits goes at once; larger volumes in windows that overlap by twice `BORDER`. A GPU that runs out of memory is
    asked again in windows.

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
    if channels[0].numel() * BYTES <= LIMIT:
        try:
            return _once(net, channels)
        except torch.OutOfMemoryError:
            warnings.warn("the GPU has too little memory for the volume at once: going on in windows.", ParadiaWarning, stacklevel=2)
            torch.cuda.empty_cache()
    return _windows(net, channels)


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


def _windows(net: UNet3d, channels: Tensor) -> Tensor:
    sizes = channels.shape[1:]
    result: Tensor | None = None
    for starts in itertools.product(*(_starts(n, net.multiple) for n in sizes)):
        window = tuple(slice(s, min(s + WINDOW, n)) for s, n in zip(starts, sizes, strict=True))
        part = _once(net, channels[(slice(None), *window)])
        if result is None:
            result = part.new_zeros((part.shape[0], *sizes))
        used = [BORDER if s else 0 for s in starts]  # later windows overwrite the poor border of earlier ones, not the good
        target = tuple(slice(w.start + u, w.stop) for w, u in zip(window, used, strict=True))
        source = tuple(slice(u, None) for u in used)
        result[(slice(None), *target)] = part[(slice(None), *source)]
    assert result is not None
    return result


def _starts(size: int, multiple: int) -> list[int]:
    """Return where windows begin, at places where the network's pooling falls as it does in the whole volume."""
    step = (WINDOW - 2 * BORDER) // multiple * multiple
    return list(range(0, max(size - 2 * BORDER, 1), step))
