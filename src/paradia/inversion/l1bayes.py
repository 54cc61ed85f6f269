"""L1 inversion with a structure prior that is learnt on the way."""

from __future__ import annotations

import torch
from torch import Tensor

from paradia.fft import Window, each, irfftn, rfftn, times
from paradia.grid import Grid
from paradia.inversion._inputs import MARGIN, check_reach, checked_echoes, framed
from paradia.inversion._region import region
from paradia.inversion._splitting import change
from paradia.operators.dipole import Dipole
from paradia.operators.gradient import Gradient
from paradia.operators.laplacian import Laplacian
from paradia.operators.weighting import Weighting
from paradia.solvers.admm import admm
from paradia.sources.cone import level
from paradia.sources.inside import levelled
from paradia.sources.knobs import check_count, check_positive, check_stop
from paradia.sources.slopes import Variation, edges
from paradia.sources.structure import mean_between, smooth
from paradia.types import Callback, Echoes, Image, Mask, Volume

CITE = "10.3389/fnins.2025.1522227"

SLOPE = 0.5
"""Slope of χ at which the splitting takes its largest step, as a share of the field's root mean square by a voxel."""

COUPLING = 0.3
"""Penalty that couples :math:`D\\chi` to its split."""

CONFINED = 0.5
"""Penalty that keeps χ in its region, as a share of the one that couples slopes."""

EDGE = 2.0
"""How many times steeper than usual the magnitude is where the prior halves."""

LEAST = 0.2
"""Least factor of the prior, so that nothing is free."""


def l1bayes(
    local_field: Image,
    mask: Mask,
    grid: Grid,
    noise: Volume | None = None,
    magnitude: Echoes | None = None,
    *,
    weight: float = 0.06,
    reach: float = 4.0,
    rounds: int = 4,
    max_iter: int = 10,
    tol: float = 0.02,
    callback: Callback | None = None,
) -> Image:
    r"""Find the χ of fewest edges, each expected where the last χ had one, that explains the field within its noise.

    Minimises :math:`\frac12\|W(D\chi + b - f)\|^2 + w\,\sigma d\sum_{i,r} p_i(r)\,|\nabla_i\chi(r)|` with χ confined to the mask and
    a rim, by ADMM. The constant b, of which a background removal leaves a part per billion or two, is free: no χ that is confined could
    explain it. Each round renews the prior :math:`p_i \propto 1/(1 + |\nabla_i\tilde\chi|/s)` from the χ of the round before,
    smoothed over three voxels, with :math:`s` its mean absolute slope: what is likely an edge costs less, what is likely flat more.
    This is the expectation of a Laplace prior whose scale at each voxel is learnt from its surroundings.

    Parameters
    ----------
    local_field
        Field of the sources inside the mask, ppm.
    mask
        Voxels where it holds.
    grid
        Voxel size and direction of B0.
    noise
        Standard deviation of the field, any unit. :math:`W` is one over it, scaled to a mean of one in the mask.
    magnitude
        Magnitudes of the echoes, any unit: the first round expects edges where they have some. Without it, anywhere.
    weight
        :math:`w`, without unit. It is multiplied by the noise :math:`\sigma` of the field, which is read off the frequencies at which
        the dipole vanishes, and by the voxel's mean edge :math:`d`, so that one weight serves for any noise, resolution and
        scale of the field. From 0.02 (sharp, noisy) to 0.2 (smooth).
    reach
        How far beyond the mask χ may differ from zero, mm. 0 suits a field of which the mask holds every source, a few mm one
        from which background removal has taken the rim; negative lets χ be anywhere.
    rounds
        How many priors there are, the first included.
    max_iter
        Iterations in each round. None is left out, so that the result hangs on no threshold.
    tol
        Warn when χ still changes by more than this share of itself in the last of them.
    callback
        Called as ``callback(iteration, relative_change)``.

    Returns
    -------
    Image
        χ, ppm, zero outside the mask, not referenced.

    Raises
    ------
    InputError
        A knob out of range.
    GeometryError
        Shapes that do not fit the grid.
    MaskError
        The mask is empty.
    NonFiniteError
        The field is NaN or Inf in the mask.

    Notes
    -----
    The paper names an iterative L1 inversion with dynamic Bayesian weights and gives no formula; this one is derived anew.
    The log-sum penalty that the rounds approach is not convex: they sharpen the solution of the first.

    References
    ----------
    Zhou Y, et al. Front Neurosci 2025;19:1522227. doi:10.3389/fnins.2025.1522227.
    Candès EJ, Wakin MB, Boyd SP. J Fourier Anal Appl 2008;14:877-905. doi:10.1007/s00041-008-9045-x.
    """
    check_positive(weight=weight)
    check_count(rounds=rounds)
    check_stop(max_iter=max_iter, tol=tol)
    check_reach(reach)
    window = framed(local_field, mask, grid, max(MARGIN, 3 * reach), noise=noise)
    magnitude = checked_echoes(magnitude, mask, grid)
    weights = Weighting(window.mask, None if noise is None else window.take(noise)).to(local_field).weights.square_()
    first = None if magnitude is None else _from_magnitude(window.take(magnitude.to(local_field).square().mean(0).sqrt()), window)

    def invert(field: Tensor) -> Tensor:
        if not field.detach().any():
            return torch.zeros_like(field)
        splitting = _Splitting(field, weights, window, weight, reach)
        prior, done = first, 0

        def told(iteration: int, relative: float) -> None:
            if callback is not None:
                callback(done + iteration, relative)

        chi = rfftn(torch.zeros_like(field))
        for left in reversed(range(rounds)):
            splitting.expect(prior)
            solution = admm(splitting.solve, splitting.terms, chi, max_iter=max_iter, tol=0.0, callback=told, change=change)
            chi, done = solution.x, done + solution.iterations
            if left:
                prior = _from_chi(irfftn(chi.detach(), field.shape), window)
        solution = solution._replace(iterations=done, converged=solution.residual <= tol)
        return irfftn(solution.warn("l1bayes").x, field.shape).mul_(window.mask)

    return window.put(each(invert, window.take(levelled(local_field, mask))))


