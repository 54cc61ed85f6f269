"""Background removal straight from wrapped phases, through their Laplacian."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from paradia.background._layers import all_six
from paradia.background._smallest import smallest
from paradia.background._spheres import least_radius, spheres
from paradia.background._steps import field_laplacian, potential
from paradia.errors import GeometryError, MaskError, MetadataError, NonFiniteError
from paradia.fft import Window, check_mask
from paradia.grid import Grid
from paradia.scan import Scan
from paradia.sources.inside import single, within
from paradia.types import Callback, Echoes, LocalField, Mask

CITE = "10.1002/nbm.3056"


def harperella(
    phase: Echoes,
    mask: Mask,
    grid: Grid,
    scan: Scan,
    magnitude: Echoes | None = None,
    *,
    radius: float = 5.0,
    weight: float = 0.3,
    smoothing: float = 6.0,
    max_iter: int = 150,
    tol: float = 3e-3,
    callback: Callback | None = None,
) -> LocalField:
    r"""Go from wrapped phases to the local field in one step, through the Laplacian of the field.

    Wraps leave the Laplacian alone, and fields of sources outside the mask have none inside. So it holds all that is known
    of the local field :math:`x` without unwrapping:

    .. math:: \nabla^2 x = \nabla^2 f \text{ in the mask};\quad
        \text{minimise } \|M_r(1 - S_r)(u - x)\|^2 + w\,g_r^2\,\|x\|^2

    with any :math:`u` of that Laplacian, :math:`S_r` the mean over a sphere, :math:`M_r` where it fits and :math:`g_r` the
    gain of :math:`1 - S_r` at a wavelength of 100 mm. No stage for unwrapping or for a field map comes before.

    Parameters
    ----------
    phase
        Wrapped phase of every echo, rad.
    mask
        Voxels where it holds.
    grid
        Voxel size.
    scan
        Echo times and field strength.
    magnitude
        Magnitude of every echo; without it all echoes and voxels count as equally noisy.
    radius
        Radius of the sphere, mm, and at least one and a half voxels.
    weight
        :math:`w`: half of a wave of :math:`100\,w^{-1/4}` mm is given up. A pure number; 0.01 to 10.
    smoothing
        Radius of the mean over which the phase at echo time zero is taken to change evenly, mm; 3 to 15.
    max_iter
        Most iterations to do.
    tol
        Stop when the residual has fallen to this share.
    callback
        Called as ``callback(iteration, relative_residual)``.

    Returns
    -------
    LocalField
        Local field, ppm, and the mask less one layer of voxels where the sphere fits.

    Raises
    ------
    MetadataError, GeometryError, MaskError, NonFiniteError
        Echoes, shapes or a mask that do not fit, and phase or magnitude in the mask that is no number.
    InputError
        A knob out of range.

    Notes
    -----
    The outermost layer has no Laplacian, as its neighbours outside the mask are noise, and closer to the edge than the
    radius there is no result. Parts of the local field that are harmonic inside are lost, as with `resharp`.

    The echoes are brought together before the Laplacian is taken, in the steps of the phase from voxel to voxel: each later
    echo's steps are unwrapped by the line through the ones before, the phase at echo time zero is fitted and smoothed, and
    weights are those of a fit to unwrapped phases. A ramp between readout directions has no Laplacian and does no harm. A
    step that turns by more than half a turn within the first echo time spoils the field around it and no further.

    In the paper the Laplacian outside the mask is found by iteration so that the mean of the phase over spheres at the edge
    vanishes. The choice of the smallest local field, the joint treatment of echoes and the solver are of this project.

    References
    ----------
    Li W, Avram AV, Wu B, Xiao X, Liu C. NMR Biomed 2014;27:219-227. doi:10.1002/nbm.3056.
    """
    _check(phase, mask, grid, scan, magnitude)
    radius = least_radius(grid.voxel_size, radius)
    smoothing = least_radius(grid.voxel_size, smoothing)
    window = Window.around(mask, grid, max(radius, smoothing))
    power = window.mask.to(phase).expand(len(phase), *window.grid.shape)
    if magnitude is not None:
        power = (window.take(within(single(magnitude), mask)) / magnitude[:, mask].amax().clamp_min(1e-30)).square_()
    wrapped = window.take(torch.where(mask, phase, 0.0))
    known = all_six(window.mask)
    if not known.any():
        raise MaskError("no sphere fits into the mask: no voxel has all its neighbours in it. Give a larger mask.")
    laplacian = field_laplacian(wrapped, power, scan.echo_times, window.grid, smoothing) / scan.rad_per_ppm(1.0)
    found = spheres(replace(window, mask=known), radius, phase)
    local, solution = smallest(
        potential(laplacian, known, window), found, radius, weight=weight, max_iter=max_iter, tol=tol, callback=callback
    )
    solution.warn("harperella")
    return LocalField(window.put(local), window.put(found.fits))


def _check(phase: Tensor, mask: Tensor, grid: Grid, scan: Scan, magnitude: Tensor | None) -> None:
    if len(phase) != len(scan.echo_times):
        raise MetadataError(f"there are {len(phase)} echoes and {len(scan.echo_times)} echo times. Give one time for each echo.")
    if magnitude is not None and magnitude.shape != phase.shape:
        raise GeometryError(f"phase {tuple(phase.shape)} and magnitude {tuple(magnitude.shape)} differ. Give both of every echo.")
    for name, image in {"mask": mask, "phase": phase}.items():
        if tuple(image.shape[-3:]) != grid.shape:
            raise GeometryError(f"{name} has shape {tuple(image.shape)}, but the grid {grid.shape}. Bring both to one space.")
    check_mask(mask)
    images = [phase] if magnitude is None else [phase, magnitude]
    if not all(bool(image[:, mask].isfinite().all()) for image in images):
        raise NonFiniteError("phase or magnitude is NaN or Inf inside the mask. Take those voxels out of the mask.")
