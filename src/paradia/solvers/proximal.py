r"""Proximal maps, :math:`\mathrm{prox}_g(v) = \arg\min_z g(z) + \frac12\|z - v\|^2`."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def shrink(v: Tensor, threshold: float | Tensor) -> Tensor:
    r"""Prox of :math:`t\|z\|_1`: move every number towards zero by the threshold.

    Parameters
    ----------
    v
        Any tensor.
    threshold
        :math:`t \ge 0`, one for all or one for each number.
    """
    return v - v.clamp(-threshold, threshold)  # type: ignore[arg-type]


def shrink_vectors(v: Float[Tensor, "*batch 3 x y z"], threshold: float | Tensor) -> Float[Tensor, "*batch 3 x y z"]:
    r"""Prox of :math:`t\sum_r |z(r)|`: shorten every voxel's vector by the threshold.

    Parameters
    ----------
    v
        Vectors along the axis before x, y, z.
    threshold
        :math:`t \ge 0`, one for all or one for each voxel.
    """
    length = v.square().sum(dim=-4, keepdim=True).sqrt_()
    return v * (1 - threshold / length.clamp_min(1e-30)).clamp_min(0)


def weighted_mean(v: Tensor, data: Tensor, weight: float | Tensor) -> Tensor:
    r"""Prox of :math:`\frac{w}{2}\|z - d\|^2`: the mean of v and the data, the data counting :math:`w` times.

    Parameters
    ----------
    v
        Any tensor.
    data
        :math:`d`.
    weight
        :math:`w \ge 0`, one for all or one for each number.
    """
    return (v + weight * data) / (1 + weight)
