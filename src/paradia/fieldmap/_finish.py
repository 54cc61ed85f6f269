"""From a phase per second in a box to a field on the whole volume."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.fieldmap._echoes import Prepared
from paradia.fieldmap._noise import field_noise
from paradia.fieldmap._reliable import reliable
from paradia.scan import Scan
from paradia.types import FieldFit


def finish(
    prepared: Prepared,
    pace: Tensor,
    left: Tensor,
    offset: Tensor,
    mask: Tensor,
    box: tuple[slice, slice, slice],
    scan: Scan,
    *,
    free_offset: bool,
    noise_limit: float,
) -> FieldFit:
    """Convert to ppm, estimate the noise, and put all back on the volume that the mask belongs to."""
    per_ppm = scan.rad_per_ppm(1.0)
    noise = field_noise(prepared, left, offset, free_offset=free_offset, per_ppm=per_ppm)

    def whole(part: Tensor) -> Tensor:
        volume = part.new_zeros(mask.shape)
        volume[box] = part * prepared.mask
        return volume

    believed = torch.zeros_like(mask)
    believed[box] = reliable(prepared.mask, noise, noise_limit)
    return FieldFit(whole(pace / per_ppm), whole(noise), whole(offset), believed)
