"""Three pools in the signal of every voxel."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from paradia.errors import ConvergenceWarning, MetadataError
from paradia.grid import Grid
from paradia.scan import Scan, relaxivities
from paradia.separation._inputs import check_images, check_ppm
from paradia.separation._pools import Model, fit
from paradia.separation._voxel import give
from paradia.sources.inside import single
from paradia.sources.knobs import check_positive, check_stop
from paradia.types import Callback, Echoes, Image, Mask, Sources, Volume

CITE = "10.1016/j.neuroimage.2021.118477"

CHUNK = 1 << 15
"""Voxels fitted at a time, few enough to stay in the cache."""

SPHERE = 2 / 3
"""Frequency of a pool over that of its susceptibility, as in the paper; the same factor makes the phase of the data."""

LEAST = 3
"""Echoes it takes."""

SLOWEST = 0.3
"""Least rate of the neutral pool, 1/s: that of free water."""

LATE = 0.1
"""Share of voxels that may still move at the end without a warning."""


def decompose(
    magnitude: Echoes,
    chi: Image,
    mask: Mask,
    grid: Grid,
    scan: Scan,
    r2: Volume | None = None,
    *,
    dr_pos: float | None = None,
    dr_neg: float | None = None,
    rate: float | None = None,
    noise: float = 0.01,
    composite: bool = False,
    max_iter: int = 40,
    tol: float = 0.03,
    callback: Callback | None = None,
) -> Sources:
    r"""Fit a paramagnetic, a diamagnetic and a neutral pool to the echoes of every voxel (DECOMPOSE-QSM).

    The signal is :math:`S(t) = e^{-R_0 t}(C_+ e^{-D_r^+\chi_+ t + i\frac23\gamma B_0\chi_+ t} + C_- e^{-D_r^-\chi_- t -
    i\frac23\gamma B_0\chi_- t} + C_0)`. Its magnitude is that of the echoes, its phase :math:`\frac23\gamma B_0\chi t` that of
    a voxel's own χ, so that no other voxel's field is in it. All voxels are fitted at once by damped Gauss-Newton steps on the
    logarithms of the unknowns, each of which is expected near where the paper starts, within a factor of e:
    :math:`C = (0.3, 0.3, 0.4)`, :math:`\chi_\pm = 0.05` ppm; :math:`R_0` is that of an R2 map, or expected near one rate within 30 %.

    Parameters
    ----------
    magnitude
        Magnitudes of the echoes, any unit. An echo that is zero in a voxel was not measured there and is left out; without any nothing is
        given.
    chi
        Total susceptibility, ppm: one map, or one an echo on an axis before x, y, z.
    mask
        Voxels to fit.
    grid
        Where the images live.
    scan
        Echo times, at least three, and field strength.
    r2
        Transverse relaxation rate R2 of spin echoes, 1/s. Without it the echoes alone hardly tell :math:`R_0` from the relaxation of the
        pools, and the result leans on `rate`.
    dr_pos
        Relaxivity Dr+ of the paramagnetic pool, Hz/ppm. Without it 137 Hz/ppm times B0/3 T (Shin et al.; 114 where χ is a COSMOS map).
        The paper takes the theory of random spheres, 108 Hz/ppm per tesla.
    dr_neg
        Relaxivity Dr− of the diamagnetic pool, likewise.
    rate
        :math:`R_0` to expect, 1/s, without an R2 map. Without it 13 1/s at 3 T and 20 at 7 T, and on a straight line at others.
    noise
        Error of an echo as a share of the signal at time zero, model errors included.
    composite
        Read χ± as the paper does, from the phase of a pool together with the neutral one, which gives more than the voxel holds:
        :math:`C_\pm\chi_\pm/(C_\pm + C_0)` for short times. Off, it is the voxel's content :math:`C_\pm\chi_\pm/(C_+ + C_- + C_0)`.
    max_iter
        Most steps.
    tol
        Step of the logarithms at which a voxel is done.
    callback
        Called as ``callback(chunk, share_left)`` after every chunk of voxels.

    Returns
    -------
    Sources
        χ+ and χ−, ppm, zero outside the mask.

    Raises
    ------
    MetadataError
        Fewer than three echoes, or not as many as echo times.
    GeometryError, MaskError, NonFiniteError
        Shapes that do not fit, an empty mask, a number missing inside it.
    InputError
        χ not in ppm, no relaxivity known at the field strength, or a knob out of range.

    Notes
    -----
    Unverified: the paper's own solver, which alternates between the three groups of unknowns and stops early, and which leans on
    its start in the same way without saying so. What is expected of the unknowns, how firmly, the reading by content and the use of an
    R2 map are our own design. Sources are never exactly zero, because logarithms are not. The pools' phases run apart, which is a
    decay of its own, so that where tissue decays by one exponential both sources come out low, and a small one beside a large one lower.

    References
    ----------
    Chen J, Gong NJ, Chaim KT, Otaduy MCG, Liu C. NeuroImage 2021;242:118477. doi:10.1016/j.neuroimage.2021.118477.
    """
    _check_echoes(magnitude, chi, scan)
    check_positive(noise=noise, **({} if rate is None else {"rate": rate}))
    check_stop(max_iter=max_iter, tol=tol)
    drs = relaxivities(scan, dr_pos, dr_neg)
    check_images(mask, grid, magnitude=magnitude, chi=chi, r2=r2)
    check_ppm(mask, chi=chi)
    magnitude = single(magnitude)
    times = magnitude.new_tensor(scan.echo_times)[:, None]
    model = Model(times, drs, SPHERE * scan.rad_per_ppm(1.0), noise)
    expected = 13 + 1.75 * (scan.b0 - 3) if rate is None else rate
    signal, slow = magnitude[:, mask], (None if r2 is None else r2[mask].to(magnitude).clamp_min(SLOWEST))
    phase = model.turn * times * (chi[:, mask] if chi.ndim == 4 else chi[mask]).to(magnitude)
    found = []
    late = 0
    chunks = range(0, signal.shape[1], CHUNK)
    for number, start in enumerate(chunks, 1):
        part = slice(start, start + CHUNK)
        size = _normalised(signal[:, part], times)
        data = torch.stack([size * torch.cos(phase[:, part]), size * torch.sin(phase[:, part])])
        theta, moving = fit(model, data, None if slow is None else slow[part], max(expected, SLOWEST), max_iter, tol)
        late += int(moving.sum())
        found.append(_read(theta, model, composite) * (size > 0).any(0))
        if callback is not None:
            callback(number, 1 - number / len(chunks))
    if late > LATE * signal.shape[1]:
        warnings.warn(
            f"decompose stopped after {max_iter} steps with {late / signal.shape[1]:.0%} of the voxels still moving. "
            "Raise max_iter or tol if the result looks unfinished.",
            ConvergenceWarning,
            stacklevel=2,
        )
    volumes = magnitude.new_zeros(2, *mask.shape)
    volumes[:, mask] = torch.cat(found, 1)
    return give(volumes[0], volumes[1], mask)


def _check_echoes(magnitude: Tensor, chi: Tensor, scan: Scan) -> None:
    """Refuse echoes that do not fit the scan or are too few."""
    count = len(magnitude)
    if len(scan.echo_times) != count:
        raise MetadataError(f"the scan has {len(scan.echo_times)} echo times and the magnitude {count} echoes. Give one time per echo.")
    if count < LEAST:
        raise MetadataError(f"decompose needs at least {LEAST} echoes, got {count}. Take closed_form or r2star_qsm for fewer.")
    if chi.ndim > 4 or (chi.ndim == 4 and len(chi) != count):
        raise MetadataError(f"chi has shape {tuple(chi.shape)} for {count} echoes. Give one map, or one an echo.")


def _normalised(signal: Tensor, times: Tensor) -> Tensor:
    """Divide by the signal at time zero, as a straight line through its logarithms tells; where there is none, nothing remains."""
    signal = signal.clamp_min(0)
    signal = signal / signal.amax(0).clamp_min(torch.finfo(signal.dtype).tiny)  # so that no square vanishes or overflows
    weight = signal.square()
    weight = weight / weight.sum(0).clamp_min(torch.finfo(signal.dtype).tiny)
    logs = signal.clamp_min(torch.finfo(signal.dtype).tiny).log()
    middle, mean = (weight * times).sum(0), (weight * logs).sum(0)
    away = times - middle
    fall = (weight * away * (logs - mean)).sum(0) / (weight * away.square()).sum(0).clamp_min(1e-12)
    return signal * torch.exp(fall.clamp_max(0) * middle - mean)


def _read(theta: Tensor, model: Model, composite: bool) -> Tensor:
    """Return what the pools hold (source, voxel), ppm."""
    share, chi = theta[:3].exp(), theta[3:5].exp()
    if not composite:
        return share[:2] * chi / share.sum(0)
    sources = []
    for i in range(2):
        angle = model.turn * chi[i] * model.times
        size = share[i] * torch.exp(-model.decays[i] * chi[i] * model.times)
        phase = torch.atan2(size * torch.sin(angle), size * torch.cos(angle) + share[2])
        sources.append((phase.sum(0) / (model.turn * model.times.sum())).clamp_min(0))
    return torch.stack(sources)
