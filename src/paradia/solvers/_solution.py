"""What a solver gives."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

from torch import Tensor

from paradia.errors import ConvergenceWarning


def unfinished(residual: float, tol: float) -> bool:
    """Say whether an iteration goes on: an infinite tolerance asks for all that are allowed, and is content with whatever comes of them."""
    return residual > (0.0 if tol == math.inf else tol)


class Solution(NamedTuple):
    """A solution and how it was reached."""

    x: Tensor
    """The solution."""
    iterations: int
    """Iterations done."""
    residual: float
    """Relative residual or change at the last of them; the solver says which."""
    converged: bool
    """Whether that fell below the tolerance."""

    def warn(self, name: str) -> Solution:
        """Warn with a `ConvergenceWarning` if the iteration stopped at its limit; return the solution either way."""
        if not self.converged:
            warnings.warn(
                f"{name} stopped after {self.iterations} iterations at {self.residual:.2g}, above its tolerance. "
                "Raise max_iter or tol if the result looks unfinished.",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self
