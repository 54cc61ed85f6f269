"""What every linear operator has: a forward map, its adjoint, and composition."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import overload

from torch import Tensor, nn


class LinearOperator(nn.Module, ABC):
    """A linear map between tensors, with its adjoint.

    ``A(x)`` and ``A @ x`` apply it, ``A.adjoint(y)`` and ``A.H @ y`` its adjoint, ``A @ B`` composes. Kernels are
    buffers, so that ``A.to(x)`` follows the device and precision of the data. Leading batch axes pass through.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Apply the operator."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the adjoint."""

    @property
    def H(self) -> LinearOperator:
        """The adjoint as an operator."""
        return _Adjoint(self)

    @overload
    def __matmul__(self, other: LinearOperator) -> LinearOperator: ...
    @overload
    def __matmul__(self, other: Tensor) -> Tensor: ...
    def __matmul__(self, other: LinearOperator | Tensor) -> LinearOperator | Tensor:
        if isinstance(other, LinearOperator):
            return _Composition(self, other)
        return self(other)


class SymmetricOperator(LinearOperator):
    """An operator that is its own adjoint."""

    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the operator: it is its own adjoint."""
        return self(y)

    @property
    def H(self) -> LinearOperator:
        """The operator itself."""
        return self


class _Adjoint(LinearOperator):
    def __init__(self, operator: LinearOperator) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        return self.operator.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.operator(y)

    @property
    def H(self) -> LinearOperator:
        return self.operator


class _Composition(LinearOperator):
    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        super().__init__()
        self.outer, self.inner = outer, inner

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))
