"""Root sum of squares of the coils, with a phase."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from paradia.combine._checks import check
from paradia.combine._lattice import SLAB, length
from paradia.combine._whitening import mix, whitener
from paradia.errors import InputError, MetadataError
from paradia.types import CoilImages, CoilNoise, Combined

CITE = "10.1002/mrm.1910160203"


def rss(
    coil_images: CoilImages,
    coil_noise: CoilNoise | None = None,
    *,
    reference: Literal["echo", "coil"] = "echo",
    prewhiten: bool = True,
) -> Combined:
    r"""Combine the magnitudes as the root of their sum of squares, the phases relative to a reference.

    :math:`|S_e| = \sqrt{\sum_c |S_{ec}|^2}` and :math:`\varphi_e = \arg\sum_c \bar r_c S_{ec}`, with the first echo of each coil for the
    reference :math:`r_c`, or a phase for each coil that is the same everywhere.

    Parameters
    ----------
    coil_images
        Complex images, shape (echo, coil, x, y, z).
    coil_noise
        Covariance of the noise of the coils, told from the air around the head when not given.
    reference
        ``echo``: phase relative to the first echo, for which at least two are needed; ``coil``: coils turned so that their signals agree
        on the whole, each by one angle.
    prewhiten
        Whether to make the noise of the coils independent and alike before they are combined.

    Returns
    -------
    Combined
        Magnitude, in units of the noise where it was whitened, and wrapped phase, rad.

    Raises
    ------
    MetadataError
        One echo, and its phase is to be relative to it.
    InputError, NonFiniteError
        No signal, no such reference, a covariance that is none, or values that are no numbers.

    Notes
    -----
    The magnitude is good for masks and, where signal is strong, for relaxation rates: noise raises it, the more the more coils there
    are. **The phase relative to the first echo** is free of everything the coils add, but it is zero in the first echo, carries
    that echo's noise, and grows with the time since the first echo: fit it with ``offset = voxel``, never with a smooth or no
    offset. **The phase relative to turned coils** can have seams and points around which it winds, where the coils cancel; it is
    for looking, or for one coil. For susceptibility mapping take ``mcpc3ds``, or ``adaptive`` where there is a single echo.

    References
    ----------
    Roemer PB, Edelstein WA, Hayes CE, Souza SP, Mueller OM. The NMR phased array. Magn Reson Med 1990;16:192.
    https://doi.org/10.1002/mrm.1910160203
    """
    check(coil_images)
    if reference not in ("echo", "coil"):
        raise InputError(f"reference is echo or coil, got {reference!r}.")
    if reference == "echo" and coil_images.shape[0] < 2:
        raise MetadataError(
            "a single echo has no phase relative to the first echo. Set reference to coil, or take combine adaptive for its phase."
        )
    whiten = whitener(coil_images, coil_noise, prewhiten)
    turned = _turns(coil_images[0], whiten) if reference == "coil" else None
    magnitude = coil_images.real.new_empty(coil_images.shape[0], *coil_images.shape[2:])
    phase = torch.empty_like(magnitude)
    rows = max(1, SLAB // coil_images[0, :, 0].numel())
    for start in range(0, coil_images.shape[2], rows):
        part = slice(start, start + rows)
        first = mix(whiten, coil_images[0, :, part])
        against = first if turned is None else first.abs() * turned[:, None, None, None]
        for echo in range(coil_images.shape[0]):
            images = first if echo == 0 else mix(whiten, coil_images[echo, :, part])
            magnitude[echo, part] = length(images)
            phase[echo, part] = (against.conj() * images).sum(0).angle()
    if turned is None:
        phase[0] = 0
    return Combined(magnitude, phase)


def _turns(images: Tensor, whiten: Tensor | None) -> Tensor:
    """Return one unit number a coil, the phases of the strongest direction of all coils."""
    flat = mix(whiten, images).flatten(1)
    _, vectors = torch.linalg.eigh(flat @ flat.mH)
    leading = vectors[:, -1]
    leading = leading * leading[leading.abs().argmax()].conj()  # an eigenvector's own phase is anything; this one is a coil's
    return torch.polar(torch.ones_like(leading.real), leading.angle())
