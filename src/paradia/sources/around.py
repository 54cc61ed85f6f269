"""Means over the neighbourhood of each voxel, in volumes of any size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, pad


def mean_around(image: Tensor, width: int) -> Tensor:
    """Return the mean over the cube around each voxel, over as much of it as lies in the volume.

    Parameters
    ----------
    image
        Last axes x, y, z, of any length: pooling alone refuses volumes thinner than the cube.
    width
        Of the cube, voxels; odd.

    Returns
    -------
    Tensor
        Of the same shape.
    """
    reach, shape = width // 2, image.shape[-3:]
    framed = pad(image, [reach] * 6).reshape(-1, *(n + 2 * reach for n in shape))
    mean = avg_pool3d(framed, width, 1).reshape(image.shape)
    for axis, n in enumerate(shape, start=-3):
        place = torch.arange(n, device=image.device)
        count = (place + reach).clamp_max(n - 1) - (place - reach).clamp_min(0) + 1
        mean.mul_((width / count.to(mean)).view([-1 if a == axis else 1 for a in range(-3, 0)]))
    return mean
