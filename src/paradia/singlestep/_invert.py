"""Single-step inversion of every field of a batch."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from paradia.fft import Window, each
from paradia.sources.doubt import doubt
from paradia.sources.inside import levelled
from paradia.sources.split import Slopes, Split
from paradia.types import Callback


def invert(
    name: str,
    penalty: Callable[[float], Slopes],
    window: Window,
    total_field: Tensor,
    mask: Tensor,
    noise: Tensor | None,
    *,
    model_error: float,
    outside: float,
    rim: float,
    start: int,
    max_iter: int,
    tol: float,
    callback: Callback | None,
) -> Tensor:
    r"""Split every total field of a batch into sources, and return those inside the mask.

    The penalty is made from what turns a weight against :math:`\sigma^{-1}` into a limit of its dual.
    """
    known = None if noise is None else window.take(noise).to(total_field)

    def one(field: Tensor) -> Tensor:
        split = Split(window, doubt(field, window.mask, known, model_error), rim, outside)
        sources = split.start(field, start)
        solution = split.refine(field, sources, penalty(split.unit), max_iter=max_iter, tol=tol, callback=callback)
        return solution.warn(name).x * window.mask

    return window.put(each(one, window.take(levelled(total_field, mask))))
