"""Several orientations of the head to B0."""

from __future__ import annotations

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from paradia.errors import GeometryError, InputError
from paradia.fft import Window, half_counts, irfftn, rfftn
from paradia.grid import Grid
from paradia.inversion._inputs import MARGIN, framed
from paradia.operators.dipole import dipole_kernel
from paradia.operators.weighting import certainty
from paradia.solvers.lsmr import Map, lsmr
from paradia.sources.inside import within
from paradia.sources.knobs import check_not_negative, check_stop
from paradia.types import Callback, Image, Mask

CITE = "10.1002/mrm.21828"

APART = 0.9962
"""Cosine of the least angle, 5°, that two orientations must be apart."""

LIMIT = 3.0
"""Largest weight of a voxel, the mean being one."""

UNSEEN = 1e-9
"""Sum of squared dipoles below which a frequency is left out."""


def cosmos(
    local_field: Float[Tensor, "*batch orientation x y z"],
    mask: Mask,
    grid: Grid,
    directions: Float[Tensor, "direction 3"],
    noise: Float[Tensor, "orientation x y z"] | None = None,
    *,
    weight: float = 0.005,
    max_iter: int = 30,
    tol: float = 0.004,
    callback: Callback | None = None,
) -> Image:
    r"""Find the one χ that explains the fields of a head that was scanned in several orientations.

    Every orientation leaves another cone of frequencies in the dark; together they show all. Without a noise map, or when each
    orientation's is uniform, :math:`\hat\chi = \sum_k w_k D_k\hat f_k / (\sum_k w_k D_k^2 + \epsilon)` with :math:`w_k` one over the
    variances. With noise maps
    :math:`\sum_k\|W_k(D_k\chi + b_k - f_k)\|^2 + \epsilon\|\chi\|^2` is least, over the mask alone and with any constant
    :math:`b_k` in each field: background removals leave one.

    Parameters
    ----------
    local_field
        Fields, ppm, registered to one space, the orientation before x, y, z.
    mask
        Voxels where all of them hold.
    grid
        Voxel size; its own direction of B0 is not used.
    directions
        Direction of B0 in array axes for each orientation.
    noise
        Standard deviation of each field, any one unit; voxels where it is zero or not finite are unknown and do not count.
    weight
        :math:`\epsilon` as a share of the number of orientations: what frequencies that all orientations show badly are held by. At
        0.005 orientations 15° apart still work; 0 leaves their noise as it is.
    max_iter
        Most iterations, when there are noise maps.
    tol
        Stop when the gradient has fallen to this share.
    callback
        Called as ``callback(iteration, relative_gradient)``.

    Returns
    -------
    Image
        χ, ppm, zero outside the mask, not referenced, without the axis of orientations.

    Raises
    ------
    InputError
        Fewer than two orientations, a direction without length, or all nearly parallel; a knob out of range.
    GeometryError
        Shapes that do not fit the grid or the number of directions.
    MaskError
        The mask is empty.
    NonFiniteError
        The field is NaN or Inf in the mask.

    Notes
    -----
    Head rotations of a few degrees leave frequencies that no orientation shows; three orientations 20° apart or more condition
    the problem well. White matter's own anisotropy is left out, as in the paper.

    References
    ----------
    Liu T, Spincemaille P, de Rochefort L, Kressler B, Wang Y. Magn Reson Med 2009;61:196-204. doi:10.1002/mrm.21828.
    """
    check_not_negative(weight=weight)
    check_stop(max_iter=max_iter, tol=tol)
    _check(local_field, directions, noise)
    window = framed(local_field, mask, grid, MARGIN, noise=noise)
    kernels = torch.stack([dipole_kernel(turned).to(local_field) for turned in _turned(window.grid, directions)])
    fields = window.take(within(local_field, mask))
    weights, uniform = _weights(window, noise, local_field)
    worth = weights[:, window.mask].square().mean(1)[:, None, None, None]
    total = (worth * kernels.square()).sum(0)
    total.add_(weight * len(kernels) * (total > 0))
    total.masked_fill_(total < UNSEEN, torch.inf)  # no field knows the mean of χ

    def invert(fields: Tensor) -> Tensor:
        if uniform:
            return irfftn((rfftn(fields) * kernels * worth).sum(0) / total, window.grid.shape)
        half = total.rsqrt()  # unknowns in which the problem is well conditioned
        forward, adjoint = _system(kernels, weights, half, (weight * len(kernels)) ** 0.5)
        known = torch.cat([_free(weights * fields, weights).flatten(), fields.new_zeros(2 * half.numel())])
        solution = lsmr(forward, adjoint, known, max_iter=max_iter, tol=tol, callback=callback)
        return irfftn(solution.warn("cosmos").x * half / _even(half, weights), window.grid.shape)

    several = fields.flatten(0, -5) if fields.ndim > 4 else fields[None]
    chi = torch.stack([invert(one) for one in several]).mul_(window.mask)
    return window.put(chi.unflatten(0, fields.shape[:-4]) if fields.ndim > 4 else chi[0])


