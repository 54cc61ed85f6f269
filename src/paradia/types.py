"""Shapes and results that travel between stages.

The names of the fields are the names of the data: a pipeline hands `FieldFit.total_field` to the method that asks for
`total_field`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from jaxtyping import Bool, Complex, Float
from torch import Tensor

Image: TypeAlias = Float[Tensor, "*batch x y z"]
"""Real map, any leading batch axes."""

Volume: TypeAlias = Float[Tensor, "x y z"]
"""Real map without batch axes."""

Number: TypeAlias = Float[Tensor, "*batch"]
"""A number a volume, any leading batch axes."""

Mask: TypeAlias = Bool[Tensor, "x y z"]
"""Voxels that count."""

Echoes: TypeAlias = Float[Tensor, "echo x y z"]
"""Real images, one an echo."""

ComplexEchoes: TypeAlias = Complex[Tensor, "echo x y z"]
"""Complex images, one an echo."""

CoilImages: TypeAlias = Complex[Tensor, "echo coil x y z"]
"""Complex images, one an echo and coil."""

CoilNoise: TypeAlias = Complex[Tensor, "coil coil"]
"""Covariance of the noise of the coils: the mean of n nᴴ over samples n."""

Callback: TypeAlias = Callable[[int, float], None]
"""Called as ``callback(iteration, relative_change)`` after every iteration."""


class Combined(NamedTuple):
    """What `combine` methods give."""

    magnitude: Echoes
    """Magnitudes of the echoes, in the unit of the coil images (or of their noise, where they were whitened)."""
    phase: Echoes
    """Phases of the echoes, rad, in (−π, π]."""


class FieldFit(NamedTuple):
    """What `fieldmap` methods give."""

    total_field: Volume
    """Total field, ppm, zero outside the mask."""
    noise: Volume
    """Standard deviation of the field, ppm, zero outside the mask."""
    offset: Volume
    """Phase at echo time zero, rad, in (−π, π]."""
    mask: Mask
    """Where the fit can be believed; never larger than the mask given."""


class LocalField(NamedTuple):
    """What `background` methods give."""

    local_field: Image
    """Field of the sources inside the mask, ppm, zero outside it."""
    mask: Mask
    """Where the local field holds; never larger than the mask given."""


class LearnedField(NamedTuple):
    """What `background` methods give that ask a network."""

    local_field: Image
    """Field of the sources inside the mask, ppm, zero outside it."""
    mask: Mask
    """Where the local field holds; the mask given."""
    local_noise: Image
    """Standard deviation of the local field as the network judges it, ppm, zero outside the mask."""
    field_novelty: Number
    """How little the volume resembles those that the network was trained with; beyond 1 it is unlike 99 % of them."""


class LearnedChi(NamedTuple):
    """What `inversion` methods give that ask a network."""

    chi: Image
    """Susceptibility, ppm, zero outside the mask, not referenced."""
    chi_noise: Image
    """Its standard deviation as the network judges it: two thirds of the errors are smaller; ppm, zero outside the mask."""
    residual: Image
    """What χ leaves unexplained of the local field, ppm, zero outside the mask."""
    novelty: Number
    """How little the volume resembles those that the network was trained with; beyond 1 it is unlike 99 % of them."""


class LearnedSources(NamedTuple):
    """What `singlestep` methods give that ask a network."""

    chi: Image
    """Susceptibility, ppm, zero outside the mask, not referenced."""
    chi_noise: Image
    """Its standard deviation as the network judges it: two thirds of the errors are smaller; ppm, zero outside the mask."""
    local_field: Image
    """Field of the sources inside the mask, ppm, zero outside it."""
    local_noise: Image
    """Its standard deviation as the network judges it, ppm, zero outside the mask."""
    residual: Image
    """What sources neither inside nor outside the mask explain of the total field, noise mostly; ppm, zero outside the mask."""
    novelty: Number
    """How little the volume resembles those that either network was trained with; beyond 1 it is unlike 99 % of them."""


class Decay(NamedTuple):
    """What `relaxometry` methods give for gradient echoes."""

    r2star: Volume
    """Transverse relaxation rate R2*, 1/s, zero outside the mask."""
    r2star_noise: Volume
    """Standard deviation of R2*, 1/s, zero outside the mask."""


class R2Fit(NamedTuple):
    """What `relaxometry` methods give for spin echoes."""

    r2: Volume
    """Transverse relaxation rate R2, 1/s, zero outside the mask."""
    r2_noise: Volume
    """Standard deviation of R2, 1/s, zero outside the mask."""


class R2Prime(NamedTuple):
    """What `relaxometry` methods give that tell reversible from irreversible decay."""

    r2prime: Volume
    """Reversible transverse relaxation rate R2′ ≥ 0, 1/s, zero outside the mask."""
    r2prime_noise: Volume
    """Standard deviation of R2′, 1/s, zero outside the mask."""


class Sources(NamedTuple):
    """What `separation` methods give."""

    chi_pos: Image
    """Paramagnetic susceptibility χ+ ≥ 0, ppm, zero outside the mask."""
    chi_neg: Image
    """Magnitude of the diamagnetic susceptibility, χ− ≥ 0, ppm, zero outside the mask."""


class LearnedSeparation(NamedTuple):
    """What `separation` methods give that ask a network."""

    chi_pos: Volume
    """Paramagnetic susceptibility χ+ ≥ 0, ppm, zero outside the mask."""
    chi_neg: Volume
    """Magnitude of the diamagnetic susceptibility, χ− ≥ 0, ppm, zero outside the mask."""
    chi_pos_noise: Volume
    """Standard deviation of χ+ as the network judges it: two thirds of the errors are smaller; ppm, zero outside the mask."""
    chi_neg_noise: Volume
    """Of χ−, likewise."""
    field_residual: Volume
    """What χ+ − χ− leaves unexplained of the local field, ppm, zero outside the mask."""
    rate_residual: Volume
    """What Dr+ χ+ + Dr− χ− leaves unexplained of the reversible relaxation rate, 1/s, zero outside the mask."""
    closed_pos: Volume
    """χ+ of the closed form from the same χ and rate, ppm: what the network began from."""
    closed_neg: Volume
    """χ− of the closed form, ppm."""
    disagreement: Volume
    """How far the network's maps are from those of the closed form: root mean square of both differences, ppm."""
    source_novelty: Number
    """How little the volume resembles those that the networks were trained with; beyond 1 it is unlike 99 % of them."""
    chi_pos_band: Volume | None = None
    """Half of the range that χ+ goes through as the relaxivities do, ppm; nothing where it was not asked for."""
    chi_neg_band: Volume | None = None
    """Of χ−, likewise."""


class Weighted(NamedTuple):
    """What `contrast` methods give."""

    swi: Volume
    """Susceptibility-weighted magnitude, in the unit of the magnitude."""
    minip: Volume
    """Its minimum-intensity projection, a sliding slab a slice."""