class _Splitting:
    """Split variables and duals of one field, kept from round to round."""

    def __init__(self, field: Tensor, weights: Tensor, window: Window, weight: float, reach: float) -> None:
        grid = window.grid
        side = grid.voxel_volume ** (1 / 3)
        counts = weights > 0
        strength = field.detach()[counts].square().mean().sqrt()
        noise = level(field, counts, grid, strength)
        self.rho = weight * noise * side**2 / (SLOPE * strength)
        self.largest = SLOPE * strength / side
        self.confined = CONFINED / side**2
        self.dipole = Dipole(grid).to(field).kernel
        self.stencil = -Laplacian(grid).to(field).kernel
        self.inverse = self.dipole.square().mul_(COUPLING).add_(self.rho * (self.stencil + self.confined)).reciprocal_()
        self.region = region(window.mask, grid, reach)
        self.field, self.weights, self.total = field, weights, weights + COUPLING
        self.data_dual = torch.zeros_like(field)
        self.outside = torch.zeros_like(field)
        self.usual = [self.largest * edge for edge in edges(self.region)]
        self.variation = Variation(grid, self.usual)
        self.terms = (self._data, self._structure)

    def expect(self, prior: Tensor | None) -> None:
        """Set how far the duals may go: the prior, and nothing across the border of the region."""
        self.variation.limits = self.usual if prior is None else [limit * factor for limit, factor in zip(self.usual, prior, strict=True)]

    def solve(self, pull: Tensor) -> Tensor:
        return pull.mul_(self.inverse)

    def _data(self, chi: Tensor) -> Tensor:
        dual = self.data_dual
        found = irfftn(times(chi, self.dipole), dual.shape)
        left = self.weights * (self.field - found)
        left.addcmul_(self.weights, found - left.sum() / self.weights.sum())  # the field less its constant, weighted
        split = left.add_(dual.add_(found), alpha=COUPLING).div_(self.total)
        dual.sub_(split)
        return rfftn(split.sub_(dual)).mul_(self.dipole).mul_(COUPLING)

    def _structure(self, chi: Tensor) -> Tensor:
        """Move slopes, and χ outside its region, to their splits; both pull through one transform."""
        x = irfftn(chi, self.outside.shape)
        slopes = self.variation.step(x)
        self.outside = torch.where(self.region, 0.0, self.outside + x)
        pull = slopes.add_(torch.where(self.region, x, -self.outside), alpha=self.confined)
        return rfftn(pull).addcmul_(self.stencil, chi).mul_(self.rho)


def _from_chi(chi: Tensor, window: Window) -> Tensor:
    """Expect an edge where χ, smoothed, has one."""
    slopes = Gradient(window.grid, periodic=True)(smooth(chi * window.mask)).abs_()
    return _prior(slopes / mean_between(slopes, window.mask).clamp_min(torch.finfo(slopes.dtype).tiny), window.mask)  # a flat χ has none


def _from_magnitude(magnitude: Tensor, window: Window) -> Tensor:
    """Expect an edge where the logarithm of the magnitude, smoothed, has one."""
    floor = 1e-3 * magnitude.amax().clamp_min(torch.finfo(magnitude.dtype).tiny)
    slopes = Gradient(window.grid, periodic=True)(smooth(magnitude.clamp_min(floor)).log_()).abs_()
    usual = mean_between(slopes, window.mask).clamp_min(torch.finfo(magnitude.dtype).eps)
    return _prior(slopes / (EDGE * usual), window.mask)


def _prior(steepness: Tensor, mask: Tensor) -> Tensor:
    """Turn slopes into factors on the penalty, with a mean of one between voxels of the mask."""
    factors = steepness.add_(1).reciprocal_()
    return factors.div_(mean_between(factors, mask)).clamp_min_(LEAST)