def _system(kernels: Tensor, weights: Tensor, half: Tensor, hold: float) -> tuple[Map, Map]:
    r"""Return the least squares that noise maps ask for, and their adjoint, from and to a half spectrum.

    What is unknown is the spectrum of χ over ``half``, scaled so that its length is that of an image: then the penalty,
    :math:`h\|\chi\|`, takes no transform. Residuals are those of all fields and of the penalty, in a row.
    """
    even, shape = _even(half, weights), weights.shape

    def forward(y: Tensor) -> Tensor:
        chi = y * half
        seen = irfftn((chi / even) * kernels, shape).mul_(weights)
        return torch.cat([_free(seen, weights).flatten(), torch.view_as_real(chi).flatten() * hold])

    def adjoint(residual: Tensor) -> Tensor:
        seen, held = residual[: weights.numel()].view(shape), residual[weights.numel() :].view(*half.shape, 2)
        pull = rfftn(_free(seen, weights).mul_(weights)).mul_(kernels).sum(0).mul_(even)
        return pull.add_(torch.view_as_complex(held), alpha=hold).mul_(half)

    return forward, adjoint


def _even(half: Tensor, like: Tensor) -> Tensor:
    """Return what makes the length of a half spectrum that of its image."""
    return (half_counts(like.shape[-1]).to(half) / like[0].numel()).sqrt()


def _free(weighted: Tensor, weights: Tensor) -> Tensor:
    """Take from weighted fields what a constant in each of them explains: background removals leave one."""
    total = weights.square().sum((-3, -2, -1), keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)  # none where noise is unknown
    return weighted - (weighted * weights).sum((-3, -2, -1), keepdim=True) / total * weights


def _check(fields: Tensor, directions: Tensor, noise: Tensor | None) -> None:
    count = len(directions)
    if count < 2:
        raise InputError(f"cosmos needs two or more orientations, got {count}. With one, take another inversion such as l1bayes.")
    for name, image in {"local_field": fields, "noise": noise}.items():
        if image is not None and (image.ndim < 4 or image.shape[-4] != count):
            raise GeometryError(
                f"{name} has shape {tuple(image.shape)} for {count} directions. Give one volume a direction, on the axis before x, y, z."
            )
    lengths = torch.linalg.vector_norm(directions.double(), dim=-1)
    if not bool((lengths.isfinite() & (lengths > 0)).all()):
        raise InputError(f"every direction must have a length, got {directions.tolist()}.")
    unit = directions.double() / lengths[:, None]
    cosines = [float((unit[i] @ unit[j]).abs()) for i, j in combinations(range(count), 2)]
    if min(cosines) > APART:
        raise InputError(
            f"all orientations lie within 5° of each other: {unit.tolist()}. The head must be turned against B0, by 15° or more; "
            "check that the directions were turned along with the registered images."
        )


def _turned(grid: Grid, directions: Tensor) -> list[Grid]:
    """Return the grid under each direction of B0."""
    x, y, z = grid.shape
    return [Grid((x, y, z), grid.voxel_size, (b[0], b[1], b[2])) for b in directions.tolist()]


def _weights(window: Window, noise: Tensor | None, like: Tensor) -> tuple[Tensor, bool]:
    """Return one over the noise of each orientation, all scaled by one number, and whether each is uniform."""
    if noise is None:
        return window.mask.to(like)[None], True
    taken = window.take(noise).flatten(0, -4)
    inside = taken[:, window.mask]
    low, high = inside.amin(1), inside.amax(1)
    if bool(((high - low) <= 1e-3 * high).all() & (low > 0).all()):
        level = (1 / high).to(like)
        return (level / level.mean())[:, None, None, None] * window.mask, True
    weights = torch.stack([certainty(one, window.mask) for one in taken])
    if not bool(weights.any()):
        return window.mask.to(like)[None], True
    weights = weights / weights[:, window.mask].mean()  # one mean for all: orientations keep their worth
    return weights.clamp_max_(LIMIT).to(like), False
