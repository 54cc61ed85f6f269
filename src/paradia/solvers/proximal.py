r"""Proximal maps, :math:`\mathrm{prox}_g(v) = \arg\min_z g(z) + \frac12\|z - v\|^2`."""

from __future__ import annotations

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
