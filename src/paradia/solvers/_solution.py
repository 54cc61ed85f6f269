"""What a solver gives."""

from __future__ import annotations

import warnings
from typing import NamedTuple

from torch import Tensor

from paradia.errors import ConvergenceWarning


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
